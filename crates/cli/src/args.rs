//! The command line.

use std::path::PathBuf;

use clap::{Args as Group, Parser, Subcommand, ValueHint};

use crate::drives::{self, DriveChoice};
use crate::values::{self, Destination, Engines, Firmware, FirmwareFile};

/// Husk: a hypervisor for Linux hosts.
#[derive(Debug, Parser)]
#[command(name = "husk", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Which messages to log, as in RUST_LOG: `debug`, `vm=trace,devices=info`
    #[arg(long, global = true, display_order = 900, value_name = "FILTER")]
    pub(crate) log: Option<String>,
    /// Log more: -v informs, -vv debugs, -vvv traces
    #[arg(short, long, global = true, display_order = 901, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a virtual machine; its serial console is this terminal
    #[command(after_long_help = RUN_HELP)]
    Run(Box<Run>),
    #[command(flatten)]
    Running(crate::control::Verb),
    /// Make, convert, check and change disk images
    #[command(after_long_help = crate::img::args::HELP)]
    Img {
        /// What to do
        #[command(subcommand)]
        verb: Box<crate::img::args::Img>,
    },
    /// Say what this host is worth for virtual machines, and what can be done about it
    #[command(after_long_help = DOCTOR_HELP)]
    Doctor {
        /// For programs
        #[arg(long)]
        json: bool,
        /// Where KVM is, for tests
        #[arg(long, hide = true, value_name = "FILE", default_value = engine_kvm::probe::DEVICE)]
        kvm_device: PathBuf,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

#[derive(Debug, Group)]
pub(crate) struct Run {
    /// An image to boot: the first disk, or the CD if it is one
    #[arg(value_name = "IMAGE", value_hint = ValueHint::FilePath)]
    pub(crate) image: Option<PathBuf>,
    /// The Linux kernel: a bzImage, or an ELF vmlinux with a PVH entry [default: the default guest's, or none with firmware, a disk or a CD]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) kernel: Option<PathBuf>,
    /// The initial RAM disk [default: the default guest's if there is no --kernel]
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) initrd: Option<PathBuf>,
    /// The kernel's command line [default: console=ttyS0; the default guest is also told the terminal's size]
    #[arg(short, long, value_name = "TEXT")]
    pub(crate) append: Option<String>,
    /// The amount of memory: 512M, 2G; a plain number counts MiB [default: 512M; 2G, or a quarter of the host's if that is
    /// less, for a system on a disk or a CD]
    #[arg(short, long, value_name = "SIZE", allow_negative_numbers = true, value_parser = crate::size::parse)]
    pub(crate) memory: Option<u64>,
    /// The number of virtual CPUs
    #[arg(short, long, value_name = "N", default_value = "1", allow_negative_numbers = true, value_parser = values::cpus)]
    pub(crate) cpus: u32,
    /// The CPU model [default: x86-64-v3, without what this host lacks]
    #[arg(long, value_name = "MODEL", value_parser = values::cpu_model)]
    pub(crate) cpu: Option<String>,
    /// Leave out what the CPU model has and this host lacks, instead of refusing to run
    #[arg(long)]
    pub(crate) cpu_relaxed: bool,
    /// The board; without a version, its newest [default: q35, or pc where a disk is on a bus that only that has]
    #[arg(long, value_name = "BOARD", value_parser = values::board)]
    pub(crate) machine: Option<String>,
    /// The engine that runs the guest's code, with its options; of several, the first that this host does well. The engines:
    /// `kvm`, in hardware; `soft`, Husk's own, anywhere; `auto`, short for `kvm,soft`. The options of soft: `jit=on`,
    /// `jit=off` (the interpreter alone, slow) or `jit=lockstep` (both, compared, very slow); `cache=SIZE` of translated
    /// code for each CPU, 1M to 1G
    #[arg(long, value_name = "ENGINE[,OPTION=VALUE]...", default_value = "auto", value_parser = values::engines)]
    pub(crate) engine: Engines,
    /// A disk: the file of its image, and options. `format` is found out by the first bytes if it is not told (see below);
    /// `bus` is ide (board pc), sata (q35), virtio or scsi; `size` makes the image if there is none; `readonly`; `snapshot`
    /// forgets what is written; `serial` is what the guest sees; `boot` is its place in the boot order, 0 the first
    #[arg(long, value_name = "FILE[,OPTION[=VALUE]]...", value_parser = drives::disk)]
    pub(crate) disk: Vec<DriveChoice>,
    /// A CD or DVD, in a drive of its own; the options `format`, `bus` and `boot` are those of disks
    #[arg(long, value_name = "FILE[,OPTION=VALUE]...", value_parser = drives::cd)]
    pub(crate) cdrom: Vec<DriveChoice>,
    /// Forget what is written to any disk when the VM ends
    #[arg(long)]
    pub(crate) snapshot: bool,
    /// What firmware boots from, the first first: disk, cdrom [default: disk,cdrom]
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = drives::boot)]
    pub(crate) boot: Vec<vm::Drive>,
    /// The passphrase of encrypted disks: all of a file but a line end at its end; - is standard input, of which the console then has none
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Firmware to start with: `bios`, SeaBIOS, or `uefi`, OVMF, where distributions put them, or a file. A kernel is then
    /// booted by it
    #[arg(long, value_name = "bios|uefi|FILE", value_parser = values::firmware, value_hint = ValueHint::FilePath)]
    pub(crate) firmware: Option<Firmware>,
    /// Where UEFI firmware keeps its variables; made from the firmware's template if it is not there [default: they are
    /// forgotten when the VM ends]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) firmware_vars: Option<PathBuf>,
    /// Give firmware and guest a file by the firmware configuration; its name there starts with opt/ or etc/
    #[arg(long, value_name = "name=NAME,file=FILE|string=TEXT", value_parser = values::firmware_file)]
    pub(crate) fw_cfg: Vec<FirmwareFile>,
    /// The display: `std`, a VGA with larger modes, or `none` [default: std with firmware or --vnc, none without]
    #[arg(long, value_name = "CARD", value_parser = values::video)]
    pub(crate) vga: Option<vm::Video>,
    /// How the kernel is entered without firmware: `auto` decompresses a bzImage at once, but without address randomisation; with
    /// `boot64` or `boot32` the bzImage does that itself; `pvh` is for ELF files
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = values::entry)]
    pub(crate) entry: vm::EntryMode,
    /// What a reboot of the guest does
    #[arg(long, value_name = "ACTION", default_value = "restart", value_parser = values::reboot)]
    pub(crate) reboot: vm::OnReset,
    /// What a triple fault of the guest does: `end` is an error, `reset` is what hardware does
    #[arg(long, value_name = "ACTION", default_value = "end", value_parser = values::triple_fault)]
    pub(crate) triple_fault: vm::OnTripleFault,
    /// What a panic of the guest's kernel, seen on its first serial port, does
    #[arg(long, value_name = "ACTION", default_value = "end", value_parser = values::guest_panic)]
    pub(crate) guest_panic: vm::OnGuestPanic,
    /// The VM's name, which the process bears too
    #[arg(short, long, value_name = "NAME", default_value = "husk", value_parser = values::name)]
    pub(crate) name: String,
    /// Where a serial port leads: `stdio`, `none` or `file:PATH`; the first is COM1 [default: stdio]
    #[arg(long, value_name = "WHERE", value_parser = values::destination)]
    pub(crate) serial: Vec<Destination>,
    /// Where the debug port (E9h and 402h, output only) leads: `stdio`, `none` or `file:PATH`
    #[arg(long, value_name = "WHERE", default_value = "none", value_parser = values::destination)]
    pub(crate) debug_port: Destination,
    /// Give the guest a port (501h, 4 bytes) that ends the VM with the exit code written to it
    #[arg(long)]
    pub(crate) debug_exit: bool,
    /// Show the screen by VNC: an address with a port, or `unix:` and the path of a socket. `password-file` is a file with
    /// the password in its first line, of which VNC takes eight bytes; `tls-cert` and `tls-key` are a certificate and its
    /// key in PEM form, with which all goes through TLS
    #[arg(long, value_name = "ADDRESS:PORT|unix:PATH[,OPTION=FILE]...", value_parser = crate::vnc::parse)]
    pub(crate) vnc: Option<crate::vnc::VncChoice>,
    /// Whether other commands of this user can talk to the VM: `auto`, by a socket in $XDG_RUNTIME_DIR/husk, or `none`
    #[arg(long, value_name = "HOW", default_value = "auto", value_parser = values::control)]
    pub(crate) control: values::Control,
    /// Where KVM is, for tests
    #[arg(long, hide = true, value_name = "FILE", default_value = engine_kvm::probe::DEVICE)]
    pub(crate) kvm_device: PathBuf,
    /// Print what the engine has counted, and where the time went, when the VM has ended; -v gives one line of it
    #[arg(long)]
    pub(crate) stats: bool,
}

const RUN_HELP: &str = "\
Examples:
  husk run
      boots the default guest that `cargo xtask guest` prepares
  husk run --kernel /boot/vmlinuz-6.1.0-18-amd64 --initrd /boot/initrd.img-6.1.0-18-amd64
      boots this kernel with this initial RAM disk
  husk run --kernel K --initrd I --append 'console=ttyS0 quiet' --memory 2G --cpus 4
      two gibibytes of memory, four CPUs, a command line of one's own
  echo 'uname -a; poweroff -f' | husk run
      a shell fed from a pipe
  husk run --firmware bios --machine pc --kernel K --initrd I
      starts with SeaBIOS, which boots the kernel
  husk run --serial stdio --serial file:second.log
      a second serial port, written to a file
  husk run disk.qcow2
      boots the system on this disk
  husk run --cdrom debian.iso --disk new.qcow2,size=20G
      a new disk for the system that this CD installs

Formats of disks:
  A disk without format= is what its first bytes show: raw, if they show nothing. As a guest writes what it likes into a
  raw disk, it may not write the header of another format over one that was not told to be raw; and an image that names
  other files of the host has to have the name of its format (.qcow2, .vmdk) or be told (format=qcow2).

Keys, when standard input is a terminal:
  Ctrl-A x       stop the VM
  Ctrl-A p       press its power button
  Ctrl-A b       send a BREAK (magic SysRq)
  Ctrl-A s       show what the engine has counted
  Ctrl-A h       show these keys
  Ctrl-A Ctrl-A  send Ctrl-A

Environment:
  HUSK_GUEST  the folder of the default guest: a kernel, vmlinuz, and its initial RAM disk, initrd
  RUST_LOG    what to log when neither --log nor -v says so

Exit codes:
  0        the guest has powered itself off, the user has stopped it, or it has rebooted with --reboot exit
  1        the guest has failed: its kernel panicked, or a triple fault
  2        bad input: nothing has run
  3        Husk itself or the host has failed
  n        the code that the guest wrote to the port of --debug-exit
  128 + n  ended by signal n";

const DOCTOR_HELP: &str = "\
Marks:
  ok  as it should be
  -   virtual machines run without it, or less well
  !!  to be mended, by what stands after the arrow

Exit codes:
  0  virtual machines can be run here
  3  they cannot";

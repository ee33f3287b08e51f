//! Why a VM cannot be built or started.

use machine::firmware::{FileNameError, RomError};
use machine::{
    Overlap,
    acpi::AcpiError,
    board::UnknownBoard,
    loader::LoadError,
    pci::{ConfigError, PciError},
};

/// Why a VM cannot be built or started: the object, the cause and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The board's name.
    #[error("board: {0}")]
    Board(#[from] UnknownBoard),
    /// The CPU model's name.
    #[error("CPU model: {0}")]
    Model(#[from] x86::ModelError),
    /// A model that offers more than this host can do.
    #[error("CPU model {model}: this host cannot do {}; choose a lesser one of {}, or leave that out (--cpu-relaxed)", missing.join(", "), x86::CpuModel::NAMES.join(", "))]
    Beyond {
        /// The model.
        model: &'static str,
        /// The features that the host lacks.
        missing: Vec<String>,
    },
    /// The number of CPUs.
    #[error("{count} CPUs: the machine has room for {most}; give it 1 to {most}")]
    Cpus {
        /// The number asked for.
        count: u32,
        /// The most there can be.
        most: u32,
    },
    /// More CPUs than the engine can run.
    #[error(
        "{count} CPUs: engine {engine} runs {most} on this host; give it 1 to {most}, or another engine (--engine)"
    )]
    EngineCpus {
        /// The number asked for.
        count: u32,
        /// The most there can be.
        most: u32,
        /// The engine.
        engine: &'static str,
    },
    /// Too little or too much memory.
    #[error("{} MiB of memory: board {board} takes {} MiB to {} MiB; choose an amount between", bytes >> 20, least >> 20, most >> 20)]
    Memory {
        /// The amount asked for in bytes.
        bytes: u64,
        /// The board.
        board: &'static str,
        /// The least in bytes.
        least: u64,
        /// The most in bytes.
        most: u64,
    },
    /// More serial ports than a board has.
    #[error("{count} serial ports: the machine has room for {most}; leave some out")]
    SerialPorts {
        /// The number asked for.
        count: usize,
        /// The most there can be.
        most: usize,
    },
    /// A file that was handed over cannot be read.
    #[error("{name}: {}; check the file", cause(source))]
    Read {
        /// The file's name.
        name: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that is larger than the guest memory that it has to be in.
    #[error("{name}: larger than the machine's memory below 4 GiB, which has {} MiB; use a smaller file or give the VM more", memory >> 20)]
    TooLarge {
        /// The file's name.
        name: String,
        /// That memory in bytes.
        memory: u64,
    },
    /// The kernel or the initial RAM disk.
    #[error("{}{source}", file.as_ref().map(|name| format!("{name}: ")).unwrap_or_default())]
    Load {
        /// The file that is to blame, if it is one.
        file: Option<String>,
        /// What is wrong.
        source: LoadError,
    },
    /// The host has no such memory.
    #[error("{0}")]
    Reserve(#[from] memory::Error),
    /// The engine refuses.
    #[error("engine: {0}")]
    Engine(#[from] engine::Error),
    /// The ACPI tables.
    #[error("{0}")]
    Acpi(#[from] AcpiError),
    /// What is to be the firmware is none.
    #[error("{name}: {source}")]
    Firmware {
        /// The file's name.
        name: String,
        /// What is wrong.
        source: RomError,
    },
    /// What is to hold the firmware's variables is no variable store.
    #[error(
        "{name}: not a variable store; make one from the template that the firmware comes with, like OVMF_VARS_4M.fd"
    )]
    Variables {
        /// The file's name.
        name: String,
    },
    /// Firmware and variable store that are not of one kind.
    #[error(
        "{name}: {bytes} bytes of variables do not go with {firmware} bytes of firmware; take the template that the firmware comes with"
    )]
    VariablesApart {
        /// The file of the variables.
        name: String,
        /// Their size in bytes.
        bytes: u64,
        /// The firmware's size in bytes.
        firmware: u64,
    },
    /// The flash chip of the variables.
    #[error("wiring: {0}")]
    Flash(#[from] devices::flash::FlashError),
    /// A file that holds the firmware's variables.
    #[error("{0}")]
    VariablesFile(#[from] disk::Error),
    /// A file of the firmware configuration.
    #[error("{0}")]
    FirmwareFile(#[from] FileNameError),
    /// More disks than a bus has places for.
    #[error("{count} disks: {bus} has places for {most}; connect the others otherwise (bus=)")]
    Disks {
        /// The number asked for.
        count: usize,
        /// The bus.
        bus: &'static str,
        /// The most there can be.
        most: usize,
    },
    /// IDE disks on a board without IDE.
    #[error("board {board} has no IDE; connect the disk otherwise (bus=), or take board pc (--machine pc)")]
    NoIde {
        /// The board.
        board: &'static str,
    },
    /// SATA disks on a board without SATA.
    #[error("board {board} has no SATA; connect the disk otherwise (bus=), or take board q35 (--machine q35)")]
    NoSata {
        /// The board.
        board: &'static str,
    },
    /// A drive for discs on a bus that has none.
    #[error("virtio and scsi have no drives for CDs; connect it otherwise: bus=ide on board pc, bus=sata on board q35")]
    NoCds,
    /// No drive for discs has this serial number.
    #[error("there is no drive {drive} for discs; those of this VM: {}", known.join(", "))]
    NoDrive {
        /// The serial number asked for.
        drive: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// The guest holds the disc.
    #[error("the guest has locked the tray of drive {drive}; have it let go of the disc, or force it")]
    Locked {
        /// The drive's serial number.
        drive: String,
    },
    /// More PCI functions than there are places for.
    #[error("the PCI bus has places for {most} devices; leave some out")]
    Slots {
        /// The most there can be.
        most: u8,
    },
    /// A PCI function contradicts itself.
    #[error("wiring: {0}")]
    Config(#[from] ConfigError),
    /// There is neither a kernel nor firmware.
    #[error("nothing to run: the VM has neither firmware nor a kernel; give it one of them")]
    NothingToRun,
    /// The board's data contradict themselves.
    #[error("wiring: {0}")]
    Overlap(#[from] Overlap),
    /// As above, on the PCI bus.
    #[error("wiring: {0}")]
    Pci(#[from] PciError),
    /// The host refuses a thread.
    #[error("cannot start thread {name}: {source}; raise the limit on processes (ulimit -u)")]
    Thread {
        /// The thread.
        name: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// [`crate::Vm::start`] for the second time.
    #[error("the VM has been started already")]
    Started,
    /// A running VM is asked for, and it has not been started yet or has ended.
    #[error("the VM is not running")]
    NotRunning,
    /// The guest cannot go on on another engine; it stays where it is.
    #[error("cannot move to engine {engine}: {reason}; the guest stays where it is")]
    Move {
        /// The engine.
        engine: &'static str,
        /// Why.
        reason: String,
    },
}

/// An error of the operating system without its number.
fn cause(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

impl Error {
    /// Whether the input is to blame, and not Husk or the host.
    #[must_use]
    pub fn is_input(&self) -> bool {
        match self {
            Self::Board(_)
            | Self::Firmware { .. }
            | Self::FirmwareFile(_)
            | Self::Variables { .. }
            | Self::VariablesApart { .. }
            | Self::VariablesFile(_)
            | Self::NothingToRun
            | Self::Disks { .. }
            | Self::NoIde { .. }
            | Self::NoSata { .. }
            | Self::NoCds
            | Self::NoDrive { .. }
            | Self::Locked { .. }
            | Self::Slots { .. }
            | Self::Model(_)
            | Self::Beyond { .. }
            | Self::Cpus { .. }
            | Self::EngineCpus { .. }
            | Self::Memory { .. }
            | Self::SerialPorts { .. } => true,
            Self::Read { .. } | Self::TooLarge { .. } | Self::Load { .. } | Self::Reserve(_) | Self::Acpi(_) => true,
            Self::Engine(e) => matches!(e, engine::Error::Config(_)),
            Self::Overlap(_) | Self::Pci(_) | Self::Thread { .. } | Self::Started => false,
            Self::NotRunning | Self::Move { .. } | Self::Config(_) | Self::Flash(_) => false,
        }
    }
}

//! What the lab is made of: Debian's kernel with its modules, busybox, and a QEMU that emulates AMD's virtualization well.
//!
//! All of it lies in `target/lab` and is made once.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::kernel::{self, Modules};
use crate::apt::{self, Apt};
use crate::cpio::Archive;
use crate::{guest, shell};

/// The lab's first process.
const INIT: &[u8] = include_bytes!("../../../tests/lab/init");

/// The modules that are loaded, in this order, after those they need.
const MODULES: [&str; 6] = ["kvm_amd", "virtio_pci", "9pnet_virtio", "9p", "tun", "vhost_net"];

/// QEMU's packages: the emulator and its firmware.
const QEMU: [&str; 4] = ["qemu-system-x86", "qemu-system-common", "qemu-system-data", "seabios"];

/// Everything that does not change from run to run.
pub(super) struct Kit {
    pub(super) kernel: PathBuf,
    /// The initial RAM disk's first archive: busybox, the modules and the first process.
    pub(super) base: PathBuf,
    pub(super) qemu: PathBuf,
    /// Where QEMU's firmware is, if it is not where QEMU looks by itself.
    pub(super) firmware: Vec<PathBuf>,
}

impl Kit {
    /// Makes what is not there yet.
    pub(super) fn prepare() -> Result<Self> {
        let folder = super::folder();
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock = fs::File::create(folder.join("lock")).context("cannot make the lab's lock")?;
        lock.lock().context("cannot lock the lab")?;
        let (kernel, base) = system(&folder).context("the lab's system")?;
        let (qemu, firmware) = qemu(&folder)?;
        Ok(Self { kernel, base, qemu, firmware })
    }

    /// QEMU, told where its firmware is.
    pub(super) fn emulator(&self) -> Command {
        let mut command = shell::command(&self.qemu);
        self.firmware.iter().for_each(|path| _ = command.arg("-L").arg(path));
        command
    }
}

/// The kernel and the archive.
fn system(folder: &Path) -> Result<(PathBuf, PathBuf)> {
    let (kernel, base, made_of) = (folder.join("kernel"), folder.join("base.cpio"), folder.join("made-of"));
    let generic = guest::folder("generic");
    if !generic.join("packages").is_file() {
        guest::assemble(guest::Choice::Generic, false)?;
    }
    let packages = fs::read_to_string(generic.join("packages")).context("cannot read what the guest is made of")?;
    let now = format!("{packages}{}\n{}", MODULES.join(" "), String::from_utf8_lossy(INIT));
    if kernel.is_file() && base.is_file() && fs::read_to_string(&made_of).is_ok_and(|old| old == now) {
        return Ok((kernel, base));
    }
    shell::say("making the lab's system from Debian's kernel");
    let image = guest::read(&generic.join("vmlinuz"))?;
    shell::write(&kernel, &kernel::unpacked(&image).unwrap_or(image))?;
    let package = package(packages.lines().next().unwrap_or_default())?;
    let unpacked = folder.join("unpacked");
    remove(&unpacked)?;
    apt::unpack(&package, "./lib/modules", &unpacked)?;
    let archive = archive(&guest::read(&generic.join("busybox"))?, &Modules::of(&unpacked)?)?;
    shell::write(&base, &archive)?;
    remove(&unpacked)?;
    shell::write(&made_of, now.as_bytes())?;
    Ok((kernel, base))
}

/// The file of the kernel's package, which has the modules too.
fn package(name: &str) -> Result<PathBuf> {
    let path = guest::folders().join("apt/amd64/packages").join(format!("{name}.deb"));
    if !path.is_file() {
        bail!("there is no {}: fetch it again by `cargo xtask guest --kind generic --update`", path.display());
    }
    Ok(path)
}

fn archive(busybox: &[u8], modules: &Modules) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "etc", "lib", "lib/modules", "proc", "sys", "tmp", "root", "out", "run"] {
        archive.directory(name);
    }
    archive.character_device("dev/console", 5, 1).symlink("sbin", "bin").symlink("lib64", "lib");
    archive.directory("usr").symlink("usr/bin", "../bin").symlink("usr/lib", "../lib");
    archive.file("bin/busybox", 0o755, busybox).symlink("bin/sh", "busybox").file("init", 0o755, INIT);
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n").file("etc/group", 0o644, b"root:x:0:\n");
    let (mut loaded, mut order) = (Vec::new(), String::new());
    for name in MODULES {
        for (name, bytes) in modules.chain(name, &mut loaded)? {
            archive.file(&format!("lib/modules/{name}.ko"), 0o644, &bytes);
            order += &format!("{name}\n");
        }
    }
    archive.file("lib/modules/order", 0o644, order.as_bytes());
    Ok(archive.finish())
}

/// A QEMU of version 10, unpacked and not installed; else the installed one.
fn qemu(folder: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let usr = folder.join("qemu/usr");
    let (program, firmware) =
        (usr.join("bin/qemu-system-x86_64"), vec![usr.join("share/qemu"), usr.join("share/seabios")]);
    if runs(&program) {
        return Ok((program, firmware));
    }
    let fetched = fetch(&folder.join("qemu"));
    if runs(&program) {
        return Ok((program, firmware));
    }
    let why = match fetched {
        Err(error) => format!("{error:#}"),
        Ok(()) => "it lacks libraries that the package qemu-system-x86 brings when it is installed".to_owned(),
    };
    let installed = Path::new("qemu-system-x86_64");
    if !runs(installed) {
        bail!("the lab has no QEMU ({why}): install one by `sudo apt-get install --yes qemu-system-x86`");
    }
    shell::say(&format!("warning: the lab runs on the installed QEMU, as there is no newer one: {why}"));
    shell::say("warning: the emulation of AMD's virtualization of QEMU 7.2 now and then loses an interrupt");
    Ok((installed.to_path_buf(), Vec::new()))
}

fn runs(program: &Path) -> bool {
    shell::output(shell::command(program).arg("--version")).is_ok()
}

fn fetch(to: &Path) -> Result<()> {
    remove(to)?;
    let apt = Apt::open_newer(&super::folder().join("apt"), "amd64")?;
    for name in QEMU {
        apt::unpack(&apt.fetch(name)?, "./usr", to)?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

//! The guests, assembled from Debian's packages: a kernel as packaged, and an initial RAM disk around busybox.
//!
//! `target/guest/<kind>/` holds `vmlinuz`, `initrd`, `busybox`, `packages` (what they are made of) and `workout.initrd`,
//! which runs the workout (see [`crate::workout`]) instead of a shell. The generic kernel has `drives.initrd` too, with its
//! modules for drives (see [`crate::modules`]).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::cpio::Archive;
use crate::{disk, modules, shell, systems, workout};

/// What the user can ask for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Choice {
    /// Debian's kernel for cloud machines: the default guest
    Cloud,
    /// Debian's kernel for PCs
    Generic,
    /// Debian's 32-bit kernel
    I386,
    /// A disk with an installed system
    Disk,
    /// Systems that come as one file: memtest86+, GRUB's rescue disc, iPXE, Debian's installer
    Systems,
    /// All of them
    All,
}

/// One guest: its name, architecture and kernel package.
struct Kind {
    name: &'static str,
    architecture: &'static str,
    kernel: &'static str,
}

const CLOUD: Kind = Kind { name: "cloud", architecture: "amd64", kernel: "linux-image-cloud-amd64" };
const GENERIC: Kind = Kind { name: "generic", architecture: "amd64", kernel: "linux-image-amd64" };
const I386: Kind = Kind { name: "i386", architecture: "i386", kernel: "linux-image-686-pae" };

/// The folder of all guests.
pub(crate) fn folders() -> PathBuf {
    shell::root().join("target/guest")
}

/// The folder of one guest.
pub(crate) fn folder(name: &str) -> PathBuf {
    folders().join(name)
}

/// Assembles guests; with `update` from the newest packages, else from those that are there already.
pub(crate) fn assemble(choice: Choice, update: bool) -> Result<()> {
    let kinds: &[Kind] = match choice {
        Choice::Cloud => &[CLOUD],
        Choice::Generic => &[GENERIC],
        Choice::I386 => &[I386],
        Choice::Disk => return disk::assemble(&disk::PLAIN, update).context("guest disk"),
        Choice::Systems => return systems::assemble(update).context("systems"),
        Choice::All => &[CLOUD, GENERIC, I386],
    };
    let program = workout::build()?;
    let mut apts: Vec<Apt> = Vec::new();
    if matches!(choice, Choice::Cloud | Choice::All) {
        firmware(update, &mut apts).context("firmware")?;
    }
    for kind in kinds {
        one(kind, update, &program, &mut apts).with_context(|| format!("guest {}", kind.name))?;
    }
    if choice == Choice::All {
        systems::assemble(update).context("systems")?;
        disk::assemble(&disk::PLAIN, update).context("guest disk")?;
    }
    Ok(())
}

fn one(kind: &Kind, update: bool, program: &[u8], apts: &mut Vec<Apt>) -> Result<()> {
    let folder = folder(kind.name);
    let (vmlinuz, busybox) = (folder.join("vmlinuz"), folder.join("busybox"));
    let modular = kind.name == GENERIC.name;
    if update || !vmlinuz.is_file() || !busybox.is_file() || modular && !folder.join("modules").is_file() {
        fetch(kind, apt_for(kind.architecture, apts)?, &folder)?;
    }
    let busybox = read(&busybox)?;
    let initrd = initrd(&busybox);
    shell::write(&folder.join("initrd"), &initrd)?;
    if modular {
        let with_modules = [initrd.clone(), read(&folder.join("modules"))?].concat();
        shell::write(&folder.join("drives.initrd"), &with_modules)?;
    }
    let with_workout = [initrd, workout::archive((kind.architecture == "amd64").then_some(program))].concat();
    shell::write(&folder.join("workout.initrd"), &with_workout)?;
    let packages = fs::read_to_string(folder.join("packages")).unwrap_or_default();
    shell::say(&format!("guest {} in {}: {}", kind.name, folder.display(), packages.trim().replace('\n', ", ")));
    Ok(())
}

/// apt for an architecture, opened when it is needed first.
fn apt_for<'a>(architecture: &'static str, apts: &'a mut Vec<Apt>) -> Result<&'a Apt> {
    let index = match apts.iter().position(|apt| apt.is_for(architecture)) {
        Some(index) => index,
        None => {
            apts.push(Apt::open(&folders().join("apt"), architecture)?);
            apts.len() - 1
        }
    };
    Ok(&apts[index])
}

/// The firmware that tests boot with, and its display's: files of Debian's packages `seabios` and `ovmf`, in
/// `target/guest/firmware`.
fn firmware(update: bool, apts: &mut Vec<Apt>) -> Result<()> {
    const SEABIOS: &[&str] = &["bios-256k.bin", "vgabios-stdvga.bin"];
    const OVMF: &[&str] = &["OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd", "OVMF_CODE.fd", "OVMF_VARS.fd"];
    let folder = folder("firmware");
    for (name, images, place) in [("seabios", SEABIOS, "usr/share/seabios"), ("ovmf", OVMF, "usr/share/OVMF")] {
        if !update && images.iter().all(|image| folder.join(image).is_file()) {
            continue;
        }
        let package = apt_for(CLOUD.architecture, apts)?.fetch(name)?;
        let unpacked = folder.join("unpacked");
        apt::unpack(&package, &format!("./{place}"), &unpacked)?;
        for image in images {
            shell::write(&folder.join(image), &read(&unpacked.join(place).join(image))?)?;
        }
        fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
    }
    Ok(())
}

/// Fetches and unpacks the packages of a guest.
fn fetch(kind: &Kind, apt: &Apt, folder: &Path) -> Result<()> {
    let kernel = apt.fetch(&apt.behind(kind.kernel)?)?;
    let busybox = apt.fetch("busybox-static")?;
    let unpacked = folder.join("unpacked");
    let clean = || if unpacked.exists() { fs::remove_dir_all(&unpacked) } else { Ok(()) };
    clean().with_context(|| format!("cannot remove {}", unpacked.display()))?;
    apt::unpack(&kernel, "./boot", &unpacked)?;
    apt::unpack(&busybox, "./bin", &unpacked)?;
    if kind.name == GENERIC.name {
        apt::unpack(&kernel, "./lib/modules", &unpacked)?;
        shell::write(&folder.join("modules"), &modules::archive(&unpacked.join("lib/modules"))?)?;
    }
    let boot = unpacked.join("boot");
    let entries = fs::read_dir(&boot).with_context(|| format!("cannot read {}", boot.display()))?;
    let image = entries.flatten().map(|e| e.path()).find(|p| p.to_string_lossy().contains("/boot/vmlinuz-"));
    let image = image.with_context(|| format!("no kernel in {}", kernel.display()))?;
    shell::write(&folder.join("busybox"), &read(&unpacked.join("bin/busybox"))?)?;
    executable(&folder.join("busybox"))?;
    let names = [&kernel, &busybox].map(|p| p.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    shell::write(&folder.join("packages"), format!("{}\n", names.join("\n")).as_bytes())?;
    // Last, as its presence says that all is there.
    shell::write(&folder.join("vmlinuz"), &read(&image)?)?;
    clean().with_context(|| format!("cannot remove {}", unpacked.display()))
}

/// The initial RAM disk: busybox as the first process and as every command, and the script that it starts.
fn initrd(busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "etc", "proc", "root", "sys", "tmp", "usr", "var"] {
        archive.directory(name);
    }
    archive
        // The kernel opens it before anything is mounted.
        .character_device("dev/console", 5, 1)
        .symlink("sbin", "bin")
        .symlink("usr/bin", "../bin")
        .symlink("usr/sbin", "../bin")
        .file("bin/busybox", 0o755, busybox)
        .symlink("bin/sh", "busybox")
        .file("bin/resize", 0o755, include_bytes!("../../tests/guest/resize"))
        .file("etc/passwd", 0o644, b"root::0:0:root:/root:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\n")
        .file("etc/profile", 0o644, include_bytes!("../../tests/guest/profile"))
        .file("etc/inittab", 0o644, b"::once:/etc/rc\n")
        .file("etc/rc", 0o755, include_bytes!("../../tests/guest/rc"))
        .symlink("init", "bin/busybox");
    archive.finish()
}

pub(crate) fn executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(path, mode).with_context(|| format!("cannot make {} executable", path.display()))
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

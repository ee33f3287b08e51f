//! A disk with an installed system, made of Debian's packages alone: `disk.qcow2` in `target/guest/disk`, and one with fio
//! for `cargo xtask bench-disk` in `target/guest/disk-fio`.
//!
//! `mmdebstrap` makes the file system's tree, `tests/guest/disk/customize` makes a system of it, and the disk is put
//! together here in a file: a GPT with GRUB for a BIOS, an EFI system partition with GRUB for UEFI, and an ext4 file
//! system. Nothing is mounted and there are no loop devices; the tree's owners and devices need root, though, by
//! `sudo` where this is run by another user.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::{guest, shell};

/// The disk's name in its folder.
pub(crate) const IMAGE: &str = "disk.qcow2";

/// A disk: the name of its folder, and what is installed beside what all have.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    packages: &'static [&'static str],
}

/// The one that tests boot.
pub(crate) const PLAIN: Kind = Kind { name: "disk", packages: &[] };
/// The one that measures disks.
pub(crate) const WITH_FIO: Kind = Kind { name: "disk-fio", packages: &["fio"] };

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";

/// What is installed beside Debian's essential packages.
const PACKAGES: &str = "systemd-sysv,udev,kmod,e2fsprogs,login,linux-image-amd64,initramfs-tools,zstd,lz4,\
                        grub-pc-bin,grub-efi-amd64-bin,xxd";

/// What of the packages is left out: documentation, and drivers of hardware that no virtual machine has.
const WITHOUT: &[&str] = &[
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/lib/modules/*/kernel/sound/*",
    "/lib/modules/*/kernel/drivers/media/*",
    "/lib/modules/*/kernel/drivers/infiniband/*",
    "/lib/modules/*/kernel/drivers/net/wireless/*",
    "/lib/modules/*/kernel/drivers/gpu/drm/amd/*",
    "/lib/modules/*/kernel/drivers/gpu/drm/i915/*",
    "/lib/modules/*/kernel/drivers/gpu/drm/nouveau/*",
    "/lib/modules/*/kernel/drivers/gpu/drm/radeon/*",
];

const CUSTOMIZE: &str = "tests/guest/disk/customize";

const SECTOR: u64 = 512;
const MIB: u64 = 1 << 20;

/// Places and lengths of the partitions, in MiB.
const BIOS_BOOT: (u64, u64) = (1, 1);
const EFI: (u64, u64) = (2, 32);
const ROOT: (u64, u64) = (34, 1500);
/// The second copy of the partition table is in the last one.
const DISK: u64 = ROOT.0 + ROOT.1 + 1;

/// The programs that this calls, with their packages.
const PROGRAMS: [(&str, &str); 6] = [
    ("mmdebstrap", "mmdebstrap"),
    ("sfdisk", "fdisk"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mke2fs", "e2fsprogs"),
    ("qemu-img", "qemu-utils"),
];

/// Makes the disk, unless there is one of the same recipe.
pub(crate) fn assemble(kind: &Kind, update: bool) -> Result<()> {
    let folder = guest::folder(kind.name);
    let packages = [&[PACKAGES], kind.packages].concat().join(",");
    let recipe = recipe(&packages)?;
    let (image, noted) = (folder.join(IMAGE), folder.join("recipe"));
    if !update && image.is_file() && fs::read_to_string(&noted).is_ok_and(|old| old == recipe) {
        shell::say(&format!("guest {} in {}", kind.name, folder.display()));
        return Ok(());
    }
    let start = Instant::now();
    shell::install(&PROGRAMS)?;
    let work = folder.join("work");
    remove(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let made = make(&work, &packages).and_then(|raw| {
        let new = folder.join("disk.new");
        shell::run(shell::command("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).arg(raw).arg(&new))?;
        fs::rename(&new, &image).with_context(|| format!("cannot rename {}", new.display()))?;
        shell::write(&noted, recipe.as_bytes())
    });
    remove(&work)?;
    made?;
    shell::say(&format!("guest {} in {}: made in {:.0} s", kind.name, folder.display(), start.elapsed().as_secs_f64()));
    Ok(())
}

/// What the disk is made of, to see when it is to be made again.
fn recipe(packages: &str) -> Result<String> {
    let script = guest::read(&shell::root().join(CUSTOMIZE))?;
    let layout = format!("{SUITE} {packages} {WITHOUT:?} {BIOS_BOOT:?} {EFI:?} {ROOT:?}");
    Ok(format!("{layout}\n{}", String::from_utf8_lossy(&script)))
}

/// A program of the system, which may not be on the path of its users.
fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = shell::command(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    command
}

/// The files here belong to root.
fn remove(work: &Path) -> Result<()> {
    if work.exists() { shell::run(shell::as_root("rm")?.arg("-rf").arg(work)) } else { Ok(()) }
}

/// Makes the raw disk; returns its file.
fn make(work: &Path, packages: &str) -> Result<std::path::PathBuf> {
    let tree = work.join("tree");
    system(&tree, packages)?;
    let raw = work.join("disk.raw");
    let refused = || format!("cannot write {}", raw.display());
    let disk = File::options().read(true).write(true).create_new(true).open(&raw).with_context(refused)?;
    disk.set_len(DISK * MIB).with_context(refused)?;
    partitions(&raw)?;
    let boot = tree.join("boot/grub");
    bios_grub(&disk, &guest::read(&boot.join("boot.img"))?, &guest::read(&boot.join("core.img"))?)?;
    efi_grub(&disk, &boot.join("bootx64.efi"), &work.join("efi.raw"))?;
    // The file system's tree is read by root alone.
    let mut mke2fs = shell::as_root("mke2fs")?;
    mke2fs.args(["-q", "-F", "-t", "ext4", "-L", "husk-root", "-O", "^metadata_csum_seed,^orphan_file"]);
    mke2fs.arg("-E").arg(format!("offset={}", ROOT.0 * MIB)).arg("-d").arg(&tree).arg(&raw);
    shell::run(mke2fs.arg(format!("{}M", ROOT.1)))?;
    Ok(raw)
}

/// The tree of the system's files.
fn system(tree: &Path, packages: &str) -> Result<()> {
    let mut command = shell::as_root("mmdebstrap")?;
    command.args(["--quiet", "--mode=root", "--variant=minbase", "--format=directory"]);
    command.arg(format!("--include={packages}")).args(["--aptopt=Acquire::Retries \"3\""]);
    for path in WITHOUT {
        command.arg(format!("--dpkgopt=path-exclude={path}"));
    }
    command.arg(format!("--customize-hook={}", shell::root().join(CUSTOMIZE).display()));
    command.arg(SUITE).arg(tree).arg(MIRROR);
    shell::say("installing Debian into a folder");
    shell::run(&mut command).context("cannot install Debian into a folder: check the network")
}

/// Writes the partition table.
fn partitions(raw: &Path) -> Result<()> {
    let table = raw.with_extension("partitions");
    let sectors = |mib: u64| mib * (MIB / SECTOR);
    let line = |(at, len), kind: &str| format!("start={}, size={}, type={kind}\n", sectors(at), sectors(len));
    // The types by their GUIDs: a BIOS boot partition, an EFI system partition, Linux files.
    let text = [
        "label: gpt\n".to_owned(),
        line(BIOS_BOOT, "21686148-6449-6E6F-744E-656564454649"),
        line(EFI, "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"),
        line(ROOT, "0FC63DAF-8483-4772-8E79-3D69D8477DE4"),
    ];
    shell::write(&table, text.concat().as_bytes())?;
    let from = File::open(&table).with_context(|| format!("cannot read {}", table.display()))?;
    let mut sfdisk = tool("sfdisk");
    let status = sfdisk.args(["--quiet", "--no-reread", "--no-tell-kernel"]).arg(raw).stdin(from).status();
    ensure!(status.context("cannot start `sfdisk`")?.success(), "`sfdisk` failed");
    Ok(())
}

/// Puts GRUB where a BIOS starts it, as grub-bios-setup does on a device: its first part in the first sector, beside the
/// partition table, and the rest in a partition of its own. Each part is told where the next one is, at the places that
/// GRUB's `include/grub/i386/pc/boot.h` names.
fn bios_grub(disk: &File, boot: &[u8], core: &[u8]) -> Result<()> {
    /// The first sector has code in front of the disk's signature and the partition table.
    const CODE: usize = 440;
    const KERNEL_SECTOR: usize = 0x5c;
    const DRIVE_CHECK: usize = 0x66;
    /// The last entry of the list of blocks in the first sector of the rest: a sector, a count and a segment.
    const BLOCKS: usize = 0x1f4;

    let room = usize::try_from(BIOS_BOOT.1 * MIB)?;
    ensure!(boot.len() == 512 && core.len() > 512 && core.len() <= room, "GRUB's images are not what they should be");
    let first = BIOS_BOOT.0 * MIB / SECTOR;
    let mut code = boot[..CODE].to_vec();
    code[KERNEL_SECTOR..KERNEL_SECTOR + 8].copy_from_slice(&first.to_le_bytes());
    // No second guess at the number of the drive that the BIOS gives.
    code[DRIVE_CHECK..DRIVE_CHECK + 2].copy_from_slice(&[0x90, 0x90]);
    let mut rest = core.to_vec();
    rest[BLOCKS..BLOCKS + 8].copy_from_slice(&(first + 1).to_le_bytes());
    disk.write_all_at(&code, 0)?;
    disk.write_all_at(&rest, BIOS_BOOT.0 * MIB)?;
    Ok(())
}

/// Makes the EFI system partition, with GRUB where UEFI looks on removable disks.
fn efi_grub(disk: &File, program: &Path, file: &Path) -> Result<()> {
    let files = File::create_new(file).with_context(|| format!("cannot make {}", file.display()))?;
    files.set_len(EFI.1 * MIB)?;
    shell::output(tool("mkfs.vfat").args(["-F", "16", "-n", "HUSK-EFI"]).arg(file))?;
    shell::run(shell::command("mmd").arg("-i").arg(file).args(["::EFI", "::EFI/BOOT"]))?;
    shell::run(shell::command("mcopy").arg("-i").arg(file).arg(program).arg("::EFI/BOOT/BOOTX64.EFI"))?;
    disk.write_all_at(&guest::read(file)?, EFI.0 * MIB)?;
    if disk.metadata()?.len() != DISK * MIB {
        bail!("the disk has grown");
    }
    Ok(())
}

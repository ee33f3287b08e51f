//! A Debian system on its own disk boots by GRUB and systemd to a login, through each bus and both firmwares; what is
//! written in it is there the next time, and nothing is wrong with its file system or its image.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::folder::Folder;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(300);

/// Where on the disk the file system of the root starts, in bytes.
const ROOT: u64 = 34 << 20;

/// A command on files, which has to succeed; what it prints.
fn run(program: &str, args: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let done = Command::new(program).args(args).env("PATH", path).output().unwrap();
    let said = [done.stdout, done.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(done.status.success(), "{program} {args:?}: {said}");
    said
}

/// An overlay over the installed disk.
struct Overlay {
    folder: Folder,
    path: PathBuf,
}

impl Overlay {
    fn new(name: &str) -> Option<Self> {
        let disk = guest("disk")?.canonicalize().unwrap().join("disk.qcow2");
        let folder = Folder::new(name);
        let path = folder.join("overlay.qcow2");
        let args = ["img", "create", "--quiet", "--backing", text(&disk), "--backing-format", "qcow2", text(&path)];
        run(&program(), &args);
        Some(Self { folder, path })
    }

    /// Checks the image and, from outside, the file system in it.
    fn check(&self) {
        let image = text(&self.path);
        assert!(run("qemu-img", &["check", image]).contains("No errors were found"));
        run(&program(), &["img", "check", "--quiet", image]);
        let raw = self.folder.join("disk.raw");
        run("qemu-img", &["convert", "-O", "raw", image, text(&raw)]);
        run("e2fsck", &["-f", "-n", &format!("{}?offset={ROOT}", raw.display())]);
        std::fs::remove_file(raw).unwrap();
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Boots the disk to its prompt.
fn boot(disk: &str, more: &[&str]) -> (Turn, Husk) {
    let turn = Turn::wait();
    let args = [&["run", "--memory", "1G", "--disk", disk], more].concat();
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    husk.wait_for("Booting `Debian on a disk'");
    husk.wait_for("husk-disk login:");
    husk.send("root\r");
    husk.wait_for("Password:");
    husk.send("husk\r");
    husk.wait_for("root@husk-disk");
    (turn, husk)
}

/// Has a command done, and returns what it says.
fn does(husk: &mut Husk, command: &str) -> String {
    // The line as it is typed does not hold the word that tells of its end.
    husk.send(&format!("{command}; echo status=$? do''ne\r"));
    husk.wait_for("do''ne");
    husk.wait_for("done")
}

fn powers_off(mut husk: Husk) {
    husk.send("poweroff\r");
    assert_eq!(husk.exit_code(), 0, "{}", husk.errors());
}

/// Boots through a bus, writes, and boots again with other firmware, where the file is to be there.
fn keeps_what_is_written(machine: &str, bus: &str, name: &str) {
    let Some(overlay) = Overlay::new(&format!("installed-{machine}-{bus}")) else { return };
    let disk = format!("{},bus={bus},serial=KEPT", overlay.path.display());
    let first = ["--machine", machine];
    {
        let (_turn, mut husk) = boot(&disk, &first);
        let said =
            does(&mut husk, "head -c 3000000 /dev/urandom > /root/kept; sha256sum < /root/kept > /root/sum; sync");
        assert!(said.contains("status=0"), "{said}");
        let said = does(&mut husk, &format!("ls /dev/{name}; findmnt -no source /"));
        assert!(said.contains(&format!("/dev/{name}3")), "the root is where the bus has its disks: {said}");
        powers_off(husk);
    }
    {
        let Some(uefi) = uefi() else { return };
        let second = ["--machine", machine, "--cpus", "2", "--firmware", &uefi];
        let (_turn, mut husk) = boot(&disk, &second);
        let said = does(&mut husk, "sha256sum -c /root/sum < /root/kept");
        assert!(said.contains("-: OK") && said.contains("status=0"), "{said}");
        powers_off(husk);
    }
    let _turn = Turn::wait();
    overlay.check();
}

/// Debian's OVMF.
fn uefi() -> Option<String> {
    Some(guest("firmware")?.join("OVMF_CODE_4M.fd").to_str()?.to_owned())
}

#[test]
fn a_disk_boots_through_ide() {
    keeps_what_is_written("pc", "ide", "sda");
}

#[test]
fn a_disk_boots_through_sata() {
    keeps_what_is_written("q35", "sata", "sda");
}

#[test]
fn a_disk_boots_through_virtio() {
    keeps_what_is_written("q35", "virtio", "vda");
}

#[test]
fn a_disk_boots_through_virtio_scsi() {
    keeps_what_is_written("q35", "scsi", "sda");
}

#[test]
fn one_argument_is_enough_and_a_snapshot_forgets() {
    let Some(overlay) = Overlay::new("installed-snapshot") else { return };
    let before = std::fs::read(&overlay.path).unwrap();
    let _turn = Turn::wait();
    let mut husk = Husk::in_pipes(&program(), &["run", text(&overlay.path), "--snapshot"], LIMIT);
    husk.wait_for("husk-disk login:");
    husk.send("root\r");
    husk.wait_for("Password:");
    husk.send("husk\r");
    husk.wait_for("root@husk-disk");
    assert!(does(&mut husk, "echo x > /root/forgotten; sync").contains("status=0"));
    powers_off(husk);
    assert!(std::fs::read(&overlay.path).unwrap() == before, "the overlay is as it was");
}

//! ATA drives under real software: SeaBIOS boots from disks and CDs on IDE and SATA, and Debian's kernel reads and writes
//! them.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::folder::Folder;
use testkit::payload;
use testkit::rig::Random;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);

/// Starts a machine with Debian's SeaBIOS, its control socket off.
fn start(machine: &str, more: &[&str]) -> Option<(Turn, Husk)> {
    let bios = guest("firmware")?.join("bios-256k.bin");
    let args = ["run", "--machine", machine, "--debug-exit", "--firmware", bios.to_str().unwrap()];
    Some((Turn::wait(), Husk::in_pipes(&program(), &[&args, more].concat(), LIMIT)))
}

/// Boot code that reads a block of its own disk, whose number depends on the block's size, says the first two bytes of it on
/// the first serial port, and ends the machine with exit code 7.
fn boot_code(block: u32) -> Vec<u8> {
    let mut code = vec![
        0x31, 0xc0, 0x8e, 0xd8, 0xbe, 0x40, 0x7c, // xor ax, ax; mov ds, ax; mov si, 7c40h
        0xb4, 0x42, 0xcd, 0x13, 0x72, 0xfe, // mov ah, 42h; int 13h: read; jc $
        0xba, 0xf8, 0x03, 0xa0, 0x00, 0x80, 0xee, // mov dx, 3f8h; mov al, [8000h]; out dx, al
        0xa0, 0x01, 0x80, 0xee, // mov al, [8001h]; out dx, al
        0xba, 0x01, 0x05, 0xb0, 0x07, 0xee, // mov dx, 501h; mov al, 7; out dx, al
        0xeb, 0xfe, // jmp $
    ];
    code.resize(0x40, 0);
    // The packet: one block to 0000:8000.
    code.extend([16, 0, 1, 0, 0, 0x80, 0, 0]);
    code.extend(u64::from(block).to_le_bytes());
    code.resize(510, 0);
    code.extend([0x55, 0xaa]);
    code
}

fn hard_disk(folder: &Folder) -> PathBuf {
    let mut disk = boot_code(5000);
    disk.resize(4 << 20, 0);
    disk[5000 * 512..][..2].copy_from_slice(b"OK");
    let path = folder.join("disk.raw");
    std::fs::write(&path, disk).unwrap();
    path
}

/// A disc that boots without emulation (Phoenix and IBM, *"El Torito" Bootable CD-ROM Format Specification* 1.0).
fn disc(folder: &Folder) -> PathBuf {
    const BLOCK: usize = 2048;
    let mut disc = vec![0; 400 * BLOCK];
    let mut put =
        |block: usize, at: usize, bytes: &[u8]| disc[block * BLOCK + at..][..bytes.len()].copy_from_slice(bytes);
    put(16, 0, b"\x01CD001\x01");
    put(17, 0, b"\x00CD001\x01EL TORITO SPECIFICATION");
    put(17, 0x47, &19u32.to_le_bytes());
    put(18, 0, b"\xffCD001\x01");
    // The catalogue: for PCs, with its sum; one entry, no emulation, four sectors of 512 bytes.
    put(19, 0, &[1]);
    put(19, 0x1c, &[0xaa, 0x55, 0x55, 0xaa]);
    put(19, 0x20, &[0x88, 0, 0, 0, 0, 0, 4, 0, 20, 0, 0, 0]);
    put(20, 0, &boot_code(333));
    put(333, 0, b"OK");
    let path = folder.join("disc.iso");
    std::fs::write(&path, disc).unwrap();
    path
}

fn says_ok(machine: &str, from: &str, more: &[&str]) {
    let Some((_turn, mut husk)) = start(machine, more) else { return };
    husk.wait_for(from);
    husk.wait_for("OK");
    assert_eq!(husk.exit_code(), 7);
}

#[test]
fn a_disk_boots_from_ide_and_sata() {
    let folder = Folder::new("ata-boot-disk");
    let path = hard_disk(&folder);
    for (machine, bus) in [("pc", "ide"), ("q35", "sata")] {
        let disk = format!("{},format=raw,bus={bus}", path.display());
        says_ok(machine, "Booting from Hard Disk", &["--disk", &disk]);
    }
}

#[test]
fn a_cd_boots_from_ide_and_sata() {
    let folder = Folder::new("ata-boot-cd");
    let path = disc(&folder);
    for (machine, bus) in [("pc", "ide"), ("q35", "sata")] {
        let cd = format!("{},bus={bus}", path.display());
        says_ok(machine, "Booting from DVD/CD", &["--cdrom", &cd]);
    }
}

/// What Debian's kernel does with two disks and a CD: the sums of the first disk's quarters read at once, the CD's sum, then
/// the first disk's content backwards onto the second one, read again past all caches, and a file system there.
const WORK: &str = "sh /m/load 2>/dev/null
    for disk in /sys/block/sd? /sys/block/sr0; do while ! [ -e $disk/size ]; do sleep 0.1; done; done
    first=$(grep -l FIRST /sys/block/sd?/device/vpd_pg80 | cut -d/ -f4); second=$(grep -l SECOND /sys/block/sd?/device/vpd_pg80 | cut -d/ -f4)
    echo depth $(cat /sys/block/$first/device/queue_depth)
    for n in 0 1 2 3; do dd if=/dev/$first bs=16k skip=$((n * 64)) count=64 iflag=direct 2>/dev/null | sha1sum | sed s/-/quarter$n/ & done; wait
    sha1sum /dev/sr0
    for n in 0 1 2 3; do dd if=/dev/$first of=/dev/$second bs=16k skip=$((n * 64)) seek=$(((3 - n) * 64)) count=64 conv=notrunc 2>/dev/null & done; wait; sync
    echo 3 > /proc/sys/vm/drop_caches; head -c 4194304 /dev/$second | sha1sum | sed s/-/second/
    mke2fs /dev/$second >/dev/null 2>&1; mkdir /mnt; mount -t ext4 /dev/$second /mnt && cp /m/* /mnt && umount /mnt
    echo 3 > /proc/sys/vm/drop_caches; mount -t ext4 /dev/$second /mnt && cd /m && for file in *; do cmp $file /mnt/$file || echo differs; done
    dmesg | grep -iE 'ata.*(error|exception|failed|frozen)'; echo done
";

fn noise(path: &Path, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(bytes as u64);
    let content: Vec<u8> = (0..bytes / 8).flat_map(|_| random.draw().to_le_bytes()).collect();
    std::fs::write(path, &content).unwrap();
    content
}

fn linux_works(machine: &str, bus: &str, depth: &str) {
    let Some(kernel) = guest("generic") else { return };
    let initrd = kernel.join("drives.initrd");
    if !initrd.is_file() {
        eprintln!("SKIPPED: {} is not there; run `cargo xtask guest --kind generic`", initrd.display());
        return;
    }
    let folder = Folder::new(&format!("ata-linux-{bus}"));
    let paths = ["first", "second", "disc"].map(|name| folder.join(name));
    let first = noise(&paths[0], 4 << 20);
    let disc = noise(&paths[2], 1 << 20);
    std::fs::write(&paths[1], vec![0; 16 << 20]).unwrap();
    let archive = folder.join("initrd");
    std::fs::write(&archive, [std::fs::read(initrd).unwrap(), payload::script(WORK)].concat()).unwrap();
    let disk = |n: usize, serial: &str| format!("{},format=raw,bus={bus},serial={serial}", paths[n].display());
    let (one, two, cd) = (disk(0, "FIRST"), disk(1, "SECOND"), format!("{},bus={bus}", paths[2].display()));
    let vmlinuz = kernel.join("vmlinuz");
    let mut args = vec!["run", "--machine", machine, "--cpus", "2", "--append", "console=ttyS0 quiet"];
    args.extend(["--kernel", vmlinuz.to_str().unwrap(), "--initrd", archive.to_str().unwrap()]);
    args.extend(["--disk", &one, "--disk", &two, "--cdrom", &cd]);
    let _turn = Turn::wait();
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    let console = husk.wait_for("\ndone");
    assert!(console.contains(&format!("depth {depth}")), "{console}");
    for (n, quarter) in first.chunks(1 << 20).enumerate() {
        assert!(console.contains(&format!("{}  quarter{n}", payload::sha1(quarter))), "quarter {n}: {console}");
    }
    assert!(console.contains(&payload::sha1(&disc)), "CD: {console}");
    let backwards: Vec<u8> = first.chunks(1 << 20).rev().flatten().copied().collect();
    assert!(console.contains(&format!("{}  second", payload::sha1(&backwards))), "second: {console}");
    for bad in ["differs", "error", "exception", "failed", "frozen"] {
        assert!(!console.contains(bad), "{bad}: {console}");
    }
    assert_eq!(husk.exit_code(), 0);
}

#[test]
fn debian_uses_drives_on_ide() {
    linux_works("pc", "ide", "1");
}

#[test]
fn debian_uses_drives_on_sata_with_their_queues() {
    linux_works("q35", "sata", "32");
}

/// A command that talks to a running VM.
fn tell(args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new(program()).args(args).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn discs_are_changed_while_the_guest_runs() {
    let Some(kernel) = guest("generic") else { return };
    let (vmlinuz, initrd) = (kernel.join("vmlinuz"), kernel.join("drives.initrd"));
    if !initrd.is_file() {
        eprintln!("SKIPPED: {} is not there; run `cargo xtask guest --kind generic`", initrd.display());
        return;
    }
    let folder = Folder::new("ata-change");
    let (first, second) = (folder.join("first"), folder.join("second"));
    let sums = [noise(&first, 1 << 20), noise(&second, 2 << 20)].map(|content| payload::sha1(&content));
    let name = format!("discs-{}", std::process::id());
    let _turn = Turn::wait();
    for machine in ["pc", "q35"] {
        let mut args = vec!["run", "--machine", machine, "--name", &name, "--append", "console=ttyS0 quiet"];
        args.extend(["--kernel", vmlinuz.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()]);
        args.extend(["--cdrom", first.to_str().unwrap()]);
        let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
        husk.wait_for("# ");
        husk.send("sh /m/load 2>/dev/null; while ! [ -e /sys/block/sr0 ]; do sleep 0.1; done; sha1sum /dev/sr0\n");
        husk.wait_for(&sums[0]);
        // Who reads the disc holds it, and so does Husk until the guest lets go.
        husk.send("exec 3</dev/sr0; echo he''ld\n");
        husk.wait_for("held");
        let (done, why) = tell(&["eject", &name]);
        assert!(!done && why.contains("has locked the tray"), "{why}");
        husk.send("exec 3<&-; echo fr''ee\n");
        husk.wait_for("free");
        let (done, why) = tell(&["eject", &name]);
        assert!(done, "{why}");
        husk.send("sha1sum /dev/sr0 || echo em''pty\n");
        husk.wait_for("empty");
        let (done, why) = tell(&["insert", &name, second.to_str().unwrap()]);
        assert!(done, "{why}");
        husk.send("sha1sum /dev/sr0\n");
        husk.wait_for(&sums[1]);
        husk.send("poweroff -f\n");
        assert_eq!(husk.exit_code(), 0);
    }
}

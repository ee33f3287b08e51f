//! Virtio disks under real software: SeaBIOS boots from them, by split rings, and Debian's kernel reads, writes and unmaps
//! them, by packed ones.

mod common;

use std::time::Duration;

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::folder::Folder;
use testkit::payload;
use testkit::rig::Random;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);

#[test]
fn seabios_boots_from_virtio_and_scsi() {
    let Some(bios) = guest("firmware") else { return };
    let bios = bios.join("bios-256k.bin");
    let folder = Folder::new("virtio-boot");
    let image = folder.join("disk.raw");
    std::fs::write(&image, payload::boot_sector()).unwrap();
    let _turn = Turn::wait();
    for (machine, bus) in [("pc", "virtio"), ("q35", "virtio"), ("pc", "scsi"), ("q35", "scsi")] {
        let disk = format!("{},format=raw,bus={bus}", image.display());
        let args = ["run", "--machine", machine, "--disk", &disk, "--debug-exit", "--firmware", bios.to_str().unwrap()];
        let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
        husk.wait_for("Booting from Hard Disk");
        husk.wait_for("OK");
        assert_eq!(husk.exit_code(), 7, "{machine} {bus}");
    }
}

/// What Debian's kernel does with two disks: the first one's sum read by two at once, its content copied backwards onto the
/// second, a file system there, which gives up what it does not need, and what the driver thinks of it all.
const WORK: &str = "sh /m/load 2>/dev/null
    while ! [ -e /sys/class/block/FIRST/size -a -e /sys/class/block/SECOND/size ]; do sleep 0.1; done
    first=FIRST; second=SECOND
    [ $(cat /sys/block/$first/size) = 8192 ] || { first=SECOND; second=FIRST; }
    for n in 0 1 2 3; do dd if=/dev/$first bs=16k skip=$((n * 64)) count=64 iflag=direct 2>/dev/null | sha1sum | sed s/-/quarter$n/ & done; wait
    for n in 0 1 2 3; do dd if=/dev/$first of=/dev/$second bs=16k skip=$((n * 64)) seek=$(((3 - n) * 64)) count=64 conv=notrunc 2>/dev/null & done; wait; sync
    echo 3 > /proc/sys/vm/drop_caches; head -c 4194304 /dev/$second | sha1sum | sed s/-/second/
    mke2fs /dev/$second >/dev/null 2>&1; mkdir /mnt; mount -t ext4 /dev/$second /mnt && cp /m/* /mnt && fstrim -v /mnt && umount /mnt
    echo 3 > /proc/sys/vm/drop_caches; mount -t ext4 /dev/$second /mnt && cd /m && for file in *; do cmp $file /mnt/$file || echo differs; done; cd /; umount /mnt
    cat /proc/interrupts | grep -c 'virtio0-req.*'
    dmesg | grep -iE '(virtio|scsi|sd|vd).*(error|fail|reset|timeout)' | grep -v Power-on; echo done
";

fn linux_works(machine: &str, bus: &str, names: [&str; 2], requests: &str) {
    let Some(kernel) = guest("generic") else { return };
    let initrd = kernel.join("drives.initrd");
    if !initrd.is_file() {
        eprintln!("SKIPPED: {} is not there; run `cargo xtask guest --kind generic`", initrd.display());
        return;
    }
    let folder = Folder::new(&format!("virtio-linux-{bus}"));
    let (first, second) = (folder.join("first"), folder.join("second"));
    let mut random = Random::new(5);
    let content: Vec<u8> = (0..4 << 17).flat_map(|_| random.draw().to_le_bytes()).collect();
    std::fs::write(&first, &content).unwrap();
    std::fs::write(&second, vec![0x55; 24 << 20]).unwrap();
    let archive = folder.join("initrd");
    let work = WORK.replace("FIRST", names[0]).replace("SECOND", names[1]);
    std::fs::write(&archive, [std::fs::read(initrd).unwrap(), payload::script(&work)].concat()).unwrap();
    let (one, two) =
        (format!("{},format=raw,bus={bus}", first.display()), format!("{},format=raw,bus={bus}", second.display()));
    let vmlinuz = kernel.join("vmlinuz");
    let mut args = vec!["run", "--machine", machine, "--cpus", "2", "--append", "console=ttyS0 quiet"];
    args.extend(["--kernel", vmlinuz.to_str().unwrap(), "--initrd", archive.to_str().unwrap()]);
    args.extend(["--disk", &one, "--disk", &two]);
    let _turn = Turn::wait();
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    let console = husk.wait_for("\ndone");
    for (n, quarter) in content.chunks(1 << 20).enumerate() {
        assert!(console.contains(&format!("{}  quarter{n}", payload::sha1(quarter))), "quarter {n}: {console}");
    }
    let backwards: Vec<u8> = content.chunks(1 << 20).rev().flatten().copied().collect();
    assert!(console.contains(&format!("{}  second", payload::sha1(&backwards))), "second: {console}");
    assert!(console.contains("bytes trimmed"), "{console}");
    assert!(console.contains(&format!("\n{requests}\n")), "a message for each queue of requests: {console}");
    for bad in ["differs", "error", "fail", "reset", "timeout"] {
        assert!(!console.contains(bad), "{bad}: {console}");
    }
    assert_eq!(husk.exit_code(), 0);
    // What the file system has given up takes no room in the file.
    use std::os::unix::fs::MetadataExt;
    let taken = std::fs::metadata(&second).unwrap().blocks() * 512;
    assert!(taken < 20 << 20, "{taken} bytes are still taken");
}

#[test]
fn debian_uses_virtio_disks() {
    linux_works("q35", "virtio", ["vda", "vdb"], "2");
}

#[test]
fn debian_uses_scsi_disks() {
    linux_works("pc", "scsi", ["sda", "sdb"], "2");
}

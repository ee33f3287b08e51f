//! Virtio disks under real software: SeaBIOS boots from them, by split rings, and Debian's kernel reads, writes and unmaps
//! them, by packed ones.

use std::time::Duration;

use testkit::boot::{Husk, Turn, guest};
use testkit::folder::Folder;
use testkit::rig::Random;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);

fn program() -> String {
    std::env::var("HUSK_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_husk").to_owned())
}

/// A disk that says on the first serial port what is in its second sector, and ends the machine with exit code 7.
fn boot_sector() -> Vec<u8> {
    let code = [
        0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xc0, // xor ax, ax; mov ds, ax; mov es, ax
        0xb8, 0x01, 0x02, 0xb9, 0x02, 0x00, // mov ax, 0201h; mov cx, 2: read sector 2
        0xb6, 0x00, 0xbb, 0x00, 0x7e, 0xcd, 0x13, // mov dh, 0; mov bx, 7e00h; int 13h
        0x72, 0xfe, // jc $
        0xba, 0xf8, 0x03, 0xa0, 0x00, 0x7e, 0xee, // mov dx, 3f8h; mov al, [7e00h]; out dx, al
        0xa0, 0x01, 0x7e, 0xee, // mov al, [7e01h]; out dx, al
        0xba, 0x01, 0x05, 0xb0, 0x07, 0xee, // mov dx, 501h; mov al, 7; out dx, al
        0xeb, 0xfe, // jmp $
    ];
    let mut disk = vec![0; 4 << 20];
    disk[..code.len()].copy_from_slice(&code);
    disk[510..514].copy_from_slice(&[0x55, 0xaa, b'O', b'K']);
    disk
}

#[test]
fn seabios_boots_from_virtio_and_scsi() {
    let Some(bios) = guest("firmware") else { return };
    let bios = bios.join("bios-256k.bin");
    let folder = Folder::new("virtio-boot");
    let image = folder.join("disk.raw");
    std::fs::write(&image, boot_sector()).unwrap();
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

/// An archive with the script that the guest starts (`cpio(5)`, the new ASCII format).
fn script(work: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    for (name, mode, content) in [("test.sh", 0o100_755, work), ("TRAILER!!!", 0, "")] {
        let mut numbers = [0; 13];
        (numbers[1], numbers[4], numbers[6], numbers[11]) = (mode, 1, content.len(), name.len() + 1);
        archive.extend(b"070701");
        numbers.iter().for_each(|number| archive.extend(format!("{number:08x}").bytes()));
        for bytes in [format!("{name}\0").as_bytes(), content.as_bytes()] {
            archive.extend(bytes);
            archive.resize(archive.len().next_multiple_of(4), 0);
        }
    }
    archive
}

fn sum(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
}

fn linux_works(machine: &str, bus: &str, names: [&str; 2], requests: &str) {
    let Some(kernel) = guest("generic") else { return };
    let initrd = kernel.join("drives.initrd");
    if !initrd.is_file() {
        eprintln!("SKIPPED: {} is not there; run `cargo xtask guest generic`", initrd.display());
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
    std::fs::write(&archive, [std::fs::read(initrd).unwrap(), script(&work)].concat()).unwrap();
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
        assert!(console.contains(&format!("{}  quarter{n}", sum(quarter))), "quarter {n}: {console}");
    }
    let backwards: Vec<u8> = content.chunks(1 << 20).rev().flatten().copied().collect();
    assert!(console.contains(&format!("{}  second", sum(&backwards))), "second: {console}");
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

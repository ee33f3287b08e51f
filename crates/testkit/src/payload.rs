//! What tests give to guests: a disk that boots, a script, and what its work comes to.

use std::io::Write;
use std::process::{Command, Stdio};

/// A disk of 4 MiB whose boot sector says OK on the first serial port and ends the machine with exit code 7, when the second sector of its
/// disk is what it should be.
#[must_use]
pub fn boot_sector() -> Vec<u8> {
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

/// An archive with the work as the script that the guest starts (`cpio(5)`, the new ASCII format).
#[must_use]
pub fn script(work: &str) -> Vec<u8> {
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

/// The SHA-1 sum of `bytes`, as the guest's `sha1sum` prints it.
///
/// # Panics
/// When the host has no `sha1sum`.
#[must_use]
pub fn sha1(bytes: &[u8]) -> String {
    let mut child =
        Command::new("sha1sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha1sum is there");
    child.stdin.take().expect("a pipe").write_all(bytes).expect("sha1sum reads");
    let output = child.wait_with_output().expect("sha1sum ends");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

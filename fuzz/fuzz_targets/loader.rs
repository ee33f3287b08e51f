//! Hostile kernels, payloads of kernels and initrds: loading them fails with a message or succeeds, and never panics.
#![no_main]

use machine::board::Board;
use machine::loader::{EntryMode, load};
use memory::GuestMemory;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (choice, kernel, initrd) = input;
    let board = Board::named("q35-1").expect("the board exists");
    let mem = GuestMemory::new(&board.layout(64 << 20)).expect("64 MiB");
    let mode = [EntryMode::Auto, EntryMode::Boot32, EntryMode::Boot64, EntryMode::Pvh][usize::from(choice & 3)];
    let (kernel, mode) =
        if choice & 4 == 0 { (kernel.to_vec(), mode) } else { (bzimage(choice >> 3, kernel), EntryMode::Auto) };
    let _ = load(&mem, board, &kernel, Some(initrd).filter(|i| !i.is_empty()), "console=ttyS0", mode);
});

/// A sound bzImage of protocol 2.15 that needs 16 MiB, around a payload that starts like one of some compression and
/// claims less than that.
fn bzimage(compression: u8, rest: &[u8]) -> Vec<u8> {
    const MAGICS: [&[u8]; 6] = [
        b"\x1f\x8b\x08",
        b"BZh9",
        b"\x5d\0\0\x80\0",
        b"\xfd7zXZ\0\0\x01\x69\x22\xde\x36",
        b"\x02\x21\x4c\x18",
        b"\x28\xb5\x2f\xfd",
    ];
    let mut payload = MAGICS[usize::from(compression) % MAGICS.len()].to_vec();
    payload.extend(rest);
    payload.push(0);
    let mut file = vec![0; 1024 + payload.len().next_multiple_of(16).max(1024)];
    let code_len = file.len() as u32 - 1024;
    let mut put = |at: usize, data: &[u8]| file[at..at + data.len()].copy_from_slice(data);
    put(0x1f1, &[1]);
    put(0x1f4, &(code_len / 16).to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS");
    put(0x206, &[0x0f, 2]);
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(0x234, &[1, 21, 1, 0]);
    put(0x238, &2047u32.to_le_bytes());
    put(0x24c, &(payload.len() as u32).to_le_bytes());
    put(0x258, &0x100_0000u64.to_le_bytes());
    put(0x260, &0x100_0000u32.to_le_bytes());
    put(1024, &payload);
    file
}

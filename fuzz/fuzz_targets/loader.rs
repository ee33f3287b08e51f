//! Hostile kernels and initrds: loading them fails with a message or succeeds, and never panics.
#![no_main]

use machine::board::Board;
use machine::loader::{EntryMode, load};
use memory::GuestMemory;

libfuzzer_sys::fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (mode, kernel, initrd) = input;
    let board = Board::named("q35-1").expect("the board exists");
    let mem = GuestMemory::new(&board.layout(64 << 20)).expect("64 MiB");
    let mode = [EntryMode::Auto, EntryMode::Boot32, EntryMode::Boot64, EntryMode::Pvh][usize::from(mode & 3)];
    let _ = load(&mem, board, kernel, Some(initrd).filter(|i| !i.is_empty()), "console=ttyS0", mode);
});

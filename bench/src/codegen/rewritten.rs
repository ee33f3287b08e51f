//! Code that changes itself, and code beside data.

use super::assembler::{Buffer, RWX};
use crate::workload::{Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("code-rewritten", "a function written anew before each of 4,000 calls", rewritten),
    Workload::new("code-beside-data", "code that counts in its own page, 512 bytes on, 30,000 times", beside),
    Workload::new("code-near-data", "code that writes 32 bytes behind itself, 30,000 times", near),
    Workload::new("code-patches-itself", "a loop that changes a constant of its own, 4,000 rounds", itself),
    Workload::new("code-moved", "a function copied to 64 places in turn, 3,000 times", moved),
];

fn rewritten() -> Unit {
    let mut buffer = Buffer::new(4096, RWX);
    Box::new(move || {
        (0..4_000u32).fold(0, |sum, n| {
            buffer.go(0);
            // mov eax, value; xor eax, edi; rol eax, n; ret
            buffer.put_with(&[0xb8], n.wrapping_mul(2_654_435_761));
            buffer.put(&[0x31, 0xf8, 0xc1, 0xc0, n as u8 & 31, 0xc3]);
            mix(sum, u64::from(buffer.call(0, n)))
        })
    })
}

/// `add [rip + distance], edi; mov eax, [rip + distance]; ret`, with the counter so far behind its first byte.
fn counter(buffer: &mut Buffer, distance: u32) {
    buffer.go(distance as usize);
    buffer.put(&[0; 4]);
    buffer.go(0);
    buffer.put_with(&[0x01, 0x3d], distance - 6);
    buffer.put_with(&[0x8b, 0x05], distance - 12);
    buffer.put(&[0xc3]);
}

fn counting(distance: u32) -> Unit {
    let mut buffer = Buffer::new(4096, RWX);
    Box::new(move || {
        counter(&mut buffer, distance);
        (0..30_000).fold(0, |sum, n| mix(sum, u64::from(buffer.call(0, n))))
    })
}

fn beside() -> Unit {
    counting(512)
}

fn near() -> Unit {
    counting(32)
}

fn itself() -> Unit {
    let mut buffer = Buffer::new(4096, RWX);
    Box::new(move || {
        buffer.go(0);
        // mov eax, edi; mov ecx, 4000; again: add eax, 0x01010101; add [rip - 10], eax (the constant); dec ecx;
        // jnz again; ret
        buffer.put(&[0x89, 0xf8, 0xb9, 0xa0, 0x0f, 0, 0]);
        buffer.put(&[0x05, 1, 1, 1, 1, 0x01, 0x05, 0xf6, 0xff, 0xff, 0xff, 0xff, 0xc9, 0x75, 0xf1, 0xc3]);
        u64::from(buffer.call(0, 7))
    })
}

fn moved() -> Unit {
    let mut buffer = Buffer::new(64 << 10, RWX);
    Box::new(move || {
        (0..3_000u32).fold(0, |sum, n| {
            let place = (n as usize * 37 % 64) * 1000;
            buffer.go(place);
            // mov eax, edi; add eax, n; imul eax, eax, 7; ret
            buffer.put(&[0x89, 0xf8]);
            buffer.put_with(&[0x05], n / 64);
            buffer.put(&[0x6b, 0xc0, 0x07, 0xc3]);
            mix(sum, u64::from(buffer.call(place, n)))
        })
    })
}

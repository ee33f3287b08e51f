//! Memory copied, moved, set, compared and measured, by the C library and by string instructions.

use std::arch::asm;
use std::hint::black_box;

use crate::workload::{Numbers, Unit, Workload, mix, mix_bytes, text};

pub(crate) const ALL: &[Workload] = &[
    Workload::new("copy-small", "150,000 copies of 1 to 200 bytes", copy_small),
    Workload::new("copy-large", "60 copies of 1 MiB", copy_large),
    Workload::new("move-overlapping", "moves 64 KiB by a few bytes, both ways", move_overlapping),
    Workload::new("fill", "fills 4 KiB 15,000 times", fill),
    Workload::new("compare", "compares equal blocks of 300 bytes", compare),
    Workload::new("string-length", "lengths and characters of C strings", lengths),
    Workload::new("rep-movs-stos", "REP MOVSB, MOVSQ, STOSB, STOSQ of 64 bytes to 64 KiB", rep_move),
    Workload::new("rep-scas-cmps", "REPNE SCASB and REPE CMPSB over text", rep_scan),
    Workload::new("lods-stos", "a loop of LODSB, XOR, STOSB", lods),
    Workload::new("stream", "sums, scales and adds arrays of 4 MiB", stream),
    Workload::new("unaligned", "unaligned words, many across lines and pages", unaligned),
];

fn copy_small() -> Unit {
    let source = Numbers::new(101).bytes(4096);
    let mut target = vec![0u8; 4096];
    Box::new(move || {
        for n in 0..150_000usize {
            let (len, from, to) = (black_box(n * 7 % 200 + 1), n * 13 % 3000, n * 29 % 3000);
            target[to..to + len].copy_from_slice(&source[from..from + len]);
        }
        mix_bytes(0, &target)
    })
}

fn copy_large() -> Unit {
    let source = Numbers::new(102).bytes(1 << 20);
    let mut target = vec![0u8; 1 << 20];
    Box::new(move || {
        for _ in 0..60 {
            black_box(&mut target).copy_from_slice(black_box(&source));
        }
        mix_bytes(0, &target[..4096])
    })
}

fn move_overlapping() -> Unit {
    let source = Numbers::new(103).bytes(65_600);
    let mut data = source.clone();
    Box::new(move || {
        data.copy_from_slice(&source);
        for n in 0..1_000 {
            data.copy_within(0..65_536, black_box(n % 60));
            data.copy_within(64.., black_box(n % 33));
        }
        mix_bytes(0, &data)
    })
}

fn fill() -> Unit {
    let mut data = vec![0u8; 4096 + 64];
    Box::new(move || {
        for n in 0..15_000 {
            black_box(&mut data[n % 64..n % 64 + 4096]).fill(n as u8);
        }
        mix_bytes(0, &data)
    })
}

fn compare() -> Unit {
    let source = Numbers::new(104).bytes(8192);
    let mut other = source.clone();
    other[300 * 20 + 299] ^= 1;
    Box::new(move || {
        (0..80_000).fold(0, |sum, n| {
            let at = n % 27 * 300;
            let order = black_box(&source[at..at + 300]).cmp(black_box(&other[at..at + 300]));
            mix(sum, order as u64)
        })
    })
}

fn lengths() -> Unit {
    let mut strings = text(64 << 10);
    strings.iter_mut().filter(|b| **b == b'\n').for_each(|b| *b = 0);
    strings.push(0);
    Box::new(move || {
        let mut sum = 0;
        for _ in 0..10 {
            let mut at = 0;
            while at < strings.len() {
                let string = strings[at..].as_ptr().cast();
                // SAFETY: the last byte of all is a zero.
                let (len, space) = unsafe { (libc::strlen(string), libc::strchr(string, i32::from(b' '))) };
                sum = mix(sum, len as u64 * 2 + u64::from(space.is_null()));
                at += len + 1;
            }
        }
        sum
    })
}

fn rep_move() -> Unit {
    let source = Numbers::new(105).bytes(1 << 16);
    let mut target = vec![0u8; 1 << 16];
    Box::new(move || {
        let mut len = 64usize;
        while len <= 1 << 16 {
            for n in 0..(1 << 19) / len {
                let (from, to) = (source.as_ptr(), target.as_mut_ptr());
                // SAFETY: both blocks are at least `len` long.
                unsafe {
                    asm!("rep movsb", inout("rcx") len => _, inout("rsi") from => _, inout("rdi") to => _);
                    asm!("rep movsq", inout("rcx") len / 8 => _, inout("rsi") from => _, inout("rdi") to => _);
                    asm!("rep stosb", inout("rcx") len / 2 => _, in("al") n as u8, inout("rdi") to => _);
                    asm!("rep stosq", inout("rcx") len / 16 => _, in("rax") n, inout("rdi") to => _);
                }
            }
            len *= 4;
        }
        mix_bytes(0, &target)
    })
}

fn rep_scan() -> Unit {
    let text = text(256 << 10);
    let same = text.clone();
    Box::new(move || {
        let (mut at, mut sum) = (0, 0);
        while at < text.len() {
            let left: usize;
            // SAFETY: no more bytes than the text has.
            unsafe {
                asm!("repne scasb", in("al") b'\n', inout("rcx") text.len() - at => left,
                     inout("rdi") text.as_ptr().add(at) => _);
            }
            let len = text.len() - at - left;
            let rest: usize;
            // SAFETY: both texts have them.
            unsafe {
                asm!("repe cmpsb", inout("rcx") len => rest, inout("rsi") text.as_ptr().add(at) => _,
                     inout("rdi") same.as_ptr().add(at) => _);
            }
            sum = mix(sum, len as u64 + (rest as u64) * 1000);
            at += len;
        }
        sum
    })
}

fn lods() -> Unit {
    let source = Numbers::new(106).bytes(200_000);
    let mut target = vec![0u8; source.len()];
    Box::new(move || {
        // SAFETY: both blocks are as long as the loop.
        unsafe {
            asm!("2:", "lodsb", "xor al, cl", "ror al, 3", "stosb", "dec rcx", "jnz 2b",
                 inout("rcx") source.len() => _, inout("rsi") source.as_ptr() => _,
                 inout("rdi") target.as_mut_ptr() => _, out("al") _);
        }
        mix_bytes(0, &target)
    })
}

fn stream() -> Unit {
    let a: Vec<u32> = (0..1 << 20).collect();
    let mut b = vec![0u32; 1 << 20];
    Box::new(move || {
        for (b, a) in b.iter_mut().zip(&a) {
            *b = a.wrapping_mul(3);
        }
        for (b, a) in b.iter_mut().zip(&a) {
            *b = b.wrapping_add(*a) ^ 0x55;
        }
        b.iter().fold(0u64, |sum, b| sum.wrapping_add(u64::from(*b)))
    })
}

fn unaligned() -> Unit {
    let mut data = Numbers::new(107).bytes(32 << 10);
    let source = data.clone();
    Box::new(move || {
        data.copy_from_slice(&source);
        let mut sum = 0u64;
        for round in 0..7 {
            for at in (round..data.len() - 16).step_by(5) {
                let word = u64::from_le_bytes(data[at..at + 8].try_into().expect("eight bytes"));
                sum = sum.rotate_left(1) ^ word;
                data[at + 7..at + 11].copy_from_slice(&(sum as u32).to_le_bytes());
            }
        }
        sum
    })
}

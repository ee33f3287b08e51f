//! Small compilers: expressions, loops and call sites become functions that run at once.

use super::assembler::{Buffer, RW, RWX, RX};
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("jit-emit", "400 random expressions compiled, each run 30 times", emit),
    Workload::new("jit-patch", "a constant in a function patched before each of 4,000 calls", patch),
    Workload::new("jit-protect", "150 functions written, made executable, run: never both at once", protect),
    Workload::new("jit-fresh-pages", "150 functions, each in a new mapping that is dropped again", fresh),
    Workload::new("jit-hot-loop", "one loop compiled and run for 1 million rounds", hot_loop),
    Workload::new("jit-inline-cache", "300 functions in 20 pages; call sites are patched now and then", inline_cache),
    Workload::new("jit-garbage", "a buffer of code filled, run and filled anew, 20 times 40 functions", garbage),
];

/// Writes a function of an expression with `length` steps; returns where.
fn expression(buffer: &mut Buffer, numbers: &mut Numbers, length: u64) -> usize {
    let start = buffer.here();
    // mov eax, edi
    buffer.put(&[0x89, 0xf8]);
    for _ in 0..length {
        let value = numbers.next() as u32;
        match numbers.below(7) {
            // add, xor, sub eax, value
            0 => buffer.put_with(&[0x05], value),
            1 => buffer.put_with(&[0x35], value),
            2 => buffer.put_with(&[0x2d], value),
            // imul eax, eax, value | 1
            3 => buffer.put_with(&[0x69, 0xc0], value | 1),
            // rol eax, n
            4 => buffer.put(&[0xc1, 0xc0, value as u8 & 31]),
            // lea eax, [rax + rdi * 4 + value]
            5 => buffer.put_with(&[0x8d, 0x84, 0xb8], value),
            // test eax, eax; js +2; not eax
            _ => buffer.put(&[0x85, 0xc0, 0x78, 0x02, 0xf7, 0xd0]),
        }
    }
    // ret
    buffer.put(&[0xc3]);
    start
}

fn emit() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(1);
        let mut buffer = Buffer::new(128 << 10, RWX);
        (0..400).fold(0, |sum, _| {
            let function = expression(&mut buffer, &mut numbers, 20);
            (0..30).fold(sum, |sum, n| mix(sum, u64::from(buffer.call(function, n))))
        })
    })
}

fn patch() -> Unit {
    let mut buffer = Buffer::new(4096, RWX);
    let mut numbers = Numbers::new(2);
    let function = expression(&mut buffer, &mut numbers, 12);
    let last = buffer.here() - 1;
    buffer.go(last);
    buffer.put_with(&[0x05], 0);
    buffer.put(&[0xc3]);
    Box::new(move || {
        (0..4_000u32).fold(0, |sum, n| {
            buffer.patch(last + 1, &n.wrapping_mul(2_654_435_761).to_le_bytes());
            mix(sum, u64::from(buffer.call(function, n)))
        })
    })
}

fn protect() -> Unit {
    let mut buffer = Buffer::new(8192, RW);
    Box::new(move || {
        let mut numbers = Numbers::new(3);
        (0..150).fold(0, |sum, _| {
            buffer.protect(RW);
            buffer.go(0);
            let function = expression(&mut buffer, &mut numbers, 60);
            buffer.protect(RX);
            (0..20).fold(sum, |sum, n| mix(sum, u64::from(buffer.call(function, n))))
        })
    })
}

fn fresh() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(4);
        (0..150).fold(0, |sum, _| {
            let mut buffer = Buffer::new(4096, RWX);
            let function = expression(&mut buffer, &mut numbers, 40);
            (0..10).fold(sum, |sum, n| mix(sum, u64::from(buffer.call(function, n))))
        })
    })
}

fn hot_loop() -> Unit {
    Box::new(|| {
        let mut buffer = Buffer::new(4096, RWX);
        // mov eax, edi; mov ecx, 1000000; again: imul eax, eax, 0x41c64e6d; add eax, 0x3039; mov edx, eax; shr edx, 16;
        // xor eax, edx; test al, 4; jz +2; not eax; dec ecx; jnz again; ret
        buffer.put(&[0x89, 0xf8, 0xb9, 0x40, 0x42, 0x0f, 0x00]);
        let again = buffer.here();
        buffer.put(&[0x69, 0xc0, 0x6d, 0x4e, 0xc6, 0x41, 0x05, 0x39, 0x30, 0, 0]);
        buffer.put(&[0x89, 0xc2, 0xc1, 0xea, 0x10, 0x31, 0xd0, 0xa8, 0x04, 0x74, 0x02, 0xf7, 0xd0, 0xff, 0xc9]);
        let back = again as isize - (buffer.here() as isize + 2);
        buffer.put(&[0x75, back as u8, 0xc3]);
        u64::from(buffer.call(0, 12_345))
    })
}

fn inline_cache() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(5);
        let mut buffer = Buffer::new(80 << 10, RWX);
        let functions: Vec<usize> = (0..300)
            .map(|n| {
                buffer.go(n * 270);
                expression(&mut buffer, &mut numbers, 16)
            })
            .collect();
        // A chain of 16 call sites, at the end: mov edi, eax; call function.
        let chain = 300 * 270;
        buffer.go(chain);
        buffer.put(&[0x48, 0x83, 0xec, 0x08, 0x89, 0xf8]);
        let sites: Vec<usize> = (0..16)
            .map(|_| {
                buffer.put_with(&[0x89, 0xc7, 0xe8], 0);
                buffer.here()
            })
            .collect();
        buffer.put(&[0x48, 0x83, 0xc4, 0x08, 0xc3]);
        let link = |buffer: &mut Buffer, site: usize, function: usize| {
            buffer.patch(site - 4, &(function as u32).wrapping_sub(site as u32).to_le_bytes());
        };
        sites.iter().for_each(|site| link(&mut buffer, *site, functions[0]));
        (0..1_500u32).fold(0, |sum, n| {
            if n % 5 == 0 {
                let (site, function) = (numbers.below(16) as usize, numbers.below(300) as usize);
                link(&mut buffer, sites[site], functions[function]);
            }
            mix(sum, u64::from(buffer.call(chain, n)))
        })
    })
}

fn garbage() -> Unit {
    let mut buffer = Buffer::new(16 << 10, RWX);
    Box::new(move || {
        let mut numbers = Numbers::new(6);
        (0..20).fold(0, |sum, _| {
            buffer.go(0);
            let functions: Vec<usize> = (0..40).map(|_| expression(&mut buffer, &mut numbers, 24)).collect();
            (0..8).fold(sum, |sum, n| {
                functions.iter().fold(sum, |sum, function| mix(sum, u64::from(buffer.call(*function, n))))
            })
        })
    })
}

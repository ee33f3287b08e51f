//! Primes.

use std::hint::black_box;

use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("sieve-bytes", "the primes below a million, a byte for each number", bytes),
    Workload::new("sieve-bits", "the primes below 2 million, a bit for each odd number", bits),
    Workload::new("collatz", "the longest Collatz sequence below 30,000", collatz),
];

fn bytes() -> Unit {
    let mut composite = vec![0u8; 1_000_000];
    Box::new(move || {
        composite.fill(0);
        let mut n = 2;
        while n * n < composite.len() {
            if composite[n] == 0 {
                for m in (n * n..composite.len()).step_by(n) {
                    composite[m] = 1;
                }
            }
            n += 1;
        }
        composite.iter().map(|c| u64::from(*c)).sum()
    })
}

fn bits() -> Unit {
    const HALF: usize = 1_000_000;
    let mut composite = vec![0u64; HALF / 64 + 1];
    Box::new(move || {
        composite.fill(0);
        for n in 1..707 {
            if composite[n / 64] >> (n % 64) & 1 == 0 {
                let step = 2 * n + 1;
                for m in (2 * n * (n + 1)..HALF).step_by(step) {
                    composite[m / 64] |= 1 << (m % 64);
                }
            }
        }
        composite.iter().map(|word| u64::from(word.count_ones())).sum()
    })
}

fn collatz() -> Unit {
    Box::new(|| {
        let longest = (1..black_box(30_000u64)).map(|start| {
            let (mut n, mut steps) = (start, 0u64);
            while n != 1 {
                n = if n & 1 == 0 { n >> 1 } else { 3 * n + 1 };
                steps += 1;
            }
            (steps, start)
        });
        longest.max().map_or(0, |(steps, start)| steps << 32 | start)
    })
}

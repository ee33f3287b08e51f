//! Matrices of integers.

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("matrix-i64", "the product of two matrices of 64-bit numbers, 128 by 128", product),
    Workload::new("matrix-mod", "the 1000th power of a matrix of 24 by 24, modulo a prime", power),
    Workload::new("transpose", "transposes 1024 by 1024 16-bit numbers", transpose),
];

fn product() -> Unit {
    const N: usize = 128;
    let mut numbers = Numbers::new(51);
    let a: Vec<i64> = (0..N * N).map(|_| numbers.next() as i64).collect();
    let b: Vec<i64> = (0..N * N).map(|_| numbers.next() as i64).collect();
    Box::new(move || {
        let mut sum = 0;
        for i in 0..N {
            for j in 0..N {
                let cell = (0..N).fold(0i64, |cell, k| cell.wrapping_add(a[i * N + k].wrapping_mul(b[k * N + j])));
                sum = mix(sum, cell as u64);
            }
        }
        sum
    })
}

fn power() -> Unit {
    const N: usize = 24;
    const PRIME: u64 = 1_000_000_007;
    let mut numbers = Numbers::new(52);
    let base: Vec<u64> = (0..N * N).map(|_| numbers.below(PRIME)).collect();
    let times = |a: &[u64], b: &[u64]| -> Vec<u64> {
        let cell = |i: usize, j: usize| (0..N).fold(0, |sum, k| (sum + a[i * N + k] * b[k * N + j]) % PRIME);
        (0..N * N).map(|n| cell(n / N, n % N)).collect()
    };
    Box::new(move || {
        let mut result: Vec<u64> = (0..N * N).map(|n| u64::from(n / N == n % N)).collect();
        let (mut square, mut exponent) = (base.clone(), 1000);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = times(&result, &square);
            }
            square = times(&square, &square);
            exponent >>= 1;
        }
        result.iter().fold(0, |sum, x| mix(sum, *x))
    })
}

fn transpose() -> Unit {
    const N: usize = 1024;
    let mut numbers = Numbers::new(53);
    let a: Vec<u16> = (0..N * N).map(|_| numbers.next() as u16).collect();
    let mut b = vec![0u16; N * N];
    Box::new(move || {
        for i in 0..N {
            for j in 0..N {
                b[j * N + i] = a[i * N + j];
            }
        }
        b.iter().step_by(61).fold(0, |sum, x| mix(sum, u64::from(*x)))
    })
}

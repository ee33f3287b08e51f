//! Numbers of many words.

use std::hint::black_box;

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("bigint-multiply", "products of numbers of 2,048 bits, chains of carries", multiply),
    Workload::new("bigint-digits", "400 digits of pi by a spigot", pi),
    Workload::new("u128", "128-bit products, sums and shifts", wide),
    Workload::new("u128-divide", "128-bit remainders by the runtime's routine", wide_divide),
    Workload::new("mod-power", "powers modulo 62-bit primes (Miller-Rabin)", powers),
];

fn multiply() -> Unit {
    let mut numbers = Numbers::new(81);
    let a: Vec<u64> = (0..32).map(|_| numbers.next()).collect();
    let b: Vec<u64> = (0..32).map(|_| numbers.next()).collect();
    Box::new(move || {
        let mut sum = 0;
        let mut x = a.clone();
        for _ in 0..1_000 {
            let mut product = [0u64; 64];
            for (i, x) in x.iter().enumerate() {
                let mut carry = 0u128;
                for (j, y) in b.iter().enumerate() {
                    let t = u128::from(*x) * u128::from(*y) + u128::from(product[i + j]) + carry;
                    product[i + j] = t as u64;
                    carry = t >> 64;
                }
                product[i + 32] = carry as u64;
            }
            // The middle goes on; the high half is added with a chain of carries.
            let mut carry = false;
            for (k, x) in x.iter_mut().enumerate() {
                let (t, c1) = product[16 + k].overflowing_add(product[32 + k]);
                let (t, c2) = t.overflowing_add(carry.into());
                (*x, carry) = (t, c1 | c2);
            }
            sum = mix(sum, x[0]);
        }
        sum
    })
}

fn pi() -> Unit {
    Box::new(|| {
        const DIGITS: usize = 400;
        let mut remainders = vec![2u32; DIGITS * 10 / 3 + 2];
        let mut sum = 0;
        for _ in 0..DIGITS {
            let mut carry = 0;
            for i in (0..remainders.len()).rev() {
                let x = remainders[i] * 10 + carry;
                let divisor = if i == 0 { 10 } else { 2 * i as u32 + 1 };
                remainders[i] = x % divisor;
                carry = x / divisor * i as u32;
                if i == 0 {
                    sum = mix(sum, u64::from(x / 10));
                }
            }
        }
        sum
    })
}

fn wide() -> Unit {
    Box::new(|| {
        let (mut a, mut b) = (black_box(0x0123_4567_89ab_cdef_u128), 7u128);
        for n in 0..600_000 {
            a = a.wrapping_mul(b | 1).wrapping_add(n);
            b = (b << 13) ^ (a >> 51) ^ a;
            if a > b {
                b = b.wrapping_sub(a);
            }
        }
        (a ^ b) as u64 ^ (b >> 64) as u64
    })
}

fn wide_divide() -> Unit {
    Box::new(|| {
        let mut a = black_box(u128::MAX / 3);
        (0..60_000u64).fold(0, |sum, n| {
            a = a.rotate_left(17) ^ u128::from(n);
            let divisor = (a >> (n % 100)) | 3;
            sum ^ (a % divisor) as u64 ^ (a / divisor) as u64
        })
    })
}

fn powers() -> Unit {
    let power = |mut base: u64, mut exponent: u64, modulus: u64| {
        let mut result = 1u64;
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = (u128::from(result) * u128::from(base) % u128::from(modulus)) as u64;
            }
            base = (u128::from(base) * u128::from(base) % u128::from(modulus)) as u64;
            exponent >>= 1;
        }
        result
    };
    Box::new(move || {
        let start = (1u64 << 62) + 1;
        (0..40).fold(0, |sum, n| {
            let candidate = start + 2 * n;
            let witness = power(2, candidate - 1, candidate);
            mix(sum, witness)
        })
    })
}

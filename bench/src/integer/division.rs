//! Division.

use std::hint::black_box;

use crate::workload::Workload;

pub(super) const ALL: &[Workload] = &[
    Workload::new("divide-u64", "600,000 divisions of 64-bit numbers", || {
        Box::new(|| {
            let mut x = black_box(0xfedc_ba98_7654_3210_u64);
            (1..600_000u64).fold(0, |sum: u64, n| {
                x = x.rotate_left(11) ^ n;
                let divisor = black_box(n.wrapping_mul(0x5_1234_5677)) | 1;
                sum.wrapping_add(x / divisor).rotate_left(1) ^ x % divisor
            })
        })
    }),
    Workload::new("divide-i32", "800,000 signed divisions of 32-bit numbers", || {
        Box::new(|| {
            let mut x = black_box(0x1234_5678_i32);
            (1..800_000i32).fold(0, |sum: i32, n| {
                x = x.rotate_left(7) ^ n;
                let divisor = black_box(n % 999) | 1;
                sum.wrapping_add(x.wrapping_div(divisor)).rotate_left(3) ^ x.wrapping_rem(divisor)
            }) as u64
        })
    }),
    Workload::new("gcd", "greatest common divisors of 60,000 pairs", || {
        Box::new(|| {
            (1..60_000u64).fold(0, |sum, n| {
                let (mut a, mut b) = (black_box(n * 7919), 1_000_003 ^ n);
                while b != 0 {
                    (a, b) = (b, a % b);
                }
                sum * 3 % 1_000_000_007 + a
            })
        })
    }),
    Workload::new("calendar", "days to dates: divisions by constants", || {
        Box::new(|| {
            (0..400_000u32).fold(0, |sum: u64, day| {
                // Days since 1 March of the year 0, in cycles of 400 years.
                let day = black_box(day) * 3 + 700_000;
                let (cycle, in_cycle) = (day / 146_097, day % 146_097);
                let year = (in_cycle - in_cycle / 1_460 + in_cycle / 36_524 - in_cycle / 146_096) / 365;
                let in_year = in_cycle - (365 * year + year / 4 - year / 100);
                let month = (5 * in_year + 2) / 153;
                let date = in_year - (153 * month + 2) / 5 + 1;
                sum.rotate_left(5) ^ u64::from((cycle * 400 + year) << 9 | month << 5 | date)
            })
        })
    }),
];

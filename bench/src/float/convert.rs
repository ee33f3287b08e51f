//! Between integers and floating-point numbers.

use std::arch::x86_64::{_mm_cvtph_ps, _mm_cvtps_ph, _mm_storeu_ps, _mm_storeu_si128};
use std::hint::black_box;

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("convert", "all conversions of 32- and 64-bit integers and both precisions", convert),
    Workload::new("convert-vectors", "CVTDQ2PS, CVTTPS2DQ, CVTPS2PD, CVTDQ2PD over arrays", vectors),
    Workload::new("half-precision", "16-bit floating-point numbers and back", half)
        .needs(&[Feature::F16c, Feature::Avx]),
];

fn convert() -> Unit {
    Box::new(|| {
        (0..200_000u64).fold(0, |sum, n| {
            let n = black_box(n.wrapping_mul(0x9e37_79b9_7f4a));
            let (a, b) = (n as i64 as f64, n as i32 as f32);
            let (c, d) = ((a * 1e-9) as f32, f64::from(b) * 0.75);
            let (e, f) = (d as i64 as u64, n as f64);
            sum ^ (c as i32 as u64).rotate_left(7) ^ e ^ f.to_bits() ^ (a as u64) >> 9
        })
    })
}

fn vectors() -> Unit {
    let mut numbers = Numbers::new(41);
    let source: Vec<i32> = (0..16_384).map(|_| numbers.next() as i32 >> 8).collect();
    let mut floats = vec![0.0f32; source.len()];
    let mut doubles = vec![0.0f64; source.len()];
    Box::new(move || {
        let mut sum = 0u64;
        for round in 0..8 {
            for (f, x) in floats.iter_mut().zip(&source) {
                *f = *x as f32 * 0.37;
            }
            for (d, x) in doubles.iter_mut().zip(&source) {
                *d = f64::from(*x) * 0.125;
            }
            for (d, f) in doubles.iter_mut().zip(&floats) {
                *d += f64::from(*f);
            }
            for (f, d) in floats.iter_mut().zip(&doubles) {
                *f = (*d - f64::from(round)) as f32;
            }
            // SAFETY: all numbers are far inside of what an i32 holds.
            let ints = floats.iter().map(|f| unsafe { f.to_int_unchecked::<i32>() });
            sum = mix(sum, ints.fold(0i32, i32::wrapping_add) as u64);
        }
        sum
    })
}

fn half() -> Unit {
    #[target_feature(enable = "f16c,avx")]
    fn run(halves: &mut [[u16; 8]]) -> u64 {
        let mut sum = 0u64;
        for _ in 0..20 {
            for half in halves.iter_mut() {
                let mut floats = [0.0f32; 4];
                // SAFETY: the arrays are as large as what is loaded and stored.
                unsafe {
                    let wide = _mm_cvtph_ps(std::ptr::read_unaligned(half.as_ptr().cast()));
                    _mm_storeu_ps(floats.as_mut_ptr(), wide);
                    let scaled = floats.map(|f| f * 0.99 + 0.5);
                    let narrow = _mm_cvtps_ph::<0>(std::ptr::read_unaligned(scaled.as_ptr().cast()));
                    _mm_storeu_si128(half.as_mut_ptr().cast(), narrow);
                }
                sum = sum.rotate_left(1) ^ u64::from(half[2]);
            }
        }
        sum
    }
    let mut numbers = Numbers::new(42);
    // Finite numbers only.
    let source: Vec<[u16; 8]> = (0..6_000).map(|_| [(); 8].map(|()| numbers.next() as u16 & 0xb7ff)).collect();
    Box::new(move || {
        let mut halves = source.clone();
        // SAFETY: the workload names what it needs.
        unsafe { run(&mut halves) }
    })
}

//! Transforms and filters of signals.

use std::f64::consts::PI;

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("fourier", "the fast Fourier transform of 16,384 complex numbers, and back", fft),
    Workload::new("cosine", "the discrete cosine transform of 900 blocks of 8 by 8, single precision", cosine),
    Workload::new("filter", "a chain of four recursive filters over 60,000 samples", filter),
];

fn fft() -> Unit {
    const N: usize = 16_384;
    let mut numbers = Numbers::new(31);
    let start: Vec<[f64; 2]> = (0..N).map(|_| [numbers.unit(), numbers.unit()]).collect();
    // By repeated rotation, so that no function of the C library decides the bits.
    let (mut c, mut s) = (1.0f64, 0.0f64);
    let (dc, ds) = (1.0 - (PI / N as f64).powi(2) * 2.0, 2.0 * PI / N as f64);
    let turns: Vec<[f64; 2]> = (0..N / 2)
        .map(|_| {
            let here = [c, s];
            (c, s) = (c * dc - s * ds, c * ds + s * dc);
            let length = (c * c + s * s).sqrt();
            (c, s) = (c / length, s / length);
            here
        })
        .collect();
    let transform = move |data: &mut [[f64; 2]], sign: f64| {
        let mut j = 0;
        for i in 1..N {
            let mut bit = N >> 1;
            while j & bit != 0 {
                j ^= bit;
                bit >>= 1;
            }
            j |= bit;
            if i < j {
                data.swap(i, j);
            }
        }
        let mut half = 1;
        while half < N {
            for start in (0..N).step_by(2 * half) {
                for k in 0..half {
                    let [wr, wi] = turns[k * (N / 2 / half)];
                    let (a, b) = (data[start + k], data[start + k + half]);
                    let t = [b[0] * wr - b[1] * wi * sign, b[1] * wr + b[0] * wi * sign];
                    data[start + k] = [a[0] + t[0], a[1] + t[1]];
                    data[start + k + half] = [a[0] - t[0], a[1] - t[1]];
                }
            }
            half *= 2;
        }
    };
    Box::new(move || {
        let mut data = start.clone();
        transform(&mut data, 1.0);
        transform(&mut data, -1.0);
        data.iter().step_by(101).fold(0, |sum, x| mix(sum, x[0].to_bits() ^ x[1].to_bits()))
    })
}

fn cosine() -> Unit {
    let mut numbers = Numbers::new(32);
    let blocks: Vec<[f32; 64]> = (0..900).map(|_| [(); 64].map(|()| numbers.below(256) as f32 - 128.0)).collect();
    let mut table = [[0.0f32; 8]; 8];
    for (k, row) in table.iter_mut().enumerate() {
        for (n, cell) in row.iter_mut().enumerate() {
            // Rounded to what every mathematical library agrees on.
            *cell = (((PI / 8.0 * (n as f64 + 0.5) * k as f64).cos() * 65536.0).round() / 65536.0) as f32;
        }
    }
    Box::new(move || {
        let mut sum = 0;
        for block in &blocks {
            let mut rows = [0.0f32; 64];
            for y in 0..8 {
                for k in 0..8 {
                    rows[y * 8 + k] = (0..8).map(|n| block[y * 8 + n] * table[k][n]).sum();
                }
            }
            for x in 0..8 {
                for k in 0..8 {
                    let cell: f32 = (0..8).map(|n| rows[n * 8 + x] * table[k][n]).sum();
                    sum = mix(sum, (cell / 16.0) as i32 as u64);
                }
            }
        }
        sum
    })
}

fn filter() -> Unit {
    let mut numbers = Numbers::new(33);
    let samples: Vec<f64> = (0..60_000).map(|_| numbers.unit() - 0.5).collect();
    Box::new(move || {
        let mut state = [[0.0f64; 4]; 4];
        let mut sum = 0;
        for sample in &samples {
            let mut x = *sample;
            for (n, s) in state.iter_mut().enumerate() {
                let pole = 0.9 - 0.1 * n as f64;
                let y = 0.3 * x + 0.2 * s[0] + 0.1 * s[1] + pole * s[2] - 0.2 * s[3];
                *s = [x, s[0], y, s[2]];
                x = y;
            }
            sum = mix(sum, x.to_bits());
        }
        sum
    })
}

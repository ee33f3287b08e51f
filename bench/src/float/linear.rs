//! Matrices and grids of floating-point numbers.

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("matmul-f64", "the product of two matrices of 160 by 160, in double precision", product_f64),
    Workload::new("matmul-f32", "the product of two matrices of 192 by 192, single precision, by rows", product_f32),
    Workload::new("matmul-fma", "the product of two matrices of 256 by 256 with AVX2 and FMA", product_fma)
        .needs(&[Feature::Avx2, Feature::Fma]),
    Workload::new("linear-system", "Gauss's elimination with pivots, 160 equations", solve),
    Workload::new("spectral-norm", "the spectral norm of an endless matrix, 200 by 200", spectral),
    Workload::new("stencil", "heat in a plate of 256 by 256, 12 steps", stencil),
    Workload::new("k-means", "6,000 points of four coordinates in 10 clusters", k_means),
];

fn random(n: usize, seed: u64) -> Vec<f64> {
    let mut numbers = Numbers::new(seed);
    (0..n).map(|_| numbers.unit() - 0.5).collect()
}

fn sampled(values: &[f64]) -> u64 {
    values.iter().step_by(37).fold(0, |sum, x| mix(sum, x.to_bits()))
}

fn product_f64() -> Unit {
    const N: usize = 160;
    let (a, b) = (random(N * N, 11), random(N * N, 12));
    Box::new(move || {
        let mut c = vec![0.0; N * N];
        for i in 0..N {
            for j in 0..N {
                c[i * N + j] = (0..N).fold(0.0, |sum, k| sum + a[i * N + k] * b[k * N + j]);
            }
        }
        sampled(&c)
    })
}

fn product_f32() -> Unit {
    const N: usize = 192;
    let a: Vec<f32> = random(N * N, 13).iter().map(|x| *x as f32).collect();
    let b: Vec<f32> = random(N * N, 14).iter().map(|x| *x as f32).collect();
    Box::new(move || {
        let mut c = vec![0.0f32; N * N];
        for i in 0..N {
            for k in 0..N {
                let x = a[i * N + k];
                for (c, b) in c[i * N..][..N].iter_mut().zip(&b[k * N..][..N]) {
                    *c += x * b;
                }
            }
        }
        c.iter().step_by(37).fold(0, |sum, x| mix(sum, u64::from(x.to_bits())))
    })
}

fn product_fma() -> Unit {
    const N: usize = 256;
    #[target_feature(enable = "avx2,fma")]
    fn run(a: &[f64], b: &[f64], c: &mut [f64]) {
        use std::arch::x86_64::{
            _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_set1_pd, _mm256_setzero_pd, _mm256_storeu_pd,
        };
        for i in 0..N {
            for j in (0..N).step_by(8) {
                let (mut low, mut high) = (_mm256_setzero_pd(), _mm256_setzero_pd());
                for k in 0..N {
                    let x = _mm256_set1_pd(a[i * N + k]);
                    let row: &[f64; 8] = b[k * N + j..][..8].try_into().expect("eight");
                    // SAFETY: eight numbers.
                    unsafe {
                        low = _mm256_fmadd_pd(x, _mm256_loadu_pd(row.as_ptr()), low);
                        high = _mm256_fmadd_pd(x, _mm256_loadu_pd(row.as_ptr().add(4)), high);
                    }
                }
                let out: &mut [f64; 8] = (&mut c[i * N + j..][..8]).try_into().expect("eight");
                // SAFETY: eight numbers.
                unsafe {
                    _mm256_storeu_pd(out.as_mut_ptr(), low);
                    _mm256_storeu_pd(out.as_mut_ptr().add(4), high);
                }
            }
        }
    }
    let (a, b) = (random(N * N, 15), random(N * N, 16));
    let mut c = vec![0.0; N * N];
    Box::new(move || {
        // SAFETY: the workload names what it needs.
        unsafe { run(&a, &b, &mut c) };
        sampled(&c)
    })
}

fn solve() -> Unit {
    const N: usize = 160;
    let (matrix, right) = (random(N * N, 17), random(N, 18));
    Box::new(move || {
        let (mut a, mut x) = (matrix.clone(), right.clone());
        for i in 0..N {
            let pivot = (i..N).max_by(|p, q| a[p * N + i].abs().total_cmp(&a[q * N + i].abs())).unwrap_or(i);
            for k in 0..N {
                a.swap(i * N + k, pivot * N + k);
            }
            x.swap(i, pivot);
            for j in i + 1..N {
                let factor = a[j * N + i] / a[i * N + i];
                for k in i..N {
                    a[j * N + k] -= factor * a[i * N + k];
                }
                x[j] -= factor * x[i];
            }
        }
        for i in (0..N).rev() {
            let sum = (i + 1..N).fold(x[i], |sum, k| sum - a[i * N + k] * x[k]);
            x[i] = sum / a[i * N + i];
        }
        sampled(&x)
    })
}

fn spectral() -> Unit {
    const N: usize = 200;
    let cell = |i: usize, j: usize| 1.0 / ((i + j) * (i + j + 1) / 2 + i + 1) as f64;
    let times = move |v: &[f64]| -> Vec<f64> { (0..N).map(|i| (0..N).map(|j| cell(i, j) * v[j]).sum()).collect() };
    let turned = move |v: &[f64]| -> Vec<f64> { (0..N).map(|i| (0..N).map(|j| cell(j, i) * v[j]).sum()).collect() };
    Box::new(move || {
        let mut u = vec![1.0; N];
        let mut v = u.clone();
        for _ in 0..10 {
            v = turned(&times(&u));
            u = turned(&times(&v));
        }
        let (uv, vv) = u.iter().zip(&v).fold((0.0, 0.0), |(uv, vv), (u, v)| (uv + u * v, vv + v * v));
        (uv / vv).sqrt().to_bits()
    })
}

fn stencil() -> Unit {
    const N: usize = 256;
    let start = random(N * N, 19);
    Box::new(move || {
        let mut old = start.clone();
        let mut new = old.clone();
        for _ in 0..12 {
            for y in 1..N - 1 {
                for x in 1..N - 1 {
                    let at = y * N + x;
                    new[at] = old[at] * 0.5 + 0.125 * (old[at - 1] + old[at + 1] + old[at - N] + old[at + N]);
                }
            }
            std::mem::swap(&mut old, &mut new);
        }
        sampled(&old)
    })
}

fn k_means() -> Unit {
    let points: Vec<[f32; 4]> =
        random(24_000, 20).chunks(4).map(|p| [p[0] as f32, p[1] as f32, p[2] as f32, p[3] as f32]).collect();
    Box::new(move || {
        let mut centers: Vec<[f32; 4]> = points[..10].to_vec();
        for _ in 0..6 {
            let mut sums = [([0.0f32; 4], 0.0f32); 10];
            for p in &points {
                let far = |c: &[f32; 4]| (0..4).map(|k| (p[k] - c[k]) * (p[k] - c[k])).sum::<f32>();
                let nearest = (0..10).min_by(|a, b| far(&centers[*a]).total_cmp(&far(&centers[*b]))).unwrap_or(0);
                for (sum, x) in sums[nearest].0.iter_mut().zip(p) {
                    *sum += x;
                }
                sums[nearest].1 += 1.0;
            }
            for (center, (sum, count)) in centers.iter_mut().zip(&sums) {
                *center = sum.map(|x| x / count.max(1.0));
            }
        }
        centers.iter().flatten().fold(0, |sum, x| mix(sum, u64::from(x.to_bits())))
    })
}

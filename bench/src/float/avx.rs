//! AVX, AVX2 and FMA, by intrinsics.

use std::arch::x86_64::*;

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("avx2-integers", "VPADD, VPMULLD, VPSHUFB, VPMADDWD, VPSADBW on 256 bits", integers)
        .needs(&[Feature::Avx2]),
    Workload::new("avx2-lanes", "VPERMD, VINSERTI128, VPGATHERDD, VPSLLVD, VPBLENDD", lanes).needs(&[Feature::Avx2]),
    Workload::new("avx-floats", "VADDPS, VMULPS, VBLENDVPS, VCMPPS, VPERM2F128", floats).needs(&[Feature::Avx]),
    Workload::new("fma-polynomial", "polynomials of degree 12 with VFMADD on 256 bits", polynomial)
        .needs(&[Feature::Avx2, Feature::Fma]),
    Workload::new("fma-scalar", "chains of scalar VFMADD and VFNMADD", scalar).needs(&[Feature::Fma]),
    Workload::new("avx-sse-mixed", "VEX and old encodings in turn, with VZEROUPPER", mixed).needs(&[Feature::Avx]),
];

fn words() -> Vec<[i32; 8]> {
    let mut numbers = Numbers::new(71);
    (0..4_096).map(|_| [(); 8].map(|()| numbers.next() as i32)).collect()
}

#[target_feature(enable = "avx2")]
fn load(words: &[i32; 8]) -> __m256i {
    // SAFETY: 32 bytes.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn folded(x: __m256i) -> u64 {
    let half = _mm_xor_si128(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    (_mm_extract_epi64::<0>(half) ^ _mm_extract_epi64::<1>(half)) as u64
}

fn integers() -> Unit {
    #[target_feature(enable = "avx2")]
    fn run(data: &[[i32; 8]]) -> u64 {
        let order = _mm256_set1_epi64x(0x0001_0302_0504_0706);
        let mut sum = _mm256_setzero_si256();
        for _ in 0..40 {
            for two in data.windows(2) {
                let (a, b) = (load(&two[0]), load(&two[1]));
                let product = _mm256_mullo_epi32(a, _mm256_max_epi32(b, sum));
                let turned = _mm256_shuffle_epi8(_mm256_xor_si256(product, b), order);
                let pairs = _mm256_madd_epi16(turned, a);
                let far = _mm256_sad_epu8(_mm256_subs_epu8(a, b), turned);
                sum = _mm256_add_epi32(_mm256_add_epi64(sum, far), _mm256_srli_epi32::<3>(pairs));
            }
        }
        folded(sum)
    }
    let data = words();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn lanes() -> Unit {
    #[target_feature(enable = "avx2")]
    fn run(data: &[[i32; 8]], table: &[i32; 256]) -> u64 {
        let mask = _mm256_set1_epi32(255);
        let mut sum = _mm256_setzero_si256();
        for _ in 0..20 {
            for words in data {
                let a = load(words);
                let places = _mm256_and_si256(_mm256_add_epi32(a, sum), mask);
                // SAFETY: places are below 256.
                let found = unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr(), places) };
                let turned = _mm256_permutevar8x32_epi32(found, a);
                let shifted = _mm256_sllv_epi32(turned, _mm256_and_si256(a, _mm256_set1_epi32(31)));
                let half = _mm256_inserti128_si256::<1>(shifted, _mm256_castsi256_si128(found));
                sum = _mm256_blend_epi32::<0b0101_1010>(_mm256_add_epi32(sum, half), _mm256_sub_epi32(half, sum));
            }
        }
        folded(sum)
    }
    let data = words();
    let mut numbers = Numbers::new(72);
    let table = [(); 256].map(|()| numbers.next() as i32);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data, &table) })
}

fn floats() -> Unit {
    #[target_feature(enable = "avx")]
    fn run(data: &[[f32; 8]]) -> u64 {
        let mut sum = _mm256_set1_ps(1.0);
        for _ in 0..40 {
            for eight in data {
                // SAFETY: 32 bytes.
                let a = unsafe { _mm256_loadu_ps(eight.as_ptr()) };
                let turned = _mm256_permute2f128_ps::<1>(a, sum);
                let scaled = _mm256_mul_ps(_mm256_add_ps(a, turned), _mm256_set1_ps(0.3));
                let less = _mm256_cmp_ps::<_CMP_LT_OQ>(scaled, a);
                sum = _mm256_add_ps(
                    _mm256_mul_ps(sum, _mm256_set1_ps(0.5)),
                    _mm256_min_ps(_mm256_blendv_ps(scaled, a, less), _mm256_shuffle_ps::<0b1011_0001>(a, scaled)),
                );
            }
        }
        let mut out = [0.0f32; 8];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
        out.iter().fold(0, |sum, x| mix(sum, u64::from(x.to_bits())))
    }
    let data: Vec<[f32; 8]> = words().iter().map(|w| w.map(|x| (x >> 16) as f32 / 4096.0)).collect();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn polynomial() -> Unit {
    #[target_feature(enable = "avx2,fma")]
    fn run(data: &[[f64; 4]], factors: &[f64; 13]) -> u64 {
        let mut sum = _mm256_setzero_pd();
        for _ in 0..16 {
            for four in data {
                // SAFETY: 32 bytes.
                let x = unsafe { _mm256_loadu_pd(four.as_ptr()) };
                let value = factors.iter().fold(_mm256_setzero_pd(), |y, f| _mm256_fmadd_pd(y, x, _mm256_set1_pd(*f)));
                sum = _mm256_add_pd(_mm256_mul_pd(sum, _mm256_set1_pd(0.75)), value);
            }
        }
        let mut out = [0.0f64; 4];
        // SAFETY: 32 bytes.
        unsafe { _mm256_storeu_pd(out.as_mut_ptr(), sum) };
        out.iter().fold(0, |sum, x| mix(sum, x.to_bits()))
    }
    let mut numbers = Numbers::new(73);
    let data: Vec<[f64; 4]> = (0..4_096).map(|_| [(); 4].map(|()| numbers.unit() * 2.0 - 1.0)).collect();
    let factors = [(); 13].map(|()| numbers.unit() - 0.5);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data, &factors) })
}

fn scalar() -> Unit {
    #[target_feature(enable = "fma")]
    fn run(count: u32) -> u64 {
        let (mut x, mut y) = (0.5f64, 0.25f64);
        for n in 0..count {
            let step = f64::from(n & 63) * 0.01;
            (x, y) = (x.mul_add(0.9, y), (-y).mul_add(0.4, step - x * 0.1));
        }
        x.to_bits() ^ y.to_bits()
    }
    // SAFETY: the workload names what it needs.
    Box::new(|| unsafe { run(std::hint::black_box(400_000)) })
}

fn mixed() -> Unit {
    #[target_feature(enable = "avx")]
    #[inline(never)]
    fn wide(x: [f32; 4]) -> [f32; 4] {
        let all = [x[0], x[1], x[2], x[3], x[3], x[2], x[1], x[0]];
        let mut out = [0.0; 8];
        // SAFETY: 32 bytes each.
        unsafe {
            let y = _mm256_loadu_ps(all.as_ptr());
            _mm256_storeu_ps(out.as_mut_ptr(), _mm256_hadd_ps(y, _mm256_mul_ps(y, _mm256_set1_ps(0.25))));
        }
        [out[0], out[3], out[5], out[6]]
    }
    #[inline(never)]
    fn narrow(x: [f32; 4]) -> [f32; 4] {
        [x[1] * 0.3, x[2] * 0.3 + 1.0, x[3] * 0.25 - x[0], x[0] * 0.5 + 0.5]
    }
    Box::new(|| {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        for _ in 0..200_000 {
            // SAFETY: the workload names what it needs.
            x = narrow(unsafe { wide(x) });
        }
        x.iter().fold(0, |sum, x| mix(sum, u64::from(x.to_bits())))
    })
}

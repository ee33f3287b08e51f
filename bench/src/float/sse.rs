//! SSE in its versions, by intrinsics.

use std::arch::x86_64::*;

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("sse2-integers", "PMADDWD, PSADBW, PUNPCK, PACK, PAVG, PMIN over 64 KiB", sse2),
    Workload::new("sse-floats", "ADDPS, MULPS, SHUFPS, MAXPS, CMPPS, ANDPS, SQRTPS", floats),
    Workload::new("sse2-doubles", "ADDPD, MULPD, DIVPD, UNPCKLPD, CMPPD", doubles),
    Workload::new("ssse3-shuffle", "PSHUFB, PALIGNR, PMADDUBSW, PHADDW, PABS over 64 KiB", ssse3)
        .needs(&[Feature::Ssse3]),
    Workload::new("sse41", "PBLENDVB, PMULLD, PMINSD, DPPS, ROUNDPS, PTEST, PINSR, PMOVZX", sse41)
        .needs(&[Feature::Sse41]),
    Workload::new("find-byte", "PCMPEQB and PMOVMSKB: where bytes are", find),
];

fn bytes() -> Vec<u8> {
    Numbers::new(51).bytes(64 << 10)
}

/// The 16 bytes at a place.
fn at(bytes: &[u8], place: usize) -> __m128i {
    let bytes: &[u8; 16] = bytes[place..place + 16].try_into().expect("16 bytes");
    // SAFETY: 16 bytes.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

fn folded(x: __m128i) -> u64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi128_si64(_mm_xor_si128(x, _mm_shuffle_epi32::<0b0100_1110>(x))) as u64 }
}

fn sse2() -> Unit {
    let data = bytes();
    Box::new(move || {
        // SAFETY: SSE2 is part of x86-64.
        unsafe {
            let mut sum = _mm_setzero_si128();
            for round in 0..24 {
                for n in (0..data.len() - 32).step_by(16) {
                    let (a, b) = (at(&data, n), at(&data, n + 7 + round % 9));
                    let low = _mm_unpacklo_epi8(a, b);
                    let high = _mm_unpackhi_epi8(b, a);
                    let products = _mm_madd_epi16(low, high);
                    let packed = _mm_packs_epi16(_mm_mulhi_epi16(low, high), _mm_slli_epi16::<2>(low));
                    let near = _mm_min_epu8(_mm_avg_epu8(a, b), _mm_adds_epu8(a, packed));
                    sum = _mm_add_epi64(sum, _mm_sad_epu8(near, b));
                    sum = _mm_add_epi32(sum, _mm_xor_si128(products, _mm_srli_epi64::<3>(sum)));
                }
            }
            folded(sum)
        }
    })
}

fn floats() -> Unit {
    let data: Vec<f32> = bytes().iter().map(|b| f32::from(*b) / 64.0 + 0.5).collect();
    Box::new(move || {
        // SAFETY: SSE2 is part of x86-64; chunks of eight numbers.
        unsafe {
            let mut sum = _mm_set1_ps(1.0);
            for _ in 0..14 {
                for eight in data.chunks_exact(8) {
                    let (a, b) = (_mm_loadu_ps(eight.as_ptr()), _mm_loadu_ps(eight.as_ptr().add(4)));
                    let mixed = _mm_shuffle_ps::<0b10_01_11_00>(a, b);
                    let product = _mm_mul_ps(_mm_add_ps(a, mixed), _mm_set1_ps(0.125));
                    let larger = _mm_cmplt_ps(product, b);
                    let chosen = _mm_or_ps(_mm_and_ps(larger, b), _mm_andnot_ps(larger, product));
                    sum = _mm_max_ps(_mm_mul_ps(sum, _mm_set1_ps(0.999)), _mm_sqrt_ps(_mm_add_ps(chosen, sum)));
                }
            }
            folded(_mm_castps_si128(sum))
        }
    })
}

fn doubles() -> Unit {
    let data: Vec<f64> = bytes().iter().map(|b| f64::from(*b) / 64.0 + 0.5).collect();
    Box::new(move || {
        // SAFETY: SSE2 is part of x86-64; chunks of four numbers.
        unsafe {
            let mut sum = _mm_set1_pd(1.0);
            for _ in 0..8 {
                for four in data.chunks_exact(4) {
                    let (a, b) = (_mm_loadu_pd(four.as_ptr()), _mm_loadu_pd(four.as_ptr().add(2)));
                    let mixed = _mm_unpacklo_pd(_mm_mul_pd(a, b), _mm_sub_pd(b, a));
                    let larger = _mm_cmple_pd(mixed, sum);
                    sum = _mm_add_pd(_mm_mul_pd(sum, _mm_set1_pd(0.875)), _mm_and_pd(larger, mixed));
                    sum = _mm_div_pd(sum, _mm_add_pd(a, _mm_set1_pd(0.25)));
                }
            }
            folded(_mm_castpd_si128(sum))
        }
    })
}

fn ssse3() -> Unit {
    #[target_feature(enable = "ssse3")]
    fn run(data: &[u8]) -> u64 {
        let order = _mm_set_epi8(3, 1, 2, 0, 7, -1, 6, 5, 11, 9, 10, 8, 15, 13, 14, 12);
        let mut sum = _mm_setzero_si128();
        for _ in 0..24 {
            for n in (0..data.len() - 32).step_by(16) {
                let (a, b) = (at(data, n), at(data, n + 16));
                let turned = _mm_shuffle_epi8(_mm_alignr_epi8::<5>(a, b), order);
                let products = _mm_maddubs_epi16(a, turned);
                let pairs = _mm_hadd_epi16(products, _mm_abs_epi16(_mm_xor_si128(b, sum)));
                sum = _mm_add_epi16(_mm_mulhrs_epi16(sum, turned), _mm_sign_epi16(pairs, b));
            }
        }
        folded(sum)
    }
    let data = bytes();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn sse41() -> Unit {
    #[target_feature(enable = "sse4.1")]
    fn run(data: &[u8]) -> u64 {
        let (mut sum, mut zeros) = (_mm_set1_epi32(3), 0u64);
        let mut scale = _mm_set1_ps(1.0);
        for _ in 0..16 {
            for n in (0..data.len() - 32).step_by(16) {
                let (a, b) = (at(data, n), at(data, n + 16));
                let wide = _mm_cvtepu8_epi32(a);
                let product = _mm_mullo_epi32(wide, _mm_min_epi32(b, sum));
                let chosen = _mm_blendv_epi8(product, sum, a);
                sum = _mm_insert_epi32::<2>(_mm_add_epi32(sum, chosen), n as i32);
                let floats = _mm_mul_ps(_mm_cvtepi32_ps(wide), _mm_set1_ps(0.01));
                scale = _mm_add_ps(_mm_dp_ps::<0xf1>(floats, scale), _mm_round_ps::<1>(floats));
                zeros += _mm_testz_si128(_mm_and_si128(a, b), _mm_set1_epi32(0x0101_0001)) as u64;
                zeros += u64::from(_mm_extract_epi16::<3>(sum) as u16);
            }
        }
        mix(zeros, folded(sum) ^ folded(_mm_castps_si128(scale)))
    }
    let data = bytes();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn find() -> Unit {
    let data = bytes();
    Box::new(move || {
        let mut sum = 0;
        for wanted in 0..30i8 {
            // SAFETY: SSE2 is part of x86-64.
            unsafe {
                let wanted = _mm_set1_epi8(wanted);
                for n in (0..data.len()).step_by(16) {
                    let mut mask = _mm_movemask_epi8(_mm_cmpeq_epi8(at(&data, n), wanted));
                    while mask != 0 {
                        sum = mix(sum, n as u64 + u64::from(mask.trailing_zeros()));
                        mask &= mask - 1;
                    }
                }
            }
        }
        sum
    })
}

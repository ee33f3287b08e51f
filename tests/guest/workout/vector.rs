//! MMX, SSE, AVX2, FMA, F16C and AES over pseudo-random lanes.

use std::arch::asm;
use std::arch::x86_64::*;

use crate::{Digest, Numbers};

pub fn run() {
    let mut numbers = Numbers(0xfeed_f00d);
    let words: Vec<u64> = (0..4_096).map(|_| numbers.next()).collect();
    // SAFETY: the workout needs x86-64-v3 with AES and PCLMULQDQ as a whole.
    unsafe {
        println!("integer {:016x}", integer(&words));
        println!("shuffle {:016x}", shuffle(&words));
        floats(&words);
        if is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq") {
            println!("aes {:016x}", aes(&words));
        }
        println!("strings {:016x}", strings(&words));
    }
    println!("mmx {:016x}", mmx(&words));
}

#[target_feature(enable = "avx2")]
fn load(words: &[u64]) -> __m256i {
    // SAFETY: callers give chunks of four words.
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn fold(digest: &mut Digest, v: __m256i) {
    let mut bytes = [0u8; 32];
    // SAFETY: 32 bytes.
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), v) };
    digest.add(&bytes);
}

#[target_feature(enable = "avx2")]
fn integer(words: &[u64]) -> u64 {
    let mut digest = Digest::new();
    let mut acc = _mm256_setzero_si256();
    for pair in words.chunks_exact(8) {
        let (a, b) = (load(&pair[..4]), load(&pair[4..]));
        for v in [
            _mm256_add_epi8(a, b),
            _mm256_subs_epi16(a, b),
            _mm256_mullo_epi32(a, b),
            _mm256_mul_epu32(a, b),
            _mm256_maddubs_epi16(a, b),
            _mm256_madd_epi16(a, b),
            _mm256_avg_epu8(a, b),
            _mm256_sad_epu8(a, b),
            _mm256_mulhrs_epi16(a, b),
            _mm256_min_epu32(a, b),
            _mm256_max_epi8(a, b),
            _mm256_cmpgt_epi64(a, b),
            _mm256_sllv_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(37))),
            _mm256_srlv_epi64(a, _mm256_and_si256(b, _mm256_set1_epi64x(70))),
            _mm256_srav_epi32(a, _mm256_and_si256(b, _mm256_set1_epi32(37))),
            _mm256_abs_epi16(a),
            _mm256_sign_epi8(a, b),
            _mm256_packus_epi32(a, b),
            _mm256_packs_epi16(a, b),
            _mm256_slli_si256::<5>(a),
            _mm256_srai_epi16::<3>(a),
        ] {
            acc = _mm256_xor_si256(_mm256_add_epi64(acc, acc), v);
            fold(&mut digest, v);
        }
        digest.add(&_mm256_movemask_epi8(a).to_le_bytes());
        digest.add(&[_mm256_testz_si256(a, b) as u8, _mm256_testc_si256(a, a) as u8]);
    }
    fold(&mut digest, acc);
    digest.value()
}

#[target_feature(enable = "avx2")]
fn shuffle(words: &[u64]) -> u64 {
    let mut digest = Digest::new();
    let table: Vec<i32> = words.iter().map(|w| *w as i32).collect();
    for pair in words.chunks_exact(8) {
        let (a, b) = (load(&pair[..4]), load(&pair[4..]));
        let index = _mm256_and_si256(b, _mm256_set1_epi32(4_095));
        // SAFETY: the indices are below the length of the table; the masked store covers 32 bytes.
        let (gathered, masked) = unsafe {
            let mut out = [0i32; 8];
            _mm256_maskstore_epi32(out.as_mut_ptr(), b, a);
            (_mm256_i32gather_epi32::<4>(table.as_ptr(), index), _mm256_loadu_si256(out.as_ptr().cast()))
        };
        for v in [
            gathered,
            masked,
            _mm256_shuffle_epi8(a, b),
            _mm256_permutevar8x32_epi32(a, b),
            _mm256_permute4x64_epi64::<0b01_11_00_10>(a),
            _mm256_permute2x128_si256::<0x21>(a, b),
            _mm256_unpackhi_epi8(a, b),
            _mm256_alignr_epi8::<11>(a, b),
            _mm256_blendv_epi8(a, b, gathered),
            _mm256_cvtepu8_epi32(_mm256_castsi256_si128(a)),
            _mm256_broadcastw_epi16(_mm256_extracti128_si256::<1>(b)),
            _mm256_mpsadbw_epu8::<0b101_010>(a, b),
        ] {
            fold(&mut digest, v);
        }
    }
    digest.value()
}

#[target_feature(enable = "avx2,fma,f16c")]
fn floats(words: &[u64]) {
    let mut digest = Digest::new();
    let mut sum = _mm256_setzero_ps();
    let mut dot = _mm256_setzero_pd();
    for pair in words.chunks_exact(8) {
        // Exponents near that of one, so that sums stay finite.
        let one = _mm256_set1_epi32(0x3f80_0000);
        let mask = _mm256_set1_epi32(0x007f_ffff_u32 as i32);
        let a = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(load(&pair[..4]), mask), one));
        let b = _mm256_castsi256_ps(_mm256_or_si256(_mm256_and_si256(load(&pair[4..]), mask), one));
        sum = _mm256_fmadd_ps(a, b, _mm256_mul_ps(sum, _mm256_set1_ps(0.75)));
        let (c, d) = (_mm256_cvtps_pd(_mm256_castps256_ps128(a)), _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(b)));
        dot = _mm256_fnmadd_pd(c, d, _mm256_add_pd(dot, _mm256_sqrt_pd(c)));
        for v in [
            _mm256_castps_si256(_mm256_div_ps(a, b)),
            _mm256_castps_si256(_mm256_addsub_ps(a, b)),
            _mm256_castps_si256(_mm256_hadd_ps(a, b)),
            _mm256_castps_si256(_mm256_dp_ps::<0xf1>(a, b)),
            _mm256_castps_si256(_mm256_round_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(a)),
            _mm256_castps_si256(_mm256_cmp_ps::<_CMP_NGE_UQ>(a, b)),
            _mm256_castps_si256(_mm256_permutevar_ps(a, load(&pair[..4]))),
            _mm256_cvtps_epi32(_mm256_mul_ps(a, _mm256_set1_ps(1000.5))),
            _mm256_castpd_si256(dot),
            _mm256_castps_si256(_mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a))),
            // Raw bits too: NaNs, infinities and denormals among them.
            _mm256_castps_si256(_mm256_max_ps(_mm256_castsi256_ps(load(&pair[..4])), b)),
            _mm256_castpd_si256(_mm256_add_pd(
                _mm256_castsi256_pd(load(&pair[..4])),
                _mm256_castsi256_pd(load(&pair[4..])),
            )),
        ] {
            fold(&mut digest, v);
        }
    }
    let (mut sums, mut dots) = ([0f32; 8], [0f64; 4]);
    // SAFETY: the arrays are as large as the vectors.
    unsafe {
        _mm256_storeu_ps(sums.as_mut_ptr(), sum);
        _mm256_storeu_pd(dots.as_mut_ptr(), dot);
    }
    println!("fma {sums:?} {dots:?} {:016x}", digest.value());
}

#[target_feature(enable = "aes,pclmulqdq,sse4.1")]
fn aes(words: &[u64]) -> u64 {
    let mut state = _mm_set_epi64x(1, 2);
    for pair in words.chunks_exact(2) {
        let key = _mm_set_epi64x(pair[0] as i64, pair[1] as i64);
        state = _mm_aesenc_si128(state, key);
        state = _mm_aesdec_si128(_mm_aesimc_si128(state), _mm_aeskeygenassist_si128::<0x1b>(key));
        state = _mm_xor_si128(_mm_aesenclast_si128(state, key), _mm_clmulepi64_si128::<0x10>(state, key));
        state = _mm_aesdeclast_si128(state, key);
    }
    (_mm_extract_epi64::<0>(state) ^ _mm_extract_epi64::<1>(state).rotate_left(17)) as u64
}

/// The string comparisons of SSE4.2 with index and mask results.
#[target_feature(enable = "sse4.2")]
fn strings(words: &[u64]) -> u64 {
    let mut digest = Digest::new();
    for four in words.chunks_exact(4) {
        // Few different bytes, so that something is found.
        let small = _mm_set1_epi8(3);
        let a = _mm_and_si128(_mm_set_epi64x(four[0] as i64, four[1] as i64), small);
        let b = _mm_and_si128(_mm_set_epi64x(four[2] as i64, four[3] as i64), small);
        let found = [
            _mm_cmpistri::<{ _SIDD_CMP_EQUAL_ANY }>(a, b),
            _mm_cmpistri::<{ _SIDD_CMP_RANGES | _SIDD_MOST_SIGNIFICANT }>(a, b),
            _mm_cmpestri::<{ _SIDD_CMP_EQUAL_ORDERED }>(a, 3, b, 16),
            _mm_cmpestrc::<{ _SIDD_CMP_EQUAL_EACH | _SIDD_NEGATIVE_POLARITY }>(a, 9, b, 11),
            _mm_extract_epi32::<0>(_mm_cmpistrm::<{ _SIDD_CMP_EQUAL_EACH | _SIDD_UNIT_MASK }>(a, b)),
        ];
        found.iter().for_each(|f| digest.add(&f.to_le_bytes()));
    }
    digest.value()
}

/// MMX has no intrinsics: a few of its instructions by hand.
fn mmx(words: &[u64]) -> u64 {
    let mut digest = Digest::new();
    for pair in words.chunks_exact(2) {
        let (mut a, b) = (pair[0], pair[1]);
        // SAFETY: EMMS leaves the x87 stack empty, as the block found it.
        unsafe {
            asm!(
                "movq mm0, {a}", "movq mm1, {b}",
                "movq mm2, mm0", "paddsw mm0, mm1", "pmaddwd mm2, mm1", "punpcklbw mm1, mm2",
                "pxor mm0, mm1", "psllq mm2, 7", "packuswb mm0, mm2", "pshufw mm0, mm0, 0x1b",
                "movq {a}, mm0", "emms",
                a = inout(reg) a, b = in(reg) b,
                out("mm0") _, out("mm1") _, out("mm2") _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        digest.add(&a.to_le_bytes());
    }
    digest.value()
}

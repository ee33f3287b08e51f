//! The string instructions of SSE4.2.

use std::arch::x86_64::*;

use crate::cpu::Feature;
use crate::workload::{Unit, Workload, mix, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("pcmpistri", "PCMPISTRI finds ranges and substrings in 128 KiB", index).needs(&[Feature::Sse42]),
    Workload::new("pcmpestrm", "PCMPESTRM masks sets of characters in 128 KiB", mask).needs(&[Feature::Sse42]),
];

fn load(bytes: &[u8]) -> __m128i {
    let bytes: &[u8; 16] = bytes[..16].try_into().expect("16 bytes");
    // SAFETY: 16 bytes; SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

fn index() -> Unit {
    #[target_feature(enable = "sse4.2")]
    fn run(text: &[u8]) -> u64 {
        let ranges = load(b"xz  kk\0\0\0\0\0\0\0\0\0\0");
        let word = load(b"ete\0\0\0\0\0\0\0\0\0\0\0\0\0");
        let mut sum = 0;
        for at in (0..text.len() - 16).step_by(8) {
            let here = load(&text[at..]);
            let first = _mm_cmpistri::<{ _SIDD_CMP_RANGES }>(ranges, here);
            let found = _mm_cmpistri::<{ _SIDD_CMP_EQUAL_ORDERED }>(word, here);
            let whole = _mm_cmpistrc::<{ _SIDD_CMP_EQUAL_EACH | _SIDD_NEGATIVE_POLARITY }>(here, word);
            sum = mix(sum, (first << 8 | found << 1 | whole) as u64);
        }
        sum
    }
    let text = text(128 << 10);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&text) })
}

fn mask() -> Unit {
    #[target_feature(enable = "sse4.2")]
    fn run(text: &[u8]) -> u64 {
        let vowels = load(b"aeiou\n          ");
        let mut sum = 0;
        for at in (0..text.len() - 16).step_by(16) {
            let set = _mm_cmpestrm::<{ _SIDD_CMP_EQUAL_ANY | _SIDD_BIT_MASK }>(vowels, 6, load(&text[at..]), 16);
            sum = mix(sum, _mm_cvtsi128_si64(set) as u64);
        }
        sum
    }
    let text = text(128 << 10);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&text) })
}

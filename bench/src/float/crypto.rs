//! Instructions for ciphers and checksums.

use std::arch::x86_64::*;

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("aes-ni", "AES rounds over 512 KiB, chained and in four streams", aes).needs(&[Feature::Aes]),
    Workload::new("clmul", "PCLMULQDQ folds 1 MiB to a remainder", clmul).needs(&[Feature::Pclmulqdq, Feature::Sse41]),
    Workload::new("crc32-instruction", "CRC32 of 2 MiB, eight bytes at a time", crc).needs(&[Feature::Sse42]),
];

fn blocks(bytes: usize) -> Vec<[u8; 16]> {
    Numbers::new(81).bytes(bytes).chunks_exact(16).map(|c| c.try_into().expect("16 bytes")).collect()
}

fn load(block: &[u8; 16]) -> __m128i {
    // SAFETY: 16 bytes; SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

fn low(x: __m128i) -> u64 {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { (_mm_cvtsi128_si64(x) ^ _mm_cvtsi128_si64(_mm_srli_si128::<8>(x))) as u64 }
}

fn aes() -> Unit {
    #[target_feature(enable = "aes")]
    fn run(data: &[[u8; 16]]) -> u64 {
        let mut keys = [_mm_set1_epi32(0x1234_5678); 11];
        for n in 1..11 {
            let grown = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<0x1b>(keys[n - 1]));
            keys[n] = _mm_xor_si128(_mm_xor_si128(keys[n - 1], _mm_slli_si128::<4>(keys[n - 1])), grown);
        }
        let mut chain = keys[10];
        for block in data {
            chain = _mm_xor_si128(_mm_xor_si128(chain, load(block)), keys[0]);
            for key in &keys[1..10] {
                chain = _mm_aesenc_si128(chain, *key);
            }
            chain = _mm_aesenclast_si128(chain, keys[10]);
        }
        for four in data.chunks_exact(4) {
            let mut streams = [load(&four[0]), load(&four[1]), load(&four[2]), load(&four[3])];
            for key in &keys[1..10] {
                streams = streams.map(|s| _mm_aesdec_si128(s, *key));
            }
            let last = streams.map(|s| _mm_aesdeclast_si128(s, keys[0]));
            chain = last.iter().fold(chain, |chain, s| _mm_xor_si128(_mm_aesimc_si128(chain), *s));
        }
        low(chain)
    }
    let data = blocks(512 << 10);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn clmul() -> Unit {
    #[target_feature(enable = "pclmulqdq,sse4.1")]
    fn run(data: &[[u8; 16]]) -> u64 {
        let factors = _mm_set_epi64x(0x0000_0001_c6e4_1596, 0x0000_0001_5444_2bd4);
        let mut sums = [_mm_set1_epi32(7); 4];
        for four in data.chunks_exact(4) {
            for (sum, block) in sums.iter_mut().zip(four) {
                let a = _mm_clmulepi64_si128::<0x00>(*sum, factors);
                let b = _mm_clmulepi64_si128::<0x11>(*sum, factors);
                *sum = _mm_xor_si128(_mm_xor_si128(a, b), load(block));
            }
        }
        sums.iter().fold(0u64, |sum, x| sum.rotate_left(9) ^ low(*x))
    }
    let data = blocks(1 << 20);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

fn crc() -> Unit {
    #[target_feature(enable = "sse4.2")]
    fn run(data: &[[u8; 16]]) -> u64 {
        let (mut a, mut b) = (!0u64, 7u32);
        for block in data {
            let [x, y] = [0, 8].map(|n| u64::from_le_bytes(block[n..n + 8].try_into().expect("eight bytes")));
            a = _mm_crc32_u64(_mm_crc32_u64(a, x), y);
            b = _mm_crc32_u8(_mm_crc32_u32(b, x as u32), y as u8);
        }
        a << 32 | u64::from(b)
    }
    let data = blocks(2 << 20);
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&data) })
}

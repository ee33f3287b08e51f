//! Hash functions and ciphers, in plain code.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::hint::black_box;

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("sha256", "SHA-256 (FIPS 180-4) of 512 KiB", sha256),
    Workload::new("sha512", "SHA-512 (FIPS 180-4) of 512 KiB", sha512),
    Workload::new("siphash", "the standard library's SipHash of 200,000 short keys", siphash),
    Workload::new("fnv", "FNV-1a of 4 MiB, one long chain of multiplications", fnv),
    Workload::new("crc32-table", "CRC-32 of 2 MiB by a table of bytes", crc32),
    Workload::new("chacha20", "ChaCha20 (RFC 8439) of 1 MiB", chacha20),
    Workload::new("mersenne", "the Mersenne twister MT19937, 1 million numbers", mersenne),
];

/// The first bits of the fractional parts of the roots of the first primes, of which the standard makes its constants.
fn roots(count: usize, cube: bool) -> Vec<u64> {
    let primes = (2u128..).filter(|n| (2..*n).take_while(|d| d * d <= *n).all(|d| n % d != 0)).take(count);
    primes
        .map(|prime| {
            // The largest r with r^k <= prime * 2^(64 k), bit by bit; only its low 64 bits are wanted.
            let mut root = 0u128;
            for bit in (0..68).rev() {
                let next = root | 1 << bit;
                if fits(next, prime, cube) {
                    root = next;
                }
            }
            root as u64
        })
        .collect()
}

/// Whether `root^k <= prime << 64k`, in parts of 32 bits.
fn fits(root: u128, prime: u128, cube: bool) -> bool {
    let parts = |mut x: u128| -> Vec<u64> {
        let mut out = Vec::new();
        while x > 0 {
            out.push(x as u64 & 0xffff_ffff);
            x >>= 32;
        }
        out
    };
    let times = |a: &[u64], b: &[u64]| -> Vec<u64> {
        let mut out = vec![0u64; a.len() + b.len() + 1];
        for (i, x) in a.iter().enumerate() {
            let mut carry = 0;
            for (j, y) in b.iter().enumerate() {
                let t = x * y + out[i + j] + carry;
                out[i + j] = t & 0xffff_ffff;
                carry = t >> 32;
            }
            out[i + b.len()] += carry;
        }
        out
    };
    let r = parts(root);
    let power = if cube { times(&times(&r, &r), &r) } else { times(&r, &r) };
    let zeros = if cube { 6 } else { 4 };
    let mut limit = vec![0; zeros];
    limit.extend(parts(prime));
    let len = power.len().max(limit.len());
    let digit = |v: &[u64], i: usize| v.get(i).copied().unwrap_or(0);
    (0..len).rev().map(|i| digit(&power, i).cmp(&digit(&limit, i))).find(|o| o.is_ne()).is_none_or(|o| o.is_lt())
}

fn sha256() -> Unit {
    let data = Numbers::new(5).bytes(512 << 10);
    let k: Vec<u32> = roots(64, true).iter().map(|k| (k >> 32) as u32).collect();
    let initial: Vec<u32> = roots(8, false).iter().map(|k| (k >> 32) as u32).collect();
    assert_eq!((k[0], initial[0]), (0x428a_2f98, 0x6a09_e667));
    Box::new(move || {
        let mut state: [u32; 8] = initial[..].try_into().expect("eight words");
        let k: &[u32; 64] = k[..].try_into().expect("64 words");
        for block in data.chunks_exact(64) {
            let mut w = [0u32; 64];
            for (w, bytes) in w.iter_mut().zip(block.chunks_exact(4)) {
                *w = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            }
            for i in 16..64 {
                let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ w[i - 15] >> 3;
                let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ w[i - 2] >> 10;
                w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
            }
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
            for i in 0..64 {
                let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
                let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(k[i]).wrapping_add(w[i]);
                let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
                let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
                (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
            }
            for (s, x) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *s = s.wrapping_add(x);
            }
        }
        state.iter().fold(0, |sum, x| mix(sum, u64::from(*x)))
    })
}

fn sha512() -> Unit {
    let data = Numbers::new(6).bytes(512 << 10);
    let (k, initial) = (roots(80, true), roots(8, false));
    assert_eq!((k[0], initial[0]), (0x428a_2f98_d728_ae22, 0x6a09_e667_f3bc_c908));
    Box::new(move || {
        let mut state: [u64; 8] = initial[..].try_into().expect("eight words");
        let k: &[u64; 80] = k[..].try_into().expect("80 words");
        for block in data.chunks_exact(128) {
            let mut w = [0u64; 80];
            for (w, bytes) in w.iter_mut().zip(block.chunks_exact(8)) {
                *w = u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
            }
            for i in 16..80 {
                let s0 = w[i - 15].rotate_right(1) ^ w[i - 15].rotate_right(8) ^ w[i - 15] >> 7;
                let s1 = w[i - 2].rotate_right(19) ^ w[i - 2].rotate_right(61) ^ w[i - 2] >> 6;
                w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
            }
            let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = state;
            for i in 0..80 {
                let s1 = e.rotate_right(14) ^ e.rotate_right(18) ^ e.rotate_right(41);
                let t1 = h.wrapping_add(s1).wrapping_add(e & f ^ !e & g).wrapping_add(k[i]).wrapping_add(w[i]);
                let s0 = a.rotate_right(28) ^ a.rotate_right(34) ^ a.rotate_right(39);
                let t2 = s0.wrapping_add(a & b ^ a & c ^ b & c);
                (h, g, f, e, d, c, b, a) = (g, f, e, d.wrapping_add(t1), c, b, a, t1.wrapping_add(t2));
            }
            for (s, x) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
                *s = s.wrapping_add(x);
            }
        }
        state.iter().fold(0, |sum, x| mix(sum, *x))
    })
}

fn siphash() -> Unit {
    Box::new(|| {
        let hashers = BuildHasherDefault::<DefaultHasher>::default();
        let hash = |n: u64| hashers.hash_one((n, n as u32, n as u16));
        (0..200_000).fold(0, |sum, n| sum ^ hash(n).rotate_left(n as u32))
    })
}

fn fnv() -> Unit {
    let data = Numbers::new(7).bytes(4 << 20);
    Box::new(move || {
        data.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, b| (hash ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
    })
}

fn crc32() -> Unit {
    let data = Numbers::new(8).bytes(2 << 20);
    let table: Vec<u32> = (0..256u32)
        .map(|n| (0..8).fold(n, |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }))
        .collect();
    Box::new(move || {
        let crc = data.iter().fold(!0u32, |crc, b| table[((crc ^ u32::from(*b)) & 0xff) as usize] ^ crc >> 8);
        u64::from(!crc)
    })
}

fn quarter(s: &mut [u32; 16], a: usize, b: usize, c: usize, d: usize) {
    for (left, right) in [(16, 12), (8, 7)] {
        s[a] = s[a].wrapping_add(s[b]);
        s[d] = (s[d] ^ s[a]).rotate_left(left);
        s[c] = s[c].wrapping_add(s[d]);
        s[b] = (s[b] ^ s[c]).rotate_left(right);
    }
}

fn chacha20() -> Unit {
    let mut data = vec![0u8; 1 << 20];
    Box::new(move || {
        let mut state = [0u32; 16];
        for (n, word) in state.iter_mut().enumerate() {
            *word = (n as u32 + 1).wrapping_mul(0x9e37_79b9);
        }
        let mut sum = 0;
        for (n, block) in data.chunks_exact_mut(64).enumerate() {
            state[12] = n as u32;
            // One block at a time, as the reference has it.
            let mut s = black_box(state);
            for _ in 0..10 {
                for i in 0..4 {
                    quarter(&mut s, i, i + 4, i + 8, i + 12);
                }
                for i in 0..4 {
                    quarter(&mut s, i, (i + 1) % 4 + 4, (i + 2) % 4 + 8, (i + 3) % 4 + 12);
                }
            }
            for (i, out) in block.chunks_exact_mut(4).enumerate() {
                out.copy_from_slice(&s[i].wrapping_add(state[i]).to_le_bytes());
            }
            sum = mix(sum, u64::from(s[0]));
        }
        sum
    })
}

fn mersenne() -> Unit {
    Box::new(|| {
        let mut state = [0u32; 624];
        state[0] = 5489;
        for i in 1..624 {
            state[i] = 1_812_433_253u32.wrapping_mul(state[i - 1] ^ state[i - 1] >> 30).wrapping_add(i as u32);
        }
        let (mut at, mut sum) = (624, 0u64);
        for _ in 0..1_000_000 {
            if at == 624 {
                for i in 0..624 {
                    let y = state[i] & 0x8000_0000 | state[(i + 1) % 624] & 0x7fff_ffff;
                    state[i] = state[(i + 397) % 624] ^ y >> 1 ^ if y & 1 == 1 { 0x9908_b0df } else { 0 };
                }
                at = 0;
            }
            let mut y = state[at];
            at += 1;
            y ^= y >> 11;
            y ^= y << 7 & 0x9d2c_5680;
            y ^= y << 15 & 0xefc6_0000;
            y ^= y >> 18;
            sum = sum.wrapping_mul(31).wrapping_add(u64::from(y));
        }
        sum
    })
}

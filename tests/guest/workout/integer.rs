//! Integer code: checksums in software and by instruction, sorting, bit tricks, wide arithmetic.

use std::collections::{BTreeMap, BinaryHeap};

use crate::{Digest, Numbers};

pub fn run() {
    let mut numbers = Numbers(0x1234_5678_9abc_def1);
    let data: Vec<u8> = (0..32 << 10).flat_map(|_| numbers.next().to_le_bytes()).collect();
    println!("crc32 {:08x}", crc32(&data));
    println!("adler32 {:08x}", adler32(&data));
    let mut digest = Digest::new();
    digest.add(&data);
    println!("fnv {:016x}", digest.value());
    println!("sha256 {}", hex(&sha256(&data)));
    // SAFETY: everything in here needs x86-64-v3, which the workout needs as a whole.
    unsafe { bits(&data) };
    sorting(&mut numbers);
    wide(&mut numbers);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn crc32(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| (c >> 1) ^ (0xedb8_8320 & (c & 1).wrapping_neg()))
    })
}

fn adler32(data: &[u8]) -> u32 {
    let (a, b) = data.iter().fold((1u32, 0u32), |(a, b), &x| {
        let a = (a + u32::from(x)) % 65521;
        (a, (b + a) % 65521)
    });
    b << 16 | a
}

/// SHA-256, FIPS 180-4; the constants are computed: fractional parts of roots of primes.
fn sha256(data: &[u8]) -> [u8; 32] {
    let primes: Vec<u64> = (2u64..).filter(|n| (2..*n).all(|d| n % d != 0)).take(64).collect();
    let root = |p: u64, power: u32| -> u32 {
        // The largest r with r^power <= p * 2^(32 * power); its low 32 bits are the fraction.
        let goal = |r: u128| match power {
            2 => r * r <= u128::from(p) << 64,
            _ => (r * r) / (1 << 32) * r <= u128::from(p) << 64,
        };
        let mut r = 0u128;
        for bit in (0..37).rev() {
            if goal(r | 1 << bit) {
                r |= 1 << bit;
            }
        }
        r as u32
    };
    let k: Vec<u32> = primes.iter().map(|&p| root(p, 3)).collect();
    let mut state: Vec<u32> = primes[..8].iter().map(|&p| root(p, 2)).collect();
    let mut message = data.to_vec();
    message.push(0x80);
    while message.len() % 64 != 56 {
        message.push(0);
    }
    message.extend(((data.len() as u64) * 8).to_be_bytes());
    for block in message.chunks_exact(64) {
        let mut w = [0u32; 64];
        for (i, word) in block.chunks_exact(4).enumerate() {
            w[i] = u32::from_be_bytes([word[0], word[1], word[2], word[3]]);
        }
        for i in 16..64 {
            let s0 = w[i - 15].rotate_right(7) ^ w[i - 15].rotate_right(18) ^ (w[i - 15] >> 3);
            let s1 = w[i - 2].rotate_right(17) ^ w[i - 2].rotate_right(19) ^ (w[i - 2] >> 10);
            w[i] = w[i - 16].wrapping_add(s0).wrapping_add(w[i - 7]).wrapping_add(s1);
        }
        let mut v: [u32; 8] = state.clone().try_into().expect("eight words");
        for i in 0..64 {
            let s1 = v[4].rotate_right(6) ^ v[4].rotate_right(11) ^ v[4].rotate_right(25);
            let ch = (v[4] & v[5]) ^ (!v[4] & v[6]);
            let t1 = v[7].wrapping_add(s1).wrapping_add(ch).wrapping_add(k[i]).wrapping_add(w[i]);
            let s0 = v[0].rotate_right(2) ^ v[0].rotate_right(13) ^ v[0].rotate_right(22);
            let t2 = s0.wrapping_add((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
            v = [t1.wrapping_add(t2), v[0], v[1], v[2], v[3].wrapping_add(t1), v[4], v[5], v[6]];
        }
        for (s, x) in state.iter_mut().zip(v) {
            *s = s.wrapping_add(x);
        }
    }
    let mut out = [0; 32];
    for (to, s) in out.chunks_exact_mut(4).zip(state) {
        to.copy_from_slice(&s.to_be_bytes());
    }
    out
}

/// Instructions beyond the base set that work on general registers.
#[target_feature(enable = "sse4.2,popcnt,lzcnt,bmi1,bmi2,movbe")]
fn bits(data: &[u8]) {
    use std::arch::x86_64::*;
    let (mut crc, mut deposit, mut extract, mut counts, mut low, mut wide) = (!0u64, 0u64, 0u64, 0u64, 0u64, 0u64);
    for word in data.chunks_exact(8) {
        let x = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        crc = _mm_crc32_u64(crc, x);
        deposit ^= _pdep_u64(x, crc.rotate_left(7) | 0xff);
        extract = extract.rotate_left(3) ^ _pext_u64(x, crc | 1);
        counts += u64::from(x.count_ones()) + _lzcnt_u64(x >> (x & 31)) + _tzcnt_u64(x << (x & 15));
        low ^= _blsr_u64(x) ^ _blsi_u64(x).rotate_left(5) ^ _blsmsk_u64(x) ^ _andn_u64(x, crc) ^ _bzhi_u64(x, 41);
        let mut high = 0;
        wide = wide.wrapping_add(_mulx_u64(x, crc, &mut high)).rotate_left(1) ^ high;
    }
    println!(
        "bits crc32c {crc:016x} pdep {deposit:016x} pext {extract:016x} count {counts} bmi {low:016x} mulx {wide:016x}"
    );
}

fn sorting(numbers: &mut Numbers) {
    let mut digest = Digest::new();
    let list: Vec<u64> = (0..20_000).map(|_| numbers.next() % 5_000).collect();
    let mut sorted = list.clone();
    sorted.sort_unstable();
    sorted.iter().for_each(|x| digest.add(&x.to_le_bytes()));
    let mut pairs: Vec<(u64, usize)> = list.iter().copied().zip(0..).collect();
    pairs.sort_by_key(|(x, _)| std::cmp::Reverse(x % 97));
    pairs.iter().for_each(|(_, i)| digest.add(&i.to_le_bytes()));
    let heap = BinaryHeap::from(list.clone()).into_sorted_vec();
    let mut tree = BTreeMap::new();
    list.iter().for_each(|x| *tree.entry(*x).or_insert(0u32) += 1);
    let most = tree.iter().max_by_key(|(x, n)| (**n, **x));
    let mut words: Vec<String> = list.iter().take(3_000).map(|x| format!("{x:o}")).collect();
    words.sort();
    words.iter().for_each(|w| digest.add(w.as_bytes()));
    println!("sort {:016x} same {} kinds {} most {most:?}", digest.value(), heap == sorted, tree.len());
}

/// Numbers of 128 bits, divisions of every width, checked and saturating arithmetic.
fn wide(numbers: &mut Numbers) {
    let mut digest = Digest::new();
    for _ in 0..3_000 {
        let (a, b) = (numbers.next(), numbers.next());
        let (x, y) = (u128::from(a) << 64 | u128::from(b), u128::from(numbers.next() | 1) << (a & 63));
        digest.add(&(x / y).to_le_bytes());
        digest.add(&(x % y).to_le_bytes());
        digest.add(&x.wrapping_mul(y).to_le_bytes());
        digest.add(&((a as i64).wrapping_div(b as i64 | 1)).to_le_bytes());
        digest.add(&((a as i32).wrapping_rem((b as i32) | 1)).to_le_bytes());
        digest.add(&((a as i16).wrapping_div((b as i16) | 1)).to_le_bytes());
        digest.add(&((a as u8) / ((b as u8) | 1)).to_le_bytes());
        digest.add(&(a as i32).saturating_add(b as i32).to_le_bytes());
        digest.add(&[u8::from((a as i64).checked_mul(b as i64 >> 40).is_none())]);
        digest.add(&(x.rotate_left((b & 127) as u32) >> (a & 127)).to_le_bytes());
    }
    println!("wide {:016x}", digest.value());
}

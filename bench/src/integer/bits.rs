//! Tricks with bits, with plain instructions and with those that were made for them.

use std::hint::black_box;

use crate::cpu::Feature;
use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("bits-plain", "counts, reverses and spreads bits without special instructions", plain),
    Workload::new("bits-counted", "POPCNT, LZCNT, TZCNT, ANDN, BLSR on 64-bit words", counted).needs(&[
        Feature::Popcnt,
        Feature::Lzcnt,
        Feature::Bmi1,
    ]),
    Workload::new("bits-moved", "PDEP, PEXT, BZHI, MULX, RORX", moved).needs(&[Feature::Bmi2]),
    Workload::new("bits-tested", "BT, BTS, BTR, SHLD, BSF, BSWAP, SETcc, CMOVcc", tested),
    Workload::new("partial-registers", "8- and 16-bit registers, AH, carries through rotations", partial),
];

fn plain() -> Unit {
    Box::new(|| {
        (0..300_000u64).fold(0, |sum, n| {
            let x = black_box(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let mut count = x - (x >> 1 & 0x5555_5555_5555_5555);
            count = (count & 0x3333_3333_3333_3333) + (count >> 2 & 0x3333_3333_3333_3333);
            count = (count + (count >> 4) & 0x0f0f_0f0f_0f0f_0f0f).wrapping_mul(0x0101_0101_0101_0101) >> 56;
            let mut spread = x & 0xffff_ffff;
            for (shift, mask) in [(16, 0x0000_ffff_0000_ffff), (8, 0x00ff_00ff_00ff_00ff), (4, 0x0f0f_0f0f_0f0f_0f0f)] {
                spread = (spread | spread << shift) & mask;
            }
            let reversed = x.reverse_bits();
            sum ^ (count << 40).wrapping_add(spread) ^ reversed >> (n & 15)
        })
    })
}

fn counted() -> Unit {
    #[target_feature(enable = "popcnt,lzcnt,bmi1")]
    fn run(words: &[u64]) -> u64 {
        let mut sum = 0u64;
        for _ in 0..60 {
            for (n, word) in words.iter().enumerate() {
                let mut word = *word ^ sum >> 60;
                sum += u64::from(word.count_ones() * word.leading_zeros() + word.trailing_zeros());
                word &= word.wrapping_sub(1);
                sum = sum.rotate_left(1) ^ (!word & n as u64);
            }
        }
        sum
    }
    let mut numbers = Numbers::new(91);
    let words: Vec<u64> = (0..10_000).map(|n| numbers.next() >> (n % 60)).collect();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&words) })
}

fn moved() -> Unit {
    use std::arch::x86_64::{_bzhi_u64, _mulx_u64, _pdep_u64, _pext_u64};
    #[target_feature(enable = "bmi2")]
    fn run(words: &[u64]) -> u64 {
        let mut sum = 0u64;
        for round in 0..40 {
            for word in words {
                let mask = word.rotate_right(19) | 0xff;
                let mut high = 0;
                let low = _mulx_u64(_pdep_u64(sum, mask), *word, &mut high);
                sum = low ^ _pext_u64(high ^ word, mask).rotate_right(27) ^ _bzhi_u64(sum, 40 + round % 16);
            }
        }
        sum
    }
    let mut numbers = Numbers::new(92);
    let words: Vec<u64> = (0..10_000).map(|_| numbers.next()).collect();
    // SAFETY: the workload names what it needs.
    Box::new(move || unsafe { run(&words) })
}

fn tested() -> Unit {
    Box::new(|| {
        let mut words = [0u64; 16];
        let mut sum = 0;
        for n in 1..250_000u64 {
            let x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (word, out, carry): (u64, u64, u8);
            // SAFETY: registers only.
            unsafe {
                std::arch::asm!(
                    "bts {w}, {x}", "setc {c}", "btr {w}, {n}", "adc {c}, 0", "btc {w}, 7",
                    "mov {o}, {w}", "shld {o}, {x}, 13", "bswap {o}", "bsf {t}, {x}", "add {o}, {t}",
                    "cmp {o}, {x}", "cmova {o}, {w}", "bsr {t}, {x}", "xor {o}, {t}", "shrd {o}, {x}, 5",
                    w = inout(reg) words[n as usize & 15] => word, x = in(reg) x, n = in(reg) n,
                    o = out(reg) out, c = out(reg_byte) carry, t = out(reg) _,
                );
            }
            words[n as usize & 15] = word;
            sum = mix(sum, out ^ u64::from(carry));
        }
        sum
    })
}

fn partial() -> Unit {
    Box::new(|| {
        let mut a = 0x1234_5678u64;
        // SAFETY: registers only.
        unsafe {
            std::arch::asm!(
                "2:", "add al, ah", "adc ah, cl", "rcl ax, 3", "xor dl, al", "movzx edx, dx", "rcr al, 1",
                "movsx edx, al", "sbb dx, 5", "sar dx, 1", "add eax, edx", "xchg al, ah", "dec ecx", "jnz 2b",
                inout("rax") a, inout("ecx") 300_000 => _, inout("edx") 0 => _,
            );
        }
        a & 0xffff_ffff
    })
}

//! Text: characters, numbers as digits, codes of bytes.

use std::fmt::Write;

use crate::workload::{Numbers, Unit, Workload, mix, mix_bytes, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("utf-8", "checks and decodes 300 KiB of UTF-8 in four lengths", utf8),
    Workload::new("base64", "codes 300 KiB in base 64 and back", base64),
    Workload::new("format", "formats 12,000 records of numbers and text", format),
    Workload::new("parse-numbers", "reads 30,000 decimal numbers", parse),
    Workload::new("upper-case", "words to upper case, reversed, joined: 500 KiB", upper),
];

fn utf8() -> Unit {
    let mut numbers = Numbers::new(71);
    let mut source = String::new();
    while source.len() < 300 << 10 {
        let c = match numbers.below(8) {
            0..4 => 0x61 + numbers.below(26) as u32,
            4..6 => 0xc0 + numbers.below(0x300) as u32,
            6 => 0x4e00 + numbers.below(0x4000) as u32,
            _ => 0x1f300 + numbers.below(0x200) as u32,
        };
        source.push(char::from_u32(c).expect("a character"));
    }
    let bytes = source.into_bytes();
    Box::new(move || {
        let text = std::str::from_utf8(&bytes).expect("valid");
        text.chars().fold(0, |sum, c| mix(sum, c as u64))
    })
}

fn base64() -> Unit {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let input = Numbers::new(72).bytes(300 << 10);
    let mut back = [0u8; 256];
    for (n, letter) in LETTERS.iter().enumerate() {
        back[usize::from(*letter)] = n as u8;
    }
    Box::new(move || {
        let mut coded = Vec::with_capacity(input.len() * 4 / 3 + 4);
        for three in input.chunks_exact(3) {
            let word = u32::from_be_bytes([0, three[0], three[1], three[2]]);
            coded.extend([18, 12, 6, 0].map(|shift| LETTERS[(word >> shift & 63) as usize]));
        }
        let mut decoded = Vec::with_capacity(input.len());
        for four in coded.chunks_exact(4) {
            let word = four.iter().fold(0u32, |word, c| word << 6 | u32::from(back[usize::from(*c)]));
            decoded.extend_from_slice(&word.to_be_bytes()[1..]);
        }
        assert!(decoded == input);
        mix_bytes(0, &coded[..1000])
    })
}

fn format() -> Unit {
    Box::new(|| {
        let mut out = String::new();
        for n in 0..12_000u32 {
            let x = n.wrapping_mul(2_654_435_761);
            writeln!(out, "{n:>6} {x:#010x} {:<8}|{:e}", x % 1000, f64::from(x) / 256.0).expect("a string");
        }
        mix_bytes(0, out.as_bytes())
    })
}

fn parse() -> Unit {
    let mut numbers = Numbers::new(73);
    let text: Vec<String> = (0..30_000).map(|n| (numbers.next() >> (n % 50 + 5)).to_string()).collect();
    let text = text.join(",");
    Box::new(move || text.split(',').fold(0, |sum, word| mix(sum, word.parse().expect("a number"))))
}

fn upper() -> Unit {
    let text = String::from_utf8(text(500 << 10)).expect("letters only");
    Box::new(move || {
        let words: Vec<String> = text.lines().rev().map(str::to_uppercase).collect();
        let joined = words.join("; ");
        let swapped: Vec<u8> = joined.bytes().rev().map(|b| b ^ 0x20).collect();
        mix_bytes(0, &swapped)
    })
}

//! Finding strings.

use std::hint::black_box;

use crate::workload::{Unit, Workload, mix, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("find-naive", "finds a word in 400 KiB, comparing at every place", naive),
    Workload::new("find-skip", "finds a phrase in 1 MiB by Horspool's method", skip),
    Workload::new("find-library", "finds words in 1 MiB by the standard library", library),
    Workload::new("binary-search", "200,000 binary searches in 64 KiB of numbers", binary),
];

fn naive() -> Unit {
    let text = text(400 << 10);
    Box::new(move || {
        let word = black_box(b"eteo");
        (0..text.len() - word.len()).fold(0, |sum, at| {
            let same = word.iter().zip(&text[at..]).take_while(|(a, b)| a == b).count();
            if same == word.len() { mix(sum, at as u64) } else { sum + (same == 3) as u64 }
        })
    })
}

fn skip() -> Unit {
    let text = text(1 << 20);
    let phrase = text[700_000..700_016].to_vec();
    Box::new(move || {
        let last = phrase.len() - 1;
        let mut shifts = [phrase.len(); 256];
        for (n, b) in phrase[..last].iter().enumerate() {
            shifts[usize::from(*b)] = last - n;
        }
        let (mut at, mut found) = (0, 0);
        while at + last < text.len() {
            if text[at..].starts_with(&phrase) {
                found = mix(found, at as u64);
            }
            at += shifts[usize::from(text[at + last])];
        }
        found
    })
}

fn library() -> Unit {
    let text = String::from_utf8(text(1 << 20)).expect("letters only");
    Box::new(move || ["zq", "ete", "a\n", "osa e"].iter().map(|word| text.matches(word).count() as u64).fold(0, mix))
}

fn binary() -> Unit {
    let list: Vec<u64> = (0..8_192).map(|n: u64| n * n % 8_191 + n * 16).collect();
    let mut list = list;
    list.sort_unstable();
    Box::new(move || {
        (0..200_000u64).fold(0, |sum, n| {
            let wanted = n.wrapping_mul(0x9e37_79b9) % 140_000;
            let (mut low, mut high) = (0, list.len());
            while low < high {
                let middle = (low + high) / 2;
                if list[middle] < wanted { low = middle + 1 } else { high = middle }
            }
            sum.rotate_left(3) ^ low as u64
        })
    })
}

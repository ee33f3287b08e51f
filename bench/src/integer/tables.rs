//! Tables and trees of the standard library.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::workload::{Numbers, Unit, Workload, mix, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("hash-table-large", "60,000 look-ups in a hash table of 9 MiB", large),
    Workload::new("hash-table-words", "counts the words of 256 KiB of text", words),
    Workload::new("open-addressing", "a table of 64-bit keys with linear probing, 200,000 insertions", probing),
    Workload::new("b-tree", "inserts 12,000 keys into a B-tree, walks and empties it", b_tree),
    Workload::new("queue", "a ring buffer and a bit set: primes by wheels", queue),
];

type Hasher = BuildHasherDefault<DefaultHasher>;

fn large() -> Unit {
    let mut numbers = Numbers::new(21);
    let mut table: HashMap<u64, u64, Hasher> = HashMap::default();
    let keys: Vec<u64> = (0..400_000).map(|_| numbers.next()).collect();
    for (n, key) in (0..).zip(&keys) {
        table.insert(*key, n);
    }
    Box::new(move || {
        let mut numbers = Numbers::new(22);
        (0..60_000).fold(0, |sum, _| {
            let key = keys[numbers.below(keys.len() as u64) as usize] ^ (numbers.next() >> 63);
            mix(sum, table.get(&key).copied().unwrap_or(1))
        })
    })
}

fn words() -> Unit {
    let text = String::from_utf8(text(256 << 10)).expect("letters only");
    Box::new(move || {
        let mut counts: HashMap<&str, u64, Hasher> = HashMap::default();
        for word in text.split_ascii_whitespace() {
            *counts.entry(word).or_default() += 1;
        }
        let mut list: Vec<_> = counts.into_iter().collect();
        list.sort_unstable();
        list.iter().fold(0, |sum, (word, count)| mix(sum, count << 8 | word.len() as u64))
    })
}

fn probing() -> Unit {
    let mut table = vec![0u64; 1 << 19];
    Box::new(move || {
        table.fill(0);
        let mut steps = 0;
        for n in 1..=200_000u64 {
            let key = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            let mut at = (key >> 45) as usize ^ (n as usize & 0xfff);
            while table[at & 0x7_ffff] != 0 {
                at += 1;
                steps += 1;
            }
            table[at & 0x7_ffff] = key;
        }
        steps
    })
}

fn b_tree() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(23);
        let mut tree = BTreeMap::new();
        for n in 0..12_000u64 {
            tree.insert(numbers.next() >> 20, n);
        }
        let sum = tree.range(1 << 20..).step_by(3).fold(0, |sum, (key, value)| mix(sum, key ^ value));
        let mut odd = 0;
        while let Some((key, _)) = tree.pop_first() {
            odd += key & 1;
        }
        mix(sum, odd)
    })
}

fn queue() -> Unit {
    Box::new(|| {
        let mut queue: VecDeque<u32> = (0..5_000).collect();
        let mut sum = 0;
        for round in 0..300_000u32 {
            let Some(x) = queue.pop_front() else { break };
            if x.wrapping_mul(round | 1) & 0x400 == 0 {
                queue.push_front(x >> 1);
                queue.rotate_left(1);
            } else {
                queue.push_back(x.wrapping_mul(5) ^ round);
            }
            sum = mix(sum, u64::from(x));
        }
        sum
    })
}

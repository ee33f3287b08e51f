//! Sorting.

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("quicksort", "quicksort of 50,000 32-bit numbers, written out", quicksort),
    Workload::new("sort-strings", "the standard library's stable sort of 8,000 strings", strings),
    Workload::new("heapsort", "heapsort of 30,000 64-bit numbers", heapsort),
    Workload::new("radix-sort", "radix sort of 100,000 numbers, a byte at a time", radix),
];

fn quick(data: &mut [u32]) {
    if data.len() <= 12 {
        for i in 1..data.len() {
            let mut j = i;
            while j > 0 && data[j - 1] > data[j] {
                data.swap(j - 1, j);
                j -= 1;
            }
        }
        return;
    }
    let (a, b, c) = (data[0], data[data.len() / 2], data[data.len() - 1]);
    let pivot = a.max(b).min(a.min(b).max(c));
    let (mut low, mut high) = (0, data.len() - 1);
    loop {
        while data[low] < pivot {
            low += 1;
        }
        while data[high] > pivot {
            high -= 1;
        }
        if low >= high {
            break;
        }
        data.swap(low, high);
        low += 1;
        high -= 1;
    }
    let (left, right) = data.split_at_mut(low);
    quick(left);
    quick(right);
}

fn sampled(sum: u64, data: &[u32]) -> u64 {
    assert!(data.is_sorted());
    data.iter().step_by(97).fold(sum, |sum, x| mix(sum, u64::from(*x)))
}

fn quicksort() -> Unit {
    let mut numbers = Numbers::new(1);
    let source: Vec<u32> = (0..50_000).map(|_| numbers.next() as u32).collect();
    let mut data = source.clone();
    Box::new(move || {
        data.copy_from_slice(&source);
        quick(&mut data);
        sampled(0, &data)
    })
}

fn strings() -> Unit {
    let mut numbers = Numbers::new(2);
    let source: Vec<String> =
        (0..8_000).map(|_| format!("{:x}-{}", numbers.below(500), numbers.below(1_000_000))).collect();
    Box::new(move || {
        let mut data: Vec<&str> = source.iter().map(String::as_str).collect();
        data.sort();
        data.iter().step_by(31).fold(0, |sum, s| s.bytes().fold(sum, |sum, b| mix(sum, u64::from(b))))
    })
}

fn heapsort() -> Unit {
    let mut numbers = Numbers::new(3);
    let source: Vec<u64> = (0..30_000).map(|_| numbers.next()).collect();
    Box::new(move || {
        let mut data = source.clone();
        let down = |data: &mut [u64], mut at: usize| {
            while 2 * at + 1 < data.len() {
                let mut child = 2 * at + 1;
                if child + 1 < data.len() && data[child + 1] > data[child] {
                    child += 1;
                }
                if data[at] >= data[child] {
                    break;
                }
                data.swap(at, child);
                at = child;
            }
        };
        for at in (0..data.len() / 2).rev() {
            down(&mut data, at);
        }
        for end in (1..data.len()).rev() {
            data.swap(0, end);
            down(&mut data[..end], 0);
        }
        assert!(data.is_sorted());
        data.iter().step_by(101).fold(0, |sum, x| mix(sum, *x))
    })
}

fn radix() -> Unit {
    let mut numbers = Numbers::new(4);
    let source: Vec<u32> = (0..100_000).map(|_| numbers.next() as u32).collect();
    let mut other = vec![0; source.len()];
    let mut data = source.clone();
    Box::new(move || {
        data.copy_from_slice(&source);
        for shift in [0, 8, 16, 24] {
            let mut starts = [0usize; 257];
            for x in &data {
                starts[(x >> shift & 0xff) as usize + 1] += 1;
            }
            for i in 0..256 {
                starts[i + 1] += starts[i];
            }
            for x in &data {
                let bucket = (x >> shift & 0xff) as usize;
                other[starts[bucket]] = *x;
                starts[bucket] += 1;
            }
            std::mem::swap(&mut data, &mut other);
        }
        sampled(0, &data)
    })
}

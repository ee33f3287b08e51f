//! Memory that is allocated, linked and followed.

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("pointer-chase", "60,000 steps along a random circle through 8 MiB", chase),
    Workload::new("linked-list", "builds, reverses and sums a list of 30,000 boxes", list),
    Workload::new("binary-trees", "builds and drops trees of boxes, 60,000 nodes", trees),
    Workload::new("allocate", "100,000 allocations of mixed sizes, freed out of order", allocate),
];

fn chase() -> Unit {
    const LEN: usize = 1 << 17;
    #[derive(Clone, Copy)]
    struct Line {
        next: usize,
        _rest: [u64; 7],
    }
    let mut order: Vec<usize> = (0..LEN).collect();
    let mut numbers = Numbers::new(31);
    for i in (1..LEN).rev() {
        order.swap(i, numbers.below(i as u64 + 1) as usize);
    }
    let mut lines = vec![Line { next: 0, _rest: [0; 7] }; LEN];
    for i in 0..LEN {
        lines[order[i]].next = order[(i + 1) % LEN];
    }
    Box::new(move || {
        let mut at = 0;
        for _ in 0..60_000 {
            at = lines[at].next;
        }
        at as u64
    })
}

fn list() -> Unit {
    struct Node {
        value: u64,
        next: Option<Box<Node>>,
    }
    Box::new(|| {
        let mut head = None;
        for value in 0..30_000 {
            head = Some(Box::new(Node { value, next: head }));
        }
        let mut reversed = None;
        while let Some(mut node) = head {
            head = node.next.take();
            node.next = reversed;
            reversed = Some(node);
        }
        let (mut sum, mut at) = (0, reversed.as_ref());
        while let Some(node) = at {
            sum = mix(sum, node.value);
            at = node.next.as_ref();
        }
        // Node by node: dropped as a whole it would take a deep stack.
        while let Some(node) = reversed {
            reversed = node.next;
        }
        sum
    })
}

#[derive(Default)]
struct Tree(Option<Box<[Tree; 2]>>);

fn grow(depth: u32) -> Tree {
    if depth == 0 { Tree(None) } else { Tree(Some(Box::new([grow(depth - 1), grow(depth - 1)]))) }
}

fn count(tree: &Tree) -> u64 {
    tree.0.as_ref().map_or(1, |both| 1 + count(&both[0]) + count(&both[1]))
}

fn trees() -> Unit {
    Box::new(|| {
        let long = grow(13);
        (4..12).map(|depth| (0..(1 << (11 - depth))).map(|_| count(&grow(depth))).sum::<u64>()).sum::<u64>()
            + count(&long)
    })
}

fn allocate() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(32);
        let mut kept: Vec<Vec<u8>> = vec![Vec::new(); 1000];
        let mut sum = 0;
        for n in 0..100_000u64 {
            let slot = numbers.below(1000) as usize;
            let size = 8 + numbers.below(if n % 50 == 0 { 20_000 } else { 400 }) as usize;
            let mut new = Vec::with_capacity(size);
            new.push(n as u8);
            sum += kept[slot].first().map_or(0, |b| u64::from(*b)) + size as u64;
            kept[slot] = new;
        }
        sum
    })
}

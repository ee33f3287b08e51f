//! Graphs and tables of partial results.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::workload::{Numbers, Unit, Workload, mix, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("shortest-paths", "Dijkstra's algorithm on 6,000 nodes with a heap", dijkstra),
    Workload::new("flood", "breadth-first search through a maze of 256 by 256", flood),
    Workload::new("edit-distance", "Levenshtein's distance of two texts of 1,200 letters", distance),
    Workload::new("knapsack", "the best filling of a bag of 20,000, of 60 things", knapsack),
    Workload::new("life", "Conway's game of life, 128 by 128, 30 generations", life),
];

fn dijkstra() -> Unit {
    let mut numbers = Numbers::new(41);
    let edges: Vec<Vec<(usize, u64)>> = (0..6_000)
        .map(|_| (0..5).map(|_| (numbers.below(6_000) as usize, 1 + numbers.below(1000))).collect())
        .collect();
    Box::new(move || {
        let mut best = vec![u64::MAX; edges.len()];
        let mut heap = BinaryHeap::from([(Reverse(0), 0)]);
        best[0] = 0;
        while let Some((Reverse(far), node)) = heap.pop() {
            if far > best[node] {
                continue;
            }
            for (to, cost) in &edges[node] {
                if far + cost < best[*to] {
                    best[*to] = far + cost;
                    heap.push((Reverse(far + cost), *to));
                }
            }
        }
        best.iter().fold(0, |sum, x| mix(sum, *x))
    })
}

fn flood() -> Unit {
    const SIDE: usize = 256;
    let mut numbers = Numbers::new(42);
    let wall: Vec<bool> = (0..SIDE * SIDE).map(|n| n > 0 && numbers.below(100) < 32).collect();
    Box::new(move || {
        let mut far = vec![u32::MAX; SIDE * SIDE];
        let mut queue = vec![0];
        far[0] = 0;
        let mut at = 0;
        while at < queue.len() {
            let here = queue[at];
            at += 1;
            let (x, y) = (here % SIDE, here / SIDE);
            for (dx, dy) in [(0, 1), (1, 0), (0, SIDE - 1), (SIDE - 1, 0)] {
                let to = (y + dy) % SIDE * SIDE + (x + dx) % SIDE;
                if !wall[to] && far[to] == u32::MAX {
                    far[to] = far[here] + 1;
                    queue.push(to);
                }
            }
        }
        queue.iter().fold(0, |sum, n| mix(sum, u64::from(far[*n])))
    })
}

fn distance() -> Unit {
    let both = text(2_400);
    Box::new(move || {
        let (a, b) = both.split_at(1_200);
        let mut row: Vec<u32> = (0..=b.len() as u32).collect();
        for (i, x) in a.iter().enumerate() {
            let mut corner = row[0];
            row[0] = i as u32 + 1;
            for (j, y) in b.iter().enumerate() {
                let changed = corner + u32::from(x != y);
                corner = row[j + 1];
                row[j + 1] = changed.min(row[j] + 1).min(corner + 1);
            }
        }
        u64::from(row[b.len()])
    })
}

fn knapsack() -> Unit {
    let mut numbers = Numbers::new(43);
    let things: Vec<(usize, u32)> =
        (0..60).map(|_| (100 + numbers.below(900) as usize, 10 + numbers.below(500) as u32)).collect();
    Box::new(move || {
        let mut best = vec![0u32; 20_001];
        for (weight, value) in &things {
            for room in (*weight..best.len()).rev() {
                best[room] = best[room].max(best[room - weight] + value);
            }
        }
        best.iter().step_by(50).fold(0, |sum, x| mix(sum, u64::from(*x)))
    })
}

fn life() -> Unit {
    const SIDE: usize = 128;
    Box::new(|| {
        let mut numbers = Numbers::new(44);
        let mut cells: Vec<u8> = (0..SIDE * SIDE).map(|_| (numbers.below(3) == 0) as u8).collect();
        for _ in 0..30 {
            let mut next = vec![0; cells.len()];
            for y in 0..SIDE {
                for x in 0..SIDE {
                    let mut around = 0;
                    for dy in [SIDE - 1, 0, 1] {
                        for dx in [SIDE - 1, 0, 1] {
                            around += cells[(y + dy) % SIDE * SIDE + (x + dx) % SIDE];
                        }
                    }
                    let here = cells[y * SIDE + x];
                    next[y * SIDE + x] = u8::from(around == 3 || around == 4 && here == 1);
                }
            }
            cells = next;
        }
        cells.iter().fold(0, |sum, x| mix(sum, u64::from(*x)))
    })
}

//! Recursion and backtracking.

use std::hint::black_box;

use crate::workload::Workload;

pub(super) const ALL: &[Workload] = &[
    Workload::new("fibonacci", "the 27th Fibonacci number by recursion", || Box::new(|| fibonacci(black_box(27)))),
    Workload::new("ackermann", "Ackermann's function of 2 and 400", || Box::new(|| ackermann(2, black_box(400)))),
    Workload::new("queens", "all ways to place 9 queens", || Box::new(|| queens(black_box(9), 0, 0, 0, 0))),
    Workload::new("permutations", "all orders of 9 things, by exchange", || {
        Box::new(|| permute(&mut black_box([1, 2, 3, 4, 5, 6, 7, 8, 9]), 0))
    }),
    Workload::new("tak", "Takeuchi's function of 16, 10 and 4", || Box::new(|| tak(black_box(16), 10, 4) as u64)),
];

fn fibonacci(n: u64) -> u64 {
    if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
}

fn ackermann(m: u64, n: u64) -> u64 {
    match (m, n) {
        (0, n) => n + 1,
        (m, 0) => ackermann(m - 1, 1),
        (m, n) => ackermann(m - 1, ackermann(m, n - 1)),
    }
}

fn queens(size: u32, row: u32, columns: u32, left: u32, right: u32) -> u64 {
    if row == size {
        return 1;
    }
    let mut free = ((1 << size) - 1) & !(columns | left | right);
    let mut found = 0;
    while free != 0 {
        let bit = free & free.wrapping_neg();
        free ^= bit;
        found += queens(size, row + 1, columns | bit, (left | bit) << 1, (right | bit) >> 1);
    }
    found
}

fn permute(items: &mut [u8; 9], at: usize) -> u64 {
    if at == 9 {
        return u64::from(items[0] ^ items[8]);
    }
    let mut sum = 0;
    for i in at..9 {
        items.swap(at, i);
        sum = u64::wrapping_mul(sum, 3).wrapping_add(permute(items, at + 1));
        items.swap(at, i);
    }
    sum
}

fn tak(x: i32, y: i32, z: i32) -> i32 {
    if y >= x { z } else { tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y)) }
}

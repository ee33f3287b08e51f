//! Calls whose target is known only when they are made.

use std::hint::black_box;

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("virtual-calls", "600,000 calls of trait objects of 8 types in random order", virtual_calls),
    Workload::new("function-pointers", "chains of 12 functions by pointer, 80,000 times", pointers),
    Workload::new("closures", "iterators over boxed closures that call closures", closures),
    Workload::new("call-return", "2 million calls of small functions that are not inlined", calls),
];

trait Shape {
    fn area(&self, scale: u64) -> u64;
    fn grow(&mut self, by: u64);
}

struct Form<const KIND: u64>(u64, u64);

impl<const KIND: u64> Shape for Form<KIND> {
    #[inline(never)]
    fn area(&self, scale: u64) -> u64 {
        self.0.wrapping_mul(KIND * 2 + 1).wrapping_add(self.1 >> KIND) ^ scale
    }

    #[inline(never)]
    fn grow(&mut self, by: u64) {
        self.0 = self.0.wrapping_add(by | KIND);
    }
}

fn virtual_calls() -> Unit {
    let mut numbers = Numbers::new(11);
    let kinds: Vec<u64> = (0..3_000).map(|_| numbers.below(8)).collect();
    Box::new(move || {
        let mut shapes: Vec<Box<dyn Shape>> = kinds
            .iter()
            .zip(0u64..)
            .map(|(kind, n)| -> Box<dyn Shape> {
                match kind {
                    0 => Box::new(Form::<0>(n, n * 3)),
                    1 => Box::new(Form::<1>(n, n * 5)),
                    2 => Box::new(Form::<2>(n, n * 7)),
                    3 => Box::new(Form::<3>(n, n * 9)),
                    4 => Box::new(Form::<4>(n, n * 11)),
                    5 => Box::new(Form::<5>(n, n * 13)),
                    6 => Box::new(Form::<6>(n, n * 15)),
                    _ => Box::new(Form::<7>(n, n * 17)),
                }
            })
            .collect();
        let mut sum = 0;
        for round in 0..100 {
            for shape in &mut shapes {
                sum = mix(sum, shape.area(round));
                shape.grow(sum & 7);
            }
        }
        sum
    })
}

type Step = fn(u64) -> u64;

fn pointers() -> Unit {
    let steps: [Step; 4] =
        [|x| x.wrapping_mul(3), |x| x ^ x >> 7, |x| x.rotate_left(9), |x| x.wrapping_add(0x1234_5678_9abc)];
    let chain: Vec<Step> = (0..12).map(|n| steps[(n * 7 + n / 3) % 4]).collect();
    Box::new(move || (0..80_000).fold(1, |x, n| black_box(&chain).iter().fold(x ^ n, |x, step| step(x))))
}

fn closures() -> Unit {
    type Filter = Box<dyn Fn(u64) -> Option<u64>>;
    let filters: Vec<Filter> = vec![
        Box::new(|x| (x % 3 != 0).then_some(x + 1)),
        Box::new(|x| Some(x ^ 0x55)),
        Box::new(|x| (x & 31 != 7).then(|| x.wrapping_mul(17))),
        Box::new(|x| x.checked_sub(3)),
    ];
    let iterator = move || -> Box<dyn Iterator<Item = u64>> { Box::new((0..60_000u64).map(|x| x.wrapping_mul(77))) };
    Box::new(move || {
        let kept = iterator().filter_map(|x| filters.iter().try_fold(x, |x, filter| filter(x)));
        kept.fold(0, mix)
    })
}

#[inline(never)]
fn leaf(a: u64, b: u64) -> u64 {
    black_box(a) ^ b << 1
}

#[inline(never)]
fn middle(a: u64, b: u64, c: u64) -> u64 {
    leaf(a, b).wrapping_add(leaf(b, c)).wrapping_add(leaf(c, a))
}

fn calls() -> Unit {
    Box::new(|| (0..500_000).fold(0, |sum: u64, n| sum.rotate_left(1) ^ middle(n, sum, n * 3)))
}

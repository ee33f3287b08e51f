//! Functions of the C library's mathematics. Their last bits may depend on the CPU, so sums are rounded.

use std::hint::black_box;

use crate::workload::{Unit, Workload, rounded};

pub(super) const ALL: &[Workload] = &[
    Workload::new("sine", "sine, cosine and tangent of 60,000 angles", || {
        over(60_000, |x| x.sin() + (x * 3.0).cos() + (x * 0.01).tan())
    }),
    Workload::new("exponential", "exponential function, logarithm and power, 60,000 times", || {
        over(60_000, |x| (-x * 1e-3).exp() + x.ln() + x.powf(0.37))
    }),
    Workload::new("hyperbolic", "hyperbolic and inverse functions, 30,000 times", || {
        over(30_000, |x| (x * 1e-4).sinh() + (x * 1e-3).tanh() + (1.0 / x).asin() + x.atan2(7.0))
    }),
    Workload::new("finance", "prices of 20,000 options (Black and Scholes)", || {
        over(20_000, |x| {
            let (price, strike, time) = (80.0 + x * 1e-3, 100.0, 0.5 + x * 1e-5);
            let spread = 0.3 * f64::sqrt(time);
            let d = (f64::ln(price / strike) + (0.02 + 0.045) * time) / spread;
            let normal = |x: f64| {
                let t = 1.0 / (1.0 + 0.2316419 * x.abs());
                let tail =
                    (-x * x / 2.0).exp() * 0.398_942_3 * t * (0.319_381_5 + t * (-0.356_563_8 + t * 1.781_477_9));
                if x > 0.0 { 1.0 - tail } else { tail }
            };
            price * normal(d) - strike * (-0.02 * time).exp() * normal(d - spread)
        })
    }),
    Workload::new("rounding", "floor, ceil, remainders, fractions of 100,000 numbers", || {
        over(100_000, |x| (x * 0.77).floor() + (x * 0.33).ceil() + x % 7.3 + (x * 1.1).fract() + (x / 3.0).round())
    }),
];

fn over(count: u32, f: impl Fn(f64) -> f64 + 'static) -> Unit {
    Box::new(move || {
        let mut state = 12_345u32;
        let sum: f64 = (0..count)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                f(black_box(1.0 + f64::from(state >> 12) / 4096.0))
            })
            .sum();
        rounded(sum, 256.0)
    })
}

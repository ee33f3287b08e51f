//! Scalar arithmetic in double precision: bodies, fractals, rays, finance.

use std::hint::black_box;

use crate::workload::{Numbers, Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("n-body", "five planets, 40,000 steps", n_body),
    Workload::new("mandelbrot", "the Mandelbrot set, 128 by 96 points, 200 rounds", mandelbrot),
    Workload::new("rays", "rays and 24 balls: roots, comparisons, branches", rays),
    Workload::new("monte-carlo", "pi by a million random points", monte_carlo),
    Workload::new("square-roots", "chains of square roots and divisions", roots),
    Workload::new("single", "chains of single-precision sums, products and divisions", single),
];

#[derive(Clone, Copy)]
struct Body {
    at: [f64; 3],
    speed: [f64; 3],
    mass: f64,
}

fn n_body() -> Unit {
    let mut numbers = Numbers::new(1);
    let mut place = |scale: f64| [(); 3].map(|()| (numbers.unit() - 0.5) * scale);
    let start: Vec<Body> =
        (0..5).map(|n| Body { at: place(30.0), speed: place(1.0), mass: 1.0 / f64::from(1 + n * n) }).collect();
    Box::new(move || {
        let mut bodies = start.clone();
        for _ in 0..40_000 {
            for i in 0..bodies.len() {
                for j in i + 1..bodies.len() {
                    let (a, b) = (bodies[i], bodies[j]);
                    let d = [a.at[0] - b.at[0], a.at[1] - b.at[1], a.at[2] - b.at[2]];
                    let square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2] + 0.01;
                    let pull = 0.001 / (square * square.sqrt());
                    for k in 0..3 {
                        bodies[i].speed[k] -= d[k] * b.mass * pull;
                        bodies[j].speed[k] += d[k] * a.mass * pull;
                    }
                }
            }
            for body in &mut bodies {
                for k in 0..3 {
                    body.at[k] += 0.001 * body.speed[k];
                }
            }
        }
        bodies.iter().flat_map(|b| b.at).fold(0, |sum, x| mix(sum, x.to_bits()))
    })
}

fn mandelbrot() -> Unit {
    Box::new(|| {
        let mut sum = 0;
        for y in 0..96 {
            for x in 0..128 {
                let (cx, cy) = (f64::from(x) / 48.0 - 2.0, f64::from(y) / 48.0 - 1.0);
                let (mut a, mut b, mut n) = (0.0, 0.0, 0);
                while a * a + b * b < 4.0 && n < 200 {
                    (a, b) = (a * a - b * b + cx, 2.0 * a * b + cy);
                    n += 1;
                }
                sum = mix(sum, n);
            }
        }
        sum
    })
}

fn rays() -> Unit {
    type Point = [f64; 3];
    let dot = |a: Point, b: Point| a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    let mut numbers = Numbers::new(2);
    let balls: Vec<(Point, f64)> = (0..24)
        .map(|_| {
            ([numbers.unit() * 8.0 - 4.0, numbers.unit() * 8.0 - 4.0, 4.0 + numbers.unit() * 9.0], 0.3 + numbers.unit())
        })
        .collect();
    Box::new(move || {
        let mut sum = 0;
        for pixel in 0..96 * 96 {
            let (x, y) = (f64::from(pixel % 96) / 48.0 - 1.0, f64::from(pixel / 96) / 48.0 - 1.0);
            let length = (x * x + y * y + 1.0).sqrt();
            let mut way = [x / length, y / length, 1.0 / length];
            let mut from = [0.0; 3];
            let mut light = 1.0;
            for _ in 0..3 {
                let mut nearest: Option<(f64, usize)> = None;
                for (n, (center, radius)) in balls.iter().enumerate() {
                    let to = [center[0] - from[0], center[1] - from[1], center[2] - from[2]];
                    let along = dot(to, way);
                    let off = dot(to, to) - along * along;
                    if along > 0.001 && off < radius * radius {
                        let t = along - (radius * radius - off).sqrt();
                        if t > 0.001 && nearest.is_none_or(|(best, _)| t < best) {
                            nearest = Some((t, n));
                        }
                    }
                }
                let Some((t, n)) = nearest else { break };
                let (center, radius) = balls[n];
                let hit = [from[0] + way[0] * t, from[1] + way[1] * t, from[2] + way[2] * t];
                let normal = [0, 1, 2].map(|k| (hit[k] - center[k]) / radius);
                let turn = 2.0 * dot(way, normal);
                way = [0, 1, 2].map(|k| way[k] - normal[k] * turn);
                (from, light) = (hit, light * 0.7 * (1.0 - normal[1]) / 2.0);
            }
            sum = mix(sum, light.to_bits());
        }
        sum
    })
}

fn monte_carlo() -> Unit {
    Box::new(|| {
        let mut numbers = Numbers::new(3);
        let inside = (0..1_000_000).filter(|_| {
            let (x, y) = (numbers.unit(), numbers.unit());
            x * x + y * y <= 1.0
        });
        inside.count() as u64
    })
}

fn roots() -> Unit {
    Box::new(|| {
        let mut x = black_box(2.0f64);
        for n in 1..400_000 {
            x = (x + f64::from(n)).sqrt() + 3.0 / (x + 0.5);
        }
        x.to_bits()
    })
}

fn single() -> Unit {
    Box::new(|| {
        let mut x = black_box([1.5f32, 0.25, 3.0, 7.0]);
        for n in 1..300_000u32 {
            let y = n as f32;
            x[0] = x[0] * 0.75 + y.sqrt();
            x[1] = x[1] / 1.125 + x[0] - y;
            x[2] = if x[1] > x[2] { x[1] } else { x[2] * 0.5 };
            x[3] = (x[3] + x[2]).abs().min(9.0e6);
        }
        x.iter().fold(0, |sum, x| mix(sum, u64::from(x.to_bits())))
    })
}

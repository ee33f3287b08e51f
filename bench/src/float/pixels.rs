//! Pictures and sound, as compilers vectorise plain loops.

use crate::workload::{Numbers, Unit, Workload, mix_bytes};

pub(super) const ALL: &[Workload] = &[
    Workload::new("blur", "a picture of 320 by 240 blurred with whole numbers", blur),
    Workload::new("colours", "200,000 pixels from RGB to YUV and blended", colours),
    Workload::new("mix-sound", "eight tracks of 16-bit samples mixed with saturation", sound),
    Workload::new("histogram", "histograms, thresholds and levels of 300,000 pixels", histogram),
];

fn blur() -> Unit {
    const W: usize = 320;
    const H: usize = 240;
    let picture = Numbers::new(61).bytes(W * H);
    Box::new(move || {
        let mut rows = vec![0u16; W * H];
        for y in 0..H {
            let (from, to) = (&picture[y * W..][..W], &mut rows[y * W..][..W]);
            for x in 2..W - 2 {
                to[x] = [1u16, 4, 6, 4, 1].iter().zip(&from[x - 2..]).map(|(k, p)| k * u16::from(*p)).sum();
            }
        }
        let mut out = vec![0u8; W * H];
        for y in 2..H - 2 {
            for x in 0..W {
                let sum = [1u32, 4, 6, 4, 1].iter().enumerate().map(|(n, k)| k * u32::from(rows[(y + n - 2) * W + x]));
                out[y * W + x] = (sum.sum::<u32>() >> 8) as u8;
            }
        }
        mix_bytes(0, &out)
    })
}

fn colours() -> Unit {
    let pixels: Vec<[u8; 4]> = Numbers::new(62).bytes(800_000).chunks(4).map(|p| [p[0], p[1], p[2], p[3]]).collect();
    let mut out = vec![[0u8; 4]; pixels.len()];
    Box::new(move || {
        for (out, [r, g, b, a]) in out.iter_mut().zip(&pixels) {
            let [r, g, b, a] = [r, g, b, a].map(|x| i32::from(*x));
            let y = (66 * r + 129 * g + 25 * b + 4_224) >> 8;
            let u = (-38 * r - 74 * g + 112 * b + 32_896) >> 8;
            let v = (112 * r - 94 * g - 18 * b + 32_896) >> 8;
            let blend = |x: i32| ((x * a + 128 * (255 - a)) / 255) as u8;
            *out = [blend(y), blend(u), blend(v), a as u8];
        }
        mix_bytes(0, out[..4_096].as_flattened())
    })
}

fn sound() -> Unit {
    let mut numbers = Numbers::new(63);
    let tracks: Vec<Vec<i16>> = (0..8).map(|_| (0..48_000).map(|_| numbers.next() as i16).collect()).collect();
    let mut out = vec![0i16; 48_000];
    Box::new(move || {
        out.fill(0);
        for (n, track) in tracks.iter().enumerate() {
            let volume = 9_000 + 2_000 * n as i32;
            for (out, x) in out.iter_mut().zip(track) {
                *out = out.saturating_add((i32::from(*x) * volume >> 15) as i16);
            }
        }
        out.chunks(4)
            .fold(0, |sum, s| crate::workload::mix(sum, s.iter().fold(0, |sum, x| sum << 16 | *x as u16 as u64)))
    })
}

fn histogram() -> Unit {
    let pixels = Numbers::new(64).bytes(300_000);
    Box::new(move || {
        let mut counts = [0u32; 256];
        for p in &pixels {
            counts[usize::from(*p)] += 1;
        }
        let mut total = 0;
        let levels = counts.map(|n| {
            total += n;
            (u64::from(total) * 255 / pixels.len() as u64) as u8
        });
        let mut out: Vec<u8> = pixels.iter().map(|p| levels[usize::from(*p)]).collect();
        for p in &mut out {
            *p = if *p > 200 { 255 } else { p.saturating_sub(20) };
        }
        mix_bytes(0, &out)
    })
}

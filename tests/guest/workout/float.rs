//! Floating point: printing, edge cases, functions of the C library, rounding modes, and the x87 by hand.

use std::arch::asm;

use crate::{Digest, Numbers};

const EDGES: [f64; 20] = [
    0.0,
    -0.0,
    1.0,
    -1.5,
    0.1,
    1.0 / 3.0,
    std::f64::consts::PI,
    2.5,
    -3.5,
    1e-310,
    f64::MIN_POSITIVE,
    f64::MAX,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::NAN,
    9_007_199_254_740_993.0,
    1e22,
    123_456_789.123_456_79,
    -4_294_967_296.5,
    9.223_372_036_854_776e18,
];

pub fn run() {
    for x in EDGES {
        let f = x as f32;
        println!("{x} {x:e} {x:.3} {f} {f:e} {:016x} {:08x}", x.to_bits(), f.to_bits());
        println!("  {} {} {} {} {}", x as i64, x as u64, x as i32, f as u8, x.round());
        println!("  {} {} {} {:e}", x.floor(), x.ceil(), x.trunc(), x.sqrt());
        println!("  {:e} {:e} {:e} {:e}", x.sin(), x.cos(), x.exp(), x.abs().ln());
        println!("  {:e} {:e} {:e} {:e}", x.tan(), x.atan(), x.tanh(), x.cbrt());
    }
    let mut digest = Digest::new();
    for (i, a) in EDGES.iter().enumerate() {
        for b in &EDGES[i..] {
            for r in [a + b, a - b, a * b, a / b, a % b, a.min(*b), a.max(*b), a.powf(*b), a.hypot(*b)] {
                // The sign of a NaN that an operation makes is printed; its payload follows the operands.
                digest.add(&r.to_bits().to_le_bytes());
            }
            digest.add(&[u8::from(a < b), u8::from(a == b), u8::from(a >= b)]);
            digest.add(&((*a as f32) * (*b as f32)).to_bits().to_le_bytes());
            digest.add(&a.mul_add(*b, 0.5).to_bits().to_le_bytes());
        }
    }
    println!("pairs {:016x}", digest.value());
    let mut numbers = Numbers(77);
    let mut sum = 0.0;
    for _ in 0..2_000 {
        let x = f64::from_bits(numbers.next() & 0x803f_ffff_ffff_ffff | 0x3fc0_0000_0000_0000);
        sum += x.sin() * x.exp() / x.sqrt().max(0.25);
        let text = format!("{x:e}");
        assert_eq!(text.parse::<f64>().map(f64::to_bits), Ok(x.to_bits()));
        digest.add(text.as_bytes());
    }
    println!("sum {sum:e} digits {:016x}", digest.value());
    rounding();
}

/// Each rounding mode of MXCSR, flush-to-zero and the sticky flags.
fn rounding() {
    for mode in 0..4u32 {
        for flush in [0u32, 0x8000, 0x40, 0x8040] {
            let mxcsr = 0x1f80 | mode << 13 | flush;
            let (mut after, mut third, mut tiny, mut whole) = (0u32, 1.0f64, f64::MIN_POSITIVE, 0i64);
            let default = 0x1f80u32;
            // SAFETY: MXCSR is back at its default when the block ends.
            unsafe {
                asm!(
                    "ldmxcsr [{new}]",
                    "divsd {a}, {three}",
                    "mulsd {b}, {half}",
                    "cvtsd2si {whole}, {odd}",
                    "stmxcsr [{after}]",
                    "ldmxcsr [{default}]",
                    new = in(reg) &raw const mxcsr,
                    after = in(reg) &raw mut after,
                    default = in(reg) &raw const default,
                    a = inout(xmm_reg) third,
                    b = inout(xmm_reg) tiny,
                    three = in(xmm_reg) 3.0f64,
                    half = in(xmm_reg) 0.3f64,
                    odd = in(xmm_reg) -2.5f64,
                    whole = out(reg) whole,
                );
            }
            println!("round {mode} {flush:04x}: {:016x} {:016x} {whole} {after:04x}", third.to_bits(), tiny.to_bits());
            (third, tiny, whole) = (0.0, 0.0, 0);
            let _ = (third, tiny, whole);
        }
    }
}

/// What one x87 instruction leaves.
struct Left {
    value: [u8; 10],
    status: u16,
}

macro_rules! x87 {
    ($control:expr, $a:expr, $b:expr, $($op:literal),+) => {{
        let (control, default) = ($control, 0x37fu16);
        let (a, b): ([u8; 10], [u8; 10]) = ($a, $b);
        let mut left = Left { value: [0; 10], status: 0 };
        // SAFETY: the x87 stack is empty before and after; the control word is back at its default.
        unsafe {
            asm!(
                "fninit",
                "fldcw word ptr [{control}]",
                "fld tbyte ptr [{b}]",
                "fld tbyte ptr [{a}]",
                $($op,)+
                "fnstsw word ptr [{status}]",
                "fstp tbyte ptr [{value}]",
                "fninit",
                "fldcw word ptr [{default}]",
                control = in(reg) &raw const control,
                default = in(reg) &raw const default,
                a = in(reg) a.as_ptr(),
                b = in(reg) b.as_ptr(),
                value = in(reg) left.value.as_mut_ptr(),
                status = in(reg) &raw mut left.status,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        left
    }};
}

fn extended(x: f64) -> [u8; 10] {
    let mut out = [0; 10];
    // SAFETY: loads and stores exactly the two operands; the x87 stack is empty before and after.
    unsafe {
        asm!("fld qword ptr [{x}]", "fstp tbyte ptr [{out}]", x = in(reg) &raw const x, out = in(reg) out.as_mut_ptr(),
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _);
    }
    out
}

/// True 80-bit arithmetic in each precision and rounding of the control word, with the status words.
pub fn run_x87() {
    for x in EDGES {
        let line: Vec<String> = extended(x).iter().rev().map(|b| format!("{b:02x}")).collect();
        println!("tbyte {x:e} {}", line.concat());
    }
    for control in [0x37fu16, 0x07f, 0x27f, 0x77f, 0xb7f, 0xf7f] {
        let mut digest = Digest::new();
        let mut keep = |name: &str, show: bool, left: Left| {
            digest.add(&left.value);
            // The condition bits but C1 are undefined after most arithmetic instructions.
            let status = left.status & 0x3a7f;
            digest.add(&status.to_le_bytes());
            if show {
                let hex: Vec<String> = left.value.iter().rev().map(|b| format!("{b:02x}")).collect();
                println!("  {name} {} {status:04x}", hex.concat());
            }
        };
        println!("control {control:04x}");
        for (i, &x) in EDGES.iter().enumerate() {
            for (j, &y) in EDGES.iter().enumerate() {
                let (a, b) = (extended(x), extended(y));
                let show = i == 5 && j == 6;
                keep("add", show, x87!(control, a, b, "fadd st(0), st(1)"));
                keep("sub", show, x87!(control, a, b, "fsub st(0), st(1)"));
                keep("mul", show, x87!(control, a, b, "fmul st(0), st(1)"));
                keep("div", show, x87!(control, a, b, "fdiv st(0), st(1)"));
                keep("sqrt", show, x87!(control, a, b, "fsqrt"));
                keep("rndint", show, x87!(control, a, b, "frndint"));
                keep("prem", show, x87!(control, a, b, "fprem"));
                keep("prem1", show, x87!(control, a, b, "fprem1"));
                keep("scale", show, x87!(control, a, b, "fscale"));
                keep("abs", show, x87!(control, a, b, "fabs"));
                keep("chs", show, x87!(control, a, b, "fchs"));
                keep("extract", show, x87!(control, a, b, "fxtract", "fstp st(0)"));
            }
        }
        println!("  all {:016x}", digest.value());
    }
}

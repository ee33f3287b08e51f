//! The x87 unit: what `long double` and 32-bit programs use.

use std::arch::asm;

use crate::workload::{Unit, Workload, mix, rounded};

pub(super) const ALL: &[Workload] = &[
    Workload::new("x87-arithmetic", "sums, products, quotients and roots in extended precision", arithmetic),
    Workload::new("x87-memory", "a scalar product of doubles, FLD and FMUL from memory", memory),
    Workload::new("x87-sine", "FSIN, FCOS, FPTAN", || transcendental(sine, 20_000)),
    Workload::new("x87-logarithm", "FYL2X, F2XM1, FPATAN, FSCALE", || transcendental(logarithm, 20_000)),
    Workload::new("x87-integers", "FILD, FIST, FRNDINT, FPREM", integers),
    Workload::new("x87-compare", "FCOMI, FCMOV, FXCH, FTST and FNSTSW", compare),
];

fn arithmetic() -> Unit {
    Box::new(|| {
        let mut result = 0.0f64;
        // SAFETY: the code leaves the register stack as it was.
        unsafe {
            asm!(
                "fld1", "fld1",
                "2:", "fld st(0)", "fmul st(0), st(2)", "fadd st(0), st(1)", "fsqrt", "fxch st(2)", "fld1",
                "faddp st(1), st(0)", "fdivp st(1), st(0)", "fld1", "faddp st(1), st(0)", "dec ecx", "jnz 2b",
                "fstp qword ptr [{r}]", "fstp st(0)",
                r = in(reg) &raw mut result, inout("ecx") 150_000 => _,
                out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
            );
        }
        result.to_bits()
    })
}

fn memory() -> Unit {
    let a: Vec<f64> = (0..2_000).map(|n| f64::from(n) * 0.37 + 1.0).collect();
    let b: Vec<f64> = (0..2_000).map(|n| 1.0 / f64::from(n + 3)).collect();
    Box::new(move || {
        let mut result = 0.0f64;
        for _ in 0..150 {
            // SAFETY: both arrays have so many numbers; the code leaves the register stack as it was.
            unsafe {
                asm!(
                    "fld qword ptr [{r}]",
                    "2:", "fld qword ptr [{a} + rcx*8 - 8]", "fmul qword ptr [{b} + rcx*8 - 8]",
                    "faddp st(1), st(0)", "dec rcx", "jnz 2b",
                    "fstp qword ptr [{r}]",
                    r = in(reg) &raw mut result, a = in(reg) a.as_ptr(), b = in(reg) b.as_ptr(),
                    inout("rcx") a.len() => _,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
        }
        result.to_bits()
    })
}

/// The functions may differ in their last bits from one CPU to the other, so the sum is rounded.
fn transcendental(f: fn(f64) -> f64, count: u32) -> Unit {
    Box::new(move || {
        let sum: f64 = (0..count).map(|n| f(0.1 + f64::from(n % 1000) * 0.0007)).sum();
        rounded(sum, 4096.0)
    })
}

fn sine(x: f64) -> f64 {
    let mut value = x;
    // SAFETY: the code leaves the register stack as it was.
    unsafe {
        asm!(
            "fld qword ptr [{v}]", "fld st(0)", "fsin", "fld st(1)", "fcos", "faddp st(1), st(0)",
            "fxch st(1)", "fptan", "fmulp st(1), st(0)", "faddp st(1), st(0)", "fstp qword ptr [{v}]",
            v = in(reg) &raw mut value,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    value
}

fn logarithm(x: f64) -> f64 {
    let mut value = x;
    // SAFETY: the code leaves the register stack as it was.
    unsafe {
        asm!(
            "fld qword ptr [{v}]", "fld1", "fld st(1)", "fyl2x", "fld1", "fpatan",
            "fld st(1)", "f2xm1", "faddp st(1), st(0)",
            "fld1", "fxch st(1)", "fscale", "fstp st(1)", "faddp st(1), st(0)", "fstp qword ptr [{v}]",
            v = in(reg) &raw mut value,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    value
}

fn integers() -> Unit {
    Box::new(|| {
        let mut sum = 0;
        for n in 0..60_000i64 {
            let mut cells = [n * 7919 - 300_000, 0, 0];
            // SAFETY: three cells; the code leaves the register stack as it was.
            unsafe {
                asm!(
                    "fldpi", "fild qword ptr [{c}]", "fmul st(0), st(1)", "fld st(0)", "frndint",
                    "fistp qword ptr [{c} + 8]", "fprem", "fmul st(0), st(0)", "fistp dword ptr [{c} + 16]",
                    "fstp st(0)",
                    c = in(reg) cells.as_mut_ptr(),
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            sum = mix(sum, (cells[1] ^ cells[2] << 40) as u64);
        }
        sum
    })
}

fn compare() -> Unit {
    let values: Vec<f64> = (0..4_000).map(|n| f64::from(n * 7919 % 4_001) - 2_000.0).collect();
    Box::new(move || {
        let (mut sum, mut largest) = (0u64, 0.0f64);
        for _ in 0..20 {
            for value in &values {
                let status: u64;
                // SAFETY: the pointers are those of two numbers; the code leaves the register stack as it was.
                unsafe {
                    asm!(
                        "fld qword ptr [{l}]", "fld qword ptr [{v}]", "ftst", "fnstsw ax", "fcomi st(0), st(1)",
                        "fcmovb st(0), st(1)", "fxch st(1)", "fabs", "fcomip st(0), st(1)", "setb dl",
                        "fstp qword ptr [{l}]", "movzx eax, ax", "and eax, 0x4500", "movzx edx, dl", "add rax, rdx",
                        l = in(reg) &raw mut largest, v = in(reg) value, out("rax") status, out("rdx") _,
                        out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                        out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                    );
                }
                sum = mix(sum, status);
            }
            largest *= 0.5;
        }
        mix(sum, largest.to_bits())
    })
}

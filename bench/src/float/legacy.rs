//! MMX, and programs that switch the rounding of floating point.

use std::arch::asm;

use crate::workload::{Unit, Workload, mix};

pub(super) const ALL: &[Workload] = &[
    Workload::new("mmx", "PADDUSB, PMULLW, PMADDWD, PACKUSWB, PSRLQ on MMX registers", mmx),
    Workload::new("control-words", "LDMXCSR, STMXCSR, FLDCW and FNSTCW around conversions", control),
];

fn mmx() -> Unit {
    Box::new(|| {
        let mut cells = [0x0102_0304_0506_0708u64, 0x1122_3344_5566_7788, 0, 0];
        // SAFETY: four cells; EMMS gives the registers back.
        unsafe {
            asm!(
                "movq mm0, [{c}]", "movq mm1, [{c} + 8]", "pxor mm7, mm7",
                "2:", "movq mm2, mm0", "paddusb mm2, mm1", "punpcklbw mm2, mm7", "pmullw mm2, mm2", "movq mm3, mm2",
                "pmaddwd mm3, mm1", "psrlw mm2, 4", "packuswb mm2, mm3", "pxor mm0, mm2", "psrlq mm3, 9",
                "paddd mm1, mm3", "movq [{c} + 16], mm2", "pcmpgtb mm2, mm1", "psubb mm1, mm2", "dec ecx", "jnz 2b",
                "movq [{c}], mm0", "movq [{c} + 8], mm1", "emms",
                c = in(reg) cells.as_mut_ptr(), inout("ecx") 300_000 => _,
                out("mm0") _, out("mm1") _, out("mm2") _, out("mm3") _,
                out("mm4") _, out("mm5") _, out("mm6") _, out("mm7") _,
            );
        }
        cells.iter().fold(0, |sum, x| mix(sum, *x))
    })
}

fn control() -> Unit {
    Box::new(|| {
        let mut sum = 0;
        for n in 0..60_000u32 {
            // All four ways of rounding, exceptions masked.
            let (mxcsr, word) = (0x1f80 | (n & 3) << 13, 0x037f | (n as u16 & 3) << 10);
            let (mut old, mut old_word, usual) = (0u32, 0u16, 0x1f80u32);
            let (value, mut rounded) = (f64::from(n) * 0.37 - 9_999.0, 0i32);
            let converted: u32;
            // SAFETY: both control words are put back, and so is the register stack.
            unsafe {
                asm!(
                    "stmxcsr [{o}]", "ldmxcsr [{m}]", "cvtsd2si {c:e}, {v}", "ldmxcsr [{u}]",
                    "fnstcw [{ow}]", "fldcw [{w}]", "fld qword ptr [{p}]", "fistp dword ptr [{r}]", "fldcw [{ow}]",
                    o = in(reg) &raw mut old, m = in(reg) &raw const mxcsr, c = out(reg) converted,
                    v = in(xmm_reg) value,
                    ow = in(reg) &raw mut old_word, w = in(reg) &raw const word, p = in(reg) &raw const value,
                    r = in(reg) &raw mut rounded, u = in(reg) &raw const usual,
                    out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
                    out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
                );
            }
            sum = mix(sum, u64::from(converted) << 32 | u64::from(rounded as u32));
        }
        sum
    })
}

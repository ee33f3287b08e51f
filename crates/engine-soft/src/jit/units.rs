//! Which instructions of the x87 and vector units are run in place.
//!
//! Their registers are the host's while translated code that uses them runs. What moves whole states, touches memory by
//! elements, or has an operand that is not in its encoding is the interpreter's.

use iced_x86::{CpuidFeature, EncodingKind, Instruction, Mnemonic, OpKind, Register};

use super::scan::Kind;
use super::stubs::unit;

/// The units that `instr` uses, and whether it writes its memory operand, if there is one; `None` if it is not run in
/// place.
fn placed(instr: &Instruction, long: bool) -> Option<(u8, bool)> {
    use Mnemonic as M;
    let uses = |test: fn(Register) -> bool| {
        (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Register && test(instr.op_register(i)))
    };
    let stores = instr.op_count() > 0 && instr.op0_kind() == OpKind::Memory;
    let vector = uses(|register| register.is_xmm() || register.is_ymm());
    match instr.mnemonic() {
        M::Ldmxcsr | M::Vldmxcsr => return Some((unit::VECTOR, false)),
        M::Stmxcsr | M::Vstmxcsr => return Some((unit::VECTOR, true)),
        // 32-bit code leaves the upper eight registers alone.
        M::Vzeroall | M::Vzeroupper => return long.then_some((unit::VECTOR, false)),
        M::Emms => return Some((unit::X87, false)),
        // What is wrong with the value comes before what is wrong with the address.
        M::Vcvtps2ph if stores => return None,
        M::Maskmovq | M::Maskmovdqu | M::Vmaskmovdqu => return None,
        M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq => return None,
        _ if instr.is_vsib() => return None,
        _ => {}
    }
    if uses(Register::is_mm) {
        // Those from memory, too, round and raise exceptions as MXCSR says.
        let converts = matches!(instr.mnemonic(), M::Cvtps2pi | M::Cvttps2pi | M::Cvtpd2pi | M::Cvttpd2pi);
        return Some((unit::X87 | if vector || converts { unit::VECTOR } else { 0 }, stores));
    }
    match instr.encoding() {
        // Which register the byte behind the operand names depends on the size of code.
        EncodingKind::VEX if vector => {
            let four = instr.op_count() == 4 && instr.op3_kind() == OpKind::Register;
            let three = instr.op_count() == 4 && instr.op2_kind() == OpKind::Register && !four;
            (long || !(four || three && instr.op3_kind() == OpKind::Memory)).then_some((unit::VECTOR, stores))
        }
        EncodingKind::Legacy if vector && is_sse(instr) => Some((unit::VECTOR, stores)),
        EncodingKind::Legacy => x87(instr).map(|writes| (unit::X87, writes && stores)),
        _ => None,
    }
}

fn is_sse(instr: &Instruction) -> bool {
    use CpuidFeature as C;
    instr.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            C::SSE | C::SSE2 | C::SSE3 | C::SSSE3 | C::SSE4_1 | C::SSE4_2 | C::AES | C::PCLMULQDQ | C::SHA
        )
    })
}

/// How `instr`, of one of the units, is translated, and which units it uses; `None` if it is called out.
pub(super) fn kind(instr: &Instruction, long: bool) -> Option<(Kind, u8)> {
    if instr.memory_base().size() == 2 || instr.memory_index().size() == 2 || instr.memory_displ_size() == 2 {
        return None;
    }
    let (units, write) = placed(instr, long)?;
    let memory = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
    if !memory {
        return Some((Kind::Verbatim, units));
    }
    let size = instr.memory_size().size();
    matches!(size, 1 | 2 | 4 | 8 | 10 | 16 | 32).then_some((Kind::Memory { write }, units))
}

/// Whether an x87 instruction writes its operand if that is in memory; `None` if it is not run in place.
fn x87(instr: &Instruction) -> Option<bool> {
    use Mnemonic as M;
    match instr.mnemonic() {
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp | M::Fnstcw | M::Fnstsw => Some(true),
        M::Fld | M::Fild | M::Fbld | M::Fldcw => Some(false),
        M::Fadd | M::Faddp | M::Fiadd | M::Fsub | M::Fsubp | M::Fisub | M::Fsubr | M::Fsubrp | M::Fisubr => Some(false),
        M::Fmul | M::Fmulp | M::Fimul | M::Fdiv | M::Fdivp | M::Fidiv | M::Fdivr | M::Fdivrp | M::Fidivr => Some(false),
        M::Fcom | M::Fcomp | M::Fcompp | M::Ficom | M::Ficomp | M::Fucom | M::Fucomp | M::Fucompp => Some(false),
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip | M::Ftst | M::Fxam => Some(false),
        M::Fcmovb | M::Fcmove | M::Fcmovbe | M::Fcmovu | M::Fcmovnb | M::Fcmovne | M::Fcmovnbe | M::Fcmovnu => {
            Some(false)
        }
        M::Fxch | M::Fchs | M::Fabs | M::Fsqrt | M::Frndint | M::Fscale | M::Fxtract | M::Fprem | M::Fprem1 => {
            Some(false)
        }
        M::Fld1 | M::Fldl2t | M::Fldl2e | M::Fldpi | M::Fldlg2 | M::Fldln2 | M::Fldz => Some(false),
        M::F2xm1 | M::Fyl2x | M::Fyl2xp1 | M::Fptan | M::Fpatan | M::Fsin | M::Fcos | M::Fsincos => Some(false),
        M::Fincstp | M::Fdecstp | M::Ffree | M::Fnclex => Some(false),
        _ => None,
    }
}

/// Whether the x87 instruction and data pointers are noted for `instr` (SDM vol. 1, 8.1.8).
pub(super) fn notes_pointers(instr: &Instruction) -> bool {
    use Mnemonic as M;
    x87(instr).is_some() && !matches!(instr.mnemonic(), M::Fnclex | M::Fldcw | M::Fnstcw | M::Fnstsw)
}

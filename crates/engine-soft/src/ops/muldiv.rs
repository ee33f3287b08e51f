//! Multiplication and division.

use iced_x86::{Instruction, Mnemonic};
use x86::bits::vector;

use crate::cpu::{Cpu, Exec, reg};
use crate::flags::Flags;
use crate::mem::Word;
use crate::op::{HIGH_BYTE, Op};

use super::operand::{Imm, Mem, Reg, Source, immediate, reg_number, source, width};

const AX: u8 = reg::RAX as u8;
const DX: u8 = reg::RDX as u8;
const AH: u8 = HIGH_BYTE + AX;

/// The upper half of the accumulator pair: AH for bytes, else (R/E)DX.
#[inline(always)]
const fn upper<T: Word>() -> u8 {
    if T::BITS == 8 { AH } else { DX }
}

/// Flags after a multiplication: CF and OF say that the upper half matters, the undefined ones follow the lower half.
#[inline(always)]
fn set_product<T: Word>(flags: &mut Flags, low: T, significant: bool) {
    flags.set_logic(low.sext());
    flags.set_cf_of(significant, significant);
}

fn mul<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let a = T::get(cpu, AX);
    let (low, high) = if T::BITS == 64 {
        let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
        (product as u64, (product >> 64) as u64)
    } else {
        let product = a.to_u64() * b.to_u64();
        (product, product >> T::BITS)
    };
    let low = T::from_u64(low);
    T::set(cpu, AX, low);
    T::set(cpu, upper::<T>(), T::from_u64(high));
    set_product(&mut cpu.flags, low, high != 0);
    Ok(())
}

/// The signed product: lower half, upper half, whether the upper half is more than the sign of the lower.
#[inline(always)]
fn signed_product<T: Word>(a: T, b: T) -> (T, T, bool) {
    let (low, high) = if T::BITS == 64 {
        let product = i128::from(a.sext() as i64) * i128::from(b.sext() as i64);
        (product as u64, (product >> 64) as u64)
    } else {
        let product = (a.sext() as i64).wrapping_mul(b.sext() as i64);
        (product as u64, (product >> T::BITS) as u64)
    };
    let (low, high) = (T::from_u64(low), T::from_u64(high));
    (low, high, high.sext() as i64 != low.sext() as i64 >> 63)
}

/// IMUL with one operand.
fn imul<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let (low, high, significant) = signed_product(T::get(cpu, AX), b);
    T::set(cpu, AX, low);
    T::set(cpu, upper::<T>(), high);
    set_product(&mut cpu.flags, low, significant);
    Ok(())
}

/// IMUL with two operands.
fn imul_into<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let (low, _, significant) = signed_product(T::get(cpu, op.dst), b);
    T::set(cpu, op.dst, low);
    set_product(&mut cpu.flags, low, significant);
    Ok(())
}

/// IMUL with three operands, the last immediate.
fn imul_by<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a: T = S::read(cpu, op)?;
    let b: T = Imm::read(cpu, op)?;
    let (low, _, significant) = signed_product(a, b);
    T::set(cpu, op.dst, low);
    set_product(&mut cpu.flags, low, significant);
    Ok(())
}

/// Quotient and remainder of the double-width `high:low` by `divisor`, `None` for #DE.
#[inline(always)]
fn divide<T: Word>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    let (h, l, d) = (high.to_u64(), low.to_u64(), divisor.to_u64());
    // The quotient fits exactly if this holds, and the divisor is then not zero.
    if h >= d {
        return None;
    }
    if T::BITS == 64 && h != 0 {
        let dividend = u128::from(h) << 64 | u128::from(l);
        let d = u128::from(d);
        return Some((T::from_u64((dividend / d) as u64), T::from_u64((dividend % d) as u64)));
    }
    let dividend = if T::BITS == 64 { l } else { h << T::BITS | l };
    Some((T::from_u64(dividend / d), T::from_u64(dividend % d)))
}

/// As [`divide`], signed: the quotient is cut towards zero.
#[inline(always)]
fn divide_signed<T: Word>(high: T, low: T, divisor: T) -> Option<(T, T)> {
    let d = divisor.sext() as i64;
    if d == 0 {
        return None;
    }
    if T::BITS == 64 && high.to_u64() != (low.to_u64() as i64 >> 63) as u64 {
        let dividend = (u128::from(high.to_u64()) << 64 | u128::from(low.to_u64())) as i128;
        let quotient = dividend.checked_div(i128::from(d))?;
        let remainder = dividend.wrapping_rem(i128::from(d));
        let quotient = i64::try_from(quotient).ok()?;
        return Some((T::from_u64(quotient as u64), T::from_u64(remainder as u64)));
    }
    let dividend = if T::BITS == 64 { low.to_u64() as i64 } else { (high.sext() << T::BITS | low.to_u64()) as i64 };
    let quotient = dividend.checked_div(d)?;
    let result = T::from_u64(quotient as u64);
    (result.sext() as i64 == quotient).then(|| (result, T::from_u64(dividend.wrapping_rem(d) as u64)))
}

fn div<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let divisor: T = S::read(cpu, op)?;
    let halves = divide(T::get(cpu, upper::<T>()), T::get(cpu, AX), divisor);
    finish_division(cpu, halves)
}

fn idiv<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let divisor: T = S::read(cpu, op)?;
    let halves = divide_signed(T::get(cpu, upper::<T>()), T::get(cpu, AX), divisor);
    finish_division(cpu, halves)
}

#[inline(always)]
fn finish_division<T: Word>(cpu: &mut Cpu, halves: Option<(T, T)>) -> Exec {
    let Some((quotient, remainder)) = halves else {
        return Err(cpu.raise(vector::DE));
    };
    T::set(cpu, AX, quotient);
    T::set(cpu, upper::<T>(), remainder);
    Ok(())
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    let bits = width(instr, 0);
    if instr.op_count() > 1 {
        op.dst = reg_number(instr, 0)?;
        let memory = source(instr, 1, op)?;
        op.run = if instr.op_count() == 3 {
            op.imm = immediate(instr, 2)?;
            if memory { by_wide_width!(bits, imul_by, Mem) } else { by_wide_width!(bits, imul_by, Reg) }
        } else if memory {
            by_wide_width!(bits, imul_into, Mem)
        } else {
            by_wide_width!(bits, imul_into, Reg)
        };
        return Some(());
    }
    let memory = source(instr, 0, op)?;
    op.run = match (instr.mnemonic(), memory) {
        (M::Mul, false) => by_width!(bits, mul, Reg),
        (M::Mul, true) => by_width!(bits, mul, Mem),
        (M::Imul, false) => by_width!(bits, imul, Reg),
        (M::Imul, true) => by_width!(bits, imul, Mem),
        (M::Div, false) => by_width!(bits, div, Reg),
        (M::Div, true) => by_width!(bits, div, Mem),
        (M::Idiv, false) => by_width!(bits, idiv, Reg),
        (M::Idiv, true) => by_width!(bits, idiv, Mem),
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_divisions_follow_the_definition() {
        for dividend in (0..=0xffffu16).step_by(7).chain([0x7fff, 0x8000, 0xff80, 0x80, 0xff7f, 0xffff]) {
            for divisor in 0..=255u8 {
                let (high, low) = ((dividend >> 8) as u8, dividend as u8);
                let expected = dividend
                    .checked_div(divisor.into())
                    .and_then(|q| Some((u8::try_from(q).ok()?, (dividend % u16::from(divisor)) as u8)));
                assert_eq!(divide(high, low, divisor), expected);
                let (n, d) = (i32::from(dividend as i16), i32::from(divisor as i8));
                let expected = n.checked_div(d).and_then(|q| Some((i8::try_from(q).ok()? as u8, (n % d) as u8)));
                assert_eq!(divide_signed(high, low, divisor), expected, "{n}/{d}");
            }
        }
    }

    #[test]
    fn wide_divisions() {
        assert_eq!(divide(1u64, 0, 2), Some((1 << 63, 0)));
        assert_eq!(divide(2u64, 0, 2), None);
        assert_eq!(divide(0u64, 7, 0), None);
        assert_eq!(divide_signed(!0u64, 1 << 63, !0), None);
        assert_eq!(divide_signed(1u64 << 63, 0, !0), None);
        assert_eq!(divide_signed(!0u64, !6, 2), Some((!2, !0)));
        assert_eq!(divide_signed(0u64, 1 << 63, 2), Some((1 << 62, 0)));
        assert_eq!(divide_signed(0u64, 1 << 63, !0), Some((1 << 63, 0)));
        assert_eq!(divide_signed(0u64, 1 << 63, 1), None);
    }

    #[test]
    fn products_know_when_they_overflow() {
        assert_eq!(signed_product(0x80u8, 0x80), (0, 0x40, true));
        assert_eq!(signed_product(0xffu8, 0x80), (0x80, 0, true));
        assert_eq!(signed_product(0xffffu16, 5), (0xfffb, 0xffff, false));
        assert_eq!(signed_product(1u64 << 63, !0), (1 << 63, 0, true));
        assert_eq!(signed_product(!0u64, !0), (1, 0, false));
    }
}

//! Addition, subtraction and logic.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Exec};
use crate::flags::Flags;
use crate::mem::Word;
use crate::op::{Handler, Op};

use super::operand::{Form, Imm, Mem, Place, Reg, Source, destination, form, width};

/// An operation of two operands: the result, and the flags it leaves.
pub(super) trait Binary {
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T;
}

/// An operation of one operand.
trait Unary {
    fn run<T: Word>(flags: &mut Flags, a: T) -> T;
}

pub(super) struct Add;
struct Adc;
pub(super) struct Sub;
struct Sbb;
struct And;
struct Or;
struct Xor;
struct Inc;
struct Dec;
struct Neg;
struct Not;

/// The sum with a carry in, and its flags.
#[inline(always)]
fn add<T: Word>(flags: &mut Flags, a: T, b: T, carry: u64) -> T {
    let (x, y) = (a.to_u64(), b.to_u64());
    let sum = x.wrapping_add(y).wrapping_add(carry);
    let result = T::from_u64(sum);
    flags.set_arith(result.sext(), (x & y) | ((x | y) & !sum), T::BITS);
    result
}

/// The difference with a borrow in, and its flags.
#[inline(always)]
fn sub<T: Word>(flags: &mut Flags, a: T, b: T, borrow: u64) -> T {
    let (x, y) = (a.to_u64(), b.to_u64());
    let difference = x.wrapping_sub(y).wrapping_sub(borrow);
    let result = T::from_u64(difference);
    flags.set_arith(result.sext(), (!x & y) | ((!x | y) & difference), T::BITS);
    result
}

/// Flags of a logical result, which is passed on.
#[inline(always)]
fn logic<T: Word>(flags: &mut Flags, result: u64) -> T {
    let result = T::from_u64(result);
    flags.set_logic(result.sext());
    result
}

impl Binary for Add {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        add(flags, a, b, 0)
    }
}

impl Binary for Adc {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        let carry = u64::from(flags.cf());
        add(flags, a, b, carry)
    }
}

impl Binary for Sub {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        sub(flags, a, b, 0)
    }
}

impl Binary for Sbb {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        let borrow = u64::from(flags.cf());
        sub(flags, a, b, borrow)
    }
}

impl Binary for And {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        logic(flags, a.to_u64() & b.to_u64())
    }
}

impl Binary for Or {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        logic(flags, a.to_u64() | b.to_u64())
    }
}

impl Binary for Xor {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T, b: T) -> T {
        logic(flags, a.to_u64() ^ b.to_u64())
    }
}

impl Unary for Inc {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T) -> T {
        let x = a.to_u64();
        let sum = x.wrapping_add(1);
        let result = T::from_u64(sum);
        flags.set_arith_keep_cf(result.sext(), x & !sum, T::BITS);
        result
    }
}

impl Unary for Dec {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T) -> T {
        let x = a.to_u64();
        let difference = x.wrapping_sub(1);
        let result = T::from_u64(difference);
        flags.set_arith_keep_cf(result.sext(), !x & difference, T::BITS);
        result
    }
}

impl Unary for Neg {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, a: T) -> T {
        sub(flags, T::from_u64(0), a, 0)
    }
}

impl Unary for Not {
    #[inline(always)]
    fn run<T: Word>(_: &mut Flags, a: T) -> T {
        T::from_u64(!a.to_u64())
    }
}

fn binary<T: Word, K: Binary, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    D::update(cpu, op, |flags, a| (K::run(flags, a, b), ()))
}

/// CMP and TEST: the flags only.
fn compare<T: Word, K: Binary, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let a: T = D::get(cpu, op)?;
    K::run(&mut cpu.flags, a, b);
    Ok(())
}

fn unary<T: Word, K: Unary, D: Place>(cpu: &mut Cpu, op: &Op) -> Exec {
    D::update(cpu, op, |flags, a: T| (K::run(flags, a), ()))
}

fn pick_binary<K: Binary>(form: Form, bits: u32) -> Handler {
    match form {
        Form::RegReg => by_width!(bits, binary, K, Reg, Reg),
        Form::RegImm => by_width!(bits, binary, K, Reg, Imm),
        Form::RegMem => by_width!(bits, binary, K, Reg, Mem),
        Form::MemReg => by_width!(bits, binary, K, Mem, Reg),
        Form::MemImm => by_width!(bits, binary, K, Mem, Imm),
    }
}

fn pick_compare<K: Binary>(form: Form, bits: u32) -> Handler {
    match form {
        Form::RegReg => by_width!(bits, compare, K, Reg, Reg),
        Form::RegImm => by_width!(bits, compare, K, Reg, Imm),
        Form::RegMem => by_width!(bits, compare, K, Reg, Mem),
        Form::MemReg => by_width!(bits, compare, K, Mem, Reg),
        Form::MemImm => by_width!(bits, compare, K, Mem, Imm),
    }
}

fn pick_unary<K: Unary>(memory: bool, bits: u32) -> Handler {
    if memory { by_width!(bits, unary, K, Mem) } else { by_width!(bits, unary, K, Reg) }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    let bits = width(instr, 0);
    let mnemonic = instr.mnemonic();
    if matches!(mnemonic, M::Inc | M::Dec | M::Neg | M::Not) {
        let memory = destination(instr, op)?;
        op.run = match mnemonic {
            M::Inc => pick_unary::<Inc>(memory, bits),
            M::Dec => pick_unary::<Dec>(memory, bits),
            M::Neg => pick_unary::<Neg>(memory, bits),
            _ => pick_unary::<Not>(memory, bits),
        };
        return Some(());
    }
    let form = form(instr, op)?;
    op.run = match mnemonic {
        M::Add => pick_binary::<Add>(form, bits),
        M::Adc => pick_binary::<Adc>(form, bits),
        M::Sub => pick_binary::<Sub>(form, bits),
        M::Sbb => pick_binary::<Sbb>(form, bits),
        M::And => pick_binary::<And>(form, bits),
        M::Or => pick_binary::<Or>(form, bits),
        M::Xor => pick_binary::<Xor>(form, bits),
        M::Cmp => pick_compare::<Sub>(form, bits),
        M::Test => pick_compare::<And>(form, bits),
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use x86::bits::rflags;

    fn flags_of(f: impl Fn(&mut Flags)) -> u64 {
        let mut flags = Flags::default();
        f(&mut flags);
        flags.bits()
    }

    #[test]
    fn adc_and_sbb_of_bytes_follow_the_definition() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                for carry in [false, true] {
                    let c = u8::from(carry);
                    let with = |flags: &mut Flags| flags.set_bits(u64::from(carry));
                    let wide = u16::from(a) + u16::from(b) + u16::from(c);
                    let signed = i16::from(a as i8) + i16::from(b as i8) + i16::from(c);
                    let got = flags_of(|f| {
                        with(f);
                        assert_eq!(Adc::run(f, a, b), wide as u8);
                    });
                    assert_eq!(got & rflags::CF != 0, wide > 255);
                    assert_eq!(got & rflags::OF != 0, !(-128..=127).contains(&signed));
                    assert_eq!(got & rflags::AF != 0, (a & 15) + (b & 15) + c > 15);
                    let wide = i16::from(a) - i16::from(b) - i16::from(c);
                    let signed = i16::from(a as i8) - i16::from(b as i8) - i16::from(c);
                    let got = flags_of(|f| {
                        with(f);
                        assert_eq!(Sbb::run(f, a, b), wide as u8);
                    });
                    assert_eq!(got & rflags::CF != 0, wide < 0);
                    assert_eq!(got & rflags::OF != 0, !(-128..=127).contains(&signed));
                    assert_eq!(got & rflags::AF != 0, i16::from(a & 15) - i16::from(b & 15) - i16::from(c) < 0);
                }
            }
        }
    }

    #[test]
    fn inc_and_dec_keep_the_carry() {
        let mut flags = Flags::default();
        flags.set_bits(rflags::CF);
        assert_eq!(Inc::run(&mut flags, 0x7fff_ffffu32), 0x8000_0000);
        assert_eq!(flags.bits(), rflags::CF | rflags::OF | rflags::SF | rflags::AF | rflags::PF);
        assert_eq!(Dec::run(&mut flags, 0x8000_0000u32), 0x7fff_ffff);
        assert_eq!(flags.bits(), rflags::CF | rflags::OF | rflags::AF | rflags::PF);
    }
}

//! Shifts and rotates.
//!
//! Where the manual leaves OF undefined (counts other than 1) it gets what the formula for one bit gives, as current
//! processors do.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::cpu::{Cpu, Exec};
use crate::flags::Flags;
use crate::mem::Word;
use crate::op::{Handler, Op};

use super::operand::{Cl, Imm, Mem, Place, Reg, Source, destination, immediate, reg_number, width};

/// A shift or rotate by a count that has been masked and is not zero.
trait Shift {
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T;
}

/// A shift that takes the bits that come in from a second operand; the count has been masked and is not zero.
trait DoubleShift {
    fn run<T: Word>(flags: &mut Flags, value: T, fill: T, count: u32) -> T;
}

struct Shl;
struct Shr;
struct Sar;
struct Rol;
struct Ror;
struct Rcl;
struct Rcr;
struct Shld;
struct Shrd;

/// The mask that counts are taken under: 6 bits for 64-bit operands, else 5.
#[inline(always)]
const fn count_mask<T: Word>() -> u32 {
    if T::BITS == 64 { 63 } else { 31 }
}

/// Bit `i` of `value`, false beyond its end.
#[inline(always)]
fn bit(value: u64, i: u32) -> bool {
    value >> i & 1 != 0
}

#[inline(always)]
fn top<T: Word>(value: T) -> bool {
    bit(value.to_u64(), T::BITS - 1)
}

/// Flags of a shift: all of them.
#[inline(always)]
fn set_shift<T: Word>(flags: &mut Flags, result: T, cf: bool, of: bool) -> T {
    flags.set_logic(result.sext());
    flags.set_cf_of(cf, of);
    result
}

impl Shift for Shl {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let v = value.to_u64();
        let cf = if T::BITS == 64 { bit(v, 64 - count) } else { bit(v << count, T::BITS) };
        let result = T::from_u64(v << count);
        set_shift(flags, result, cf, top(result) != cf)
    }
}

impl Shift for Shr {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let v = value.to_u64();
        let result = T::from_u64(v >> count);
        set_shift(flags, result, bit(v, count - 1), bit(result.to_u64(), T::BITS - 2))
    }
}

impl Shift for Sar {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let v = value.sext();
        let result = T::from_u64(((v as i64) >> count) as u64);
        set_shift(flags, result, bit(v, count - 1), false)
    }
}

/// Rotates left by `count`, which is taken modulo the width.
#[inline(always)]
fn rotate_left<T: Word>(value: T, count: u32) -> T {
    let count = count % T::BITS;
    let v = value.to_u64();
    if count == 0 {
        return value;
    }
    T::from_u64(v << count | v >> (T::BITS - count))
}

impl Shift for Rol {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let result = rotate_left(value, count);
        let cf = bit(result.to_u64(), 0);
        flags.set_cf_of(cf, top(result) != cf);
        result
    }
}

impl Shift for Ror {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let result = rotate_left(value, T::BITS - count % T::BITS);
        let cf = top(result);
        flags.set_cf_of(cf, cf != bit(result.to_u64(), T::BITS - 2));
        result
    }
}

/// Rotates CF and the value left by `count` out of width + 1: the new value and CF.
#[inline(always)]
fn rotate_through<T: Word>(value: T, cf: bool, count: u32) -> (T, bool) {
    let ring = u128::from(value.to_u64()) | u128::from(cf) << T::BITS;
    let turned = ring << count | ring >> (T::BITS + 1 - count);
    (T::from_u64(turned as u64), turned >> T::BITS & 1 != 0)
}

impl Shift for Rcl {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let count = count % (T::BITS + 1);
        // SDM vol. 2, RCL: rotating by no bit changes no flag.
        if count == 0 {
            return value;
        }
        let (result, cf) = rotate_through(value, flags.cf(), count);
        flags.set_cf_of(cf, top(result) != cf);
        result
    }
}

impl Shift for Rcr {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, count: u32) -> T {
        let count = count % (T::BITS + 1);
        if count == 0 {
            return value;
        }
        let (result, cf) = rotate_through(value, flags.cf(), T::BITS + 1 - count);
        flags.set_cf_of(cf, top(result) != bit(result.to_u64(), T::BITS - 2));
        result
    }
}

impl DoubleShift for Shld {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, fill: T, count: u32) -> T {
        let (v, f) = (u128::from(value.to_u64()), u128::from(fill.to_u64()));
        // Counts beyond 16 of a 16-bit operand are undefined; processors go on with the destination behind the source.
        let (result, cf) = if T::BITS == 16 {
            let chain = v << 32 | f << 16 | v;
            (chain << count >> 32, chain >> (48 - count) & 1 != 0)
        } else {
            let chain = v << T::BITS | f;
            (chain << count >> T::BITS, chain >> (2 * T::BITS - count) & 1 != 0)
        };
        let result = T::from_u64(result as u64);
        set_shift(flags, result, cf, top(result) != top(value))
    }
}

impl DoubleShift for Shrd {
    #[inline(always)]
    fn run<T: Word>(flags: &mut Flags, value: T, fill: T, count: u32) -> T {
        let (v, f) = (u128::from(value.to_u64()), u128::from(fill.to_u64()));
        let chain = if T::BITS == 16 { v << 32 | f << 16 | v } else { f << T::BITS | v };
        let result = T::from_u64((chain >> count) as u64);
        set_shift(flags, result, chain >> (count - 1) & 1 != 0, top(result) != top(value))
    }
}

fn shift<T: Word, K: Shift, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = S::read::<u8>(cpu, op)?;
    let count = u32::from(count) & count_mask::<T>();
    // A count of 0 still writes the operand, which matters to the upper half of a 64-bit register.
    D::update(cpu, op, |flags, value: T| (if count == 0 { value } else { K::run(flags, value, count) }, ()))
}

fn double_shift<T: Word, K: DoubleShift, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let count = S::read::<u8>(cpu, op)?;
    let count = u32::from(count) & count_mask::<T>();
    let fill = T::get(cpu, op.src);
    D::update(cpu, op, |flags, value: T| (if count == 0 { value } else { K::run(flags, value, fill, count) }, ()))
}

fn pick<K: Shift>(memory: bool, by_cl: bool, bits: u32) -> Handler {
    match (memory, by_cl) {
        (false, false) => by_width!(bits, shift, K, Reg, Imm),
        (false, true) => by_width!(bits, shift, K, Reg, Cl),
        (true, false) => by_width!(bits, shift, K, Mem, Imm),
        (true, true) => by_width!(bits, shift, K, Mem, Cl),
    }
}

fn pick_double<K: DoubleShift>(memory: bool, by_cl: bool, bits: u32) -> Handler {
    match (memory, by_cl) {
        (false, false) => by_wide_width!(bits, double_shift, K, Reg, Imm),
        (false, true) => by_wide_width!(bits, double_shift, K, Reg, Cl),
        (true, false) => by_wide_width!(bits, double_shift, K, Mem, Imm),
        (true, true) => by_wide_width!(bits, double_shift, K, Mem, Cl),
    }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    let bits = width(instr, 0);
    let memory = destination(instr, op)?;
    let double = matches!(instr.mnemonic(), M::Shld | M::Shrd);
    if double {
        op.src = reg_number(instr, 1)?;
    }
    let last = instr.op_count() - 1;
    let by_cl = instr.op_kind(last) == OpKind::Register;
    if !by_cl {
        op.imm = immediate(instr, last)?;
    }
    op.run = match instr.mnemonic() {
        M::Shl | M::Sal => pick::<Shl>(memory, by_cl, bits),
        M::Shr => pick::<Shr>(memory, by_cl, bits),
        M::Sar => pick::<Sar>(memory, by_cl, bits),
        M::Rol => pick::<Rol>(memory, by_cl, bits),
        M::Ror => pick::<Ror>(memory, by_cl, bits),
        M::Rcl => pick::<Rcl>(memory, by_cl, bits),
        M::Rcr => pick::<Rcr>(memory, by_cl, bits),
        M::Shld => pick_double::<Shld>(memory, by_cl, bits),
        M::Shrd => pick_double::<Shrd>(memory, by_cl, bits),
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
#[path = "shift_tests.rs"]
mod tests;

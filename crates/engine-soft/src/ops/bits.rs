//! Bits of operands: test and change, scan, count, swap, and what depends on a condition.

use iced_x86::{Instruction, Mnemonic};
use x86::bits::rflags;

use crate::cpu::{Cpu, Exec};
use crate::mem::Word;
use crate::op::{Handler, Op};

use super::operand::{Imm, Mem, Place, Reg, Source, condition, destination, immediate, reg_number, source, width};

/// What BT, BTS, BTR and BTC make of the word, given the mask of the bit.
trait Change {
    const WRITES: bool;
    fn change(value: u64, mask: u64) -> u64;
}

struct Test;
struct Set;
struct Reset;
struct Complement;

impl Change for Test {
    const WRITES: bool = false;
    #[inline(always)]
    fn change(value: u64, _: u64) -> u64 {
        value
    }
}

impl Change for Set {
    const WRITES: bool = true;
    #[inline(always)]
    fn change(value: u64, mask: u64) -> u64 {
        value | mask
    }
}

impl Change for Reset {
    const WRITES: bool = true;
    #[inline(always)]
    fn change(value: u64, mask: u64) -> u64 {
        value & !mask
    }
}

impl Change for Complement {
    const WRITES: bool = true;
    #[inline(always)]
    fn change(value: u64, mask: u64) -> u64 {
        value ^ mask
    }
}

/// Tests and changes bit `bit` (below the width) of `D`.
#[inline(always)]
fn test_bit<T: Word, K: Change, D: Place>(cpu: &mut Cpu, op: &Op, bit: u32) -> Exec {
    let mask = 1u64 << bit;
    if K::WRITES {
        return D::update(cpu, op, |flags, value: T| {
            let value = value.to_u64();
            flags.set_cf_keep_of(value & mask != 0);
            (T::from_u64(K::change(value, mask)), ())
        });
    }
    let value: T = D::get(cpu, op)?;
    cpu.flags.set_cf_keep_of(value.to_u64() & mask != 0);
    Ok(())
}

/// With a bit number that is taken modulo the width.
fn bit_in_word<T: Word, K: Change, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let number: T = S::read(cpu, op)?;
    test_bit::<T, K, D>(cpu, op, number.to_u64() as u32 & (T::BITS - 1))
}

/// Memory with the bit number in a register: a string of bits around the address.
fn bit_in_string<T: Word, K: Change>(cpu: &mut Cpu, op: &Op) -> Exec {
    let number = T::get(cpu, op.src);
    let words = number.sext() as i64 >> T::BITS.trailing_zeros();
    let mut at = *op;
    at.disp = at.disp.wrapping_add((words as u64).wrapping_mul(T::SIZE));
    test_bit::<T, K, Mem>(cpu, &at, number.to_u64() as u32 & (T::BITS - 1))
}

/// BSF and BSR: the destination stays if the source is zero.
fn scan<T: Word, S: Source, const REVERSE: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let v = value.to_u64();
    cpu.flags.set_logic(value.sext());
    if v != 0 {
        let at = if REVERSE { 63 - v.leading_zeros() } else { v.trailing_zeros() };
        T::set(cpu, op.dst, T::from_u64(u64::from(at)));
    }
    Ok(())
}

fn scan_forward<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    scan::<T, S, false>(cpu, op)
}

fn scan_reverse<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    scan::<T, S, true>(cpu, op)
}

/// Stores a count; ZF and CF are defined.
#[inline(always)]
fn finish_count<T: Word>(cpu: &mut Cpu, op: &Op, count: u32) -> Exec {
    cpu.flags.set_logic(u64::from(count));
    cpu.flags.set_cf_of(count == T::BITS, false);
    T::set(cpu, op.dst, T::from_u64(u64::from(count)));
    Ok(())
}

fn lzcnt<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    finish_count::<T>(cpu, op, value.to_u64().leading_zeros() - (64 - T::BITS))
}

fn tzcnt<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    finish_count::<T>(cpu, op, value.to_u64().trailing_zeros().min(T::BITS))
}

fn popcnt<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let count = u64::from(value.to_u64().count_ones());
    // All clear but ZF.
    cpu.flags.set_bits(if count == 0 { rflags::ZF } else { 0 });
    T::set(cpu, op.dst, T::from_u64(count));
    Ok(())
}

/// `value` with its bytes in reverse order.
#[inline(always)]
fn swap_bytes<T: Word>(value: T) -> T {
    T::from_u64(value.to_u64().swap_bytes() >> (64 - T::BITS))
}

fn bswap<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = T::get(cpu, op.dst);
    // Undefined for 16 bits; processors give zero.
    T::set(cpu, op.dst, if T::BITS == 16 { T::from_u64(0) } else { swap_bytes(value) });
    Ok(())
}

fn movbe<T: Word, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    D::put(cpu, op, swap_bytes(value))
}

/// The CRC-32C (Castagnoli) remainders of all bytes, bit-reflected.
const CRC32C: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 != 0 { 0x82f6_3b78 } else { 0 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

/// `crc` continued over the low `bytes` bytes of `value`.
fn crc32c(mut crc: u32, value: u64, bytes: u64) -> u32 {
    for byte in value.to_le_bytes().into_iter().take(bytes as usize) {
        crc = (crc >> 8) ^ CRC32C[usize::from(crc as u8 ^ byte)];
    }
    crc
}

/// The destination counts as 64 bits wide: its upper half becomes zero with either operand size.
fn crc32<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let crc = u32::get(cpu, op.dst);
    u32::set(cpu, op.dst, crc32c(crc, value.to_u64(), T::SIZE));
    Ok(())
}

fn setcc<const CC: u8, D: Place>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = u8::from(cpu.flags.condition(CC));
    D::put(cpu, op, value)
}

/// The load happens and a 32-bit destination is zero-extended even if the condition is false.
fn cmov<const CC: u8, T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let new: T = S::read(cpu, op)?;
    let old = T::get(cpu, op.dst);
    let value = if cpu.flags.condition(CC) { new } else { old };
    T::set(cpu, op.dst, value);
    Ok(())
}

fn pick_bit<K: Change>(memory: bool, by_register: bool, bits: u32) -> Handler {
    match (memory, by_register) {
        (false, false) => by_wide_width!(bits, bit_in_word, K, Reg, Imm),
        (false, true) => by_wide_width!(bits, bit_in_word, K, Reg, Reg),
        (true, false) => by_wide_width!(bits, bit_in_word, K, Mem, Imm),
        (true, true) => by_wide_width!(bits, bit_in_string, K),
    }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

/// Picks a handler that differs by where it reads from.
macro_rules! from {
    ($memory:expr, $bits:expr, $f:ident) => {
        if $memory { by_wide_width!($bits, $f, Mem) } else { by_wide_width!($bits, $f, Reg) }
    };
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    let bits = width(instr, 0);
    match instr.mnemonic() {
        M::Bt | M::Bts | M::Btr | M::Btc => {
            let memory = destination(instr, op)?;
            let by_register = match reg_number(instr, 1) {
                Some(src) => {
                    op.src = src;
                    true
                }
                None => {
                    op.imm = immediate(instr, 1)?;
                    false
                }
            };
            op.run = match instr.mnemonic() {
                M::Bt => pick_bit::<Test>(memory, by_register, bits),
                M::Bts => pick_bit::<Set>(memory, by_register, bits),
                M::Btr => pick_bit::<Reset>(memory, by_register, bits),
                _ => pick_bit::<Complement>(memory, by_register, bits),
            };
        }
        M::Movbe => {
            if destination(instr, op)? {
                op.src = reg_number(instr, 1)?;
                op.run = by_wide_width!(bits, movbe, Mem, Reg);
            } else {
                op.run = by_wide_width!(bits, movbe, Reg, Mem);
            }
        }
        M::Bswap => {
            op.dst = reg_number(instr, 0)?;
            op.run = by_wide_width!(bits, bswap);
        }
        M::Crc32 => {
            op.dst = reg_number(instr, 0)?;
            let bits = width(instr, 1);
            op.run = if source(instr, 1, op)? { by_width!(bits, crc32, Mem) } else { by_width!(bits, crc32, Reg) };
        }
        mnemonic => {
            op.dst = reg_number(instr, 0)?;
            let memory = source(instr, 1, op)?;
            op.run = match mnemonic {
                M::Bsf => from!(memory, bits, scan_forward),
                M::Bsr => from!(memory, bits, scan_reverse),
                M::Popcnt => from!(memory, bits, popcnt),
                M::Lzcnt => from!(memory, bits, lzcnt),
                M::Tzcnt => from!(memory, bits, tzcnt),
                _ => return None,
            };
        }
    }
    Some(())
}

/// SETcc and CMOVcc.
pub(super) fn lower_condition(instr: &Instruction, op: &mut Op) -> bool {
    try_lower_condition(instr, op).is_some()
}

fn try_lower_condition(instr: &Instruction, op: &mut Op) -> Option<()> {
    let cc = condition(instr)?;
    if instr.op_count() == 1 {
        if width(instr, 0) != 8 {
            return None;
        }
        op.run = if destination(instr, op)? { by_condition!(cc, setcc, Mem) } else { by_condition!(cc, setcc, Reg) };
        return Some(());
    }
    if instr.op_count() != 2 {
        return None;
    }
    op.dst = reg_number(instr, 0)?;
    let memory = source(instr, 1, op)?;
    op.run = match (width(instr, 0), memory) {
        (16, false) => by_condition!(cc, cmov, u16, Reg),
        (16, true) => by_condition!(cc, cmov, u16, Mem),
        (32, false) => by_condition!(cc, cmov, u32, Reg),
        (32, true) => by_condition!(cc, cmov, u32, Mem),
        (64, false) => by_condition!(cc, cmov, u64, Reg),
        (64, true) => by_condition!(cc, cmov, u64, Mem),
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        // The check value of CRC-32C for "123456789" (RFC 3720, B.4 uses the same polynomial).
        let crc = b"123456789".iter().fold(!0, |crc, byte| crc32c(crc, u64::from(*byte), 1));
        assert_eq!(!crc, 0xe306_9283);
        let text = u64::from_le_bytes(*b"12345678");
        assert_eq!(!crc32c(crc32c(!0, text, 8), u64::from(b'9'), 1), 0xe306_9283);
    }

    #[test]
    fn bytes_are_swapped_in_the_width() {
        assert_eq!(swap_bytes(0x1234u16), 0x3412);
        assert_eq!(swap_bytes(0x1234_5678u32), 0x7856_3412);
        assert_eq!(swap_bytes(0x0102_0304_0506_0708u64), 0x0807_0605_0403_0201);
    }
}

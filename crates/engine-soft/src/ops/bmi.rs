//! BMI1, BMI2 and ADX.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Exec, reg};
use crate::mem::Word;
use crate::op::{Handler, Op};

use super::operand::{Mem, Reg, Source, immediate, is_mem, reg_number, source, width};

/// Stores the result; SF and ZF follow it, OF is clear, CF is `cf`.
#[inline(always)]
fn finish<T: Word>(cpu: &mut Cpu, op: &Op, result: u64, cf: bool) -> Exec {
    let result = T::from_u64(result);
    cpu.flags.set_logic(result.sext());
    cpu.flags.set_cf_of(cf, false);
    T::set(cpu, op.dst, result);
    Ok(())
}

/// The register operand that is neither destination nor `op.src`: its number is in `op.imm`.
#[inline(always)]
fn third<T: Word>(cpu: &Cpu, op: &Op) -> T {
    T::get(cpu, op.imm as u8)
}

fn andn<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let a = third::<T>(cpu, op);
    finish::<T>(cpu, op, !a.to_u64() & b.to_u64(), false)
}

/// The `length` bits of `value` from bit `start` on.
fn extract(value: u64, start: u32, length: u32) -> u64 {
    let shifted = value.checked_shr(start).unwrap_or(0);
    if length >= 64 { shifted } else { shifted & ((1 << length) - 1) }
}

fn bextr<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let control = third::<T>(cpu, op).to_u64() as u32;
    finish::<T>(cpu, op, extract(value.to_u64(), control & 0xff, control >> 8 & 0xff), false)
}

fn blsi<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S::read::<T>(cpu, op)?.to_u64();
    finish::<T>(cpu, op, value & value.wrapping_neg(), value != 0)
}

fn blsmsk<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S::read::<T>(cpu, op)?.to_u64();
    finish::<T>(cpu, op, value ^ value.wrapping_sub(1), value == 0)
}

fn blsr<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value = S::read::<T>(cpu, op)?.to_u64();
    finish::<T>(cpu, op, value & value.wrapping_sub(1), value == 0)
}

fn bzhi<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let length = third::<T>(cpu, op).to_u64() as u32 & 0xff;
    finish::<T>(cpu, op, extract(value.to_u64(), 0, length), length > T::BITS - 1)
}

/// Puts the low bits of `value` where `mask` has ones.
fn deposit(mut value: u64, mut mask: u64) -> u64 {
    let mut result = 0;
    while mask != 0 && value != 0 {
        if value & 1 != 0 {
            result |= mask & mask.wrapping_neg();
        }
        value >>= 1;
        mask &= mask - 1;
    }
    result
}

/// Gathers the bits of `value` where `mask` has ones.
fn gather(value: u64, mut mask: u64) -> u64 {
    let (mut result, mut place) = (0, 1u64);
    while mask != 0 {
        if value & mask & mask.wrapping_neg() != 0 {
            result |= place;
        }
        place <<= 1;
        mask &= mask - 1;
    }
    result
}

fn pdep<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mask: T = S::read(cpu, op)?;
    let value = third::<T>(cpu, op);
    T::set(cpu, op.dst, T::from_u64(deposit(value.to_u64(), mask.to_u64())));
    Ok(())
}

fn pext<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mask: T = S::read(cpu, op)?;
    let value = third::<T>(cpu, op);
    T::set(cpu, op.dst, T::from_u64(gather(value.to_u64(), mask.to_u64())));
    Ok(())
}

fn rorx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let v = S::read::<T>(cpu, op)?.to_u64();
    let count = op.imm as u32 & (T::BITS - 1);
    let result = if count == 0 { v } else { v >> count | v << (T::BITS - count) };
    T::set(cpu, op.dst, T::from_u64(result));
    Ok(())
}

fn sarx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let count = third::<T>(cpu, op).to_u64() as u32 & (T::BITS - 1);
    T::set(cpu, op.dst, T::from_u64((value.sext() as i64 >> count) as u64));
    Ok(())
}

fn shlx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let count = third::<T>(cpu, op).to_u64() as u32 & (T::BITS - 1);
    T::set(cpu, op.dst, T::from_u64(value.to_u64() << count));
    Ok(())
}

fn shrx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    let count = third::<T>(cpu, op).to_u64() as u32 & (T::BITS - 1);
    T::set(cpu, op.dst, T::from_u64(value.to_u64() >> count));
    Ok(())
}

/// MULX: the upper half goes to `dst`, the lower to the register in `imm`; if they are the same the upper one wins.
fn mulx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let a: T = S::read(cpu, op)?;
    let b = T::get(cpu, reg::RDX as u8);
    let product = u128::from(a.to_u64()) * u128::from(b.to_u64());
    T::set(cpu, op.imm as u8, T::from_u64(product as u64));
    T::set(cpu, op.dst, T::from_u64((product >> T::BITS) as u64));
    Ok(())
}

/// The sum with a carry, and the carry out.
#[inline(always)]
fn carrying_add<T: Word>(a: T, b: T, carry: bool) -> (T, bool) {
    let sum = u128::from(a.to_u64()) + u128::from(b.to_u64()) + u128::from(carry);
    (T::from_u64(sum as u64), sum >> T::BITS != 0)
}

fn adcx<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let (sum, carry) = carrying_add(T::get(cpu, op.dst), b, cpu.flags.cf());
    cpu.flags.set_cf_keep_of(carry);
    T::set(cpu, op.dst, sum);
    Ok(())
}

fn adox<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let b: T = S::read(cpu, op)?;
    let (sum, carry) = carrying_add(T::get(cpu, op.dst), b, cpu.flags.of());
    let cf = cpu.flags.cf();
    cpu.flags.set_cf_of(cf, carry);
    T::set(cpu, op.dst, sum);
    Ok(())
}

/// Picks a handler by the source and the width, which is 32 or 64.
macro_rules! from {
    ($memory:expr, $bits:expr, $f:ident) => {
        match ($memory, $bits) {
            (false, 32) => $f::<u32, Reg> as Handler,
            (true, 32) => $f::<u32, Mem>,
            (false, _) => $f::<u64, Reg>,
            (true, _) => $f::<u64, Mem>,
        }
    };
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    let bits = width(instr, 0);
    op.dst = reg_number(instr, 0)?;
    let mnemonic = instr.mnemonic();
    // Where the operand that may be memory stands, and where the other one.
    let (wide, other) = match mnemonic {
        M::Andn | M::Pdep | M::Pext | M::Mulx => (2, Some(1)),
        M::Bextr | M::Bzhi | M::Sarx | M::Shlx | M::Shrx => (1, Some(2)),
        _ => (1, None),
    };
    if !is_mem(instr, wide) && reg_number(instr, wide).is_none() {
        return None;
    }
    let memory = source(instr, wide, op)?;
    if let Some(other) = other {
        op.imm = u64::from(reg_number(instr, other)?);
    }
    op.run = match mnemonic {
        M::Andn => from!(memory, bits, andn),
        M::Bextr => from!(memory, bits, bextr),
        M::Blsi => from!(memory, bits, blsi),
        M::Blsmsk => from!(memory, bits, blsmsk),
        M::Blsr => from!(memory, bits, blsr),
        M::Bzhi => from!(memory, bits, bzhi),
        M::Pdep => from!(memory, bits, pdep),
        M::Pext => from!(memory, bits, pext),
        M::Sarx => from!(memory, bits, sarx),
        M::Shlx => from!(memory, bits, shlx),
        M::Shrx => from!(memory, bits, shrx),
        M::Mulx => from!(memory, bits, mulx),
        M::Adcx => from!(memory, bits, adcx),
        M::Adox => from!(memory, bits, adox),
        M::Rorx => {
            op.imm = immediate(instr, 2)?;
            from!(memory, bits, rorx)
        }
        _ => return None,
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALUES: [u64; 6] = [0, 1, !0, 0x0123_4567_89ab_cdef, 0xf0f0_5a5a_8001_7ffe, 1 << 63];

    #[test]
    fn deposit_and_gather_follow_the_definition() {
        for value in VALUES {
            for mask in VALUES {
                let (mut deposited, mut gathered, mut k) = (0u64, 0u64, 0);
                for i in 0..64 {
                    if mask >> i & 1 != 0 {
                        deposited |= (value >> k & 1) << i;
                        gathered |= (value >> i & 1) << k;
                        k += 1;
                    }
                }
                assert_eq!(deposit(value, mask), deposited);
                assert_eq!(gather(value, mask), gathered);
            }
        }
    }

    #[test]
    fn extraction_beyond_the_end_gives_zeros() {
        assert_eq!(extract(!0, 64, 64), 0);
        assert_eq!(extract(!0, 255, 255), 0);
        assert_eq!(extract(!0, 60, 255), 15);
        assert_eq!(extract(0xabcd, 4, 8), 0xbc);
        assert_eq!(extract(!0, 0, 0), 0);
    }
}

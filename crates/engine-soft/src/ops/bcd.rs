//! Decimal arithmetic on AL and AH, and SALC. None of it exists in 64-bit mode.

use iced_x86::{Instruction, Mnemonic};
use x86::bits::{rflags, vector};

use crate::cpu::{Cpu, Exec, reg};
use crate::flags::Flags;
use crate::mem::Word;
use crate::op::{HIGH_BYTE, Op};

use super::operand::immediate;

const AL: u8 = reg::RAX as u8;
const AX: u8 = reg::RAX as u8;
const AH: u8 = HIGH_BYTE + AL;

/// SF, ZF and PF of `result`, with AF and CF as given; OF, which is undefined, is cleared.
fn set_decimal(flags: &mut Flags, result: u8, af: bool, cf: bool) {
    flags.set_logic(result.sext());
    let bits = flags.bits() | (u64::from(af) * rflags::AF) | (u64::from(cf) * rflags::CF);
    flags.set_bits(bits);
}

/// DAA (`SUBTRACT` false) or DAS of AL, as the SDM's pseudocode has it.
fn decimal_adjust<const SUBTRACT: bool>(flags: &mut Flags, al: u8) -> u8 {
    let (old_cf, mut cf) = (flags.cf(), false);
    let mut result = al;
    let low = al & 15 > 9 || flags.af();
    if low {
        let (adjusted, carry) = if SUBTRACT { al.overflowing_sub(6) } else { al.overflowing_add(6) };
        result = adjusted;
        cf = old_cf || carry;
    }
    let high = al > 0x99 || old_cf;
    if high {
        result = if SUBTRACT { result.wrapping_sub(0x60) } else { result.wrapping_add(0x60) };
        cf = true;
    } else if !SUBTRACT {
        cf = false;
    }
    set_decimal(flags, result, low, cf);
    result
}

/// AAA (`SUBTRACT` false) or AAS of AX.
fn ascii_adjust<const SUBTRACT: bool>(flags: &mut Flags, ax: u16) -> u16 {
    let adjust = ax & 15 > 9 || flags.af();
    let result = match (adjust, SUBTRACT) {
        (false, _) => ax,
        (true, false) => ax.wrapping_add(0x106),
        (true, true) => ax.wrapping_sub(0x106),
    };
    let result = result & 0xff0f;
    set_decimal(flags, result as u8, adjust, adjust);
    result
}

fn daa(cpu: &mut Cpu, _: &Op) -> Exec {
    let al = u8::get(cpu, AL);
    let al = decimal_adjust::<false>(&mut cpu.flags, al);
    u8::set(cpu, AL, al);
    Ok(())
}

fn das(cpu: &mut Cpu, _: &Op) -> Exec {
    let al = u8::get(cpu, AL);
    let al = decimal_adjust::<true>(&mut cpu.flags, al);
    u8::set(cpu, AL, al);
    Ok(())
}

fn aaa(cpu: &mut Cpu, _: &Op) -> Exec {
    let ax = u16::get(cpu, AX);
    let ax = ascii_adjust::<false>(&mut cpu.flags, ax);
    u16::set(cpu, AX, ax);
    Ok(())
}

fn aas(cpu: &mut Cpu, _: &Op) -> Exec {
    let ax = u16::get(cpu, AX);
    let ax = ascii_adjust::<true>(&mut cpu.flags, ax);
    u16::set(cpu, AX, ax);
    Ok(())
}

fn aam(cpu: &mut Cpu, op: &Op) -> Exec {
    let (al, base) = (u8::get(cpu, AL), op.imm as u8);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.raise(vector::DE));
    };
    u8::set(cpu, AH, high);
    u8::set(cpu, AL, low);
    set_decimal(&mut cpu.flags, low, false, false);
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> Exec {
    let (al, ah) = (u8::get(cpu, AL), u8::get(cpu, AH));
    let result = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    u16::set(cpu, AX, u16::from(result));
    set_decimal(&mut cpu.flags, result, false, false);
    Ok(())
}

fn salc(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = if cpu.flags.cf() { 0xff } else { 0 };
    u8::set(cpu, AL, value);
    Ok(())
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    op.run = match instr.mnemonic() {
        Mnemonic::Daa => daa,
        Mnemonic::Das => das,
        Mnemonic::Aaa => aaa,
        Mnemonic::Aas => aas,
        Mnemonic::Salc => salc,
        mnemonic => {
            let Some(base) = immediate(instr, 0) else { return false };
            op.imm = base;
            if mnemonic == Mnemonic::Aam { aam } else { aad }
        }
    };
    true
}

#[cfg(test)]
mod tests {
    use super::super::alu::{Add, Binary, Sub};
    use super::*;

    fn bcd(n: u8) -> u8 {
        ((n / 10) << 4) | (n % 10)
    }

    #[test]
    fn packed_sums_and_differences_are_decimal() {
        for a in 0..100u8 {
            for b in 0..100u8 {
                let mut flags = Flags::default();
                let sum = Add::run(&mut flags, bcd(a), bcd(b));
                assert_eq!(decimal_adjust::<false>(&mut flags, sum), bcd((a + b) % 100));
                assert_eq!(flags.cf(), a + b > 99);
                let difference = Sub::run(&mut flags, bcd(a), bcd(b));
                assert_eq!(decimal_adjust::<true>(&mut flags, difference), bcd((100 + a - b) % 100));
                assert_eq!(flags.cf(), a < b);
            }
        }
    }

    #[test]
    fn unpacked_sums_carry_into_ah() {
        let mut flags = Flags::default();
        let sum = Add::run(&mut flags, 8u8, 9);
        assert_eq!(ascii_adjust::<false>(&mut flags, u16::from(sum)), 0x0107);
        assert!(flags.cf() && flags.af());
        assert_eq!(ascii_adjust::<true>(&mut Flags::default(), 0x01fc), 0x0006);
    }
}

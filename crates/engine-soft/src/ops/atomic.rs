//! Exchange-and-add and compare-and-exchange.

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Exec, reg};
use crate::mem::Word;
use crate::op::Op;

use super::alu::{Add, Binary, Sub};
use super::operand::{destination, reg_number, width};

fn xadd<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let addend = T::get(cpu, op.src);
    let old: T = cpu.modify(op, |flags, old| (Add::run(flags, old, addend), old))?;
    T::set(cpu, op.src, old);
    Ok(())
}

/// XADD of two registers: if they are the same the sum stays.
fn xadd_registers<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (old, addend) = (T::get(cpu, op.dst), T::get(cpu, op.src));
    let sum = Add::run(&mut cpu.flags, old, addend);
    T::set(cpu, op.src, old);
    T::set(cpu, op.dst, sum);
    Ok(())
}

/// CMPXCHG with memory: the old value is written back if it is not the expected one, so the write happens either way.
fn cmpxchg<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let new = T::get(cpu, op.src);
    let expected = T::get(cpu, reg::RAX as u8);
    let old: T = cpu.modify(op, |flags, old| {
        Sub::run(flags, expected, old);
        (if old == expected { new } else { old }, old)
    })?;
    if old != expected {
        T::set(cpu, reg::RAX as u8, old);
    }
    Ok(())
}

/// CMPXCHG of registers: only one of the two is written, which matters to the upper half of a 64-bit register.
fn cmpxchg_registers<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (old, expected) = (T::get(cpu, op.dst), T::get(cpu, reg::RAX as u8));
    Sub::run(&mut cpu.flags, expected, old);
    if old == expected {
        let new = T::get(cpu, op.src);
        T::set(cpu, op.dst, new);
    } else {
        T::set(cpu, reg::RAX as u8, old);
    }
    Ok(())
}

/// The pair `high:low` of 32-bit registers.
fn pair(cpu: &Cpu, high: usize, low: usize) -> u64 {
    u64::from(u32::get(cpu, high as u8)) << 32 | u64::from(u32::get(cpu, low as u8))
}

fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> Exec {
    let expected = pair(cpu, reg::RDX, reg::RAX);
    let new = pair(cpu, reg::RCX, reg::RBX);
    let old: u64 = cpu.modify(op, |flags, old: u64| {
        flags.set_zf(old == expected);
        (if old == expected { new } else { old }, old)
    })?;
    if old != expected {
        u32::set(cpu, reg::RAX as u8, old as u32);
        u32::set(cpu, reg::RDX as u8, (old >> 32) as u32);
    }
    Ok(())
}

fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = cpu.address(op, 16, true)?;
    if at % 16 != 0 {
        return Err(cpu.gp(0));
    }
    let target = cpu.host_target(at, 16).map_err(|raised| cpu.blame(op, raised))?;
    let expected = (cpu.regs[reg::RAX], cpu.regs[reg::RDX]);
    let new = (cpu.regs[reg::RBX], cpu.regs[reg::RCX]);
    let old = match target {
        // SAFETY: the range is 16 bytes of guest RAM that may be written; guest pages are host pages, so it is aligned
        // as the guest's address is.
        Some(target) => unsafe {
            let old = compare_exchange_16(target.host, expected, new);
            cpu.wrote_to(&target);
            old
        },
        None => {
            // No RAM that can be written in place: a watched page, or a device.
            cpu.probe(at, 16, true)?;
            let low: u64 = cpu.read_lin(at)?;
            let high: u64 = cpu.read_lin(at + 8)?;
            let value = if (low, high) == expected { new } else { (low, high) };
            let mut bytes = [0; 16];
            let (first, second) = bytes.split_at_mut(8);
            first.copy_from_slice(&value.0.to_le_bytes());
            second.copy_from_slice(&value.1.to_le_bytes());
            cpu.write_bytes(at, &bytes)?;
            (low, high)
        }
    };
    cpu.flags.set_zf(old == expected);
    if old != expected {
        (cpu.regs[reg::RAX], cpu.regs[reg::RDX]) = old;
    }
    Ok(())
}

/// Atomically writes `new` (low, high) to `place` if it holds `expected`; gives what it held.
///
/// # Safety
/// `place` is aligned to 16, and 16 bytes from it on may be read and written.
unsafe fn compare_exchange_16(place: *mut u8, expected: (u64, u64), new: (u64, u64)) -> (u64, u64) {
    let (low, high): (u64, u64);
    // SAFETY: the caller vouches for the memory. RBX, which cannot be an operand, is exchanged and put back.
    unsafe {
        std::arch::asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            inout("rsi") new.0 => _,
            in("rdi") place,
            in("rcx") new.1,
            inout("rax") expected.0 => low,
            inout("rdx") expected.1 => high,
            options(nostack),
        );
    }
    (low, high)
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    op.run = match instr.mnemonic() {
        M::Cmpxchg8b => cmpxchg8b,
        M::Cmpxchg16b => cmpxchg16b,
        mnemonic => {
            let bits = width(instr, 0);
            let memory = destination(instr, op)?;
            op.src = reg_number(instr, 1)?;
            match (mnemonic, memory) {
                (M::Xadd, false) => by_width!(bits, xadd_registers),
                (M::Xadd, true) => by_width!(bits, xadd),
                (M::Cmpxchg, false) => by_width!(bits, cmpxchg_registers),
                (M::Cmpxchg, true) => by_width!(bits, cmpxchg),
                _ => return None,
            }
        }
    };
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[repr(align(16))]
    struct Aligned([u64; 2]);

    #[test]
    fn sixteen_bytes_change_only_if_they_are_as_expected() {
        let mut place = Aligned([1, 2]);
        // SAFETY: aligned, owned and 16 bytes long.
        let old = unsafe { compare_exchange_16(place.0.as_mut_ptr().cast(), (1, 3), (5, 6)) };
        assert_eq!((old, place.0), ((1, 2), [1, 2]));
        // SAFETY: as above.
        let old = unsafe { compare_exchange_16(place.0.as_mut_ptr().cast(), (1, 2), (5, 6)) };
        assert_eq!((old, place.0), ((1, 2), [5, 6]));
    }
}

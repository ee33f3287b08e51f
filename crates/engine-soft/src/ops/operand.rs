//! Where operands come from and go to, as types: a handler is compiled once for each combination.

use iced_x86::{ConditionCode, Instruction, OpKind, Register};

use crate::cpu::{Cpu, Exec};
use crate::decode::gpr;
use crate::flags::Flags;
use crate::mem::Word;
use crate::op::Op;

/// A register: `op.dst` as a destination, `op.src` as a source.
pub(super) struct Reg;
/// The immediate.
pub(super) struct Imm;
/// The memory operand.
pub(super) struct Mem;
/// The register CL.
pub(super) struct Cl;

/// Something that can be read.
pub(super) trait Source {
    /// Reads it.
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T>;
}

/// Something that can be read and changed.
pub(super) trait Place {
    /// Reads it.
    fn get<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T>;

    /// Overwrites it.
    fn put<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Exec;

    /// Replaces the value and the flags by what `f` makes of them; atomically if it is memory and the instruction has
    /// LOCK.
    fn update<T: Word, R>(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Flags, T) -> (T, R)) -> Exec<R>;
}

impl Source for Reg {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T> {
        Ok(T::get(cpu, op.src))
    }
}

impl Source for Imm {
    #[inline(always)]
    fn read<T: Word>(_: &mut Cpu, op: &Op) -> Exec<T> {
        Ok(T::from_u64(op.imm))
    }
}

impl Source for Mem {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T> {
        cpu.load(op)
    }
}

impl Source for Cl {
    #[inline(always)]
    fn read<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec<T> {
        Ok(T::from_u64(cpu.regs[crate::cpu::reg::RCX] & 0xff))
    }
}

impl Place for Reg {
    #[inline(always)]
    fn get<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T> {
        Ok(T::get(cpu, op.dst))
    }

    #[inline(always)]
    fn put<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Exec {
        T::set(cpu, op.dst, value);
        Ok(())
    }

    #[inline(always)]
    fn update<T: Word, R>(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Flags, T) -> (T, R)) -> Exec<R> {
        let old = T::get(cpu, op.dst);
        let (new, result) = f(&mut cpu.flags, old);
        T::set(cpu, op.dst, new);
        Ok(result)
    }
}

impl Place for Mem {
    #[inline(always)]
    fn get<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T> {
        cpu.load(op)
    }

    #[inline(always)]
    fn put<T: Word>(cpu: &mut Cpu, op: &Op, value: T) -> Exec {
        cpu.store(op, value)
    }

    #[inline(always)]
    fn update<T: Word, R>(cpu: &mut Cpu, op: &Op, f: impl Fn(&mut Flags, T) -> (T, R)) -> Exec<R> {
        cpu.modify(op, f)
    }
}

/// The kinds of the first two operands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

/// Whether operand `i` is a plain memory operand.
pub(super) fn is_mem(instr: &Instruction, i: u32) -> bool {
    i < instr.op_count() && instr.op_kind(i) == OpKind::Memory
}

/// The number of the general-purpose register that operand `i` is, `None` if it is something else.
pub(super) fn reg_number(instr: &Instruction, i: u32) -> Option<u8> {
    if i >= instr.op_count() || instr.op_kind(i) != OpKind::Register {
        return None;
    }
    let register = instr.op_register(i);
    register.is_gpr().then(|| gpr(register))
}

/// The width of operand `i` in bits.
pub(super) fn width(instr: &Instruction, i: u32) -> u32 {
    match instr.op_kind(i) {
        OpKind::Register => size_bits(instr.op_register(i)),
        _ => instr.memory_size().size() as u32 * 8,
    }
}

/// The width of `register` in bits.
pub(super) fn size_bits(register: Register) -> u32 {
    register.size() as u32 * 8
}

/// Fills in a destination that is operand 0 (register or memory); true if it is memory, `None` if it is neither.
pub(super) fn destination(instr: &Instruction, op: &mut Op) -> Option<bool> {
    if is_mem(instr, 0) {
        return Some(true);
    }
    op.dst = reg_number(instr, 0)?;
    Some(false)
}

/// Fills in the operand `i` as the source register unless it is memory; true if it is memory, `None` if it is neither.
pub(super) fn source(instr: &Instruction, i: u32, op: &mut Op) -> Option<bool> {
    if is_mem(instr, i) {
        return Some(true);
    }
    op.src = reg_number(instr, i)?;
    Some(false)
}

/// Fills in operands 0 and 1 and says what they are.
pub(super) fn form(instr: &Instruction, op: &mut Op) -> Option<Form> {
    let to_memory = destination(instr, op)?;
    if is_mem(instr, 1) {
        return (!to_memory).then_some(Form::RegMem);
    }
    if let Some(src) = reg_number(instr, 1) {
        op.src = src;
        return Some(if to_memory { Form::MemReg } else { Form::RegReg });
    }
    op.imm = immediate(instr, 1)?;
    Some(if to_memory { Form::MemImm } else { Form::RegImm })
}

/// Operand `i` as an immediate, extended as the instruction says.
pub(super) fn immediate(instr: &Instruction, i: u32) -> Option<u64> {
    if i >= instr.op_count() {
        return None;
    }
    instr.try_immediate(i).ok()
}

/// The condition of a Jcc, SETcc or CMOVcc: the low four bits of its opcode.
pub(super) fn condition(instr: &Instruction) -> Option<u8> {
    Some(match instr.condition_code() {
        ConditionCode::None => return None,
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::g => 15,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_is_the_low_half_of_the_opcode() {
        for cc in 0..16u8 {
            let code = [0x70 + cc, 0];
            let instr = iced_x86::Decoder::new(64, &code, 0).decode();
            assert_eq!(condition(&instr), Some(cc));
        }
    }
}

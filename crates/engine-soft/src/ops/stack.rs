//! The stack: PUSH, POP, PUSHA, POPA, PUSHF, POPF, ENTER, LEAVE.

use iced_x86::{Instruction, Mnemonic, Register};
use x86::bits::{cr4, rflags};

use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::mem::Word;
use crate::op::{Handler, Op, has};

use super::operand::{Imm, Mem, Reg, Source, immediate, is_mem, reg_number};

fn push<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    cpu.push(value)
}

fn push_segment<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.seg.get(usize::from(op.src)).map_or(0, |segment| segment.selector);
    if T::BITS == 32 {
        // Processors move SP by four and write two bytes.
        let sp = cpu.sp().wrapping_sub(4) & stack_mask(cpu);
        let at = cpu.seg_address(sreg::SS, sp, 2, true)?;
        cpu.write_lin(at, selector)?;
        cpu.set_sp(sp);
        return Ok(());
    }
    cpu.push(T::from_u64(u64::from(selector)))
}

fn pop_register<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = cpu.pop()?;
    T::set(cpu, op.dst, value);
    Ok(())
}

/// An address that names RSP means the one after the increment.
fn pop_memory<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    let value: T = cpu.pop()?;
    cpu.store(op, value).inspect_err(|_| cpu.regs[reg::RSP] = rsp)
}

/// What the stack pointer is cut to.
fn stack_mask(cpu: &Cpu) -> u64 {
    match cpu.stack_bits() {
        16 => 0xffff,
        32 => 0xffff_ffff,
        _ => !0,
    }
}

fn push_all<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    for i in 0..8u8 {
        let value = if usize::from(i) == reg::RSP { T::from_u64(rsp) } else { T::get(cpu, i) };
        cpu.push(value).inspect_err(|_| cpu.regs[reg::RSP] = rsp)?;
    }
    Ok(())
}

fn pop_all<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    let mut values = [T::from_u64(0); 8];
    for value in &mut values {
        *value = cpu.pop().inspect_err(|_| cpu.regs[reg::RSP] = rsp)?;
    }
    for (i, value) in (0..8u8).rev().zip(values) {
        if usize::from(i) != reg::RSP {
            T::set(cpu, i, value);
        }
    }
    Ok(())
}

/// PUSHF, as the SDM's pseudocode has it for each mode.
fn push_flags<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let mut image = cpu.rflags() & !(rflags::VM | rflags::RF);
    if cpu.v86() && cpu.iopl() < 3 {
        if T::BITS != 16 || cpu.cr4 & cr4::VME == 0 {
            return Err(cpu.gp(0));
        }
        image = image & !rflags::IF | rflags::IOPL;
        if cpu.system_flags & rflags::VIF != 0 {
            image |= rflags::IF;
        }
    }
    cpu.push(T::from_u64(image))
}

/// Every flag that software may change with POPF when nothing forbids it.
const POPPED: u64 =
    rflags::STATUS | rflags::TF | rflags::IF | rflags::DF | rflags::IOPL | rflags::NT | rflags::AC | rflags::ID;

/// POPF, as the SDM's pseudocode has it for each mode.
fn pop_flags<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    let mut mask = if T::BITS == 16 { POPPED & 0xffff } else { POPPED };
    let virtual_if = cpu.v86() && cpu.iopl() < 3;
    if virtual_if && (T::BITS != 16 || cpu.cr4 & cr4::VME == 0) {
        return Err(cpu.gp(0));
    }
    let image = cpu.pop::<T>()?.to_u64();
    let old = cpu.rflags();
    let mut kept = old;
    if virtual_if {
        let wants = image & rflags::IF != 0;
        if image & rflags::TF != 0 || wants && old & rflags::VIP != 0 {
            cpu.regs[reg::RSP] = rsp;
            return Err(cpu.gp(0));
        }
        mask &= !(rflags::IF | rflags::IOPL);
        kept = kept & !rflags::VIF | if wants { rflags::VIF } else { 0 };
    } else if cpu.v86() {
        mask &= !rflags::IOPL;
    } else if cpu.protected() {
        if cpu.cpl > 0 {
            mask &= !rflags::IOPL;
        }
        if cpu.cpl > cpu.iopl() {
            mask &= !rflags::IF;
        }
    }
    if T::BITS != 16 {
        kept &= !rflags::RF;
    }
    let new = kept & !mask | image & mask;
    if (new ^ old) & !(rflags::STATUS | rflags::DF) == 0 && new & rflags::TF == 0 {
        // Nothing that the mode depends on.
        cpu.flags.set_bits(new);
        cpu.system_flags = cpu.system_flags & !rflags::DF | new & rflags::DF;
    } else {
        cpu.set_rflags(new);
    }
    Ok(())
}

/// Reads the frame pointer at the stack's width.
fn frame_pointer(cpu: &Cpu) -> u64 {
    cpu.regs[reg::RBP] & stack_mask(cpu)
}

fn enter<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    enter_frame::<T>(cpu, op).inspect_err(|_| cpu.regs[reg::RSP] = rsp)
}

/// ENTER; the caller puts RSP back on a fault. `imm` has the size in bits 0 to 15, the nesting level above.
fn enter_frame<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let (size, level) = (op.imm & 0xffff, op.imm >> 16 & 31);
    let mask = stack_mask(cpu);
    cpu.push(T::get(cpu, reg::RBP as u8))?;
    let frame = cpu.sp();
    if level > 0 {
        let mut at = frame_pointer(cpu);
        for _ in 1..level {
            at = at.wrapping_sub(T::SIZE) & mask;
            let from = cpu.seg_address(sreg::SS, at, T::SIZE, false)?;
            let link: T = cpu.read_lin(from)?;
            cpu.push(link)?;
        }
        cpu.push(T::from_u64(frame))?;
    }
    let sp = cpu.sp().wrapping_sub(size) & mask;
    // The last word of the frame has to be writable (SDM vol. 2, ENTER, exceptions).
    let end = cpu.seg_address(sreg::SS, sp, T::SIZE, true)?;
    cpu.probe(end, T::SIZE, true)?;
    cpu.set_sp(sp);
    T::set(cpu, reg::RBP as u8, T::from_u64(frame));
    Ok(())
}

fn leave<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    let frame = frame_pointer(cpu);
    cpu.set_sp(frame);
    let value: T = cpu.pop().inspect_err(|_| cpu.regs[reg::RSP] = rsp)?;
    T::set(cpu, reg::RBP as u8, value);
    Ok(())
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    // How far the stack moves is the operand size; ENTER and LEAVE move it by other amounts too.
    let bits = instr.stack_pointer_increment().unsigned_abs() * 8;
    op.run = match instr.mnemonic() {
        M::Push => pick_push(instr, op, bits)?,
        M::Pop => {
            if is_mem(instr, 0) {
                by_wide_width!(bits, pop_memory)
            } else {
                op.dst = reg_number(instr, 0)?;
                by_wide_width!(bits, pop_register)
            }
        }
        M::Pusha => push_all::<u16>,
        M::Pushad => push_all::<u32>,
        M::Popa => pop_all::<u16>,
        M::Popad => pop_all::<u32>,
        M::Pushf => push_flags::<u16>,
        M::Pushfd => push_flags::<u32>,
        M::Pushfq => push_flags::<u64>,
        M::Popf | M::Popfd | M::Popfq => {
            // Interrupts may be open behind it.
            op.has |= has::ENDS;
            by_wide_width!(bits, pop_flags)
        }
        M::Enter => {
            op.imm = immediate(instr, 0)? & 0xffff | (immediate(instr, 1)? & 0xff) << 16;
            by_wide_width!(enter_bits(instr), enter)
        }
        M::Leave => by_wide_width!(leave_bits(instr), leave),
        _ => return None,
    };
    Some(())
}

fn pick_push(instr: &Instruction, op: &mut Op, bits: u32) -> Option<Handler> {
    if is_mem(instr, 0) {
        return Some(by_wide_width!(bits, push, Mem));
    }
    let register = instr.op0_register();
    if register.is_segment_register() {
        op.src = crate::decode::sreg(register);
        return Some(by_wide_width!(bits, push_segment));
    }
    if register != Register::None {
        op.src = reg_number(instr, 0)?;
        return Some(by_wide_width!(bits, push, Reg));
    }
    op.imm = immediate(instr, 0)?;
    Some(by_wide_width!(bits, push, Imm))
}

/// The operand size of ENTER.
fn enter_bits(instr: &Instruction) -> u32 {
    use iced_x86::Code;
    match instr.code() {
        Code::Enterw_imm16_imm8 => 16,
        Code::Enterd_imm16_imm8 => 32,
        _ => 64,
    }
}

/// The operand size of LEAVE.
fn leave_bits(instr: &Instruction) -> u32 {
    use iced_x86::Code;
    match instr.code() {
        Code::Leavew => 16,
        Code::Leaved => 32,
        _ => 64,
    }
}

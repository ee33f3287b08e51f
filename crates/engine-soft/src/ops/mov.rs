//! Moves, extensions, exchanges, and what does nothing.

use std::sync::atomic::{Ordering, compiler_fence, fence};

use iced_x86::{Instruction, Mnemonic};

use crate::cpu::{Cpu, Exec, reg};
use crate::mem::Word;
use crate::op::{Handler, Op, has};

use super::operand::{
    Form, Imm, Mem, Place, Reg, Source, destination, form, is_mem, reg_number, size_bits, source, width,
};

fn mov<T: Word, D: Place, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: T = S::read(cpu, op)?;
    D::put(cpu, op, value)
}

/// MOV from a segment register: zero-extended into a register, 16 bits wide in memory.
fn mov_from_segment<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.seg.get(usize::from(op.src)).map_or(0, |segment| segment.selector);
    D::put(cpu, op, T::from_u64(u64::from(selector)))
}

fn zero_extend<T: Word, F: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: F = S::read(cpu, op)?;
    T::set(cpu, op.dst, T::from_u64(value.to_u64()));
    Ok(())
}

fn sign_extend<T: Word, F: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let value: F = S::read(cpu, op)?;
    T::set(cpu, op.dst, T::from_u64(value.sext()));
    Ok(())
}

/// LEA with an address of 64 bits.
fn lea<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    // Masked to the length of `regs`: no bounds check.
    let base = cpu.regs[(op.base & 31) as usize];
    let index = cpu.regs[(op.index & 31) as usize];
    T::set(cpu, op.dst, T::from_u64(base.wrapping_add(index << (op.scale & 3)).wrapping_add(op.disp)));
    Ok(())
}

/// LEA with an address that is cut.
fn lea_cut<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let offset = op.offset(cpu);
    T::set(cpu, op.dst, T::from_u64(offset));
    Ok(())
}

fn exchange<T: Word, D: Place>(cpu: &mut Cpu, op: &Op) -> Exec {
    let new = T::get(cpu, op.src);
    let old: T = D::update(cpu, op, |_, old| (new, old))?;
    T::set(cpu, op.src, old);
    Ok(())
}

fn xlat(cpu: &mut Cpu, op: &Op) -> Exec {
    let mut at = *op;
    at.disp = cpu.regs[reg::RAX] & 0xff;
    let value: u8 = cpu.load(&at)?;
    u8::set(cpu, reg::RAX as u8, value);
    Ok(())
}

/// CBW, CWDE, CDQE: `F` in the accumulator extended to `T`.
fn extend_accumulator<T: Word, F: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = F::get(cpu, reg::RAX as u8).sext();
    T::set(cpu, reg::RAX as u8, T::from_u64(value));
    Ok(())
}

/// CWD, CDQ, CQO: the accumulator's sign into (R/E)DX.
fn spread_sign<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let sign = (T::get(cpu, reg::RAX as u8).sext() as i64 >> 63) as u64;
    T::set(cpu, reg::RDX as u8, T::from_u64(sign));
    Ok(())
}

fn nop(_: &mut Cpu, _: &Op) -> Exec {
    Ok(())
}

fn pause(_: &mut Cpu, _: &Op) -> Exec {
    std::hint::spin_loop();
    Ok(())
}

/// MFENCE, SFENCE, SERIALIZE: devices run on other threads, so the fence has to be real.
fn full_fence(_: &mut Cpu, _: &Op) -> Exec {
    fence(Ordering::SeqCst);
    Ok(())
}

/// LFENCE: the host orders loads by itself.
fn load_fence(_: &mut Cpu, _: &Op) -> Exec {
    compiler_fence(Ordering::SeqCst);
    Ok(())
}

pub(super) fn lower_hint(instr: &Instruction, op: &mut Op) -> bool {
    op.run = match instr.mnemonic() {
        Mnemonic::Pause => pause,
        Mnemonic::Lfence => load_fence,
        Mnemonic::Mfence | Mnemonic::Sfence | Mnemonic::Serialize => full_fence,
        _ => nop,
    };
    true
}

fn pick_mov(form: Form, bits: u32) -> Handler {
    match form {
        Form::RegReg => by_width!(bits, mov, Reg, Reg),
        Form::RegImm => by_width!(bits, mov, Reg, Imm),
        Form::RegMem => by_width!(bits, mov, Reg, Mem),
        Form::MemReg => by_width!(bits, mov, Mem, Reg),
        Form::MemImm => by_width!(bits, mov, Mem, Imm),
    }
}

fn pick_zero_extend<S: Source>(to: u32, from: u32) -> Option<Handler> {
    Some(match from {
        8 => by_wide_width!(to, zero_extend, u8, S),
        16 => by_wide_width!(to, zero_extend, u16, S),
        _ => return None,
    })
}

fn pick_sign_extend<S: Source>(to: u32, from: u32) -> Option<Handler> {
    Some(match from {
        8 => by_wide_width!(to, sign_extend, u8, S),
        16 => by_wide_width!(to, sign_extend, u16, S),
        32 => by_wide_width!(to, sign_extend, u32, S),
        _ => return None,
    })
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    try_lower(instr, op).is_some()
}

/// MOV to or from anything but general-purpose registers and memory.
fn lower_mov_special(instr: &Instruction, op: &mut Op) -> Option<()> {
    let register = instr.op_register(1);
    if !register.is_segment_register() {
        return None;
    }
    op.src = crate::decode::sreg(register);
    op.run = if destination(instr, op)? {
        mov_from_segment::<u16, Mem>
    } else {
        by_wide_width!(width(instr, 0), mov_from_segment, Reg)
    };
    Some(())
}

fn try_lower(instr: &Instruction, op: &mut Op) -> Option<()> {
    use Mnemonic as M;
    op.run = match instr.mnemonic() {
        M::Mov | M::Movnti | M::Movdiri => {
            if instr.op_register(1).is_segment_register() {
                return lower_mov_special(instr, op);
            }
            let form = form(instr, op)?;
            pick_mov(form, width(instr, 0))
        }
        M::Movzx => {
            op.dst = reg_number(instr, 0)?;
            let (to, from) = (width(instr, 0), width(instr, 1));
            if source(instr, 1, op)? { pick_zero_extend::<Mem>(to, from)? } else { pick_zero_extend::<Reg>(to, from)? }
        }
        M::Movsx | M::Movsxd => {
            op.dst = reg_number(instr, 0)?;
            let (to, from) = (width(instr, 0), width(instr, 1));
            if source(instr, 1, op)? { pick_sign_extend::<Mem>(to, from)? } else { pick_sign_extend::<Reg>(to, from)? }
        }
        M::Lea => {
            op.dst = reg_number(instr, 0)?;
            let bits = width(instr, 0);
            if op.has(has::ADDR16 | has::ADDR32) { by_wide_width!(bits, lea_cut) } else { by_wide_width!(bits, lea) }
        }
        M::Xchg => {
            // The register is operand 1 in all forms with memory.
            let bits = width(instr, 0);
            let memory = destination(instr, op)?;
            if !memory && is_mem(instr, 1) {
                op.src = op.dst;
                op.has |= has::LOCK;
                by_width!(bits, exchange, Mem)
            } else {
                op.src = reg_number(instr, 1)?;
                if memory {
                    op.has |= has::LOCK;
                    by_width!(bits, exchange, Mem)
                } else {
                    by_width!(bits, exchange, Reg)
                }
            }
        }
        M::Xlatb => {
            // The index is AL, which only the handler can extend.
            op.base = reg::RBX as u8;
            op.index = reg::NONE as u8;
            op.scale = 0;
            op.has &= !(has::ADDR16 | has::ADDR32);
            match size_bits(instr.memory_base()) {
                16 => op.has |= has::ADDR16,
                32 => op.has |= has::ADDR32,
                _ => {}
            }
            xlat
        }
        M::Cbw => extend_accumulator::<u16, u8>,
        M::Cwde => extend_accumulator::<u32, u16>,
        M::Cdqe => extend_accumulator::<u64, u32>,
        M::Cwd => spread_sign::<u16>,
        M::Cdq => spread_sign::<u32>,
        M::Cqo => spread_sign::<u64>,
        _ => return None,
    };
    Some(())
}

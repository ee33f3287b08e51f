//! x87 and MMX: their registers are the host's while a vCPU runs.

use iced_x86::Instruction;
use x86::bits::{cr0, vector as exception};

use super::state::FSW_ES;
use super::thunk::{Mem, Shape};
use super::{Gate, vector};
use crate::cpu::{Cpu, Exec};
use crate::decode::LowerCtx;
use crate::op::Op;

pub(super) fn lower(instruction: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op, shape: Shape) -> bool {
    op.run = match shape.mem {
        Mem::None => run_registers,
        Mem::Load => run_load,
        Mem::Store => run_store,
    };
    vector::prepare(instruction, ctx, op, shape)
}

/// WAIT: #NM with CR0.MP and CR0.TS, then the pending exception.
pub(super) fn wait(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.cr0 & (cr0::MP | cr0::TS) == cr0::MP | cr0::TS {
        return Err(cpu.raise(exception::NM));
    }
    cpu.pending_x87()
}

/// FNOP, which is no control instruction: the instruction pointer takes note of it (SDM vol. 1, 8.1.8).
pub(super) fn fnop(cpu: &mut Cpu, op: &Op) -> Exec {
    nothing(cpu, op)?;
    cpu.fpu.fip = op.rip();
    Ok(())
}

/// What was for the 8087 and 287 only.
pub(super) fn nothing(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_gate(Gate::X87)?;
    cpu.pending_x87()
}

/// As [`nothing`], without a look at pending exceptions.
pub(super) fn nothing_at_once(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_gate(Gate::X87)
}

impl Cpu {
    /// Raises #MF for an unmasked exception of an earlier instruction (SDM vol. 1, 8.7).
    #[inline(always)]
    pub(super) fn pending_x87(&mut self) -> Exec {
        if self.fpu.fsw & FSW_ES != 0 {
            return Err(self.raise(exception::MF));
        }
        Ok(())
    }

    #[inline(always)]
    fn enter_x87(&mut self, op: &Op) -> Exec {
        let shape = &op.thunk().shape;
        self.check_gate(shape.gate)?;
        if !shape.no_wait {
            self.pending_x87()?;
        }
        self.fpu.make_resident();
        Ok(())
    }

    #[inline(always)]
    fn note_pointers(&mut self, op: &Op) {
        if op.thunk().shape.gate == Gate::X87 && !op.thunk().shape.control {
            self.fpu.fip = op.rip();
            if op.thunk().shape.mem != Mem::None {
                self.fpu.fdp = op.offset(self);
            }
        }
    }
}

fn run_registers(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_x87(op)?;
    cpu.note_pointers(op);
    cpu.call_thunk(op, std::ptr::null_mut())
}

fn run_load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_x87(op)?;
    cpu.call_with_load(op)?;
    cpu.note_pointers(op);
    Ok(())
}

fn run_store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_x87(op)?;
    let stored = cpu.call_with_store(op);
    if stored.is_ok() {
        cpu.note_pointers(op);
    } else if op.thunk().shape.gate != Gate::X87 {
        // CPUs enter the MMX state even where the store then faults.
        cpu.fpu.enter_mmx();
    }
    stored
}

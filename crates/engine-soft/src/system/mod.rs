//! The system side of the CPU: segments, privilege, interrupts, tasks, control and model-specific registers, I/O (SDM
//! vol. 3A).

mod control;
mod cpuid;
mod descriptor;
mod far;
pub(crate) mod fast;
mod fault;
mod frame;
mod interrupt;
mod io;
mod iret;
mod misc;
mod msr;
mod segment;
mod tables;
mod task;

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use x86::bits::{cr4, vector};

use crate::cpu::{Cpu, Exec, sreg};
use crate::decode::{LowerCtx, gpr};
use crate::op::{Op, has};

/// Whether `instr` has a memory operand.
fn has_memory(instr: &Instruction) -> bool {
    (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory)
}

/// #GP(0) at any privilege level but 0.
fn check_cpl0(cpu: &mut Cpu) -> Exec {
    if cpu.cpl != 0 { Err(cpu.gp(0)) } else { Ok(()) }
}

/// #GP(0) outside of privilege level 0 if CR4.UMIP is set.
fn check_umip(cpu: &mut Cpu) -> Exec {
    if cpu.cpl != 0 && cpu.cr4 & cr4::UMIP != 0 { Err(cpu.raise_code(vector::GP, 0)) } else { Ok(()) }
}

/// Lowers an instruction of this family.
pub(crate) fn lower(instr: &Instruction, _: &LowerCtx<'_>, op: &mut Op) -> bool {
    if segment::lower(instr, op)
        || far::lower(instr, op)
        || control::lower(instr, op)
        || tables::lower(instr, op)
        || io::lower(instr, op)
        || misc::lower(instr, op)
    {
        return true;
    }
    use Mnemonic as M;
    let ends = match instr.mnemonic() {
        M::Int => {
            op.imm = instr.immediate8().into();
            op.run = interrupt::int;
            true
        }
        M::Int3 => {
            op.run = interrupt::int3;
            true
        }
        M::Into => {
            op.run = interrupt::into;
            true
        }
        M::Int1 => {
            op.run = interrupt::int1;
            true
        }
        M::Iret | M::Iretd | M::Iretq => {
            op.imm = match instr.code() {
                Code::Iretw => 2,
                Code::Iretd => 4,
                _ => 8,
            };
            op.run = iret::iret;
            true
        }
        M::Syscall => {
            op.run = fast::syscall;
            true
        }
        M::Sysret | M::Sysretq => {
            op.imm = if instr.code() == Code::Sysretq { 8 } else { 4 };
            op.run = fast::sysret;
            true
        }
        M::Sysenter => {
            op.run = fast::sysenter;
            true
        }
        M::Sysexit | M::Sysexitq => {
            op.imm = if instr.code() == Code::Sysexitq { 8 } else { 4 };
            op.run = fast::sysexit;
            true
        }
        M::Swapgs => {
            op.run = fast::swapgs;
            false
        }
        M::Rdfsbase | M::Rdgsbase | M::Wrfsbase | M::Wrgsbase => {
            let register: Register = instr.op0_register();
            op.dst = gpr(register);
            op.imm = register.size() as u64;
            let fs = matches!(instr.mnemonic(), M::Rdfsbase | M::Wrfsbase);
            op.src = if fs { sreg::FS } else { sreg::GS } as u8;
            op.run = match instr.mnemonic() {
                M::Rdfsbase | M::Rdgsbase => fast::read_base,
                _ => fast::write_base,
            };
            false
        }
        M::Rdmsr => {
            op.run = msr::rdmsr;
            false
        }
        M::Wrmsr => {
            op.run = msr::wrmsr;
            false
        }
        M::Cpuid => {
            op.run = cpuid::cpuid;
            false
        }
        _ => return false,
    };
    if ends {
        op.has |= has::ENDS;
    }
    true
}

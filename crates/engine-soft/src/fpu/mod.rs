//! x87, MMX, SSE and AVX: exact because they run on the host's own unit.
//!
//! Each form of an instruction becomes a *thunk*: a few host instructions that load the operands, run the instruction
//! itself and store what it has written ([`thunk`], kept in [`arena`]). Vector registers live in [`state::Fpu`]; the
//! x87 registers live in the host's own while a vCPU runs, which no Rust code disturbs. What moves whole states
//! ([`xsave`], [`env`]) and what touches memory by elements ([`masked`]) is plain code.

mod arena;
mod bytes;
mod env;
mod masked;
pub(crate) mod signal;
mod state;
mod thunk;
mod vector;
mod x87;
mod xsave;

#[cfg(test)]
mod coverage_tests;
#[cfg(test)]
mod legacy_tests;

use iced_x86::{Instruction, Mnemonic};

pub(crate) use arena::Thunks;
pub(crate) use state::Fpu;

use crate::cpu::{Cpu, Exec};
use crate::decode::LowerCtx;
use crate::op::Op;
use x86::bits::{cr0, cr4, vector as exception};

/// Lowers x87, MMX, SSE and AVX instructions.
pub(crate) fn lower(instruction: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Wait | M::Fnop | M::Fdisi | M::Feni | M::Fndisi | M::Fneni | M::Fnsetpm | M::Fsetpm => {
            op.run = match instruction.mnemonic() {
                M::Wait => x87::wait,
                M::Fnop => x87::fnop,
                M::Fndisi | M::Fneni | M::Fnsetpm => x87::nothing_at_once,
                _ => x87::nothing,
            };
            true
        }
        _ if xsave::lower(instruction, op) || env::lower(instruction, ctx, op) => true,
        _ if masked::lower(instruction, op) => true,
        _ => match thunk::shape(instruction) {
            Some(shape) if shape.x87 => x87::lower(instruction, ctx, op, shape),
            Some(shape) => vector::lower(instruction, ctx, op, shape),
            None => false,
        },
    }
}

/// What CR0, CR4 and XCR0 demand of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gate {
    X87,
    Mmx,
    Sse,
    Avx,
}

impl Cpu {
    /// Raises #UD or #NM where the unit is switched off (SDM vol. 3A, 2.5 and 13.1).
    #[inline(always)]
    fn check_gate(&mut self, gate: Gate) -> Exec {
        let off = self.cr0 & (cr0::EM | cr0::TS) != 0;
        match gate {
            Gate::X87 | Gate::Mmx if !off => Ok(()),
            Gate::Sse if !off && self.cr4 & cr4::OSFXSR != 0 => Ok(()),
            Gate::Avx
                if self.cr0 & cr0::TS == 0
                    && self.cr4 & cr4::OSXSAVE != 0
                    && self.xcr0 & 6 == 6
                    && self.protected()
                    && !self.v86() =>
            {
                Ok(())
            }
            _ => Err(self.gate_closed(gate)),
        }
    }

    #[cold]
    fn gate_closed(&mut self, gate: Gate) -> crate::cpu::Raised {
        let em = self.cr0 & cr0::EM != 0;
        let undefined = match gate {
            Gate::X87 => false,
            Gate::Mmx => em,
            Gate::Sse => em || self.cr4 & cr4::OSFXSR == 0,
            Gate::Avx => self.cr4 & cr4::OSXSAVE == 0 || self.xcr0 & 6 != 6 || !self.protected() || self.v86(),
        };
        if undefined { self.ud() } else { self.raise(exception::NM) }
    }
}

//! A decoded instruction, ready to run.

use crate::cpu::{Cpu, Exec};

/// Runs one instruction. [`Cpu::rip`] is already that of the next one; on `Err` the caller puts it back.
pub(crate) type Handler = fn(&mut Cpu, &Op) -> Exec;

/// A decoded instruction: its handler and its operands, resolved.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Op {
    /// What runs it.
    pub(crate) run: Handler,
    /// RIP of the next instruction, wrapped to the code size.
    pub(crate) next: u64,
    /// The immediate, sign- or zero-extended as the instruction has it; or the target of a direct branch; or, for an
    /// instruction that runs on the host's unit, the address of its thunk.
    pub(crate) imm: u64,
    /// The displacement, sign-extended; for RIP-relative operands the whole address.
    pub(crate) disp: u64,
    /// The length of the instruction in bytes.
    pub(crate) len: u8,
    /// The destination register: 0 to 15, for the high bytes AH, CH, DH, BH [`HIGH_BYTE`] + 0 to 3; segment registers
    /// as in `sreg`.
    pub(crate) dst: u8,
    /// The source register, as `dst`.
    pub(crate) src: u8,
    /// The base register of the memory operand, `reg::NONE` for none.
    pub(crate) base: u8,
    /// The index register of the memory operand, `reg::NONE` for none.
    pub(crate) index: u8,
    /// The shift of the index: 0 to 3.
    pub(crate) scale: u8,
    /// The segment register of the memory operand, overrides applied.
    pub(crate) seg: u8,
    /// Bits as in [`has`].
    pub(crate) has: u8,
}

/// In a register number: a high byte register.
pub(crate) const HIGH_BYTE: u8 = 0x20;

/// The bits of [`Op::has`].
pub(crate) mod has {
    /// LOCK prefix, or XCHG with memory.
    pub(crate) const LOCK: u8 = 1;
    /// Addresses are cut to 32 bits.
    pub(crate) const ADDR32: u8 = 1 << 1;
    /// Addresses are cut to 16 bits.
    pub(crate) const ADDR16: u8 = 1 << 2;
    /// Not 64-bit mode: accesses go through segments with limits and rights.
    pub(crate) const SEGMENTED: u8 = 1 << 3;
    /// REP or REPE.
    pub(crate) const REP: u8 = 1 << 4;
    /// REPNE.
    pub(crate) const REPNE: u8 = 1 << 5;
    /// The block ends behind this instruction.
    pub(crate) const ENDS: u8 = 1 << 6;
}

impl Op {
    /// Whether the bits of `mask` (see [`has`]) are set.
    #[inline(always)]
    pub(crate) fn has(&self, mask: u8) -> bool {
        self.has & mask != 0
    }

    /// RIP of this instruction, before code-size wrapping (which only matters at the end of a 16-bit segment).
    #[inline(always)]
    pub(crate) fn rip(&self) -> u64 {
        self.next.wrapping_sub(u64::from(self.len))
    }

    /// The offset that the memory operand names within its segment.
    #[inline(always)]
    pub(crate) fn offset(&self, cpu: &Cpu) -> u64 {
        // Masked to the length of `regs`: no bounds check.
        let base = cpu.regs[(self.base & 31) as usize];
        let index = cpu.regs[(self.index & 31) as usize];
        let sum = base.wrapping_add(index << self.scale).wrapping_add(self.disp);
        if self.has(has::ADDR32 | has::ADDR16) {
            return if self.has(has::ADDR32) { sum & 0xffff_ffff } else { sum & 0xffff };
        }
        sum
    }
}

//! Instructions that work on registers, and registers that live in memory.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::{Emitter, in_memory_bit, number, resident_mask};
use crate::jit::asm::r;
use crate::jit::layout as l;
use crate::jit::scan::{Ins, STATUS};

impl<'a> Emitter<'a> {
    pub(super) fn own_bytes(&self, ins: &Ins) -> &'a [u8] {
        let at = usize::from(ins.at);
        self.bytes.get(at..at + ins.len()).unwrap_or_default()
    }

    /// The registers among `mask` that `instr` reads, or writes a part of.
    pub(super) fn needed(instr: &Instruction, mask: u16) -> u16 {
        use Mnemonic as M;
        let only_written = matches!(instr.mnemonic(), M::Mov | M::Movzx | M::Movsx | M::Movsxd)
            && instr.op0_kind() == OpKind::Register
            && instr.op0_register().size() >= 4;
        if !only_written {
            return mask;
        }
        let read = if instr.op1_kind() == OpKind::Register { in_memory_bit(instr.op1_register()) } else { 0 };
        mask & (!in_memory_bit(instr.op0_register()) | read)
    }

    /// Brings register operands that live in memory into their places in the host.
    pub(super) fn load_registers(&mut self, mask: u16) {
        for reg in [r::R10, r::R11, r::R15] {
            if mask >> reg & 1 != 0 {
                self.asm.gs_load(reg, l::reg(reg));
            }
        }
    }

    /// Puts those that `instr` may have changed back.
    pub(super) fn store_registers(&mut self, instr: &Instruction) {
        use Mnemonic as M;
        let two = matches!(instr.mnemonic(), M::Xchg | M::Xadd | M::Mulx);
        let read_only = matches!(instr.mnemonic(), M::Cmp | M::Test | M::Bt);
        let mut mask = 0;
        for i in 0..instr.op_count().min(if two { 2 } else { 1 }) {
            if !read_only && instr.op_kind(i) == OpKind::Register {
                mask |= in_memory_bit(instr.op_register(i));
            }
        }
        for reg in [r::R10, r::R11, r::R15] {
            if mask >> reg & 1 != 0 {
                self.asm.gs_store(l::reg(reg), reg);
            }
        }
    }

    /// R15 of the host has been used for something else.
    pub(super) fn restore_window(&mut self, mask: u16) {
        if self.window.is_some() && mask >> r::R15 & 1 != 0 {
            self.asm.gs_load(r::R15, l::WINDOW_DELTA);
        }
    }

    pub(super) fn verbatim(&mut self, ins: &Ins) {
        let mask = resident_mask(&ins.instr);
        if matches!(ins.instr.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) {
            // What a fault leaves behind takes the flags from memory.
            self.give_up_flags(STATUS);
        }
        self.prepare_flags(ins, r::R10);
        self.load_registers(Self::needed(&ins.instr, mask));
        let bytes = self.own_bytes(ins);
        self.may_fault(ins);
        self.asm.bytes(bytes);
        self.flags_written(ins);
        self.store_registers(&ins.instr);
        self.note_pointers(ins);
        self.restore_window(mask);
    }

    pub(super) fn short_inc_dec(&mut self, ins: &Ins) {
        self.prepare_flags(ins, r::R10);
        if ins.instr.op0_register().size() == 2 {
            self.asm.byte(0x66);
        }
        let which = if ins.instr.mnemonic() == Mnemonic::Inc { 0xc0 } else { 0xc8 };
        self.asm.bytes(&[0xff, which | number(ins.instr.op0_register())]);
        self.flags_written(ins);
    }
}

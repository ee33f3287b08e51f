//! Where the guest's status flags are.

use iced_x86::{Instruction, Mnemonic, OpKind, RflagsBits};

use super::Emitter;
use crate::jit::asm::r;
use crate::jit::layout as l;
use crate::jit::scan::Ins;

/// In memory, the flags of a result of zero: ZF and PF. AF, which XOR leaves undefined, is clear on all hosts known.
const FLAGS_OF_ZERO: u16 = 0x4600;

/// Whether `instr` is the way to clear a register.
fn zeroes(instr: &Instruction) -> bool {
    matches!(instr.mnemonic(), Mnemonic::Xor | Mnemonic::Sub)
        && instr.op0_kind() == OpKind::Register
        && instr.op1_kind() == OpKind::Register
        && instr.op0_register() == instr.op1_register()
}

impl<'a> Emitter<'a> {
    /// Puts the flags from the host's register into memory; clobbers `scratch`.
    pub(super) fn save_flags(&mut self, scratch: u8) {
        self.now.in_memory = true;
        if let Some(flags) = self.now.constant {
            // mov word gs:[flags], imm16
            self.asm.bytes(&[0x65, 0x66, 0xc7, 0x04, 0x25]);
            self.asm.imm32(l::FLAGS as u32);
            return self.asm.bytes(&flags.to_le_bytes());
        }
        self.asm.mov(scratch, r::RAX);
        // lahf; seto al; mov gs:[flags], ax
        self.asm.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x65, 0x66, 0x89, 0x04, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.mov(r::RAX, scratch);
    }

    /// The host's flags are about to be overwritten, `live` of them are needed later. Clobbers R10.
    pub(super) fn give_up_flags(&mut self, live: u32) {
        if live != 0 && !self.now.in_memory {
            self.save_flags(r::R10);
        }
        self.now.in_host = false;
    }

    /// Takes the flags from memory into the host's register, where they are not yet. Clobbers `scratch`.
    pub(super) fn take_flags(&mut self, scratch: u8) {
        if self.now.in_host {
            return;
        }
        self.asm.mov(scratch, r::RAX);
        // movzx eax, word gs:[flags]; add al, 7fh; sahf
        self.asm.bytes(&[0x65, 0x0f, 0xb7, 0x04, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.bytes(&[0x04, 0x7f, 0x9e]);
        self.asm.mov(r::RAX, scratch);
        self.now.in_host = true;
    }

    /// Before an instruction of the guest's that is run as it is: it must see the flags that it reads, and those that
    /// it leaves alone must be beside those that it changes.
    pub(super) fn prepare_flags(&mut self, ins: &Ins, scratch: u8) {
        let merges = ins.writes != 0 && ins.live_after & !ins.kills != 0;
        let kept = if merges { ins.live_after & !ins.kills } else { 0 };
        let needed = ins.reads | kept;
        if needed & !RflagsBits::CF == 0 && needed != 0 && !self.now.in_host {
            // bt word gs:[flags], 8: CF alone. The others are garbage, but then all of them are overwritten or dead. A
            // wider load would wait for the store of the flags.
            self.asm.bytes(&[0x65, 0x66, 0x0f, 0xba, 0x24, 0x25]);
            self.asm.imm32(l::FLAGS as u32);
            self.asm.byte(8);
        } else if needed != 0 {
            self.take_flags(scratch);
        }
    }

    /// After it.
    pub(super) fn flags_written(&mut self, ins: &Ins) {
        if ins.writes != 0 {
            self.now.in_host = true;
            self.now.in_memory = false;
            self.now.constant = zeroes(&ins.instr).then_some(FLAGS_OF_ZERO);
        }
    }
}

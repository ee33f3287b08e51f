//! The stack: its window, PUSH, POP and their kin.

use iced_x86::{Mnemonic, OpKind, Register};

use super::{Emitter, in_memory_bit, number};
use crate::jit::asm::{Stream, cc, r};
use crate::jit::encoding::HostMemory;
use crate::jit::layout as l;
use crate::jit::scan::{Ins, STATUS};

impl<'a> Emitter<'a> {
    /// The stack's page has to be in the window, from `low` to `high` around RSP.
    pub(super) fn check_window(&mut self, low: i32, high: i32, write: bool) {
        let retry = self.asm.here();
        let cold = self.asm.label();
        self.asm.lea(r::R10, Some(r::RSP), None, low, false);
        let tag = if write { l::WINDOW_WRITE } else { l::WINDOW_READ };
        self.asm.gs(0x2b, r::R10, tag);
        self.asm.alu_imm(7, r::R10, 4096 - (high - low));
        self.asm.jcc(cc::A, cold);
        self.asm.gs_load(r::R15, l::WINDOW_DELTA);
        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        // What lies in two pages is for the other form of the block.
        self.asm.lea(r::R11, Some(r::RSP), None, low, false);
        self.asm.lea(r::R10, Some(r::RSP), None, high - 1, false);
        // xor r10, r11; shr r10, 12
        self.asm.bytes(&[0x4d, 0x31, 0xda]);
        self.asm.shift(5, r::R10, 12);
        let way = self.way(self.rip, STATUS);
        self.asm.stream(Stream::Cold);
        self.asm.bytes(&[0x0f, 0x80 | cc::NE]);
        self.link_here(way, None);
        if let Some(way) = self.now.ways.last_mut() {
            way.variant = true;
        }
        self.asm.gs_store_imm32(l::SITE, self.block);
        self.asm.gs_store_label(l::TARGET, retry);
        self.asm.jmp_out(self.stubs.window[usize::from(self.table) % 3]);
        self.asm.stream(Stream::Hot);
    }

    pub(super) fn width(&self) -> i32 {
        if self.long { 8 } else { 4 }
    }

    /// `mov [at], reg` or the other way, of the stack's width.
    pub(super) fn stack_move(&mut self, opcode: u8, reg: u8, at: HostMemory) {
        let wide = if self.long { 8 } else { 0 };
        match at {
            HostMemory::Beside(disp) => {
                self.asm.bytes(&[0x41 | wide | (reg >> 3) << 2, opcode]);
                self.asm.address(reg, Some(r::R11), None, disp);
            }
            HostMemory::At(base) => {
                self.asm.bytes(&[0x40 | wide | (reg >> 3) << 2 | base >> 3, opcode]);
                self.asm.address(reg, Some(base), None, 0);
            }
            HostMemory::Stack(disp) => {
                self.asm.bytes(&[0x42 | wide | (reg >> 3) << 2, opcode]);
                self.asm.address(reg, Some(r::RSP), Some((r::R15, 0)), disp);
            }
        }
    }

    /// Where `disp` from RSP is in the host: in the window, or at an address in R11, looked up.
    pub(super) fn stack_place(&mut self, ins: &Ins, disp: i32, write: bool) -> HostMemory {
        if self.window.is_some() && ins.rsp.is_some() {
            return HostMemory::Stack(disp);
        }
        self.asm.lea(r::R11, Some(r::RSP), None, disp, !self.long);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, write);
        HostMemory::At(r::R11)
    }

    pub(super) fn move_rsp(&mut self, by: i32) {
        self.asm.lea(r::RSP, Some(r::RSP), None, by, !self.long);
    }

    pub(super) fn push(&mut self, ins: &Ins) {
        let width = self.width();
        let instr = &ins.instr;
        if instr.mnemonic() == Mnemonic::Pushfq {
            return self.push_flags(ins);
        }
        match instr.op0_kind() {
            OpKind::Register => {
                let place = self.stack_place(ins, -width, true);
                let mut from = number(instr.op0_register());
                if in_memory_bit(instr.op0_register()) != 0 {
                    self.asm.gs_load(r::R10, l::reg(from));
                    from = r::R10;
                }
                self.stack_move(0x89, from, place);
            }
            OpKind::Memory => {
                if let Some(displacement) = self.on_window(ins) {
                    self.stack_move(0x8b, r::R10, HostMemory::Stack(displacement));
                } else {
                    self.linear_address(instr, r::R11, r::R10);
                    self.give_up_flags(ins.live_before());
                    self.check(r::R11, r::R10, width as usize, false);
                    self.stack_move(0x8b, r::R10, HostMemory::At(r::R11));
                }
                if self.window.is_some() && ins.rsp.is_some() {
                    self.stack_move(0x89, r::R10, HostMemory::Stack(-width));
                } else {
                    // The value waits in R15, which is nobody's without a window.
                    self.asm.mov(r::R15, r::R10);
                    let place = self.stack_place(ins, -width, true);
                    self.stack_move(0x89, r::R15, place);
                    self.restore_window(1 << r::R15);
                }
            }
            _ => {
                let place = self.stack_place(ins, -width, true);
                self.asm.mov_imm(r::R10, instr.immediate(0) & if self.long { u64::MAX } else { 0xffff_ffff });
                self.stack_move(0x89, r::R10, place);
            }
        }
        self.move_rsp(-width);
    }

    pub(super) fn pop(&mut self, ins: &Ins) {
        if ins.instr.mnemonic() == Mnemonic::Popfq {
            return self.pop_flags(ins);
        }
        let to = number(ins.instr.op0_register());
        let place = self.stack_place(ins, 0, false);
        if to == r::RSP {
            return self.stack_move(0x8b, r::RSP, place);
        }
        if in_memory_bit(ins.instr.op0_register()) != 0 {
            self.stack_move(0x8b, r::R10, place);
            self.asm.gs_store(l::reg(to), r::R10);
        } else {
            self.stack_move(0x8b, to, place);
        }
        self.move_rsp(self.width());
    }

    pub(super) fn leave(&mut self, ins: &Ins) {
        self.asm.lea(r::R11, Some(r::RBP), None, 0, !self.long);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, false);
        self.asm.lea(r::RSP, Some(r::RBP), None, self.width(), !self.long);
        self.stack_move(0x8b, r::RBP, HostMemory::At(r::R11));
    }

    /// Pushes the address of the next instruction; `keep` is a register that must not be used.
    pub(super) fn push_return(&mut self, ins: &Ins) {
        let place = self.stack_place(ins, -self.width(), true);
        self.asm.mov_imm(r::R10, ins.instr.next_ip());
        self.stack_move(0x89, r::R10, place);
        self.move_rsp(-self.width());
    }
}

/// The displacement from RSP of a memory operand on the stack, whose RSP is known.
pub(in crate::jit) fn stack_operand(ins: &Ins) -> Option<i32> {
    let instr = &ins.instr;
    ins.rsp?;
    let pointer = if instr.code_size() == iced_x86::CodeSize::Code64 { Register::RSP } else { Register::ESP };
    let plain = instr.memory_base() == pointer
        && instr.memory_index() == Register::None
        && !matches!(instr.memory_segment(), Register::FS | Register::GS);
    let displacement = i32::try_from(instr.memory_displacement64() as i64).ok()?;
    plain.then_some(displacement)
}

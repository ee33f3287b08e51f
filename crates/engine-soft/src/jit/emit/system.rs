//! Instructions of the system that are done in place: what the kernel runs at each entry, at each lock and at each access
//! to a program's memory.
//!
//! All code that is translated runs at privilege level 0 or 3. What depends on more than a look at one word is called
//! out to the interpreter's handler.

use iced_x86::{Mnemonic, Register};
use x86::bits::{cr4, rflags};

use super::{Emitter, in_memory_bit, number};
use crate::jit::asm::{Label, Stream, cc, r};
use crate::jit::encoding::{Encoding, HostMemory};
use crate::jit::layout as l;
use crate::jit::scan::{Ins, STATUS};
use crate::jit::translate::mode;
use crate::mmu::table;
use crate::pending::Pending;

// The opcode extensions of arithmetic with an immediate.
pub(super) const OR: u8 = 1;
pub(super) const AND: u8 = 4;
const XOR: u8 = 6;

/// The bits of RFLAGS that POPF changes in place if they are what they were.
const SAME: u64 = rflags::TF | rflags::IOPL | rflags::DF | rflags::NT | rflags::AC | rflags::ID;

impl<'a> Emitter<'a> {
    pub(super) fn system(&mut self, ins: &Ins) {
        match ins.instr.mnemonic() {
            Mnemonic::Cld => {
                self.give_up_flags(ins.live_before());
                self.in_word(AND, l::SYSTEM_FLAGS, !(rflags::DF as u32));
            }
            Mnemonic::Cli => {
                self.give_up_flags(ins.live_before());
                self.in_word(AND, l::SYSTEM_FLAGS, !(rflags::IF as u32));
                self.in_word(AND, l::INTEREST, !Pending::MASKABLE);
            }
            Mnemonic::Sti => self.enable_interrupts(ins),
            Mnemonic::Swapgs => {
                self.asm.gs_load(r::R10, l::GS_BASE);
                self.asm.gs_load(r::R11, l::KERNEL_GS_BASE);
                self.asm.gs_store(l::GS_BASE, r::R11);
                self.asm.gs_store(l::KERNEL_GS_BASE, r::R10);
            }
            // Through the same table as before.
            Mnemonic::Stac => {
                self.give_up_flags(ins.live_before());
                self.in_word(OR, l::SYSTEM_FLAGS, rflags::AC as u32);
            }
            Mnemonic::Cmpxchg16b => self.compare_16(ins),
            _ => self.read_control(ins),
        }
    }

    /// `op dword gs:[at], imm`: overwrites the flags.
    pub(super) fn in_word(&mut self, which: u8, at: i32, imm: u32) {
        self.asm.bytes(&[0x65, 0x81, 0x04 | which << 3, 0x25]);
        self.asm.imm32(at as u32);
        self.asm.imm32(imm);
    }

    /// MOV from CR0, CR2, CR3, CR4 or a segment register.
    fn read_control(&mut self, ins: &Ins) {
        let (register, from) = (ins.instr.op0_register(), ins.instr.op1_register());
        let resident = in_memory_bit(register) != 0;
        let to = if resident { r::R10 } else { number(register) };
        match from {
            Register::CR0 => self.asm.gs_load(to, l::CR0),
            Register::CR2 => self.asm.gs_load(to, l::CR2),
            Register::CR3 => self.asm.gs_load(to, l::CR3),
            Register::CR4 => self.asm.gs_load(to, l::CR4),
            segment => self.asm.gs_load16(to, l::selector(segment.number())),
        }
        if resident {
            self.asm.gs_store(l::reg(number(register)), r::R10);
        }
    }

    /// STI. If an interrupt waits, the handler sees to it that it comes behind the next instruction; one that arrives
    /// later finds no place to be taken at before that.
    fn enable_interrupts(&mut self, ins: &Ins) {
        let last = self.scan.list.last().is_none_or(|last| last.at == ins.at);
        if last {
            return self.call_out(ins);
        }
        self.give_up_flags(ins.live_before());
        let waiting = self.asm.label();
        self.jump_if_pending(waiting);
        self.in_word(OR, l::SYSTEM_FLAGS, rflags::IF as u32);
        self.in_word(OR, l::INTEREST, Pending::MASKABLE);
        let done = self.asm.here();
        self.called_out_at(waiting, done, ins);
    }

    /// Jumps to `waiting` if there may be an interrupt to be taken. Clobbers the flags.
    pub(super) fn jump_if_pending(&mut self, waiting: Label) {
        // test dword gs:[PENDING], MASKABLE
        self.asm.gs_absolute(&[0xf7], 0, l::PENDING);
        self.asm.imm32(Pending::MASKABLE);
        self.asm.jcc(cc::NE, waiting);
    }

    /// At `label`, out of line: the interpreter's handler, and back to `done`. The flags are in memory or dead.
    fn called_out_at(&mut self, label: Label, done: Label, ins: &Ins) {
        let before = (self.now.in_host, self.now.in_memory);
        self.asm.stream(Stream::Cold);
        self.asm.bind(label);
        (self.now.in_host, self.now.in_memory) = (false, true);
        self.call_out(ins);
        self.asm.jmp(done);
        self.asm.stream(Stream::Hot);
        (self.now.in_host, self.now.in_memory) = before;
    }

    /// CMPXCHG16B. What is not aligned raises #GP, which would come as a signal.
    fn compare_16(&mut self, ins: &Ins) {
        let Some(encoding) = Encoding::parse(self.own_bytes(ins), &ins.instr, &ins.offsets, self.long) else {
            return self.call_out(ins);
        };
        self.give_up_flags(STATUS);
        self.linear_address(&ins.instr, r::R11, r::R10);
        let unaligned = self.asm.label();
        // test r11b, 15
        self.asm.bytes(&[0x41, 0xf6, 0xc3, 0x0f]);
        self.asm.jcc(cc::NE, unaligned);
        self.check(r::R11, r::R10, 16, true);
        self.prepare_flags(ins, r::R10);
        if !encoding.emit(self.asm, &ins.instr, HostMemory::At(r::R11)) {
            // Nothing has been done yet that counts.
            self.asm.bind(unaligned);
            self.now.in_host = false;
            return self.call_out(ins);
        }
        self.flags_written(ins);
        self.give_up_flags(STATUS);
        let done = self.asm.here();
        self.called_out_at(unaligned, done, ins);
    }

    /// PUSHFQ.
    pub(super) fn push_flags(&mut self, ins: &Ins) {
        self.give_up_flags(STATUS);
        let place = self.stack_place(ins, -8, true);
        // AH and AL as LAHF and SETO leave them, to their places: shl r10b, 3; rol r10w, 8
        // A wider load would wait for the store: movzx r10d, word gs:[FLAGS]
        self.asm.bytes(&[0x65, 0x44, 0x0f, 0xb7, 0x14, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.bytes(&[0x41, 0xc0, 0xe2, 0x03, 0x66, 0x41, 0xc1, 0xc2, 0x08]);
        self.asm.gs(0x0b, r::R10, l::SYSTEM_FLAGS);
        self.stack_move(0x89, r::R10, place);
        self.move_rsp(-8);
    }

    /// POPFQ, as long as it changes nothing but status flags and, where it may, IF.
    pub(super) fn pop_flags(&mut self, ins: &Ins) {
        self.give_up_flags(ins.live_before());
        let place = self.stack_place(ins, 0, false);
        self.stack_move(0x8b, r::R10, place);
        self.now.in_host = false;
        let (slow, on, changed) = (self.asm.label(), self.asm.label(), self.asm.label());
        self.asm.mov(r::R11, r::R10);
        self.asm.gs(0x33, r::R11, l::SYSTEM_FLAGS);
        // test r11d, imm32
        let test = |emitter: &mut Self, bits: u64| {
            emitter.asm.bytes(&[0x41, 0xf7, 0xc3]);
            emitter.asm.imm32(bits as u32);
        };
        if self.table == table::USER {
            test(self, SAME | rflags::IF);
            self.asm.jcc(cc::NE, slow);
        } else {
            test(self, SAME);
            self.asm.jcc(cc::NE, slow);
            test(self, rflags::IF);
            self.asm.jcc(cc::NE, changed);
        }
        self.asm.bind(on);
        self.flags_image();
        self.move_rsp(8);
        self.now.in_memory = true;
        let done = self.asm.here();
        if self.table != table::USER {
            self.asm.stream(Stream::Cold);
            self.asm.bind(changed);
            let clear = self.asm.label();
            // test r10d, IF
            self.asm.bytes(&[0x41, 0xf7, 0xc2]);
            self.asm.imm32(rflags::IF as u32);
            self.asm.jcc(cc::E, clear);
            self.asm.mov(r::R11, r::R10);
            self.jump_if_pending(slow);
            self.asm.mov(r::R10, r::R11);
            self.in_word(OR, l::SYSTEM_FLAGS, rflags::IF as u32);
            self.in_word(OR, l::INTEREST, Pending::MASKABLE);
            self.asm.jmp(on);
            self.asm.bind(clear);
            self.in_word(AND, l::SYSTEM_FLAGS, !(rflags::IF as u32));
            self.in_word(AND, l::INTEREST, !Pending::MASKABLE);
            self.asm.jmp(on);
            self.asm.stream(Stream::Hot);
        }
        self.called_out_at(slow, done, ins);
    }

    /// Has the status flags of RFLAGS in R10 be the guest's. Clobbers R11, too.
    pub(super) fn flags_image(&mut self) {
        // mov r11d, r10d; shr r11d, 11; and r11d, 1
        self.asm.bytes(&[0x45, 0x89, 0xd3, 0x41, 0xc1, 0xeb, 0x0b, 0x41, 0x83, 0xe3, 0x01]);
        self.asm.and32_imm(r::R10, 0xd5);
        // or r10d, 2; shl r10d, 8; or r10d, r11d
        self.asm.bytes(&[0x41, 0x83, 0xca, 0x02, 0x41, 0xc1, 0xe2, 0x08, 0x45, 0x09, 0xda]);
        self.asm.gs_store(l::FLAGS, r::R10);
    }

    /// CLAC or STAC with SMAP: what follows is code of another mode, and another space.
    pub(super) fn switch(&mut self, ins: &Ins) {
        self.give_up_flags(STATUS);
        let next = ins.instr.next_ip();
        let way = self.way(next, STATUS);
        let opens = ins.instr.mnemonic() == Mnemonic::Stac;
        let (to, flag) = if opens {
            (table::SUPERVISOR_AC, (OR, rflags::AC as u32))
        } else {
            // test dword gs:[CR4], SMAP
            self.asm.bytes(&[0x65, 0xf7, 0x04, 0x25]);
            self.asm.imm32(l::CR4 as u32);
            self.asm.imm32(cr4::SMAP as u32);
            let off = self.asm.label();
            self.asm.jcc(cc::E, off);
            self.asm.stream(Stream::Cold);
            self.asm.bind(off);
            self.call_out(ins);
            self.asm.jmp(way.1);
            self.asm.stream(Stream::Hot);
            // What the supervisor must not touch may be in the window.
            self.asm.mov_imm(r::R10, crate::jit::context::NO_WINDOW);
            self.asm.gs_store(l::WINDOW_READ, r::R10);
            self.asm.gs_store(l::WINDOW_WRITE, r::R10);
            (table::SUPERVISOR, (AND, !(rflags::AC as u32)))
        };
        self.in_word(flag.0, l::SYSTEM_FLAGS, flag.1);
        // mov byte gs:[DATA_TABLE], to
        self.asm.bytes(&[0x65, 0xc6, 0x04, 0x25]);
        self.asm.imm32(l::DATA_TABLE as u32);
        self.asm.byte(to);
        self.in_word(XOR, l::SPACE, u32::from((to ^ self.table) << mode::TABLE) << 16);
        let space = self.same_space(way);
        self.asm.byte(0xe9);
        self.link_here(way, Some(space));
    }
}

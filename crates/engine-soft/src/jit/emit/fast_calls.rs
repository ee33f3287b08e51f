//! SYSCALL and SYSRET between 64-bit code of ring 3 and ring 0, as systems use them: with interrupts masked inside, and
//! nothing odd in RFLAGS. All else is the interpreter's, which also knows where they fail (SDM vol. 2B).

use x86::bits::{cr4, efer, rflags};

use super::Emitter;
use super::system::{AND, OR};
use crate::jit::asm::{Label, Stream, cc, r};
use crate::jit::context::NO_WINDOW;
use crate::jit::layout as l;
use crate::jit::run::{JUMP_MIX_SHIFT, JUMP_MIXES};
use crate::jit::scan::{Ins, STATUS};
use crate::jit::translate::mode;
use crate::mmu::table;
use crate::pending::Pending;
use crate::system::fast;

/// Where R11 of the guest is.
const GUEST_R11: i32 = l::reg(r::R11);

impl Emitter<'_> {
    /// SYSCALL from ring 3.
    pub(super) fn fast_call(&mut self, ins: &Ins) {
        self.give_up_flags(STATUS);
        let odd = self.begin();
        // test dword gs:[CR4], SMAP
        self.asm.bytes(&[0x65, 0xf7, 0x04, 0x25]);
        self.asm.imm32(l::CR4 as u32);
        self.asm.imm32(cr4::SMAP as u32);
        self.asm.jcc(cc::E, odd);
        self.asm.gs_load(r::R10, l::SYSTEM_FLAGS);
        // test r10d, imm32
        self.asm.bytes(&[0x41, 0xf7, 0xc2]);
        self.asm.imm32((rflags::TF | rflags::RF | rflags::VM | rflags::AC) as u32);
        self.asm.jcc(cc::NE, odd);
        self.asm.gs_load(r::R11, l::SFMASK);
        // not r11; and r11, r10; test r11d, IF
        self.asm.bytes(&[0x49, 0xf7, 0xd3, 0x4d, 0x21, 0xd3, 0x41, 0xf7, 0xc3]);
        self.asm.imm32(rflags::IF as u32);
        self.asm.jcc(cc::NE, odd);
        self.asm.gs_store(l::SYSTEM_FLAGS, r::R11);
        // RFLAGS into R11: movzx r11d, word gs:[FLAGS]; shl r11b, 3; rol r11w, 8; or r11, r10
        self.asm.bytes(&[0x65, 0x44, 0x0f, 0xb7, 0x1c, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.bytes(&[0x41, 0xc0, 0xe3, 0x03, 0x66, 0x41, 0xc1, 0xc3, 0x08, 0x4d, 0x09, 0xd3]);
        self.asm.gs_store(GUEST_R11, r::R11);
        self.asm.gs_load(r::R10, l::SFMASK);
        // not r10; and r10, r11
        self.asm.bytes(&[0x49, 0xf7, 0xd2, 0x4d, 0x21, 0xda]);
        self.flags_image();
        self.asm.mov_imm(r::RCX, ins.instr.next_ip());
        self.in_word(AND, l::INTEREST, !Pending::MASKABLE);
        self.load_star(4);
        self.asm.and32_imm(r::R10, 0xfffc);
        self.flat_segments(0, 8);
        self.enter_ring(0, table::SUPERVISOR);
        self.asm.gs_load(r::R11, l::LSTAR);
        self.dispatch();
        self.odd_call(odd, ins);
    }

    /// SYSRET to 64-bit code, from ring 0.
    pub(super) fn fast_return(&mut self, ins: &Ins) {
        self.give_up_flags(STATUS);
        let odd = self.begin();
        self.asm.mov(r::R10, r::RCX);
        self.asm.shift(5, r::R10, 47);
        self.asm.jcc(cc::NE, odd);
        self.jump_if_pending(odd);
        self.asm.gs_load(r::R10, GUEST_R11);
        self.asm.mov32(r::R11, r::R10);
        self.asm.and32_imm(r::R11, (fast::KEPT & !(rflags::STATUS | rflags::ONE)) as u32);
        // cmp r11d, IF
        self.asm.bytes(&[0x41, 0x81, 0xfb]);
        self.asm.imm32(rflags::IF as u32);
        self.asm.jcc(cc::NE, odd);
        self.flags_image();
        self.asm.gs_store_imm64(l::SYSTEM_FLAGS, rflags::IF as i32);
        self.in_word(OR, l::INTEREST, Pending::MASKABLE);
        self.load_star(6);
        // add r10w, 16; or r10d, 3
        self.asm.bytes(&[0x66, 0x41, 0x83, 0xc2, 0x10, 0x41, 0x83, 0xca, 0x03]);
        self.flat_segments(3, -8);
        self.enter_ring(3, table::USER);
        self.asm.mov(r::R11, r::RCX);
        self.dispatch();
        self.odd_call(odd, ins);
    }

    /// The checks that both have: the label is for what is not done in place.
    fn begin(&mut self) -> Label {
        let odd = self.asm.label();
        // Before numbers of spaces are used again, tables of jumps have to be cleared.
        self.asm.gs_test8(l::SPACES_WRAPPED, 0xff);
        self.asm.jcc(cc::NE, odd);
        self.asm.gs_test8(l::EFER, efer::SCE as u8);
        self.asm.jcc(cc::E, odd);
        odd
    }

    /// Out of line: the interpreter's handler, which goes on elsewhere by itself.
    fn odd_call(&mut self, odd: Label, ins: &Ins) {
        let way = self.way(ins.instr.next_ip(), STATUS);
        self.asm.stream(Stream::Cold);
        self.asm.bind(odd);
        (self.now.in_host, self.now.in_memory) = (false, true);
        self.call_out(ins);
        self.asm.jmp(way.1);
        self.asm.stream(Stream::Hot);
    }

    /// `movzx r10d, word gs:[STAR + at]`
    fn load_star(&mut self, at: i32) {
        self.asm.bytes(&[0x65, 0x44, 0x0f, 0xb7, 0x14, 0x25]);
        self.asm.imm32((l::STAR + at) as u32);
    }

    /// Flat segments: CS for 64-bit code with the selector in R10, which is zero above, and SS with that plus `by`.
    fn flat_segments(&mut self, dpl: u8, by: i8) {
        let (code, data) = (fast::flat_code(0, dpl, true), fast::flat_stack(0, dpl));
        for (place, segment) in [(l::CS, code), (l::SS, data)] {
            self.asm.gs_store_imm64(place + l::SEGMENT_BASE, segment.base as i32);
            self.asm.gs_store_imm32(place + l::SEGMENT_LIMIT, segment.limit);
            // The rights are above the selector: or r11d, imm32
            self.asm.mov32(r::R11, r::R10);
            self.asm.bytes(&[0x41, 0x81, 0xcb]);
            self.asm.imm32(u32::from(segment.attr) << 16);
            self.asm.gs_store32(place + l::SEGMENT_SELECTOR, r::R11);
            // add r10w, by
            self.asm.bytes(&[0x66, 0x41, 0x83, 0xc2, by as u8]);
        }
    }

    /// Goes on in ring `cpl` with data through `to`: the spaces, and what is remembered of the stack.
    fn enter_ring(&mut self, cpl: u8, to: u8) {
        for (at, value) in [(l::CPL, cpl), (l::DATA_TABLE, to)] {
            // mov byte gs:[at], value
            self.asm.gs_absolute(&[0xc6], 0, at);
            self.asm.byte(value);
        }
        self.asm.mov_imm(r::R10, NO_WINDOW);
        self.asm.gs_store(l::WINDOW_READ, r::R10);
        self.asm.gs_store(l::WINDOW_WRITE, r::R10);
        // movzx r11d, word gs:[NOW]: the number of the space.
        self.asm.bytes(&[0x65, 0x44, 0x0f, 0xb7, 0x1c, 0x25]);
        self.asm.imm32((l::SPACES_NOW + 2 * i32::from(cpl == 3)) as u32);
        self.asm.mov32(r::R10, r::R11);
        self.asm.and32_imm(r::R10, JUMP_MIXES as u32 - 1);
        self.asm.shift(4, r::R10, JUMP_MIX_SHIFT as u8);
        self.asm.gs_store(l::JUMP_MIX, r::R10);
        // The mode, but for the table, stays: movzx r10d, word gs:[SPACE + 2]
        self.asm.bytes(&[0x65, 0x44, 0x0f, 0xb7, 0x14, 0x25]);
        self.asm.imm32((l::SPACE + 2) as u32);
        self.asm.and32_imm(r::R10, mode::FPU.into());
        // or r10d, imm8; shl r11d, 6; or r10d, r11d
        self.asm.bytes(&[0x41, 0x83, 0xca, to << mode::TABLE, 0x41, 0xc1, 0xe3, 0x06, 0x45, 0x09, 0xda]);
        self.asm.shift(4, r::R10, 48);
        self.asm.gs_store(l::SPACE_TAG, r::R10);
    }
}

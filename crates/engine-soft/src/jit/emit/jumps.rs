//! Jumps, calls and returns, and how a block is left.

use iced_x86::OpKind;

use super::{Emitter, Way, in_memory_bit, number};
use crate::jit::asm::{Label, Stream, cc, r};
use crate::jit::encoding::HostMemory;
use crate::jit::layout as l;
use crate::jit::scan::{Ins, Kind, STATUS};
use crate::jit::stubs;

impl<'a> Emitter<'a> {
    /// Whether the instruction at `rip` surely lies in this block's page, which is one.
    pub(super) fn same_page(&self, rip: u64) -> bool {
        // The longest has 15 bytes.
        self.flags_known(rip) && (rip & 0xfff) <= 4096 - 15
    }

    /// Whether the flags that are needed at `rip` have been looked for there.
    fn flags_known(&self, rip: u64) -> bool {
        rip >> 12 == self.rip >> 12 && self.is_in_one_page()
    }

    /// A block whose instruction lies in two pages knows nothing of the second.
    pub(super) fn is_in_one_page(&self) -> bool {
        (self.rip.wrapping_add(self.scan.used as u64 - 1)) >> 12 == self.rip >> 12
    }

    /// Goes to `rip`; `live` flags are needed there.
    pub(super) fn go(&mut self, rip: u64, live: u32, ins: Option<&Ins>) {
        let live = if self.flags_known(rip) { live } else { STATUS };
        self.give_up_flags(live);
        let back = ins.is_some() && rip <= self.rip.wrapping_add(self.scan.used as u64);
        let way = self.way(rip, live);
        let space = self.leave_page(rip, way);
        if let Some(ins) = ins {
            self.go_round(ins, rip);
        }
        if back {
            return self.jump_back(way, space);
        }
        self.asm.byte(0xe9);
        self.link_here(way, space);
    }

    /// If the way that was begun last leads from `ins` to the start of this very block, and what was checked there holds
    /// still: notes that it may lead behind that.
    fn go_round(&mut self, ins: &Ins, to: u64) {
        // What is called out may close the window.
        let simple = |ins: &Ins| {
            use Kind as K;
            matches!(
                ins.kind,
                K::Nothing | K::Verbatim | K::Memory { .. } | K::Lea | K::Push | K::Pop | K::Branch | K::Jump
            )
        };
        let window = self.window.is_none() || ins.rsp == Some(0) && self.scan.list.iter().all(simple);
        if to == self.rip
            && window
            && self.own.is_none()
            && let Some(way) = self.now.ways.last_mut()
        {
            way.round = true;
        }
    }

    /// The number and the stub of a new way out.
    pub(super) fn way(&mut self, rip: u64, live: u32) -> (u32, Label) {
        let after = self.now.starts.len().min(self.scan.list.len()) as u16;
        let exit = self.first_exit + self.now.ways.len() as u32;
        let stub = self.asm.label();
        // Its jump is filled in by `link_here`, its code written by `write_stubs`.
        self.now.ways.push(Way { exit, rip, jump: stub, stub, space: None, variant: false, round: false, after, live });
        (exit, stub)
    }

    /// What leaves the page may go on directly in the same address space only.
    pub(super) fn leave_page(&mut self, rip: u64, way: (u32, Label)) -> Option<Label> {
        if self.same_page(rip) { None } else { Some(self.same_space(way)) }
    }

    /// Goes on directly only in the address space and mode that the way is linked for.
    pub(super) fn same_space(&mut self, way: (u32, Label)) -> Label {
        // No space has number 0: it does not match before it is linked.
        self.asm.gs_cmp_imm32(l::SPACE, 0);
        let space = self.asm.here();
        self.asm.jcc(cc::NE, way.1);
        space
    }

    /// The distance of the jump that has just been begun, to be led elsewhere later.
    pub(super) fn link_here(&mut self, way: (u32, Label), space: Option<Label>) {
        self.asm.jump_distance(way.1);
        let jump = self.asm.here();
        if let Some(entry) = self.now.ways.iter_mut().find(|w| w.exit == way.0) {
            entry.jump = jump;
            entry.space = space;
        }
    }

    /// The jump of a way that leads backwards: only if nobody wants attention.
    fn jump_back(&mut self, way: (u32, Label), space: Option<Label>) {
        let wanted = self.asm.label();
        self.asm.gs_cmp_imm8(l::ATTENTION, 0);
        self.asm.bytes(&[0x0f, 0x80 | cc::E]);
        self.link_here(way, space);
        self.asm.jmp(wanted);
        self.asm.stream(Stream::Cold);
        self.asm.bind(wanted);
        self.asm.gs_store_imm32(l::SITE, way.0);
        self.asm.jmp_out(self.stubs.poll);
        self.asm.stream(Stream::Hot);
    }

    pub(super) fn branch(&mut self, ins: &Ins) {
        let target = ins.instr.near_branch_target();
        self.take_flags(r::R10);
        let same = self.same_page(target);
        let back = target <= self.rip.wrapping_add(self.scan.used as u64);
        let condition = ins.instr.condition_code() as u8;
        let condition = condition_bits(condition);
        let live = if self.flags_known(target) { ins.live_target } else { STATUS };
        if same && !back && (live == 0 || self.now.in_memory) {
            let way = self.way(target, live);
            self.asm.bytes(&[0x0f, 0x80 | condition]);
            return self.link_here(way, None);
        }
        let on = self.asm.label();
        self.asm.jcc(condition ^ 1, on);
        // The way to the target must not make those behind the branch believe that the flags are elsewhere.
        let before = (self.now.in_host, self.now.in_memory);
        self.give_up_flags(live);
        let way = self.way(target, live);
        let space = self.leave_page(target, way);
        if back {
            self.go_round(ins, target);
            self.jump_back(way, space);
        } else {
            self.asm.byte(0xe9);
            self.link_here(way, space);
        }
        (self.now.in_host, self.now.in_memory) = before;
        self.asm.bind(on);
    }

    pub(super) fn call(&mut self, ins: &Ins) {
        self.push_return(ins);
        self.go(ins.instr.near_branch_target(), STATUS, Some(ins));
    }

    /// Loads the target of an indirect jump into R11.
    pub(super) fn target(&mut self, ins: &Ins) {
        let instr = &ins.instr;
        if instr.op0_kind() == OpKind::Register {
            let from = number(instr.op0_register());
            if in_memory_bit(instr.op0_register()) != 0 {
                return self.asm.gs_load(r::R11, l::reg(from));
            }
            return if self.long { self.asm.mov(r::R11, from) } else { self.asm.mov32(r::R11, from) };
        }
        if let Some(displacement) = self.on_window(ins) {
            return self.stack_move(0x8b, r::R11, HostMemory::Stack(displacement));
        }
        self.linear_address(instr, r::R11, r::R10);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, false);
        self.stack_move(0x8b, r::R11, HostMemory::At(r::R11));
    }

    pub(super) fn jump_indirect(&mut self, ins: &Ins) {
        self.target(ins);
        self.dispatch();
    }

    pub(super) fn call_indirect(&mut self, ins: &Ins) {
        self.target(ins);
        if self.window.is_some() && ins.rsp.is_some() {
            self.asm.mov_imm(r::R10, ins.instr.next_ip());
            self.stack_move(0x89, r::R10, HostMemory::Stack(-self.width()));
            self.move_rsp(-self.width());
            return self.dispatch();
        }
        // The target waits where R11's check leaves it alone: nothing of R15 is needed in a block without a window.
        self.asm.mov(r::R15, r::R11);
        self.push_return(ins);
        self.asm.mov(r::R11, r::R15);
        self.dispatch();
    }

    pub(super) fn ret(&mut self, ins: &Ins) {
        let place = self.stack_place(ins, 0, false);
        self.stack_move(0x8b, r::R11, place);
        let more = if ins.instr.op_count() > 0 { i32::from(ins.instr.immediate16()) } else { 0 };
        self.move_rsp(self.width() + more);
        self.dispatch();
    }

    /// Goes to the address in R11.
    pub(super) fn dispatch(&mut self) {
        self.give_up_flags(STATUS);
        let (missed, wanted) = (self.asm.label(), self.asm.label());
        self.asm.gs_cmp_imm8(l::ATTENTION, 0);
        self.asm.jcc(cc::NE, wanted);
        stubs::look_up(self.asm, missed);
        self.asm.stream(Stream::Cold);
        self.asm.bind(missed);
        self.asm.gs(0x2b, r::R11, l::SPACE_TAG);
        self.asm.bind(wanted);
        self.asm.gs_store(l::RIP, r::R11);
        let start = self.now.starts.last().copied();
        if let Some(start) = start {
            self.asm.gs_store_label(l::SITE, start);
        }
        self.asm.jmp_out(self.stubs.indirect);
        self.asm.stream(Stream::Hot);
    }

    /// The code that ways out lead to as long as they are not linked.
    pub(super) fn write_stubs(&mut self) {
        self.asm.stream(Stream::Cold);
        for way in &self.now.ways {
            self.asm.bind(way.stub);
            self.asm.gs_store_imm32(l::SITE, way.exit);
            if self.same_page(way.rip) || way.variant {
                self.asm.jmp_out(self.stubs.link);
            } else {
                self.asm.mov_imm(r::R11, way.rip);
                self.asm.jmp_out(self.stubs.dispatch);
            }
        }
        self.asm.stream(Stream::Hot);
    }
}

/// The low four bits of Jcc's opcode for iced's condition, which starts with 1 for O.
fn condition_bits(condition: u8) -> u8 {
    condition.wrapping_sub(1) & 15
}

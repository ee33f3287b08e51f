//! Instructions of the vector and x87 units, which run in place: what comes around them.
//!
//! A block that uses a unit brings it into the host's registers at its start, if it is not there. From then on they are
//! the guest's until translated code is left; calls of Rust code put them into memory and bring them back. What an
//! exception needs is exact at each instruction: the host raises it, and the interpreter runs the instruction again.

use iced_x86::{OpKind, Register};

use super::{Emitter, in_memory_bit, number};
use crate::jit::asm::{Stream, cc, r};
use crate::jit::cache::Point;
use crate::jit::layout as l;
use crate::jit::scan::Ins;
use crate::jit::stubs::unit;
use crate::jit::units;

impl<'a> Emitter<'a> {
    /// Brings the units that the block uses into the host's registers. The flags are in memory.
    pub(super) fn bring_units(&mut self) {
        for (index, unit) in [unit::VECTOR, unit::X87].into_iter().enumerate() {
            if self.now.units & unit == 0 {
                continue;
            }
            let missing = self.asm.label();
            self.asm.gs_test8(l::UNITS, unit);
            self.asm.jcc(cc::E, missing);
            let there = self.asm.here();
            self.asm.stream(Stream::Cold);
            self.asm.bind(missing);
            self.asm.gs_store_label(l::SITE, there);
            self.asm.jmp_out(self.stubs.load_unit[index]);
            self.asm.stream(Stream::Hot);
        }
    }

    /// The stub for calling out.
    pub(super) fn call_stub(&self, touches_flags: bool) -> u32 {
        let last = self.now.starts.len() >= self.scan.list.len();
        match (self.now.units == 0 || last, touches_flags) {
            (true, true) => self.stubs.call_flags_last,
            (true, false) => self.stubs.call_last,
            (false, true) => self.stubs.call_flags,
            (false, false) => self.stubs.call,
        }
    }

    /// Right before an instruction that the host may raise an exception for: notes where the flags are then.
    pub(super) fn may_fault(&mut self, ins: &Ins) {
        if ins.units != 0
            && self.now.in_host
            && !self.now.in_memory
            && let Some(point) = self.now.faults.last_mut()
        {
            *point |= Point::FLAGS_IN_HOST;
        }
    }

    /// Behind an x87 instruction: notes its address and its operand's, as FNSAVE tells them. Leaves the flags.
    pub(super) fn note_pointers(&mut self, ins: &Ins) {
        if ins.units & unit::X87 == 0 || !units::notes_pointers(&ins.instr) {
            return;
        }
        let instr = &ins.instr;
        if (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory) {
            let short = !self.long
                || instr.memory_base().size() == 4
                || instr.memory_index().size() == 4
                || instr.memory_base() == Register::EIP;
            let base = instr.memory_base();
            let bare = !short
                && !instr.is_ip_rel_memory_operand()
                && base != Register::None
                && in_memory_bit(base) == 0
                && instr.memory_index() == Register::None
                && instr.memory_displacement64() == 0;
            if bare {
                self.asm.gs_store(l::FDP, number(base));
            } else {
                self.offset(instr, r::R10, r::R15, instr.memory_displacement64(), short);
                self.asm.gs_store(l::FDP, r::R10);
            }
            if in_memory_bit(instr.memory_index()) != 0 {
                self.restore_window(1 << r::R15);
            }
        }
        // The upper half is the same throughout a block, unless somebody else writes to it.
        self.asm.gs_store_imm32(l::FIP, instr.ip() as u32);
        let high = (instr.ip() >> 32) as u32;
        if self.now.fip_high != Some(high) {
            self.asm.gs_store_imm32(l::FIP + 4, high);
            self.now.fip_high = Some(high);
        }
    }
}

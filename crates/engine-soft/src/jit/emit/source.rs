//! Blocks whose source nobody watches, because it is rewritten again and again: they look after themselves.
//!
//! Each time such a block runs it compares its source with what it was made from. What is rewritten most is the
//! immediate operand of an instruction; so those are not compared but read from the source, where the instruction allows
//! it.

use std::ops::Range;

use iced_x86::{Mnemonic, OpKind};

use super::{Emitter, in_memory_bit, number};
use crate::jit::asm::{Stream, cc, r};
use crate::jit::layout as l;
use crate::jit::scan::{Ins, Kind};

impl Emitter<'_> {
    /// Compares the block's source with what is there now.
    pub(super) fn check_source(&mut self, own: *mut u8) {
        let stale = self.asm.label();
        self.asm.mov_imm(r::R11, own as u64);
        let mut from = 0;
        let end = self.scan.used;
        let scan = self.scan;
        for ins in &scan.list {
            if let Some(immediate) = self.live_immediate(ins) {
                self.compare(from..immediate.start, stale);
                from = immediate.end;
            }
        }
        self.compare(from..end, stale);
        self.asm.stream(Stream::Cold);
        self.asm.bind(stale);
        self.asm.gs_store_imm32(l::SITE, self.block);
        self.asm.jmp_out(self.stubs.stale);
        self.asm.stream(Stream::Hot);
    }

    /// Compares bytes of the source, which is at R11.
    fn compare(&mut self, range: Range<usize>, stale: crate::jit::asm::Label) {
        let Some(source) = self.bytes.get(range.clone()) else { return };
        let mut at = 0;
        while at < source.len() {
            // The last piece may overlap the one before.
            let start = at.min(source.len().saturating_sub(8));
            if let Some(piece) = source.get(start..start + 8).and_then(|piece| piece.try_into().ok()) {
                self.asm.mov_imm(r::R10, u64::from_le_bytes(piece));
                self.asm.memory(0x39, r::R10, r::R11, None, (range.start + start) as i32);
                at = start + 8;
            } else {
                // cmp byte [r11 + disp32], imm8
                self.asm.bytes(&[0x41, 0x80, 0xbb]);
                self.asm.imm32((range.start + at) as u32);
                self.asm.byte(source[at]);
                at += 1;
            }
            self.asm.jcc(cc::NE, stale);
        }
    }

    /// Where the immediate of `ins` lies within the source, if the instruction can read it there.
    fn live_immediate(&self, ins: &Ins) -> Option<Range<usize>> {
        use Mnemonic as M;
        self.own?;
        let instr = &ins.instr;
        let arithmetic =
            matches!(instr.mnemonic(), M::Add | M::Or | M::Adc | M::Sbb | M::And | M::Sub | M::Xor | M::Cmp);
        let register = instr.op0_register();
        let fits = ins.kind == Kind::Verbatim
            && (arithmetic || instr.mnemonic() == M::Mov)
            && instr.op0_kind() == OpKind::Register
            && register.is_gpr()
            && in_memory_bit(register) == 0
            && matches!(register.size(), 4 | 8);
        let size = ins.offsets.immediate_size();
        if !fits || !ins.offsets.has_immediate() || !(size == 4 || size == 8 && !arithmetic) {
            return None;
        }
        let start = usize::from(ins.at) + ins.offsets.immediate_offset();
        Some(start..start + size)
    }

    /// Writes `ins` so that it reads its immediate from the source, if that can be done.
    pub(super) fn with_live_immediate(&mut self, ins: &Ins) -> bool {
        use Mnemonic as M;
        let (Some(own), Some(range)) = (self.own, self.live_immediate(ins)) else { return false };
        self.now.group = None;
        self.prepare_flags(ins, r::R10);
        let to = number(ins.instr.op0_register());
        let wide = if ins.instr.op0_register().size() == 8 { 8 } else { 0 };
        self.asm.mov_imm(r::R11, own as u64 + range.start as u64);
        // The value in R10: mov r10d or r10, [r11], or movsxd r10, dword [r11].
        match (range.len(), wide) {
            (8, _) => self.asm.bytes(&[0x4d, 0x8b, 0x13]),
            (_, 8) => self.asm.bytes(&[0x4d, 0x63, 0x13]),
            _ => self.asm.bytes(&[0x45, 0x8b, 0x13]),
        }
        let opcode = match ins.instr.mnemonic() {
            M::Add => 0x03,
            M::Or => 0x0b,
            M::Adc => 0x13,
            M::Sbb => 0x1b,
            M::And => 0x23,
            M::Sub => 0x2b,
            M::Xor => 0x33,
            M::Cmp => 0x3b,
            _ => 0x8b,
        };
        // op to, r10
        self.asm.bytes(&[0x41 | wide | (to >> 3) << 2, opcode, 0xc2 | (to & 7) << 3]);
        self.flags_written(ins);
        true
    }
}

//! Accesses that lie side by side share one look at where their page is.
//!
//! Fields of one object are reached by the same base at different distances. The first of such accesses checks the whole
//! range that they cover and leaves the host's address of it in R11; the others use that as long as neither the base nor
//! R11 changes. If the range is not in one page, or may not be accessed as all of them need, the rest of the block runs
//! in its plain form, which checks each access.

use iced_x86::{Mnemonic, OpKind, Register};

use super::{Emitter, in_memory_bit, resident_mask};
use crate::jit::asm::{Stream, cc, r};
use crate::jit::cells;
use crate::jit::layout as l;
use crate::jit::scan::{Ins, Kind};

/// How far ahead accesses are looked for.
const AHEAD: usize = 16;
/// The widest range.
const WIDEST: i64 = 256;

/// What is known of R11.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::jit) struct Group {
    base: Register,
    index: Register,
    scale: u32,
    segment: Register,
    /// The displacement that R11 stands for, and the end of the range.
    low: i64,
    high: i64,
    write: bool,
}

/// What an access is reached by: base, index, scale and segment.
fn reach(ins: &Ins) -> (Register, Register, u32, Register) {
    let instr = &ins.instr;
    let segment = match instr.memory_segment() {
        segment @ (Register::FS | Register::GS) => segment,
        _ => Register::None,
    };
    (instr.memory_base(), instr.memory_index(), instr.memory_index_scale(), segment)
}

/// Whether `ins` may change general-purpose register `register`.
fn changes(ins: &Ins, register: Register) -> bool {
    use Mnemonic as M;
    if register == Register::None || register.is_ip() {
        return false;
    }
    let full = register.full_register();
    let instr = &ins.instr;
    let names = |i: u32| instr.op_kind(i) == OpKind::Register && instr.op_register(i).full_register() == full;
    let explicit = match instr.mnemonic() {
        M::Cmp | M::Test | M::Bt | M::Push => false,
        M::Xchg | M::Xadd | M::Mulx => (0..instr.op_count()).any(names),
        _ => instr.op_count() > 0 && names(0),
    };
    let implicit: &[Register] = match instr.mnemonic() {
        M::Mul | M::Imul | M::Div | M::Idiv | M::Cmpxchg8b | M::Cdq | M::Cqo | M::Cwd => {
            &[Register::RAX, Register::RDX]
        }
        M::Cbw | M::Cwde | M::Cdqe | M::Cmpxchg | M::Lahf => &[Register::RAX],
        M::Push | M::Pop => &[Register::RSP],
        M::Pcmpistri | M::Pcmpestri | M::Pcmpestri64 => &[Register::RCX],
        M::Vpcmpistri | M::Vpcmpestri | M::Vpcmpestri64 => &[Register::RCX],
        M::Fnstsw => &[Register::RAX],
        _ => &[],
    };
    explicit || implicit.contains(&full)
}

impl Emitter<'_> {
    /// The displacement of the memory operand, that of a 32-bit address with its sign.
    fn displacement(&self, ins: &Ins) -> i64 {
        let displacement = ins.instr.memory_displacement64() as i64;
        let registers = [ins.instr.memory_base(), ins.instr.memory_index()];
        let short = !self.long || registers.iter().any(|register| register.size() == 4);
        if short { i64::from(displacement as i32) } else { displacement }
    }

    /// Whether `ins` leaves R11 alone and does not leave the block in the middle.
    fn keeps_group(&self, ins: &Ins) -> bool {
        let on_window = self.window.is_some() && ins.rsp.is_some();
        let spares = resident_mask(&ins.instr) >> r::R11 & 1 == 0;
        match ins.kind {
            Kind::Nothing | Kind::Branch | Kind::ShortIncDec => true,
            Kind::Verbatim | Kind::Memory { .. } => spares,
            Kind::Lea => {
                let operands = in_memory_bit(ins.instr.memory_base()) | in_memory_bit(ins.instr.memory_index());
                self.long && !ins.instr.is_ip_rel_memory_operand() && operands | resident_mask(&ins.instr) == 0
            }
            Kind::Push => on_window && ins.instr.op0_kind() != OpKind::Memory,
            Kind::Pop => on_window && ins.instr.mnemonic() != Mnemonic::Popfq,
            _ => false,
        }
    }

    /// To be called when `ins` has been written.
    pub(super) fn after_instruction(&mut self, ins: &Ins) {
        if let Some(group) = self.now.group
            && (!self.keeps_group(ins) || changes(ins, group.base) || changes(ins, group.index))
        {
            self.now.group = None;
        }
    }

    /// The distance from R11 at which the memory operand of `ins` is, if that is known.
    pub(super) fn beside(&self, ins: &Ins, write: bool) -> Option<i32> {
        let group = self.now.group?;
        let at = self.displacement(ins);
        let end = at.checked_add(ins.instr.memory_size().size() as i64)?;
        let same = reach(ins) == (group.base, group.index, group.scale, group.segment);
        let covered = at >= group.low && end <= group.high && (group.write || !write);
        (same && covered && resident_mask(&ins.instr) >> r::R11 & 1 == 0).then(|| (at - group.low) as i32)
    }

    /// If others follow `ins`, instruction `number` of the block, looks up the range that they cover.
    pub(super) fn start_group(&mut self, ins: &Ins, number: usize, write: bool) -> bool {
        if self.plain || resident_mask(&ins.instr) >> r::R11 & 1 != 0 {
            return false;
        }
        let (base, index, scale, segment) = reach(ins);
        let size = |ins: &Ins| ins.instr.memory_size().size() as i64;
        let mut group = Group { base, index, scale, segment, low: self.displacement(ins), high: 0, write };
        group.high = group.low.saturating_add(size(ins));
        let mut any = false;
        let mut previous = ins;
        for next in self.scan.list.iter().skip(number + 1).take(AHEAD) {
            if !self.keeps_group(previous) || changes(previous, base) || changes(previous, index) {
                break;
            }
            previous = next;
            let Kind::Memory { write } = next.kind else { continue };
            if self.on_window(next).is_some() || reach(next) != (base, index, scale, segment) {
                continue;
            }
            let (low, high) = (self.displacement(next), self.displacement(next).saturating_add(size(next)));
            let (low, high) = (low.min(group.low), high.max(group.high));
            if high.saturating_sub(low) > WIDEST || resident_mask(&next.instr) >> r::R11 & 1 != 0 {
                continue;
            }
            (group.low, group.high, group.write) = (low, high, group.write | write);
            any = true;
        }
        if !any {
            return false;
        }
        self.check_group(ins, &group);
        self.now.group = Some(group);
        true
    }

    fn check_group(&mut self, ins: &Ins, group: &Group) {
        self.range_address(&ins.instr, r::R11, r::R10, group.low as u64);
        self.give_up_flags(ins.live_before());
        let size = (group.high - group.low) as i32;
        let (read_tag, write_tag, page) = l::tlb(self.table);
        let tag = if group.write { write_tag } else { read_tag };
        let cold = self.asm.label();
        let retry = self.asm.here();
        let cell = (self.cell)(self.now.current).map(cells::place);
        match cell {
            Some(place) => {
                self.asm.gs(0x2b, r::R11, place);
                self.asm.alu_imm(7, r::R11, 4096 - size);
                self.asm.jcc(cc::A, cold);
                self.asm.gs(0x03, r::R11, place + 8);
            }
            None => {
                self.tlb_index(r::R10, r::R11);
                self.asm.gs_indexed(0x2b, r::R11, r::R10, tag);
                self.asm.alu_imm(7, r::R11, 4096 - size);
                self.asm.jcc(cc::A, cold);
                self.asm.gs_indexed(0x03, r::R11, r::R10, page);
            }
        }
        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        match cell {
            Some(place) => self.asm.gs(0x03, r::R11, place),
            None => self.asm.gs_indexed(0x03, r::R11, r::R10, tag),
        }
        self.asm.gs_store_imm32(l::CELL, cell.unwrap_or(0) as u32);
        self.asm.gs_store_label(l::SITE, retry);
        if cell.is_some() {
            self.asm.mov_imm(r::R10, size as u64);
            self.asm.jmp_out(self.stubs.fill_group[usize::from(group.write)]);
        } else {
            self.asm.mov_imm(r::R10, (size as u64) << 1 | u64::from(group.write));
            self.asm.jmp_out(self.stubs.group);
        }
        self.asm.stream(Stream::Hot);
    }
}

//! Loads of segment registers (SDM vol. 2B, MOV, POP; vol. 3A, 5.6 and 5.7).

use iced_x86::{Instruction, Mnemonic, OpKind};
use x86::Segment;
use x86::bits::vector;

use super::descriptor::{Descriptor, is_null, null_segment};
use super::frame::{Frame, Width};
use super::has_memory;
use crate::cpu::{Cpu, Exec, leave, sreg};
use crate::decode::gpr;
use crate::mem::Word;
use crate::op::{Op, has};

/// The access rights of every segment in virtual-8086 mode (SDM vol. 3B, 21.2.1).
pub(super) const V86_ATTR: u16 =
    Segment::PRESENT | 3 << 5 | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED;

/// A segment of virtual-8086 mode.
pub(super) const fn v86_segment(selector: u16) -> Segment {
    Segment { base: (selector as u64) << 4, limit: 0xffff, selector, attr: V86_ATTR }
}

impl Cpu {
    /// Fetches and checks what ES, DS, FS or GS is loaded with.
    pub(super) fn data_segment(&mut self, selector: u16) -> Exec<Segment> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        let readable = d.has(Segment::S) && (!d.is_code() || d.has(Segment::WRITABLE_OR_READABLE));
        let allowed = d.is_conforming() || (d.dpl() >= (selector & 3) as u8 && d.dpl() >= self.cpl);
        if !readable || !allowed {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        self.access_descriptor(selector, d)
    }

    /// Fetches and checks what SS is loaded with for privilege `cpl`. Bad ones raise `bad`, those that are not present
    /// #SS.
    pub(super) fn stack_segment(&mut self, selector: u16, cpl: u8, bad: u8) -> Exec<Segment> {
        if is_null(selector) {
            return Err(self.raise_code(bad, 0));
        }
        let d = self.read_descriptor(selector, bad)?;
        if (selector & 3) as u8 != cpl || !d.is_writable_data() || d.dpl() != cpl {
            return Err(self.selector_fault(bad, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::SS, selector));
        }
        self.access_descriptor(selector, d)
    }

    /// What a real-mode load makes of segment register `index`: limit and rights stay.
    pub(super) fn real_segment(&self, index: usize, selector: u16) -> Segment {
        let old = self.seg[index % 6];
        if old.is_usable() {
            Segment { base: u64::from(selector) << 4, selector, ..old }
        } else {
            Segment::real(selector)
        }
    }

    /// What a load of segment register `index` other than CS with `selector` would give.
    pub(super) fn fetch_segment(&mut self, index: usize, selector: u16) -> Exec<Segment> {
        if self.v86() {
            return Ok(v86_segment(selector));
        }
        if !self.protected() {
            return Ok(self.real_segment(index, selector));
        }
        if index != sreg::SS {
            return self.data_segment(selector);
        }
        if is_null(selector) && self.is64() && self.cpl < 3 && (selector & 3) as u8 == self.cpl {
            return Ok(self.null_stack(selector, self.cpl));
        }
        self.stack_segment(selector, self.cpl, vector::GP)
    }

    /// SS with a null selector: legal in 64-bit mode. Its DPL is the CPL as for any SS.
    pub(super) fn null_stack(&self, selector: u16, cpl: u8) -> Segment {
        let mut segment = null_segment(selector);
        segment.attr |= u16::from(cpl) << 5;
        segment
    }

    /// Loads a segment register; one of SS holds interrupts back.
    fn load_segment(&mut self, index: usize, selector: u16) -> Exec {
        let segment = self.fetch_segment(index, selector)?;
        self.set_segment(index, segment);
        Ok(())
    }

    fn set_segment(&mut self, index: usize, segment: Segment) {
        self.seg[index % 6] = segment;
        if !self.is64() {
            // Translated code relies on what segments are like.
            self.leave |= leave::BLOCK;
        }
        if index == sreg::SS {
            self.shadow = true;
            self.leave |= leave::BLOCK;
        }
    }

    /// After a return to an outer privilege level: data segments that it may not use become null (SDM vol. 2, RET).
    pub(super) fn drop_inner_segments(&mut self) {
        for index in [sreg::ES, sreg::DS, sreg::FS, sreg::GS] {
            let s = self.seg[index];
            let conforming = s.has(Segment::S | Segment::CODE | Segment::EXPAND_DOWN_OR_CONFORMING);
            if s.is_usable() && s.dpl() < self.cpl && !conforming {
                // The base of FS and GS is left alone: no software may rely on either.
                self.seg[index] = Segment { base: s.base, ..null_segment(0) };
            }
        }
    }

    /// Checks a code segment descriptor fetched for a return to privilege `rpl`.
    pub(super) fn check_return_code(&mut self, selector: u16, d: Descriptor) -> Exec {
        let rpl = (selector & 3) as u8;
        let long_and_big = self.long_mode() && d.has(Segment::LONG | Segment::DB);
        let level = if d.is_conforming() { d.dpl() <= rpl } else { d.dpl() == rpl };
        if !d.is_code() || long_and_big || rpl < self.cpl || !level {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(())
    }
}

fn mov_from_register(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = u16::get(cpu, op.src);
    cpu.load_segment(op.dst.into(), selector)
}

fn mov_from_memory(cpu: &mut Cpu, op: &Op) -> Exec {
    let selector = cpu.load::<u16>(op)?;
    cpu.load_segment(op.dst.into(), selector)
}

fn pop(cpu: &mut Cpu, op: &Op) -> Exec {
    let width = match op.imm {
        2 => Width::Bits16,
        4 => Width::Bits32,
        _ => Width::Bits64,
    };
    let mut stack = Frame::current(cpu);
    let selector = stack.pop_selector(cpu, width)?;
    let segment = cpu.fetch_segment(op.dst.into(), selector)?;
    // The stack pointer moves as the old SS has it.
    stack.commit(cpu);
    cpu.set_segment(op.dst.into(), segment);
    Ok(())
}

/// LDS, LES, LSS, LFS, LGS: an offset of `T`, then a selector.
fn load_far_pointer<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = cpu.address(op, T::SIZE + 2, false)?;
    let offset = cpu.read_lin::<T>(at)?;
    let selector = cpu.read_lin::<u16>(cpu.wrap(at.wrapping_add(T::SIZE)))?;
    cpu.load_segment(op.src.into(), selector)?;
    T::set(cpu, op.dst, offset);
    Ok(())
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    let loads_stack = match instr.mnemonic() {
        Mnemonic::Mov => {
            let target = instr.op0_register();
            if !target.is_segment_register() || instr.op0_kind() != OpKind::Register {
                return false;
            }
            op.dst = crate::decode::sreg(target);
            if has_memory(instr) {
                op.run = mov_from_memory;
            } else {
                op.src = gpr(instr.op1_register());
                op.run = mov_from_register;
            }
            usize::from(op.dst) == sreg::SS
        }
        Mnemonic::Pop => {
            let target = instr.op0_register();
            if !target.is_segment_register() {
                return false;
            }
            op.dst = crate::decode::sreg(target);
            op.imm = instr.stack_pointer_increment().unsigned_abs().into();
            op.run = pop;
            usize::from(op.dst) == sreg::SS
        }
        Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
            let target = match instr.mnemonic() {
                Mnemonic::Lds => sreg::DS,
                Mnemonic::Les => sreg::ES,
                Mnemonic::Lss => sreg::SS,
                Mnemonic::Lfs => sreg::FS,
                _ => sreg::GS,
            };
            op.src = target as u8;
            op.dst = gpr(instr.op0_register());
            op.run = match instr.op0_register().size() {
                2 => load_far_pointer::<u16>,
                4 => load_far_pointer::<u32>,
                _ => load_far_pointer::<u64>,
            };
            target == sreg::SS
        }
        _ => return false,
    };
    if loads_stack {
        op.has |= has::ENDS;
    }
    true
}

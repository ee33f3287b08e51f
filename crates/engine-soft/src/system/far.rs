//! Far JMP, CALL and RET (SDM vol. 2A, CALL, JMP; vol. 2B, RET; vol. 3A, 5.8).

use iced_x86::{Code, Instruction};
use x86::Segment;
use x86::bits::vector;

use super::descriptor::{Descriptor, is_null, kind};
use super::frame::{Frame, Width, set_stack_pointer};
use super::segment::v86_segment;
use super::task::Switch;
use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::mem::Word;
use crate::op::{Op, has};

/// Where a far transfer goes and how wide its operands are.
#[derive(Debug, Clone, Copy)]
struct Target {
    selector: u16,
    offset: u64,
    width: Width,
}

/// The far pointer of `op`: in `imm` (selector above bit 32), or in memory with an offset of `T`.
fn direct(op: &Op) -> Target {
    let width = if op.src == 2 { Width::Bits16 } else { Width::Bits32 };
    Target { selector: (op.imm >> 32) as u16, offset: op.imm & width.mask(), width }
}

fn indirect<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec<Target> {
    let at = cpu.address(op, T::SIZE + 2, false)?;
    let offset = cpu.read_lin::<T>(at)?.to_u64();
    let selector = cpu.read_lin::<u16>(cpu.wrap(at.wrapping_add(T::SIZE)))?;
    let width = match T::SIZE {
        2 => Width::Bits16,
        4 => Width::Bits32,
        _ => Width::Bits64,
    };
    Ok(Target { selector, offset, width })
}

fn jump_direct(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_jump(direct(op))
}

fn jump_indirect<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = indirect::<T>(cpu, op)?;
    cpu.far_jump(target)
}

fn call_direct(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.far_call(direct(op))
}

fn call_indirect<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target = indirect::<T>(cpu, op)?;
    cpu.far_call(target)
}

/// RET far with operand size `op.src`, releasing `op.imm` bytes of parameters.
fn ret(cpu: &mut Cpu, op: &Op) -> Exec {
    let width = match op.src {
        2 => Width::Bits16,
        4 => Width::Bits32,
        _ => Width::Bits64,
    };
    cpu.far_return(width, op.imm)
}

impl Cpu {
    /// A far jump or call in real or virtual-8086 mode, the return address already pushed.
    fn enter_paragraph(&mut self, target: Target) -> Exec<Segment> {
        let cs = if self.v86() {
            v86_segment(target.selector)
        } else {
            Segment { base: u64::from(target.selector) << 4, selector: target.selector, ..self.seg[sreg::CS] }
        };
        if target.offset > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        Ok(cs)
    }

    /// Fetches the descriptor of a far target.
    fn far_descriptor(&mut self, selector: u16) -> Exec<Descriptor> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        self.read_descriptor(selector, vector::GP)
    }

    /// Checks a code segment that is the direct target of a jump or call.
    fn check_direct(&mut self, selector: u16, d: Descriptor) -> Exec {
        let rpl = (selector & 3) as u8;
        let level = if d.is_conforming() { d.dpl() <= self.cpl } else { rpl <= self.cpl && d.dpl() == self.cpl };
        if !level || self.long_mode() && d.has(Segment::LONG | Segment::DB) {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(())
    }

    fn far_jump(&mut self, target: Target) -> Exec {
        if self.paragraph_segments() {
            let cs = self.enter_paragraph(target)?;
            self.seg[sreg::CS] = cs;
            self.rip = target.offset;
            self.update_mode();
            return Ok(());
        }
        let d = self.far_descriptor(target.selector)?;
        if d.is_code() {
            self.check_direct(target.selector, d)?;
            self.check_target(&d.segment(target.selector), target.offset)?;
            let cs = self.access_descriptor(target.selector, d)?;
            self.enter_code(cs, self.cpl, target.offset);
            return Ok(());
        }
        self.check_system(target.selector, d)?;
        match d.kind() {
            kind::CALL_GATE | kind::CALL_GATE16 => {
                let (selector, code, offset, _) = self.gate_target(target.selector, d)?;
                let level = if code.is_conforming() { code.dpl() <= self.cpl } else { code.dpl() == self.cpl };
                if !level {
                    return Err(self.selector_fault(vector::GP, selector));
                }
                self.check_gate_code(selector, code)?;
                self.check_target(&code.segment(selector), offset)?;
                let cs = self.access_descriptor(selector, code)?;
                self.enter_code(cs, self.cpl, offset);
                Ok(())
            }
            kind::TASK_GATE => self.switch_task(d.gate_selector(), Switch::Jump),
            _ => self.switch_task(target.selector, Switch::Jump),
        }
    }

    /// Checks the privilege and presence of a gate or TSS that is the target of a jump or call.
    fn check_system(&mut self, selector: u16, d: Descriptor) -> Exec {
        let known = match d.kind() {
            kind::CALL_GATE => true,
            kind::CALL_GATE16 | kind::TASK_GATE | kind::TSS16 | kind::TSS => !self.long_mode(),
            _ => false,
        };
        let level = d.dpl() >= self.cpl && d.dpl() >= (selector & 3) as u8;
        if !d.is_system() || !known || !level {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(())
    }

    /// What call gate `d` leads to: selector and descriptor of the code, offset, width.
    fn gate_target(&mut self, gate: u16, d: Descriptor) -> Exec<(u16, Descriptor, u64, Width)> {
        let (offset, width) = if self.long_mode() {
            (d.gate_offset() | self.read_descriptor_high(gate, vector::GP)? << 32, Width::Bits64)
        } else if d.kind() == kind::CALL_GATE {
            (d.gate_offset(), Width::Bits32)
        } else {
            (d.gate_offset() & 0xffff, Width::Bits16)
        };
        let selector = d.gate_selector();
        let code = self.far_descriptor(selector)?;
        Ok((selector, code, offset, width))
    }

    /// Checks that a gate leads to a code segment, in long mode to a 64-bit one, that is present.
    fn check_gate_code(&mut self, selector: u16, d: Descriptor) -> Exec {
        let long_ok = !self.long_mode() || d.has(Segment::LONG) && !d.has(Segment::DB);
        if !d.is_code() || d.dpl() > self.cpl || !long_ok {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(())
    }

    fn far_call(&mut self, target: Target) -> Exec {
        let back = (u64::from(self.seg[sreg::CS].selector), self.rip);
        if self.paragraph_segments() {
            let mut stack = Frame::current(self);
            stack.push(self, target.width, back.0)?;
            stack.push(self, target.width, back.1)?;
            let cs = self.enter_paragraph(target)?;
            stack.commit(self);
            self.seg[sreg::CS] = cs;
            self.rip = target.offset;
            self.update_mode();
            return Ok(());
        }
        let d = self.far_descriptor(target.selector)?;
        if d.is_code() {
            self.check_direct(target.selector, d)?;
            let mut stack = Frame::current(self);
            stack.push(self, target.width, back.0)?;
            stack.push(self, target.width, back.1)?;
            self.check_target(&d.segment(target.selector), target.offset)?;
            let cs = self.access_descriptor(target.selector, d)?;
            stack.commit(self);
            self.enter_code(cs, self.cpl, target.offset);
            return Ok(());
        }
        self.check_system(target.selector, d)?;
        match d.kind() {
            kind::CALL_GATE | kind::CALL_GATE16 => self.call_gate(target.selector, d, back),
            kind::TASK_GATE => self.switch_task(d.gate_selector(), Switch::Call),
            _ => self.switch_task(target.selector, Switch::Call),
        }
    }

    /// CALL through a call gate, to the same or an inner privilege level (SDM vol. 3A, 5.8.4 and 5.8.5).
    fn call_gate(&mut self, gate: u16, d: Descriptor, back: (u64, u64)) -> Exec {
        let (selector, code, offset, width) = self.gate_target(gate, d)?;
        self.check_gate_code(selector, code)?;
        let cpl = if code.is_conforming() { self.cpl } else { code.dpl() };
        let old_ss = self.seg[sreg::SS];
        let mut stack = if cpl < self.cpl {
            let old_sp = self.regs[reg::RSP];
            let mut old = Frame::current(self);
            let mut new = if self.long_mode() {
                let sp = self.tss_long(4 + 8 * u64::from(cpl))?;
                Frame::long(self.null_stack(cpl.into(), cpl), sp, cpl)
            } else {
                self.inner_stack(cpl)?
            };
            new.push(self, width, old_ss.selector.into())?;
            new.push(self, width, old_sp)?;
            if !self.long_mode() {
                let mut parameters = [0; 31];
                let parameters = &mut parameters[..usize::from(d.gate_parameters())];
                for parameter in parameters.iter_mut() {
                    *parameter = old.pop(self, width)?;
                }
                for parameter in parameters.iter().rev() {
                    new.push(self, width, *parameter)?;
                }
            }
            new
        } else if self.long_mode() {
            // The code that is entered is 64-bit code, and so is its use of the stack.
            Frame::long(old_ss, self.sp(), cpl)
        } else {
            Frame::current(self)
        };
        stack.push(self, width, back.0)?;
        stack.push(self, width, back.1)?;
        self.check_target(&code.segment(selector), offset)?;
        let cs = self.access_descriptor(selector, code)?;
        stack.commit(self);
        self.seg[sreg::SS] = stack.ss;
        self.enter_code(cs, cpl, offset);
        Ok(())
    }

    fn far_return(&mut self, width: Width, release: u64) -> Exec {
        let mut stack = Frame::current(self);
        let rip = stack.pop(self, width)?;
        let selector = stack.pop_selector(self, width)?;
        if self.paragraph_segments() {
            let cs = self.enter_paragraph(Target { selector, offset: rip, width })?;
            stack.skip(release);
            stack.commit(self);
            self.seg[sreg::CS] = cs;
            self.rip = rip;
            self.update_mode();
            return Ok(());
        }
        let d = self.far_descriptor(selector)?;
        self.check_return_code(selector, d)?;
        let rpl = (selector & 3) as u8;
        let target = d.segment(selector);
        stack.skip(release);
        if rpl == self.cpl {
            self.check_target(&target, rip)?;
            let cs = self.access_descriptor(selector, d)?;
            stack.commit(self);
            self.enter_code(cs, rpl, rip);
            return Ok(());
        }
        let sp = stack.pop(self, width)?;
        let ss = stack.pop_selector(self, width)?;
        let to_long = self.long_mode() && target.has(Segment::LONG);
        let segment = if is_null(ss) && to_long && rpl < 3 && (ss & 3) as u8 == rpl {
            self.null_stack(ss, rpl)
        } else {
            self.stack_segment(ss, rpl, vector::GP)?
        };
        self.check_target(&target, rip)?;
        let cs = self.access_descriptor(selector, d)?;
        self.seg[sreg::SS] = segment;
        set_stack_pointer(self, sp.wrapping_add(release), self.stack_width(&cs, &segment));
        self.enter_code(cs, rpl, rip);
        self.drop_inner_segments();
        Ok(())
    }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    op.run = match instr.code() {
        Code::Jmp_ptr1616 | Code::Jmp_ptr1632 => jump_direct,
        Code::Call_ptr1616 | Code::Call_ptr1632 => call_direct,
        Code::Jmp_m1616 => jump_indirect::<u16>,
        Code::Jmp_m1632 => jump_indirect::<u32>,
        Code::Jmp_m1664 => jump_indirect::<u64>,
        Code::Call_m1616 => call_indirect::<u16>,
        Code::Call_m1632 => call_indirect::<u32>,
        Code::Call_m1664 => call_indirect::<u64>,
        Code::Retfw | Code::Retfd | Code::Retfq | Code::Retfw_imm16 | Code::Retfd_imm16 | Code::Retfq_imm16 => ret,
        _ => return false,
    };
    match instr.code() {
        Code::Jmp_ptr1616 | Code::Call_ptr1616 => {
            op.imm = u64::from(instr.far_branch_selector()) << 32 | u64::from(instr.far_branch16());
            op.src = 2;
        }
        Code::Jmp_ptr1632 | Code::Call_ptr1632 => {
            op.imm = u64::from(instr.far_branch_selector()) << 32 | u64::from(instr.far_branch32());
            op.src = 4;
        }
        Code::Retfw | Code::Retfd | Code::Retfq => {
            op.imm = 0;
            op.src = ret_size(instr.code());
        }
        Code::Retfw_imm16 | Code::Retfd_imm16 | Code::Retfq_imm16 => {
            op.imm = instr.immediate16().into();
            op.src = ret_size(instr.code());
        }
        _ => {}
    }
    op.has |= has::ENDS;
    true
}

fn ret_size(code: Code) -> u8 {
    match code {
        Code::Retfw | Code::Retfw_imm16 => 2,
        Code::Retfd | Code::Retfd_imm16 => 4,
        _ => 8,
    }
}

//! Delivery of interrupts and exceptions (SDM vol. 3A, chapter 6; vol. 2A, INT n; vol. 3B, chapter 21).

use x86::bits::{cr4, rflags, vector};
use x86::{Event, Segment};

use super::descriptor::{Descriptor, is_null, kind, null_segment};
use super::fault;
use super::frame::{Frame, Width};
use super::task::Switch;
use crate::cpu::{Cpu, Exec, Fault, Raised, sreg};
use crate::op::Op;

/// In an error code: the selector is an index into the IDT.
const CODE_IDT: u16 = 2;
/// In an error code: the event came from outside of the program.
const CODE_EXT: u32 = 1;
/// DR7: any access to a debug register raises #DB.
const DR7_GD: u64 = 1 << 13;

impl Cpu {
    /// Delivers an interrupt, an exception or a software interrupt; RIP is what the handler is to return to. On `Err`
    /// nothing has changed but memory beyond the top of a stack, and the exception that came up is in `fault`.
    pub(crate) fn deliver(&mut self, event: Event) -> Exec {
        let flags = self.rflags();
        self.deliver_with(event, flags)
    }

    /// As [`Cpu::deliver`], with the image of RFLAGS that is pushed.
    fn deliver_with(&mut self, event: Event, flags: u64) -> Exec {
        let done = if !self.protected() {
            self.deliver_real(event, flags)
        } else if self.long_mode() {
            self.deliver_long(event, flags)
        } else {
            self.deliver_protected(event, flags)
        };
        match done {
            Ok(()) => {
                self.delivered = true;
                Ok(())
            }
            Err(raised) => {
                let selector_fault = (vector::TS..=vector::GP).contains(&self.fault.vector);
                if !event.software && selector_fault {
                    self.fault.error_code = self.fault.error_code.map(|code| code | CODE_EXT);
                }
                Err(raised)
            }
        }
    }

    /// Delivers an exception, and what comes of it if that fails, up to the shutdown. RIP is that of the instruction.
    pub(crate) fn deliver_exception(&mut self, fault: Fault) {
        let mut current = fault;
        // Benign exceptions and interrupts may follow each other, but not without end.
        for _ in 0..8 {
            let mut flags = self.rflags();
            if current.vector == vector::DB {
                self.dr[5] &= !DR7_GD;
            }
            if self.is_fault(current.vector) {
                flags |= rflags::RF;
            }
            let error_code = if self.protected() { current.error_code } else { None };
            if self.deliver_with(Event { vector: current.vector, error_code, software: false }, flags).is_ok() {
                return;
            }
            current = match fault::combine(current.vector, self.fault.vector) {
                fault::Next::Serial => self.fault,
                fault::Next::Double => Fault { vector: vector::DF, error_code: Some(0) },
                fault::Next::Shutdown => break,
            };
        }
        tracing::debug!(rip = self.rip, vector = fault.vector, "triple fault");
        self.stop_with(engine::Stop::TripleFault);
    }

    /// Whether the exception is a fault, whose handler returns to the instruction with RF set (SDM vol. 3B, 18.3.1.1).
    fn is_fault(&mut self, vector: u8) -> bool {
        match vector {
            vector::DB => {
                // Only instruction breakpoints are; the others are traps.
                let saved = self.fault;
                let at = self.fetch_address().unwrap_or(0);
                self.fault = saved;
                self.watch.code_at(at) & self.dr[4] != 0
            }
            vector::NMI | vector::BP | vector::OF | vector::DF | vector::MC => false,
            _ => true,
        }
    }

    /// #GP for a bad entry of the IDT.
    #[cold]
    fn bad_gate(&mut self, fault_vector: u8, event: u8) -> Raised {
        self.raise_code(fault_vector, u32::from(u16::from(event) * 8 + CODE_IDT))
    }

    /// Real mode: the interrupt vector table.
    fn deliver_real(&mut self, event: Event, flags: u64) -> Exec {
        let entry = u64::from(event.vector) * 4;
        if entry + 3 > u64::from(self.idt.limit) {
            return Err(self.bad_gate(vector::GP, event.vector));
        }
        let target = self.read_sys::<u32>(self.wrap(self.idt.base.wrapping_add(entry)))?;
        self.enter_real_handler(target, flags)
    }

    /// Pushes FLAGS, CS and IP and goes to the far pointer `target`: as in real mode.
    fn enter_real_handler(&mut self, target: u32, flags: u64) -> Exec {
        let cs = self.seg[sreg::CS];
        let mut stack = Frame::current(self);
        stack.push(self, Width::Bits16, flags)?;
        stack.push(self, Width::Bits16, cs.selector.into())?;
        stack.push(self, Width::Bits16, self.rip)?;
        let (selector, ip) = ((target >> 16) as u16, u64::from(target & 0xffff));
        if ip > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        stack.commit(self);
        self.seg[sreg::CS] = Segment { base: u64::from(selector) << 4, selector, ..cs };
        self.rip = ip;
        self.set_system_flags(self.system_flags & !(rflags::IF | rflags::TF | rflags::AC | rflags::RF));
        Ok(())
    }

    /// Reads the gate of `event` and checks what all gates have in common. `size` is that of an IDT entry.
    fn read_gate(&mut self, event: Event, size: u64) -> Exec<(Descriptor, u64)> {
        let entry = u64::from(event.vector) * size;
        if entry + size - 1 > u64::from(self.idt.limit) {
            return Err(self.bad_gate(vector::GP, event.vector));
        }
        let at = self.wrap(self.idt.base.wrapping_add(entry));
        let gate = Descriptor(self.read_sys::<u64>(at)?);
        let high = if size == 16 { self.read_sys::<u64>(at.wrapping_add(8))? } else { 0 };
        let known = match gate.kind() {
            kind::INTERRUPT_GATE | kind::TRAP_GATE => true,
            kind::TASK_GATE | kind::INTERRUPT_GATE16 | kind::TRAP_GATE16 => size == 8,
            _ => false,
        };
        if !gate.is_system() || !known || event.software && gate.dpl() < self.cpl {
            return Err(self.bad_gate(vector::GP, event.vector));
        }
        if !gate.present() {
            return Err(self.bad_gate(vector::NP, event.vector));
        }
        Ok((gate, high))
    }

    /// Fetches and checks the handler's code segment.
    fn handler_code(&mut self, selector: u16) -> Exec<(Descriptor, u8)> {
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        let long_ok = !self.long_mode() || d.has(Segment::LONG) && !d.has(Segment::DB);
        if !d.is_code() || d.dpl() > self.cpl || !long_ok {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let cpl = if d.is_conforming() { self.cpl } else { d.dpl() };
        Ok((d, cpl))
    }

    /// Long mode (SDM vol. 3A, 6.14).
    fn deliver_long(&mut self, event: Event, flags: u64) -> Exec {
        let (gate, high) = self.read_gate(event, 16)?;
        let (d, cpl) = self.handler_code(gate.gate_selector())?;
        let offset = gate.gate_offset() | high << 32;
        let inner = cpl < self.cpl;
        let sp = match gate.gate_ist() {
            0 if inner => self.tss_long(4 + 8 * u64::from(cpl))?,
            0 => self.regs[crate::cpu::reg::RSP],
            // IST1 is at 36.
            ist => self.tss_long(28 + 8 * u64::from(ist))?,
        };
        let old_ss = self.seg[sreg::SS];
        let ss = if inner { self.null_stack(cpl.into(), cpl) } else { old_ss };
        let mut stack = Frame::long(ss, sp & !15, cpl);
        for value in [
            old_ss.selector.into(),
            self.regs[crate::cpu::reg::RSP],
            flags,
            self.seg[sreg::CS].selector.into(),
            self.rip,
        ] {
            stack.push(self, Width::Bits64, value)?;
        }
        if let Some(code) = event.error_code {
            stack.push(self, Width::Bits64, code.into())?;
        }
        self.check_canonical(offset)?;
        let cs = self.access_descriptor(gate.gate_selector(), d)?;
        stack.commit(self);
        self.seg[sreg::SS] = ss;
        self.enter_code(cs, cpl, offset);
        self.enter_handler_flags(gate.kind() == kind::INTERRUPT_GATE);
        Ok(())
    }

    /// Reads a stack pointer from a 64-bit TSS.
    pub(super) fn tss_long(&mut self, offset: u64) -> Exec<u64> {
        if offset + 7 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        self.read_sys::<u64>(self.tr.base.wrapping_add(offset))
    }

    /// What the entry to a handler does to the flags.
    fn enter_handler_flags(&mut self, interrupt_gate: bool) {
        let mut clear = rflags::TF | rflags::NT | rflags::RF | rflags::VM;
        if interrupt_gate {
            clear |= rflags::IF;
        }
        self.set_system_flags(self.system_flags & !clear);
    }

    /// Protected mode without long mode, and virtual-8086 mode.
    fn deliver_protected(&mut self, event: Event, flags: u64) -> Exec {
        let (gate, _) = self.read_gate(event, 8)?;
        if gate.kind() == kind::TASK_GATE {
            return self.switch_task(
                gate.gate_selector(),
                Switch::Interrupt { error_code: event.error_code, flags, software: event.software },
            );
        }
        let (d, cpl) = self.handler_code(gate.gate_selector())?;
        let wide = matches!(gate.kind(), kind::INTERRUPT_GATE | kind::TRAP_GATE);
        let width = if wide { Width::Bits32 } else { Width::Bits16 };
        let interrupt_gate = matches!(gate.kind(), kind::INTERRUPT_GATE | kind::INTERRUPT_GATE16);
        let offset = gate.gate_offset() & width.mask();
        let from_v86 = self.v86();
        if from_v86 && cpl != 0 {
            return Err(self.selector_fault(vector::GP, gate.gate_selector()));
        }
        let old_ss = self.seg[sreg::SS];
        let mut stack = if cpl < self.cpl { self.inner_stack(cpl)? } else { Frame::current(self) };
        if from_v86 {
            for index in [sreg::GS, sreg::FS, sreg::DS, sreg::ES] {
                stack.push(self, width, self.seg[index].selector.into())?;
            }
        }
        if cpl < self.cpl {
            stack.push(self, width, old_ss.selector.into())?;
            stack.push(self, width, self.regs[crate::cpu::reg::RSP])?;
        }
        stack.push(self, width, flags)?;
        stack.push(self, width, self.seg[sreg::CS].selector.into())?;
        stack.push(self, width, self.rip)?;
        if let Some(code) = event.error_code {
            stack.push(self, width, code.into())?;
        }
        if offset > u64::from(d.limit()) {
            return Err(self.gp(0));
        }
        let cs = self.access_descriptor(gate.gate_selector(), d)?;
        if from_v86 {
            for index in [sreg::GS, sreg::FS, sreg::DS, sreg::ES] {
                self.seg[index] = null_segment(0);
            }
        }
        stack.commit(self);
        self.seg[sreg::SS] = stack.ss;
        self.enter_code(cs, cpl, offset);
        self.enter_handler_flags(interrupt_gate);
        Ok(())
    }

    /// The stack of inner privilege level `cpl` as the TSS has it (SDM vol. 3A, 7.2.1 and 7.6). Bad ones are #TS.
    pub(super) fn inner_stack(&mut self, cpl: u8) -> Exec<Frame> {
        let wide = self.tr.kind() & 8 != 0;
        let offset = if wide { 4 + 8 * u64::from(cpl) } else { 2 + 4 * u64::from(cpl) };
        let size = if wide { 6 } else { 4 };
        if offset + size - 1 > u64::from(self.tr.limit) {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        let at = self.wrap(self.tr.base.wrapping_add(offset));
        let (sp, selector) = if wide {
            (u64::from(self.read_sys::<u32>(at)?), self.read_sys::<u16>(self.wrap(at.wrapping_add(4)))?)
        } else {
            (u64::from(self.read_sys::<u16>(at)?), self.read_sys::<u16>(self.wrap(at.wrapping_add(2)))?)
        };
        let ss = self.stack_segment(selector, cpl, vector::TS)?;
        Ok(Frame::inner(ss, sp, cpl))
    }

    /// INT n in virtual-8086 mode with CR4.VME: the redirection bitmap below the I/O bitmap decides (SDM vol. 3B,
    /// 21.3). `None`: the protected-mode handler is to be used.
    fn redirected(&mut self, vector_number: u8) -> Exec<bool> {
        if self.tr.limit < 0x67 {
            return Err(self.gp(0));
        }
        let map = u64::from(self.read_sys::<u16>(self.wrap(self.tr.base.wrapping_add(0x66)))?);
        let Some(at) = map.checked_sub(32).map(|start| start + u64::from(vector_number >> 3)) else {
            return Err(self.gp(0));
        };
        if at > u64::from(self.tr.limit) {
            return Err(self.gp(0));
        }
        let byte = self.read_sys::<u8>(self.wrap(self.tr.base.wrapping_add(at)))?;
        Ok(byte >> (vector_number & 7) & 1 == 0)
    }

    /// INT n.
    fn software_interrupt(&mut self, vector_number: u8) -> Exec {
        let event = Event { vector: vector_number, error_code: None, software: true };
        if !self.v86() {
            return self.deliver(event);
        }
        if self.cr4 & cr4::VME != 0 && self.redirected(vector_number)? {
            let target = self.read_sys::<u32>(u64::from(vector_number) * 4)?;
            let mut image = self.rflags();
            if self.iopl() == 3 {
                return self.enter_real_handler(target, image);
            }
            // IF stands for VIF, and the handler finds IOPL 3.
            image = image & !rflags::IF | rflags::IOPL;
            if self.system_flags & rflags::VIF != 0 {
                image |= rflags::IF;
            }
            let kept_if = self.system_flags & rflags::IF;
            self.enter_real_handler(target, image)?;
            self.set_system_flags((self.system_flags | kept_if) & !rflags::VIF);
            return Ok(());
        }
        if self.iopl() < 3 {
            return Err(self.gp(0));
        }
        self.deliver(event)
    }
}

/// INT n.
pub(super) fn int(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.software_interrupt(op.imm as u8)
}

/// INT3: no IOPL check and no redirection.
pub(super) fn int3(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.deliver(Event { vector: vector::BP, error_code: None, software: true })
}

/// INTO.
pub(super) fn into(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.flags.of() { cpu.deliver(Event { vector: vector::OF, error_code: None, software: true }) } else { Ok(()) }
}

/// INT1: a #DB that is no fault and checks no gate.
pub(super) fn int1(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.dr[5] &= !DR7_GD;
    cpu.deliver(Event { vector: vector::DB, error_code: None, software: false })
}

//! IRET, IRETD and IRETQ (SDM vol. 2A, IRET).

use x86::Segment;
use x86::bits::{cr4, rflags, vector};

use super::descriptor::is_null;
use super::frame::{Frame, Width, set_stack_pointer};
use super::segment::v86_segment;
use super::task::Switch;
use crate::cpu::{Cpu, Exec, sreg};
use crate::op::Op;

/// What IRET restores whatever the privilege.
const ALWAYS: u64 = rflags::STATUS | rflags::TF | rflags::DF | rflags::NT;
/// And with an operand size of 32 or 64 bits.
const WIDE: u64 = rflags::RF | rflags::AC | rflags::ID;

/// IRET with operand size `op.imm` in bytes.
pub(super) fn iret(cpu: &mut Cpu, op: &Op) -> Exec {
    let width = match op.imm {
        2 => Width::Bits16,
        4 => Width::Bits32,
        _ => Width::Bits64,
    };
    if !cpu.protected() {
        cpu.iret_real(width)?;
    } else if cpu.v86() {
        cpu.iret_v86(width)?;
    } else if cpu.system_flags & rflags::NT != 0 {
        if cpu.long_mode() {
            return Err(cpu.gp(0));
        }
        let back = cpu.back_link()?;
        cpu.switch_task(back, Switch::Return)?;
    } else {
        cpu.iret_protected(width)?;
    }
    // NMIs are open again (SDM vol. 3A, 6.7.1).
    cpu.nmi_blocked = false;
    cpu.update_mode();
    Ok(())
}

impl Cpu {
    fn iret_real(&mut self, width: Width) -> Exec {
        let mut stack = Frame::current(self);
        let ip = stack.pop(self, width)?;
        let selector = stack.pop_selector(self, width)?;
        let image = stack.pop(self, width)?;
        let cs = self.seg[sreg::CS];
        if ip > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        let mut mask = ALWAYS | rflags::IF | rflags::IOPL;
        if width != Width::Bits16 {
            mask |= WIDE;
        }
        stack.commit(self);
        self.seg[sreg::CS] = Segment { base: u64::from(selector) << 4, selector, ..cs };
        self.rip = ip;
        self.restore_flags(image, mask, width);
        Ok(())
    }

    fn iret_v86(&mut self, width: Width) -> Exec {
        let virtual_if = self.iopl() < 3;
        if virtual_if && (width != Width::Bits16 || self.cr4 & cr4::VME == 0) {
            return Err(self.gp(0));
        }
        let mut stack = Frame::current(self);
        let ip = stack.pop(self, width)?;
        let selector = stack.pop_selector(self, width)?;
        let image = stack.pop(self, width)?;
        if ip > 0xffff {
            return Err(self.gp(0));
        }
        let mut mask = ALWAYS;
        let mut vif = None;
        if virtual_if {
            // SDM vol. 2A, IRET with VME: the image's IF is VIF.
            let wants = image & rflags::IF != 0;
            if image & rflags::TF != 0 || wants && self.system_flags & rflags::VIP != 0 {
                return Err(self.gp(0));
            }
            vif = Some(wants);
        } else {
            mask |= rflags::IF;
        }
        if width != Width::Bits16 {
            mask |= WIDE;
        }
        stack.commit(self);
        self.seg[sreg::CS] = v86_segment(selector);
        self.rip = ip;
        if let Some(wants) = vif {
            self.system_flags = self.system_flags & !rflags::VIF | if wants { rflags::VIF } else { 0 };
        }
        self.restore_flags(image, mask, width);
        Ok(())
    }

    /// Replaces the bits of `mask`, of which those beyond `width` stay.
    fn restore_flags(&mut self, image: u64, mask: u64, width: Width) {
        let mask = mask & width.mask();
        self.set_rflags(self.rflags() & !mask | image & mask);
    }

    fn iret_protected(&mut self, width: Width) -> Exec {
        let mut stack = Frame::current(self);
        let rip = stack.pop(self, width)?;
        let selector = stack.pop_selector(self, width)?;
        let image = stack.pop(self, width)?;
        if image & rflags::VM != 0 && self.cpl == 0 && width == Width::Bits32 && !self.long_mode() {
            return self.iret_to_v86(stack, rip, selector, image);
        }
        if is_null(selector) {
            return Err(self.gp(0));
        }
        let d = self.read_descriptor(selector, vector::GP)?;
        self.check_return_code(selector, d)?;
        let rpl = (selector & 3) as u8;
        let target = d.segment(selector);
        let outer = rpl > self.cpl;
        let mut new_stack = None;
        if outer || self.is64() {
            let sp = stack.pop(self, width)?;
            let ss = stack.pop_selector(self, width)?;
            let to_long = self.long_mode() && target.has(Segment::LONG);
            let segment = if is_null(ss) && to_long && rpl < 3 && (ss & 3) as u8 == rpl {
                self.null_stack(ss, rpl)
            } else {
                self.stack_segment(ss, rpl, vector::GP)?
            };
            new_stack = Some((sp, segment));
        }
        self.check_target(&target, rip)?;
        let cs = self.access_descriptor(selector, d)?;

        let mut mask = ALWAYS;
        if width != Width::Bits16 {
            mask |= WIDE;
        }
        if self.cpl <= self.iopl() {
            mask |= rflags::IF;
        }
        if self.cpl == 0 {
            mask |= rflags::IOPL;
            if width != Width::Bits16 {
                mask |= rflags::VIF | rflags::VIP;
            }
        }
        match new_stack {
            Some((sp, segment)) => {
                self.seg[sreg::SS] = segment;
                set_stack_pointer(self, sp, self.stack_width(&cs, &segment));
            }
            None => stack.commit(self),
        }
        self.enter_code(cs, rpl, rip);
        self.restore_flags(image, mask, width);
        if outer {
            self.drop_inner_segments();
        }
        Ok(())
    }

    /// Return to virtual-8086 mode (SDM vol. 3B, 21.2.5).
    fn iret_to_v86(&mut self, mut stack: Frame, ip: u64, cs: u16, image: u64) -> Exec {
        let sp = stack.pop(self, Width::Bits32)?;
        let mut selectors = [0; 5];
        for selector in &mut selectors {
            *selector = stack.pop_selector(self, Width::Bits32)?;
        }
        if ip > 0xffff {
            return Err(self.gp(0));
        }
        let order = [sreg::SS, sreg::ES, sreg::DS, sreg::FS, sreg::GS];
        for (index, selector) in order.into_iter().zip(selectors) {
            self.seg[index] = v86_segment(selector);
        }
        self.seg[sreg::CS] = v86_segment(cs);
        self.regs[crate::cpu::reg::RSP] = sp;
        self.rip = ip;
        self.cpl = 3;
        let mask = ALWAYS | WIDE | rflags::IF | rflags::IOPL | rflags::VIF | rflags::VIP | rflags::VM;
        self.restore_flags(image, mask, Width::Bits32);
        Ok(())
    }
}

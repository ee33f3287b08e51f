//! Hardware task switches (SDM vol. 3A, chapter 7).

use x86::Segment;
use x86::bits::{cr0, cr4, rflags, vector};

use super::descriptor::{Descriptor, is_null, kind, null_segment};
use super::frame::{Frame, Width};
use super::segment::v86_segment;
use crate::cpu::{Cpu, Exec, sreg};

/// What makes a task switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Switch {
    /// JMP: the old task is done.
    Jump,
    /// CALL: the new task is nested.
    Call,
    /// An interrupt or exception through a task gate: nested, too.
    Interrupt {
        /// What is pushed on the new task's stack.
        error_code: Option<u32>,
        /// The image of the flags that the old task is saved with.
        flags: u64,
        /// An INT instruction.
        software: bool,
    },
    /// IRET with NT.
    Return,
}

impl Switch {
    const fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Interrupt { .. })
    }
}

/// DR6: the T bit of the new task's state.
const DR6_BT: u64 = 1 << 15;
/// DR7: the local enable bits, which a task switch clears.
const DR7_LOCAL: u64 = 0x155;
/// CS and SS by their place among the saved selectors.
const SAVED: [usize; 6] = [sreg::ES, sreg::CS, sreg::SS, sreg::DS, sreg::FS, sreg::GS];

/// Where things are in a task state segment (SDM vol. 3A, figures 7-2 and 7-10).
struct Layout {
    /// 16-bit or 32-bit words.
    wide: bool,
    ip: u64,
    selectors: u64,
    selector_count: usize,
    ldt: u64,
    /// The last byte that has to be within the limit.
    last: u32,
}

const LAYOUT32: Layout = Layout { wide: true, ip: 0x20, selectors: 0x48, selector_count: 6, ldt: 0x60, last: 0x67 };
const LAYOUT16: Layout = Layout { wide: false, ip: 0x0e, selectors: 0x22, selector_count: 4, ldt: 0x2a, last: 0x2b };

impl Layout {
    const fn of(kind: u8) -> &'static Self {
        if kind & 8 != 0 { &LAYOUT32 } else { &LAYOUT16 }
    }

    /// The size of a saved register.
    const fn word(&self) -> u64 {
        if self.wide { 4 } else { 2 }
    }
}

/// What a task state segment holds.
#[derive(Debug, Clone, Copy, Default)]
struct Saved {
    cr3: u64,
    ip: u64,
    flags: u64,
    gpr: [u64; 8],
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

impl Cpu {
    /// Sets or clears the busy bit of the TSS that `selector` names.
    pub(super) fn set_busy(&mut self, selector: u16, busy: bool) -> Exec {
        if let Some(at) = self.descriptor_address(selector, 8) {
            self.update_sys::<u8>(at.wrapping_add(5), |rights| if busy { rights | 2 } else { rights & !2 })?;
        }
        Ok(())
    }

    /// The selector of the task that the current one is nested in.
    pub(super) fn back_link(&mut self) -> Exec<u16> {
        if self.tr.limit < 1 {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        self.read_sys::<u16>(self.tr.base)
    }

    /// Switches to the task whose TSS `selector` names. A fault on loading the new task's segments belongs to the new
    /// task: it is delivered there, or given back if an event that is not an instruction's made the switch.
    pub(super) fn switch_task(&mut self, selector: u16, switch: Switch) -> Exec {
        let d = self.task_descriptor(selector, switch)?;
        let base = d.base();
        let new_layout = Layout::of(d.kind());
        let new = self.read_task(base, new_layout)?;
        self.save_task(switch)?;
        if switch.nests() {
            self.write_sys::<u16>(base, self.tr.selector)?;
        } else {
            self.set_busy(self.tr.selector, false)?;
        }
        if switch != Switch::Return {
            self.set_busy(selector, true)?;
        }

        self.tr = d.segment(selector);
        self.tr.attr |= 2;
        let loaded = self.load_task(&new, new_layout, switch).and_then(|()| self.start_task(&new, new_layout, switch));
        match (loaded, switch) {
            (Err(raised), Switch::Interrupt { software: false, .. }) => return Err(raised),
            (Err(_), _) => {
                let fault = self.fault;
                self.deliver_exception(fault);
            }
            (Ok(()), _) if new.trap => {
                self.dr[4] |= DR6_BT;
                self.deliver_exception(crate::cpu::Fault { vector: vector::DB, error_code: None });
            }
            (Ok(()), _) => {}
        }
        Ok(())
    }

    /// Fetches and checks the descriptor of the new TSS.
    fn task_descriptor(&mut self, selector: u16, switch: Switch) -> Exec<Descriptor> {
        let bad = if switch == Switch::Return { vector::TS } else { vector::GP };
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.selector_fault(bad, selector));
        }
        let d = self.read_descriptor(selector, bad)?;
        let wanted = match switch {
            Switch::Return => [kind::TSS_BUSY, kind::TSS16_BUSY],
            _ => [kind::TSS, kind::TSS16],
        };
        if !d.is_system() || !wanted.contains(&d.kind()) {
            return Err(self.selector_fault(bad, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        if d.limit() < Layout::of(d.kind()).last {
            return Err(self.selector_fault(vector::TS, selector));
        }
        Ok(d)
    }

    fn read_word(&mut self, base: u64, offset: u64, layout: &Layout) -> Exec<u64> {
        let at = self.wrap(base.wrapping_add(offset));
        Ok(if layout.wide { self.read_sys::<u32>(at)?.into() } else { self.read_sys::<u16>(at)?.into() })
    }

    fn write_word(&mut self, base: u64, offset: u64, layout: &Layout, value: u64) -> Exec {
        let at = self.wrap(base.wrapping_add(offset));
        if layout.wide { self.write_sys(at, value as u32) } else { self.write_sys(at, value as u16) }
    }

    fn read_task(&mut self, base: u64, layout: &Layout) -> Exec<Saved> {
        let word = layout.word();
        let mut new = Saved::default();
        if layout.wide {
            new.cr3 = self.read_word(base, 0x1c, layout)?;
            new.trap = self.read_word(base, 0x64, layout)? & 1 != 0;
        }
        new.ip = self.read_word(base, layout.ip, layout)?;
        new.flags = self.read_word(base, layout.ip + word, layout)?;
        for (i, value) in new.gpr.iter_mut().enumerate() {
            *value = self.read_word(base, layout.ip + word * (2 + i as u64), layout)?;
        }
        for (i, selector) in new.selectors.iter_mut().take(layout.selector_count).enumerate() {
            *selector = self.read_word(base, layout.selectors + word * i as u64, layout)? as u16;
        }
        new.ldt = self.read_word(base, layout.ldt, layout)? as u16;
        Ok(new)
    }

    /// Saves the current task in its TSS.
    fn save_task(&mut self, switch: Switch) -> Exec {
        let base = self.tr.base;
        let layout = Layout::of(self.tr.kind());
        if self.tr.limit < layout.last {
            return Err(self.selector_fault(vector::TS, self.tr.selector));
        }
        let flags = match switch {
            Switch::Interrupt { flags, .. } => flags,
            Switch::Return => self.rflags() & !rflags::NT,
            _ => self.rflags(),
        };
        let word = layout.word();
        self.write_word(base, layout.ip, layout, self.rip)?;
        self.write_word(base, layout.ip + word, layout, flags)?;
        for i in 0..8 {
            self.write_word(base, layout.ip + word * (2 + i as u64), layout, self.regs[i])?;
        }
        for (i, index) in SAVED.into_iter().take(layout.selector_count).enumerate() {
            // Two bytes: what is above them is reserved.
            let at = self.wrap(base.wrapping_add(layout.selectors + word * i as u64));
            self.write_sys(at, self.seg[index].selector)?;
        }
        Ok(())
    }

    /// Loads everything that cannot fail, then LDT and segments.
    fn load_task(&mut self, new: &Saved, layout: &Layout, switch: Switch) -> Exec {
        for (i, value) in new.gpr.iter().enumerate() {
            self.regs[i] = if layout.wide { *value } else { self.regs[i] & 0xffff_0000 | value };
        }
        self.rip = new.ip;
        let mut flags = new.flags & 0x003f_7fd5;
        if switch.nests() {
            flags |= rflags::NT;
        }
        self.cr0 |= cr0::TS;
        self.dr[5] &= !DR7_LOCAL;
        self.watch_changed();
        let v86 = flags & rflags::VM != 0;
        for (i, index) in SAVED.into_iter().enumerate() {
            let selector = new.selectors[i];
            self.seg[index] = if v86 { v86_segment(selector) } else { null_segment(selector) };
        }
        self.ldt = null_segment(new.ldt);
        self.cpl = if v86 { 3 } else { (new.selectors[1] & 3) as u8 };
        self.set_rflags(flags);
        if layout.wide && self.cr0 & cr0::PG != 0 {
            self.cr3 = new.cr3;
            if self.cr4 & cr4::PAE != 0 {
                self.load_pdptes(new.cr3)?;
            }
            self.mmu_load_context(false);
        }
        self.ldt = self.ldt_segment(new.ldt, vector::TS, vector::TS)?;
        if v86 {
            return Ok(());
        }
        let [es, cs, ss, ds, fs, gs] = new.selectors;
        self.seg[sreg::CS] = self.task_code(cs)?;
        self.update_mode();
        self.seg[sreg::SS] = self.stack_segment(ss, self.cpl, vector::TS)?;
        for (index, selector) in [(sreg::DS, ds), (sreg::ES, es), (sreg::FS, fs), (sreg::GS, gs)] {
            let segment = self.data_segment(selector);
            if segment.is_err() && self.fault.vector == vector::GP {
                self.fault.vector = vector::TS;
            }
            self.seg[index] = segment?;
        }
        Ok(())
    }

    fn task_code(&mut self, selector: u16) -> Exec<Segment> {
        if is_null(selector) {
            return Err(self.selector_fault(vector::TS, selector));
        }
        let d = self.read_descriptor(selector, vector::TS)?;
        let level = if d.is_conforming() { d.dpl() <= self.cpl } else { d.dpl() == self.cpl };
        if !d.is_code() || !level {
            return Err(self.selector_fault(vector::TS, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(vector::NP, selector));
        }
        self.access_descriptor(selector, d)
    }

    /// The last steps, in the new task: its instruction pointer is checked, the error code pushed.
    fn start_task(&mut self, new: &Saved, layout: &Layout, switch: Switch) -> Exec {
        if new.ip > u64::from(self.seg[sreg::CS].limit) {
            return Err(self.gp(0));
        }
        if let Switch::Interrupt { error_code: Some(code), .. } = switch {
            let mut stack = Frame::current(self);
            stack.push(self, if layout.wide { Width::Bits32 } else { Width::Bits16 }, code.into())?;
            stack.commit(self);
        }
        Ok(())
    }
}

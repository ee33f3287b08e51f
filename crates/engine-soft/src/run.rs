//! The run loop: blocks, and what happens between them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{CpuIo, DebugEvent, Stop};
use x86::bits::{cr0, rflags, vector};
use x86::{CpuState, Event};

use crate::cpu::{CodeSize, Cpu, Exec, Fault, leave, sreg};
use crate::op::Op;
use crate::options::Translator;
use crate::pending::Pending;
use crate::stats::ticks;

/// The machine's side of the pins when there is none: nobody answers.
pub(crate) struct Nowhere;

impl CpuIo for Nowhere {
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn pic_ack(&self) -> Option<u8> {
        None
    }
    fn eoi(&self, _: u8) {}
}

/// DR6: single step.
const DR6_BS: u64 = 1 << 14;

impl Cpu {
    /// Runs until something ends the run.
    pub(crate) fn run(&mut self) -> Stop {
        self.slot.in_guest.store(true, Ordering::SeqCst);
        self.enter_thread();
        self.inject();
        let stop = self.run_blocks(usize::MAX);
        self.leave_thread();
        self.slot.in_guest.store(false, Ordering::SeqCst);
        stop.unwrap_or(Stop::Kicked)
    }

    /// Delivers what was on its way in the state that has been loaded.
    fn inject(&mut self) {
        match self.injecting.take() {
            None => {}
            Some(Event { vector, error_code, .. }) if vector < 32 && vector != vector::NMI => {
                self.deliver_exception(Fault { vector, error_code });
            }
            Some(Event { vector, .. }) => {
                self.nmi_blocked |= vector == vector::NMI;
                self.interrupt(vector);
                self.update_mode();
            }
        }
    }

    /// Does what INIT and start-up messages that wait ask for: they are no part of a state.
    pub(crate) fn take_resets(&mut self) {
        let pending = self.slot.pending().load(Ordering::SeqCst);
        if pending & Pending::INIT != 0 {
            self.slot.clear(Pending::INIT);
            self.init();
        }
        if pending & Pending::SIPI != 0 {
            self.slot.clear(Pending::SIPI);
            self.start_up();
        }
    }

    /// Runs at most `budget` blocks, or stretches of translated code; `None` when it is used up.
    pub(crate) fn run_blocks(&mut self, budget: usize) -> Option<Stop> {
        for _ in 0..budget {
            if let Some(stop) = self.between_blocks() {
                return Some(stop);
            }
            // RF lasts for one instruction, and is about breakpoints.
            if self.translator.is_some() && self.journal.is_none() && !self.watch.steps() {
                self.system_flags &= !rflags::RF;
            }
            let stepped = self.system_flags & (rflags::TF | rflags::RF) != 0 || self.watch.steps();
            if stepped || self.shadow {
                if let Some(stop) = self.step() {
                    return Some(stop);
                }
                continue;
            }
            if self.shared.options.translator == Translator::LockStep {
                self.run_lock_step();
            } else if self.translator.is_none() {
                self.interpret_block();
            } else if !self.run_translated() {
                let start = ticks();
                self.interpret_block();
                self.stats.jit.interpret_ticks += ticks().saturating_sub(start);
            }
        }
        None
    }

    /// Runs the block at RIP in the interpreter.
    pub(crate) fn interpret_block(&mut self) {
        match self.find_block() {
            Ok(block) => {
                // SAFETY: blocks are freed by `find_block` only.
                let ops: &[Op] = unsafe { &(*block).ops };
                self.stats.blocks_run += 1;
                let (mut left, mut faulted) = (ops.iter(), 0);
                for op in left.by_ref() {
                    self.rip = op.next;
                    let done = (op.run)(self, op);
                    if done.is_ok() && self.leave == 0 {
                        continue;
                    }
                    if done.is_err() {
                        faulted = 1;
                        self.rip = self.wrap_rip(op.rip());
                        self.deliver_fault();
                    }
                    break;
                }
                self.count_interpreted((ops.len() - left.len() - faulted) as u64);
            }
            Err(_) => self.deliver_fault(),
        }
    }

    #[inline(always)]
    fn count_interpreted(&mut self, instructions: u64) {
        self.stats.instructions += instructions;
        self.stats.interpreted += instructions;
    }

    /// What has to be looked at before a block. Gives the reason to end the run, if there is one.
    #[inline(always)]
    fn between_blocks(&mut self) -> Option<Stop> {
        let left = std::mem::take(&mut self.leave);
        if self.slot.attention().load(Ordering::Relaxed) != 0 {
            // Before the look at what is pending: what is posted after it asks again.
            self.slot.attention().store(0, Ordering::SeqCst);
        }
        let pending = self.slot.pending().load(Ordering::Relaxed) & self.interest;
        if left & !leave::BLOCK == 0 && pending == 0 && !self.halted && !self.wait_for_sipi {
            return None;
        }
        self.attend(left)
    }

    #[cold]
    #[inline(never)]
    fn attend(&mut self, left: u8) -> Option<Stop> {
        if left & leave::STOP != 0
            && let Some(stop) = self.stop.take()
        {
            return Some(stop);
        }
        loop {
            self.leave = 0;
            // Before the look at what is pending: what is posted after it asks again.
            self.slot.attention().store(0, Ordering::SeqCst);
            let pending = self.slot.pending().load(Ordering::SeqCst);
            if pending & Pending::SHOOTDOWN != 0 {
                self.serve_shootdown();
            }
            if pending & Pending::CODE != 0 {
                self.serve_code_writes();
                self.leave = 0;
            }
            if pending & Pending::LAYOUT != 0 {
                self.slot.clear(Pending::LAYOUT);
                self.mmu_flush_all();
                // They are known by physical addresses, behind which there may be other pages now.
                self.forget_blocks();
                self.outdate_translations();
                self.leave = 0;
            }
            if pending & Pending::KICK != 0 {
                self.slot.clear(Pending::KICK);
                return Some(Stop::Kicked);
            }
            if pending & Pending::INIT != 0 {
                self.slot.clear(Pending::INIT);
                self.init();
                continue;
            }
            if pending & Pending::SIPI != 0 {
                self.slot.clear(Pending::SIPI);
                self.start_up();
            }
            if self.wait_for_sipi {
                self.sleep(Pending::ALWAYS & !Pending::NMI);
                continue;
            }
            // An interrupt shadow lasts for one instruction, unless that is a HLT.
            let open = !self.shadow || self.halted;
            if open && pending & self.interest & Pending::NMI != 0 {
                self.slot.clear(Pending::NMI);
                self.nmi_blocked = true;
                self.interrupt(vector::NMI);
                self.update_mode();
                // A triple fault.
                return self.stop.take();
            }
            if open && pending & self.interest & Pending::MASKABLE != 0 {
                if let Some(vector) = self.next_interrupt() {
                    self.interrupt(vector);
                    return self.stop.take();
                }
                continue;
            }
            if !self.halted {
                return None;
            }
            self.shadow = false;
            self.stats.halts += 1;
            self.sleep(self.interest);
        }
    }

    /// Waits for something of `interest`.
    fn sleep(&mut self, interest: u32) {
        self.slot.in_guest.store(false, Ordering::SeqCst);
        self.slot.wait(interest, Duration::from_millis(500));
        self.slot.in_guest.store(true, Ordering::SeqCst);
    }

    /// Takes the next maskable interrupt from the local APIC or the PIC.
    fn next_interrupt(&mut self) -> Option<u8> {
        self.slot.clear(Pending::LAPIC);
        let mut lapic = self.slot.lapic();
        if let Some(vector) = lapic.next_interrupt() {
            lapic.acknowledge(vector);
            return Some(vector);
        }
        let accepts = lapic.accepts_extint();
        drop(lapic);
        if self.slot.pending().load(Ordering::SeqCst) & Pending::EXTINT != 0 {
            self.slot.clear(Pending::EXTINT);
            if accepts && let Some(vector) = self.call_out(|io| io.pic_ack()) {
                if self.slot.extint() {
                    self.slot.post(Pending::EXTINT);
                }
                return Some(vector);
            }
        }
        None
    }

    fn interrupt(&mut self, vector: u8) {
        self.halted = false;
        self.shadow = false;
        self.stats.interrupts += 1;
        if self.deliver(Event { vector, error_code: None, software: false }).is_err() {
            self.deliver_fault();
        }
    }

    /// Delivers the exception in `self.fault`; RIP is that of the instruction that raised it.
    pub(crate) fn deliver_fault(&mut self) {
        self.stats.exceptions += 1;
        self.halted = false;
        self.deliver_exception(self.fault);
    }

    /// Runs one instruction, with breakpoints and the single-step trap (SDM vol. 3B, 18.3).
    #[cold]
    fn step(&mut self) -> Option<Stop> {
        let shadow = std::mem::take(&mut self.shadow);
        let trace = self.system_flags & rflags::TF != 0;
        let lin = self.fetch_address().unwrap_or(0);
        if self.watch.stops_at(lin) && self.watch.stopped_at.take() != Some(lin) {
            self.watch.stopped_at = Some(lin);
            return Some(Stop::Debug(DebugEvent::Breakpoint(lin)));
        }
        let code = self.watch.code_at(lin);
        if code != 0 && self.system_flags & rflags::RF == 0 && !shadow {
            self.dr[4] |= code;
            self.raise(vector::DB);
            self.deliver_fault();
            return None;
        }
        self.watch.hit = 0;
        self.delivered = false;
        let resumed = self.system_flags & rflags::RF != 0;
        let from = self.rip;
        if self.run_one().is_err() {
            self.deliver_fault();
            return None;
        }
        self.count_interpreted(1);
        // Not one that this instruction, an IRET, has just loaded.
        if resumed && self.rip != from {
            self.system_flags &= !rflags::RF;
        }
        let step = if trace && !self.delivered { DR6_BS } else { 0 };
        // A load of SS holds debug traps back, too.
        if (step | self.watch.hit) != 0 && !self.shadow {
            self.dr[4] |= step | self.watch.hit;
            self.raise(vector::DB);
            self.deliver_fault();
        }
        self.delivered = false;
        self.watch.single_step().then_some(Stop::Debug(DebugEvent::Step))
    }

    /// RIP cut to the code size.
    pub(crate) fn wrap_rip(&self, rip: u64) -> u64 {
        match self.code_size {
            CodeSize::Bits16 => rip & 0xffff,
            CodeSize::Bits32 => rip & 0xffff_ffff,
            CodeSize::Bits64 => rip,
        }
    }

    /// INIT (SDM vol. 3A, table 10-1): as after power-on, but for the caches, x87, SSE and the MSRs.
    fn init(&mut self) {
        let state = CpuState::power_on(self.id, self.model.signature());
        self.slot.lapic().init();
        self.regs = [0; 32];
        self.regs[..16].copy_from_slice(&state.gpr);
        self.rip = state.rip;
        self.seg = state.seg;
        self.ldt = state.ldt;
        self.tr = state.tr;
        self.gdt = state.gdt;
        self.idt = state.idt;
        self.cr0 = state.cr0 | self.cr0 & (cr0::CD | cr0::NW);
        self.cr2 = 0;
        self.cr3 = 0;
        self.cr4 = 0;
        self.dr = state.dr;
        self.msrs.efer = 0;
        self.cpl = 0;
        self.halted = false;
        self.shadow = false;
        self.nmi_blocked = false;
        // The bootstrap processor starts over at the reset vector.
        self.wait_for_sipi = self.slot.lapic().apic_base() & 0x100 == 0;
        self.set_rflags(state.rflags);
        self.watch_changed();
        self.slot.lapic_changed(self.shared.clock.now(), true);
    }

    /// The start-up IPI: real mode at page `vector`. Ignored by a CPU that does not wait for it.
    fn start_up(&mut self) {
        if !std::mem::take(&mut self.wait_for_sipi) {
            return;
        }
        let vector = self.slot.sipi_vector.load(Ordering::SeqCst) & 0xff;
        self.seg[sreg::CS].selector = (vector << 8) as u16;
        self.seg[sreg::CS].base = u64::from(vector) << 12;
        self.rip = 0;
        self.update_mode();
    }

    /// Runs one instruction; on `Err` RIP is still its own.
    pub(crate) fn run_one(&mut self) -> Exec {
        self.leave = 0;
        let block = self.find_block()?;
        // SAFETY: blocks are freed by `find_block` only.
        let first = unsafe { (*block).ops.first().copied() };
        // No block is empty.
        let Some(op) = first else { return Err(self.ud()) };
        self.rip = op.next;
        let done = (op.run)(self, &op);
        if done.is_err() {
            self.rip = self.wrap_rip(op.rip());
        }
        done
    }
}

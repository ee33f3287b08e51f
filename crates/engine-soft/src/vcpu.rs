//! The engine's face to the machine: one vCPU and its state.

use std::ptr::NonNull;
use std::sync::Arc;

use engine::{Breakpoints, CpuIo, Error, Kicker, Result, Stat, Stop, Vcpu};
use x86::bits::{cr0, rflags};
use x86::lapic::Lapic;
use x86::{Activity, CpuModel, CpuState, Events, Tsc};

use crate::block::BlockCache;
use crate::cpu::{CodeSize, Cpu, Fault, sreg};
use crate::debug::Watch;
use crate::flags::Flags;
use crate::fpu::Fpu;
use crate::jit::{Context, Jit};
use crate::lane::{Lane, Resident};
use crate::lapic::TSC_HZ;
use crate::mmu::Mmu;
use crate::options::Translator;
use crate::partition::Shared;
use crate::pending::Pending;
use crate::stats::Stats;

/// One vCPU of the software engine.
pub(crate) struct SoftVcpu {
    pub(crate) cpu: Resident,
}

// SAFETY: the raw pointers in a CPU lead into its own blocks, into guest memory, which lives as long as `shared`, and,
// during a run only, to the machine's `CpuIo`, which is `Sync`.
unsafe impl Send for SoftVcpu {}

impl SoftVcpu {
    pub(crate) fn new(id: u32, model: &CpuModel, shared: &Arc<Shared>) -> Self {
        let state = CpuState::power_on(id, model.signature());
        let translator = match shared.options.translator {
            Translator::Off => None,
            // Without memory for code there is the interpreter.
            _ => Jit::new(shared.options.code_cache).map(Box::new).ok(),
        };
        let slot = &shared.slots[id as usize];
        let cpu = |lane: *mut Lane| Cpu {
            regs: [0; 32],
            rip: 0,
            flags: Flags::default(),
            system_flags: 0,
            leave: 0,
            cpl: 0,
            code_size: CodeSize::Bits16,
            data_table: 0,
            interest: 0,
            shadow: false,
            seg: state.seg,
            ldt: state.ldt,
            tr: state.tr,
            gdt: state.gdt,
            idt: state.idt,
            cr0: state.cr0,
            cr2: 0,
            cr3: 0,
            cr4: 0,
            dr: state.dr,
            xcr0: 1,
            msrs: state.msrs,
            fault: Fault::default(),
            halted: false,
            nmi_blocked: false,
            injecting: None,
            wait_for_sipi: false,
            delivered: false,
            lapic_page: u64::MAX,
            stop: None,
            fpu: Fpu::new(),
            // SAFETY: the lane's own tables, which nobody else uses, and which stay where they are for as long as the CPU.
            mmu: unsafe { Mmu::new(NonNull::new_unchecked(&raw mut (*lane).tlb)) },
            blocks: BlockCache::new(),
            watch: Watch::default(),
            model: model.clone(),
            id,
            slot: Arc::clone(slot),
            shared: Arc::clone(shared),
            io: None,
            stats: Stats::default(),
            journal: None,
            failure: None,
            jit: Context::new(),
            translator,
        };
        // SAFETY: the partition makes a vCPU of a number once.
        let mut vcpu = Self { cpu: unsafe { Resident::new(Arc::clone(slot.home()), cpu) } };
        vcpu.cpu.cpu.jit.cpu = (&raw mut *vcpu.cpu).cast();
        vcpu.cpu.cpu.prepare_context();
        vcpu.load(&state);
        vcpu
    }

    fn load(&mut self, s: &CpuState) {
        let cpu: &mut Cpu = &mut self.cpu;
        cpu.regs = [0; 32];
        cpu.regs[..16].copy_from_slice(&s.gpr);
        cpu.rip = s.rip;
        cpu.seg = s.seg;
        cpu.ldt = s.ldt;
        cpu.tr = s.tr;
        cpu.gdt = s.gdt;
        cpu.idt = s.idt;
        cpu.cr0 = s.cr0 | cr0::ET;
        cpu.cr2 = s.cr2;
        cpu.cr3 = s.cr3;
        cpu.cr4 = s.cr4;
        cpu.dr = s.dr;
        cpu.xcr0 = s.xcr0;
        cpu.msrs = s.msrs;
        if cpu.msrs.tsc_hz == 0 {
            cpu.msrs.tsc_hz = TSC_HZ;
        }
        cpu.fpu.load(&s.xsave);
        *cpu.slot.lapic() = Lapic::new(s.lapic.clone(), Tsc::of(&cpu.msrs));
        cpu.halted = s.activity == Activity::Halted;
        cpu.wait_for_sipi = s.activity == Activity::WaitForSipi;
        cpu.shadow = s.events.interrupt_shadow;
        cpu.nmi_blocked = s.events.nmi_blocked;
        cpu.stop = None;
        // In protected mode the privilege level is that of SS (SDM vol. 3A, 5.5); virtual-8086 code runs at 3.
        cpu.cpl = match (s.cr0 & cr0::PE != 0, s.rflags & rflags::VM != 0) {
            (false, _) => 0,
            (true, true) => 3,
            (true, false) => s.seg[sreg::SS].dpl(),
        };
        cpu.set_rflags(s.rflags);
        cpu.slot.clear(!(Pending::KICK | Pending::SHOOTDOWN | Pending::LAYOUT | Pending::CODE));
        if s.events.nmi_pending {
            cpu.slot.post(Pending::NMI);
        }
        cpu.slot.set_extint(s.events.extint);
        cpu.lapic_moved();
        cpu.watch_changed();
        if cpu.cr0 & cr0::PG != 0 && cpu.cr4 & x86::bits::cr4::PAE != 0 && !cpu.long_mode() {
            // A state that has been running has valid ones.
            let _ = cpu.load_pdptes(cpu.cr3);
        }
        cpu.slot.lapic_changed(cpu.shared.clock.now(), true);
        cpu.injecting = s.events.injecting;
        cpu.tell_system_time();
    }
}

impl Vcpu for SoftVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<Stop> {
        let io = NonNull::from(io);
        // SAFETY: only the lifetime changes; the pointer is taken back before this function, and so `io`, ends.
        let io: NonNull<dyn CpuIo> = unsafe { std::mem::transmute(io) };
        self.cpu.io = Some(io);
        let stop = self.cpu.run();
        self.cpu.fpu.park();
        self.cpu.io = None;
        match self.cpu.failure.take() {
            Some(why) => Err(Error::Internal(why)),
            None => Ok(stop),
        }
    }

    fn kicker(&self) -> Kicker {
        let slot = Arc::clone(&self.cpu.slot);
        Kicker::new(move || slot.post(Pending::KICK))
    }

    fn state(&mut self) -> Result<CpuState> {
        let cpu: &mut Cpu = &mut self.cpu;
        cpu.take_resets();
        let now = cpu.shared.clock.now();
        let mut lapic = cpu.slot.lapic();
        lapic.timer_fired(now.0);
        let lapic = lapic.state().clone();
        let mut msrs = cpu.msrs;
        msrs.apic_base = lapic.apic_base;
        msrs.tsc_deadline = lapic.tsc_deadline;
        let mut gpr = [0; 16];
        gpr.copy_from_slice(&cpu.regs[..16]);
        let pending = cpu.slot.pending().load(std::sync::atomic::Ordering::SeqCst);
        Ok(CpuState {
            gpr,
            rip: cpu.rip,
            rflags: cpu.rflags(),
            seg: cpu.seg,
            ldt: cpu.ldt,
            tr: cpu.tr,
            gdt: cpu.gdt,
            idt: cpu.idt,
            cr0: cpu.cr0,
            cr2: cpu.cr2,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            dr: cpu.dr,
            xcr0: cpu.xcr0,
            msrs,
            xsave: cpu.fpu.save(),
            lapic,
            activity: match (cpu.wait_for_sipi, cpu.halted) {
                (true, _) => Activity::WaitForSipi,
                (false, true) => Activity::Halted,
                (false, false) => Activity::Running,
            },
            events: Events {
                injecting: cpu.injecting,
                interrupt_shadow: cpu.shadow,
                nmi_pending: pending & Pending::NMI != 0,
                nmi_blocked: cpu.nmi_blocked,
                extint: cpu.slot.extint(),
                smi_pending: false,
                smm: false,
            },
        })
    }

    fn set_state(&mut self, state: &CpuState) -> Result<()> {
        state.check().map_err(|what| Error::State(what.to_owned()))?;
        if state.events.smm || state.events.smi_pending {
            return Err(Error::State("system-management mode, which the software engine does not have".into()));
        }
        if state.msrs.tsc_hz != 0 && !Tsc::RATES.contains(&state.msrs.tsc_hz) {
            return Err(Error::State(format!("a time-stamp counter of {} Hz", state.msrs.tsc_hz)));
        }
        self.load(state);
        Ok(())
    }

    fn set_breakpoints(&mut self, breakpoints: &Breakpoints) -> Result<()> {
        self.cpu.set_debugger(breakpoints);
        Ok(())
    }

    fn stats(&self) -> Vec<Stat> {
        self.cpu.stats.list(&self.cpu.shared.stopwatch, self.cpu.translator.is_some())
    }
}

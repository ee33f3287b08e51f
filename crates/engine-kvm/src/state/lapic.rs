//! The local APIC, as the page of registers that KVM keeps (SDM vol. 3A, table 11-1).

use engine::Result;
use kvm_bindings::kvm_lapic_state;
use kvm_ioctls::VcpuFd;
use x86::lapic::{LapicState, Mode, TimerMode, VERSION};
use x86::msr::IA32_TSC_DEADLINE;
use x86::{CpuState, lapic::LVT_MASKED};

use super::{Context, msrs, not_taken, refused};

/// Offsets in the page.
mod at {
    pub(super) const ID: usize = 0x20;
    pub(super) const VERSION: usize = 0x30;
    pub(super) const TPR: usize = 0x80;
    pub(super) const LDR: usize = 0xd0;
    pub(super) const DFR: usize = 0xe0;
    pub(super) const SVR: usize = 0xf0;
    pub(super) const ISR: usize = 0x100;
    pub(super) const TMR: usize = 0x180;
    pub(super) const IRR: usize = 0x200;
    pub(super) const ESR: usize = 0x280;
    pub(super) const LVT_CMCI: usize = 0x2f0;
    pub(super) const ICR_LOW: usize = 0x300;
    pub(super) const ICR_HIGH: usize = 0x310;
    pub(super) const LVT_TIMER: usize = 0x320;
    pub(super) const LVT_THERMAL: usize = 0x330;
    pub(super) const LVT_PERF: usize = 0x340;
    pub(super) const LVT_LINT0: usize = 0x350;
    pub(super) const LVT_LINT1: usize = 0x360;
    pub(super) const LVT_ERROR: usize = 0x370;
    pub(super) const INITIAL: usize = 0x380;
    pub(super) const CURRENT: usize = 0x390;
    pub(super) const DIVIDE: usize = 0x3e0;
}

/// In the ICR: delivery is under way, which it never is between two instructions.
const ICR_BUSY: u32 = 1 << 12;

/// What KVM does not tell of a one-shot timer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timer {
    phase: Phase,
    /// The initial count of one that had stopped when it was loaded: KVM is told none, for it would start it again.
    initial: u32,
}

/// What a one-shot timer does while its CPU stands still.
#[derive(Debug, Clone, Copy, Default)]
enum Phase {
    /// What KVM says.
    #[default]
    Unknown,
    /// It has stopped, and its interrupt has been taken up.
    Stopped,
    /// It counts from this time of the engine's clock, whatever KVM's does meanwhile.
    Since(u64),
}

impl Timer {
    /// When guest code runs again.
    pub(super) fn running(self) -> Self {
        Self { phase: Phase::Unknown, ..self }
    }

    /// Of a state that is loaded.
    fn of(lapic: &LapicState) -> Self {
        match lapic.timer_mode() {
            TimerMode::OneShot if lapic.timer_running => Self { phase: Phase::Since(lapic.timer_start_ns), initial: 0 },
            TimerMode::OneShot => Self { phase: Phase::Stopped, initial: lapic.timer_initial },
            _ => Self::default(),
        }
    }
}

/// The page, in bytes.
struct Page(kvm_lapic_state);

impl Page {
    fn get(&self, at: usize) -> u32 {
        let r = &self.0.regs;
        u32::from_le_bytes([r[at] as u8, r[at + 1] as u8, r[at + 2] as u8, r[at + 3] as u8])
    }

    fn set(&mut self, at: usize, value: u32) {
        for (place, byte) in self.0.regs[at..at + 4].iter_mut().zip(value.to_le_bytes()) {
            *place = byte as _;
        }
    }

    fn get_bits(&self, at: usize) -> [u32; 8] {
        std::array::from_fn(|i| self.get(at + 16 * i))
    }

    fn set_bits(&mut self, at: usize, bits: &[u32; 8]) {
        for (i, word) in bits.iter().enumerate() {
            self.set(at + 16 * i, *word);
        }
    }
}

pub(super) fn read(vcpu: &VcpuFd, ctx: &Context, state: &mut CpuState) -> Result<()> {
    let now = ctx.shared.clock.now().0;
    let page = Page(vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?);
    let apic_base = state.msrs.apic_base;
    let mut lapic = LapicState { apic_base, ..LapicState::power_on(ctx.apic_id) };
    let x2apic = lapic.mode() == Mode::X2Apic;
    lapic.tpr = page.get(at::TPR) & 0xff;
    if !x2apic {
        // In x2APIC mode the one derives from the ID, and there is no other.
        lapic.ldr = page.get(at::LDR);
        lapic.dfr = page.get(at::DFR);
    }
    lapic.svr = page.get(at::SVR);
    lapic.isr = page.get_bits(at::ISR);
    lapic.tmr = page.get_bits(at::TMR);
    lapic.irr = page.get_bits(at::IRR);
    lapic.esr = page.get(at::ESR);
    lapic.icr = u64::from(page.get(at::ICR_LOW) & !ICR_BUSY) | u64::from(page.get(at::ICR_HIGH)) << 32;
    lapic.lvt_timer = page.get(at::LVT_TIMER);
    lapic.lvt_thermal = page.get(at::LVT_THERMAL);
    lapic.lvt_perf = page.get(at::LVT_PERF);
    lapic.lvt_lint0 = page.get(at::LVT_LINT0);
    lapic.lvt_lint1 = page.get(at::LVT_LINT1);
    lapic.lvt_error = page.get(at::LVT_ERROR);
    lapic.timer_divide = page.get(at::DIVIDE);
    lapic.timer_initial = page.get(at::INITIAL);
    let current = page.get(at::CURRENT);
    let timer = ctx.timer.get();
    if lapic.timer_mode() == TimerMode::OneShot && lapic.timer_initial == 0 {
        lapic.timer_initial = timer.initial;
    }
    lapic.timer_running = match lapic.timer_mode() {
        TimerMode::OneShot => match timer.phase {
            Phase::Unknown => current != 0,
            Phase::Stopped => false,
            Phase::Since(_) => true,
        },
        TimerMode::Periodic => lapic.timer_initial != 0,
        TimerMode::TscDeadline | TimerMode::Reserved => false,
    };
    if lapic.timer_mode() == TimerMode::OneShot
        && let Phase::Since(start) = timer.phase
    {
        lapic.timer_start_ns = start;
    } else if lapic.timer_running {
        let done = u64::from(lapic.timer_initial.saturating_sub(current));
        lapic.timer_start_ns = now.wrapping_sub(done * lapic.divide().ticks());
    }
    if lapic.timer_mode() == TimerMode::TscDeadline {
        lapic.tsc_deadline = msrs::get(vcpu, IA32_TSC_DEADLINE)?;
    }
    state.msrs.tsc_deadline = lapic.tsc_deadline;
    state.lapic = lapic;
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, ctx: &Context, state: &CpuState) -> Result<()> {
    let now = ctx.shared.clock.now().0;
    // IA32_APIC_BASE has gone with the segments; the two copies of a state are the same value.
    let lapic = LapicState { apic_base: state.msrs.apic_base, ..state.lapic.clone() };
    let x2apic = lapic.mode() == Mode::X2Apic;
    let mut page = Page(kvm_lapic_state::default());
    page.set(at::ID, if x2apic { lapic.id } else { lapic.id << 24 });
    page.set(at::VERSION, VERSION);
    page.set(at::TPR, lapic.tpr);
    page.set(at::LDR, lapic.logical_id());
    page.set(at::DFR, lapic.dfr);
    page.set(at::SVR, lapic.svr);
    page.set_bits(at::ISR, &lapic.isr);
    page.set_bits(at::TMR, &lapic.tmr);
    page.set_bits(at::IRR, &lapic.irr);
    page.set(at::ESR, lapic.esr);
    page.set(at::ICR_LOW, lapic.icr as u32);
    page.set(at::ICR_HIGH, (lapic.icr >> 32) as u32);
    page.set(at::LVT_CMCI, LVT_MASKED);
    page.set(at::LVT_TIMER, lapic.lvt_timer);
    page.set(at::LVT_THERMAL, lapic.lvt_thermal);
    page.set(at::LVT_PERF, lapic.lvt_perf);
    page.set(at::LVT_LINT0, lapic.lvt_lint0);
    page.set(at::LVT_LINT1, lapic.lvt_lint1);
    page.set(at::LVT_ERROR, lapic.lvt_error);
    let timer = Timer::of(&lapic);
    page.set(at::INITIAL, if matches!(timer.phase, Phase::Stopped) { 0 } else { lapic.timer_initial });
    page.set(at::DIVIDE, lapic.timer_divide);
    let expired = lapic.timer_running && lapic.current_count(now) == 0;
    // KVM goes on counting from here. What has expired already expires at once, which is by the shortest count.
    let current = if expired { 1 } else { lapic.current_count(now) };
    page.set(at::CURRENT, current);
    vcpu.set_lapic(&page.0).map_err(not_taken("the local APIC"))?;
    ctx.timer.set(timer);
    Ok(())
}

pub(super) fn note_timer(vcpu: &VcpuFd, ctx: &Context) -> Result<bool> {
    let now = ctx.shared.clock.now().0;
    let page = Page(vcpu.get_lapic().map_err(refused("KVM_GET_LAPIC"))?);
    let (initial, current) = (page.get(at::INITIAL), page.get(at::CURRENT));
    let mut lapic = LapicState::power_on(ctx.apic_id);
    (lapic.lvt_timer, lapic.timer_divide) = (page.get(at::LVT_TIMER), page.get(at::DIVIDE));
    let phase = match (lapic.timer_mode(), current) {
        (TimerMode::OneShot, 0) => Phase::Stopped,
        (TimerMode::OneShot, _) => {
            let done = u64::from(initial.saturating_sub(current));
            Phase::Since(now.wrapping_sub(done * lapic.divide().ticks()))
        }
        _ => Phase::Unknown,
    };
    ctx.timer.set(Timer { phase, ..ctx.timer.get() });
    Ok(matches!(phase, Phase::Stopped) && initial != 0 && lapic.lvt_timer & LVT_MASKED == 0)
}

/// Arms the deadline of the timer, once the time-stamp counter and the timer's mode are there.
pub(super) fn write_deadline(vcpu: &VcpuFd, state: &CpuState) -> Result<()> {
    if state.lapic.timer_mode() == TimerMode::TscDeadline {
        msrs::set(vcpu, IA32_TSC_DEADLINE, state.lapic.tsc_deadline)?;
    }
    Ok(())
}

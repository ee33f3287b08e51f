//! `CpuState` to and from KVM's registers (Linux, *The Definitive KVM API Documentation*).
//!
//! One module for each of KVM's structures. What KVM cannot hold but the architecture does is in [`Context`], so that a
//! state that was written is read back the same.

mod events;
mod ioctl;
mod lapic;
mod msrs;
mod regs;
mod sregs;
mod time;
mod xsave;

#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use engine::{Clock, Error, Result};
use kvm_bindings::{
    KVM_CAP_X2APIC_API, KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK, KVM_X2APIC_API_USE_32BIT_IDS, kvm_enable_cap,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use x86::CpuState;

use self::lapic::Timer;
use self::time::{TscOffset, VmTimebase};

/// What the conversions of all vCPUs of one VM need.
pub(crate) struct Shared {
    vm: Arc<VmFd>,
    clock: Clock,
    /// The size of the XSAVE state in bytes, 4096 where KVM knows no other.
    xsave_size: usize,
    /// KVM can run the guest's time-stamp counter at another rate than the host's.
    scales_tsc: bool,
    /// KVM has system-management mode.
    smm: bool,
    timebase: Mutex<VmTimebase>,
}

/// What the conversions of one vCPU need, and what KVM does not hold of its state.
pub(crate) struct Context {
    shared: Arc<Shared>,
    apic_id: u32,
    /// The level of the PIC's INTR pin.
    extint: Arc<AtomicBool>,
    /// Errors of the local APIC that software has not asked for yet.
    esr_pending: AtomicU32,
    timer: Cell<Timer>,
    tsc: TscOffset,
}

impl Shared {
    /// For `vm`, which has its split interrupt controller but no vCPU yet.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM lacks 32-bit APIC IDs (Linux before 4.7).
    pub(crate) fn new(kvm: &Kvm, vm: &Arc<VmFd>, clock: &Clock) -> Result<Arc<Self>> {
        let flags = u64::from(KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
        let cap = kvm_enable_cap { cap: KVM_CAP_X2APIC_API, args: [flags, 0, 0, 0], ..kvm_enable_cap::default() };
        vm.enable_cap(&cap).map_err(refused("KVM_CAP_X2APIC_API"))?;
        Ok(Arc::new(Self {
            vm: Arc::clone(vm),
            clock: clock.clone(),
            xsave_size: usize::try_from(vm.check_extension_int(Cap::Xsave2)).unwrap_or(0).max(4096),
            scales_tsc: kvm.check_extension(Cap::TscControl),
            smm: vm.check_extension_raw(u64::from(kvm_bindings::KVM_CAP_X86_SMM)) > 0,
            timebase: Mutex::default(),
        }))
    }

    fn timebase(&self) -> MutexGuard<'_, VmTimebase> {
        self.timebase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// For `vcpu`, which has its CPUID. `extint` is the level of the PIC's INTR pin, which the engine keeps.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM refuses.
    pub(crate) fn new(shared: &Arc<Shared>, vcpu: &VcpuFd, apic_id: u32, extint: &Arc<AtomicBool>) -> Result<Self> {
        msrs::set_up_machine_check(vcpu)?;
        let tsc = TscOffset::new(vcpu, &shared.clock)?;
        let (shared, extint) = (Arc::clone(shared), Arc::clone(extint));
        let timer = Cell::default();
        Ok(Self { shared, apic_id, extint, esr_pending: AtomicU32::new(0), timer, tsc })
    }

    /// The rate of the guest's time-stamp counter in hertz.
    #[cfg(test)]
    pub(crate) fn tsc_hz(&self) -> u64 {
        self.tsc.hz()
    }

    /// To be called before guest code runs: takes out of the time-stamp counter and the paravirtual clock what the
    /// engine's clock has stood still. Costs next to nothing when it has not.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM refuses.
    pub(crate) fn catch_up(&self, vcpu: &VcpuFd) -> Result<()> {
        time::catch_up(vcpu, self)
    }

    /// To be called before guest code runs: what was noted of the timer is no longer so.
    pub(crate) fn timer_runs(&self) {
        self.timer.set(self.timer.get().running());
    }

    /// Notes how far a one-shot timer is, for until guest code runs again: KVM's own goes on. True if it has expired, and
    /// its interrupt may wait to be taken up by an entry.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM refuses.
    pub(crate) fn note_timer(&self, vcpu: &VcpuFd) -> Result<bool> {
        lapic::note_timer(vcpu, self)
    }
}

/// The state of `vcpu`, which is not running.
///
/// # Errors
/// [`Error::Host`] when KVM refuses; [`Error::State`] for what a [`CpuState`] cannot hold.
pub(crate) fn read(vcpu: &VcpuFd, ctx: &Context) -> Result<CpuState> {
    let mut state = CpuState::power_on(ctx.apic_id, 0);
    // First: it lets KVM take up INIT and SIPI that have come in.
    state.activity = events::read_activity(vcpu)?;
    // Before the registers: it brings CR2 and DR6 up to an exception that is on its way.
    events::read(vcpu, &mut state)?;
    state.events.extint = ctx.extint.load(Ordering::SeqCst);
    regs::read(vcpu, &mut state)?;
    sregs::read(vcpu, &mut state)?;
    xsave::read(vcpu, ctx.shared.xsave_size, &mut state)?;
    msrs::read(vcpu, &mut state.msrs)?;
    time::read(vcpu, ctx, &mut state.msrs)?;
    lapic::read(vcpu, ctx, &mut state)?;
    state.lapic.esr_pending = ctx.esr_pending.load(Ordering::Relaxed);
    Ok(state)
}

/// Gives `vcpu`, which is not running, a state.
///
/// # Errors
/// [`Error::State`] for what no CPU, or none of this host, can be in; [`Error::Unsupported`] when the host cannot run
/// the time-stamp counter at the guest's rate. `vcpu` is then in no certain state.
pub(crate) fn write(vcpu: &VcpuFd, ctx: &Context, state: &CpuState) -> Result<()> {
    state.check().map_err(|what| Error::State(what.to_owned()))?;
    if state.lapic.id != ctx.apic_id {
        return Err(Error::State(format!("APIC ID {} in the state of CPU {}", state.lapic.id, ctx.apic_id)));
    }
    // The rate is told to KVM before anything that counts in it.
    time::write_rate(vcpu, ctx, state.msrs.tsc_hz)?;
    xsave::write(vcpu, ctx.shared.xsave_size, state)?;
    // They bring IA32_EFER and IA32_APIC_BASE, on which the local APIC and MSRs depend.
    sregs::write(vcpu, state)?;
    regs::write(vcpu, state)?;
    ctx.esr_pending.store(state.lapic.esr_pending, Ordering::Relaxed);
    // The deadline of its timer counts in the time-stamp counter and needs the timer's mode.
    time::write(vcpu, ctx, &state.msrs)?;
    lapic::write(vcpu, ctx, state)?;
    msrs::write(vcpu, state)?;
    lapic::write_deadline(vcpu, state)?;
    ctx.extint.store(state.events.extint, Ordering::SeqCst);
    events::write_activity(vcpu, state.activity)?;
    // Last: all of the above may have cleared or queued something.
    events::write(vcpu, ctx.shared.smm, state)
}

/// An error of the host: KVM did not do `what`.
fn refused(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| Error::Host {
        what: format!("KVM refused {what}"),
        source: std::io::Error::from_raw_os_error(error.errno()),
    }
}

/// KVM did not take `what` of a state: if it says so by EINVAL, the state is one that this host cannot have.
fn not_taken(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Error {
    move |error| match error.errno() {
        libc::EINVAL => Error::State(format!("the host's KVM does not take {what}")),
        _ => refused(what)(error),
    }
}

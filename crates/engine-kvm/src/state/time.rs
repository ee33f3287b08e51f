//! The time-stamp counter and the paravirtual clock.
//!
//! In KVM both run on while the engine's clock stands still, and are set by values that are late by the time that it
//! takes to set them. So what is written and read is bound to one *frame* per VM: with a certain offset that KVM has,
//! a vCPU's state has a certain offset. The other vCPUs differ from it by the difference of KVM's offsets, exactly.

use std::sync::atomic::{AtomicU64, Ordering};

use engine::{Clock, Error, Result};
use kvm_bindings::kvm_clock_data;
use kvm_ioctls::VcpuFd;
use x86::Msrs;
use x86::msr::IA32_TIME_STAMP_COUNTER;

use super::{Context, ioctl, msrs, refused};

/// KVM takes a rate without scaling if it is as near as this to the host's, in parts per million (Linux,
/// `tsc_tolerance_ppm`).
const TOLERANCE_PPM: u64 = 250;

/// What is known of the time of a VM.
#[derive(Default)]
pub(super) struct VmTimebase {
    frame: Option<Frame>,
    /// [`Clock::lag`] for which the paravirtual clock is right.
    clock_lag: u64,
    /// What the paravirtual clock is ahead of the engine's, and the moment it was found or set.
    clock_offset: Option<(Moment, u64)>,
}

/// A vCPU with this in KVM has that in its state.
#[derive(Clone, Copy)]
struct Frame {
    moment: Moment,
    hz: u64,
    lag: u64,
    kvm_offset: u64,
    offset: u64,
}

/// The time for which an offset is good: from one pause to the next, or all of one pause.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Moment {
    running: bool,
    /// The lag of a running clock, the time of one that stands still.
    at: u64,
}

impl Moment {
    fn now(clock: &Clock) -> Self {
        let running = clock.is_running();
        Self { running, at: if running { clock.lag() } else { clock.now().0 } }
    }
}

/// A vCPU's time-stamp counter.
pub(super) struct TscOffset {
    /// The rate in hertz at which KVM runs it.
    hz: AtomicU64,
    /// The rate that the guest has been told, which may differ a little.
    told: AtomicU64,
    /// [`Clock::lag`] for which KVM's offset is right.
    lag: AtomicU64,
    /// KVM does as it is told. There are hosts where it takes an offset and guests see the host's counter all the same.
    movable: bool,
}

impl TscOffset {
    pub(super) fn new(vcpu: &VcpuFd, clock: &Clock) -> Result<Self> {
        let hz = u64::from(vcpu.get_tsc_khz().map_err(refused("KVM_GET_TSC_KHZ"))?) * 1000;
        let movable = moves(vcpu)?;
        Ok(Self { hz: AtomicU64::new(hz), told: AtomicU64::new(hz), lag: AtomicU64::new(clock.lag()), movable })
    }

    #[cfg(test)]
    pub(super) fn is_movable(&self) -> bool {
        self.movable
    }

    pub(super) fn hz(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }
}

/// Whether the counter follows the offset that KVM is given.
fn moves(vcpu: &VcpuFd) -> Result<bool> {
    const FAR: u64 = 1 << 50;
    let Some(old) = ioctl::tsc_offset(vcpu) else { return Ok(true) };
    let set = |offset| ioctl::set_tsc_offset(vcpu, offset).map_err(refused("KVM_VCPU_TSC_OFFSET"));
    let before = msrs::get(vcpu, IA32_TIME_STAMP_COUNTER)?;
    set(old.wrapping_add(FAR))?;
    let after = msrs::get(vcpu, IA32_TIME_STAMP_COUNTER)?;
    set(old)?;
    Ok(after.wrapping_sub(before) >= FAR)
}

/// Nanoseconds in ticks.
fn ticks(nanos: u64, hz: u64) -> u64 {
    (u128::from(nanos) * u128::from(hz) / 1_000_000_000) as u64
}

/// The counter with the time of the engine's clock at which it was read.
fn sample(vcpu: &VcpuFd, clock: &Clock) -> Result<(u64, u64)> {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..4 {
        let before = clock.now().0;
        let tsc = msrs::get(vcpu, IA32_TIME_STAMP_COUNTER)?;
        let after = clock.now().0;
        let took = after.wrapping_sub(before);
        if took < best.0 {
            best = (took, tsc, before.wrapping_add(took / 2));
        }
        if took == 0 {
            break;
        }
    }
    Ok((best.1, best.2))
}

pub(super) fn read(vcpu: &VcpuFd, ctx: &Context, msrs: &mut Msrs) -> Result<()> {
    let clock = &ctx.shared.clock;
    let hz = ctx.tsc.hz.load(Ordering::Relaxed);
    let lag = ctx.tsc.lag.load(Ordering::Relaxed);
    msrs.tsc_hz = ctx.tsc.hz();
    let mut timebase = ctx.shared.timebase();
    let moment = Moment::now(clock);
    let kvm_offset = ioctl::tsc_offset(vcpu);
    msrs.tsc_offset = match (timebase.frame, kvm_offset) {
        (Some(f), Some(k)) if (f.moment, f.hz, f.lag) == (moment, hz, lag) => {
            f.offset.wrapping_add(k.wrapping_sub(f.kvm_offset))
        }
        _ => {
            let (tsc, now) = sample(vcpu, clock)?;
            let still = ticks(clock.lag().wrapping_sub(lag), hz);
            let offset = tsc.wrapping_sub(still).wrapping_sub(ticks(now, hz));
            if let Some(kvm_offset) = kvm_offset {
                timebase.frame = Some(Frame { moment, hz, lag, kvm_offset, offset });
            }
            offset
        }
    };
    msrs.kvm_clock_offset = match timebase.clock_offset {
        Some((then, offset)) if then == moment => offset,
        _ => {
            let before = clock.now().0;
            let data = ctx.shared.vm.get_clock().map_err(refused("KVM_GET_CLOCK"))?;
            let now = before.wrapping_add(clock.now().0.wrapping_sub(before) / 2);
            let still = clock.lag().wrapping_sub(timebase.clock_lag);
            let offset = data.clock.wrapping_sub(still).wrapping_sub(now);
            timebase.clock_offset = Some((moment, offset));
            offset
        }
    };
    Ok(())
}

/// Has the counter run at `hz`, or nearly; zero stands for the rate that it has.
pub(super) fn write_rate(vcpu: &VcpuFd, ctx: &Context, hz: u64) -> Result<()> {
    let current = ctx.tsc.hz.load(Ordering::Relaxed);
    if hz == 0 {
        return Ok(());
    }
    if hz.abs_diff(current) > current / 1_000_000 * TOLERANCE_PPM {
        let khz = u32::try_from(hz / 1000).unwrap_or(0);
        if !ctx.shared.scales_tsc || khz == 0 || vcpu.set_tsc_khz(khz).is_err() {
            return Err(Error::Unsupported {
                what: format!(
                    "a time-stamp counter of {} kHz, at which this guest has been running, beside the host's {} kHz",
                    hz / 1000,
                    current / 1000
                ),
                fix: "this CPU cannot scale it; go on with the software engine, or restart the guest".into(),
            });
        }
        ctx.tsc.hz.store(u64::from(khz) * 1000, Ordering::Relaxed);
    }
    ctx.tsc.told.store(hz, Ordering::Relaxed);
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, ctx: &Context, msrs: &Msrs) -> Result<()> {
    let clock = &ctx.shared.clock;
    let hz = ctx.tsc.hz.load(Ordering::Relaxed);
    let mut timebase = ctx.shared.timebase();
    let moment = Moment::now(clock);
    match (timebase.frame, ioctl::tsc_offset(vcpu)) {
        _ if !ctx.tsc.movable => {
            tracing::debug!("the guest's time-stamp counter jumps: this host's KVM shows guests the host's");
            ctx.tsc.lag.store(clock.lag(), Ordering::Relaxed);
        }
        (Some(f), Some(_)) if (f.moment, f.hz) == (moment, hz) => {
            let kvm_offset = f.kvm_offset.wrapping_add(msrs.tsc_offset.wrapping_sub(f.offset));
            ioctl::set_tsc_offset(vcpu, kvm_offset).map_err(refused("KVM_VCPU_TSC_OFFSET"))?;
            ctx.tsc.lag.store(f.lag, Ordering::Relaxed);
        }
        (_, Some(old)) => {
            let (tsc, now) = sample(vcpu, clock)?;
            let lag = clock.lag();
            let right = ticks(now, hz).wrapping_add(msrs.tsc_offset);
            let kvm_offset = old.wrapping_add(right.wrapping_sub(tsc));
            ioctl::set_tsc_offset(vcpu, kvm_offset).map_err(refused("KVM_VCPU_TSC_OFFSET"))?;
            ctx.tsc.lag.store(lag, Ordering::Relaxed);
            timebase.frame = Some(Frame { moment, hz, lag, kvm_offset, offset: msrs.tsc_offset });
        }
        (_, None) => {
            let lag = clock.lag();
            msrs::set(vcpu, IA32_TIME_STAMP_COUNTER, ticks(clock.now().0, hz).wrapping_add(msrs.tsc_offset))?;
            ctx.tsc.lag.store(lag, Ordering::Relaxed);
        }
    }
    if timebase.clock_offset != Some((moment, msrs.kvm_clock_offset)) {
        set_clock(ctx, &mut timebase, msrs.kvm_clock_offset)?;
        timebase.clock_offset = Some((moment, msrs.kvm_clock_offset));
    }
    Ok(())
}

/// Sets the paravirtual clock to `offset` ahead of the engine's.
fn set_clock(ctx: &Context, timebase: &mut VmTimebase, offset: u64) -> Result<()> {
    let clock = &ctx.shared.clock;
    let lag = clock.lag();
    let data = kvm_clock_data { clock: clock.now().0.wrapping_add(offset), ..kvm_clock_data::default() };
    ctx.shared.vm.set_clock(&data).map_err(refused("KVM_SET_CLOCK"))?;
    timebase.clock_lag = lag;
    Ok(())
}

pub(super) fn catch_up(vcpu: &VcpuFd, ctx: &Context) -> Result<()> {
    let clock = &ctx.shared.clock;
    let (lag, mine) = (clock.lag(), ctx.tsc.lag.load(Ordering::Relaxed));
    if lag == mine || !clock.is_running() {
        return Ok(());
    }
    let hz = ctx.tsc.hz.load(Ordering::Relaxed);
    let still = ticks(lag.wrapping_sub(mine), hz);
    match ioctl::tsc_offset(vcpu) {
        _ if !ctx.tsc.movable => {}
        Some(old) => ioctl::set_tsc_offset(vcpu, old.wrapping_sub(still)).map_err(refused("KVM_VCPU_TSC_OFFSET"))?,
        None => {
            let tsc = msrs::get(vcpu, IA32_TIME_STAMP_COUNTER)?;
            msrs::set(vcpu, IA32_TIME_STAMP_COUNTER, tsc.wrapping_sub(still))?;
        }
    }
    ctx.tsc.lag.store(lag, Ordering::Relaxed);
    // The guest's watchdogs are told that it has stood still. One without the paravirtual clock cannot be.
    let _ = vcpu.kvmclock_ctrl();
    let mut timebase = ctx.shared.timebase();
    if timebase.clock_lag != lag {
        let data = ctx.shared.vm.get_clock().map_err(refused("KVM_GET_CLOCK"))?;
        let right = data.clock.wrapping_sub(lag.wrapping_sub(timebase.clock_lag));
        let data = kvm_clock_data { clock: right, ..kvm_clock_data::default() };
        ctx.shared.vm.set_clock(&data).map_err(refused("KVM_SET_CLOCK"))?;
        timebase.clock_lag = lag;
    }
    Ok(())
}

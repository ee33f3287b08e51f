//! The APIC timer (SDM vol. 3A, 11.5.4): counts derive from virtual time, nothing ticks.

use super::{LVT_MASKED, Lapic, LapicState};

/// The frequency of the timer before its divider: a tick is a nanosecond of virtual time. CPUID leaf 15H says so to the
/// guest, which takes it for the core crystal's.
pub const TIMER_HZ: u64 = 1_000_000_000;

/// The shortest distance between two interrupts of a periodic timer, in nanoseconds. A guest that asks for less gets
/// the periods in between dropped, so that it cannot keep the host busy with alarms.
pub const MIN_PERIOD_NS: u64 = 50_000;

/// The timer's mode (SDM vol. 3A, figure 11-8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerMode {
    /// Counts down once.
    OneShot,
    /// Counts down over and over.
    Periodic,
    /// Fires when the time-stamp counter reaches IA32_TSC_DEADLINE.
    TscDeadline,
    /// The reserved encoding: never fires.
    Reserved,
}

/// The timer's divider: a power of two from 1 to 128.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Divide(u32);

impl Divide {
    /// From the divide configuration register (SDM vol. 3A, figure 11-10).
    #[must_use]
    pub const fn from_register(register: u32) -> Self {
        let code = register & 3 | register >> 1 & 4;
        Self((code + 1) & 7)
    }

    /// What the ticks of the timer's clock are divided by.
    #[must_use]
    pub const fn ticks(self) -> u64 {
        1 << self.0
    }
}

impl LapicState {
    /// The timer's mode.
    #[must_use]
    pub const fn timer_mode(&self) -> TimerMode {
        match self.lvt_timer >> 17 & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// The time from one expiry to the next, in nanoseconds; at most 2^39.
    const fn period_ns(&self) -> u64 {
        self.timer_initial as u64 * self.divide().ticks()
    }

    /// Nanoseconds since the countdown began; zero when `now_ns` was read before it began on another CPU.
    const fn elapsed_ns(&self, now_ns: u64) -> u64 {
        let elapsed = now_ns.wrapping_sub(self.timer_start_ns);
        if elapsed >> 63 == 0 { elapsed } else { 0 }
    }

    /// The current count (SDM vol. 3A, 11.5.4), zero when the timer is stopped or in TSC-deadline mode.
    #[must_use]
    pub fn current_count(&self, now_ns: u64) -> u32 {
        let period = self.period_ns();
        if !self.timer_running || period == 0 {
            return 0;
        }
        let elapsed = self.elapsed_ns(now_ns);
        let into = match self.timer_mode() {
            TimerMode::OneShot => elapsed.min(period),
            TimerMode::Periodic => elapsed % period,
            TimerMode::TscDeadline | TimerMode::Reserved => return 0,
        };
        self.timer_initial.saturating_sub(u32::try_from(into / self.divide().ticks()).unwrap_or(u32::MAX))
    }
}

impl Lapic {
    /// When the timer next needs [`Lapic::timer_fired`], in nanoseconds of virtual time; `None` while it is stopped or
    /// masked. A time in the past means: at once.
    #[must_use]
    pub fn timer_deadline(&self, now_ns: u64) -> Option<u64> {
        let s = self.state();
        if s.lvt_timer & LVT_MASKED != 0 {
            return None;
        }
        let period = s.period_ns();
        match s.timer_mode() {
            TimerMode::OneShot if s.timer_running => Some(s.timer_start_ns.wrapping_add(period)),
            TimerMode::Periodic if s.timer_running && period > 0 => {
                Some(s.timer_start_ns.wrapping_add(period * MIN_PERIOD_NS.div_ceil(period)))
            }
            TimerMode::TscDeadline if s.tsc_deadline != 0 => {
                Some(now_ns.saturating_add(self.tsc.until(s.tsc_deadline, now_ns)))
            }
            _ => None,
        }
    }

    /// Brings the timer up to `now_ns`: sets the interrupt request if it has expired and is not masked, stops a
    /// one-shot or TSC-deadline timer, moves a periodic one on to its current period. Whether an interrupt was
    /// requested. Ask [`Lapic::timer_deadline`] for the next alarm after it.
    pub fn timer_fired(&mut self, now_ns: u64) -> bool {
        let tsc = self.tsc(now_ns);
        let s = &mut self.state;
        let period = s.period_ns();
        let expired = match s.timer_mode() {
            TimerMode::OneShot if s.timer_running && s.elapsed_ns(now_ns) >= period => {
                s.timer_running = false;
                true
            }
            TimerMode::Periodic if s.timer_running && period > 0 => {
                // From expiry to expiry, not from now, so that no period is longer than the other.
                let whole = s.elapsed_ns(now_ns) / period * period;
                s.timer_start_ns = s.timer_start_ns.wrapping_add(whole);
                whole > 0
            }
            TimerMode::TscDeadline if s.tsc_deadline != 0 && tsc >= s.tsc_deadline => {
                s.tsc_deadline = 0;
                true
            }
            _ => false,
        };
        let lvt = s.lvt_timer;
        expired && lvt & LVT_MASKED == 0 && self.request_local(lvt as u8)
    }

    /// The guest's time-stamp counter.
    pub(super) const fn tsc(&self, now_ns: u64) -> u64 {
        self.tsc.at(now_ns)
    }

    /// Reads IA32_TSC_DEADLINE: zero unless armed (SDM vol. 3A, 11.5.4.1).
    #[must_use]
    pub const fn tsc_deadline(&self, now_ns: u64) -> u64 {
        if self.tsc(now_ns) < self.state.tsc_deadline { self.state.tsc_deadline } else { 0 }
    }

    /// Writes IA32_TSC_DEADLINE, which is ignored outside of TSC-deadline mode (SDM vol. 3A, 11.5.4.1). Zero disarms.
    /// The timer's deadline has changed after it, and the request may be there already.
    pub fn set_tsc_deadline(&mut self, value: u64, now_ns: u64) {
        self.timer_fired(now_ns);
        if self.state.timer_mode() == TimerMode::TscDeadline {
            self.state.tsc_deadline = value;
            self.timer_fired(now_ns);
        }
    }

    /// Starts a countdown from `initial`, or stops with zero.
    pub(super) fn set_initial_count(&mut self, initial: u32, now_ns: u64) {
        self.timer_fired(now_ns);
        // SDM vol. 3A, 11.5.4.1: ignored in TSC-deadline mode.
        if self.state.timer_mode() != TimerMode::TscDeadline {
            self.state.timer_initial = initial;
            self.state.timer_start_ns = now_ns;
            self.state.timer_running = initial != 0;
        }
    }

    /// Changes the divider; what is left of the countdown goes on at the new speed.
    pub(super) fn set_divide(&mut self, register: u32, now_ns: u64) {
        self.timer_fired(now_ns);
        let s = &mut self.state;
        let done = u64::from(s.timer_initial.saturating_sub(s.current_count(now_ns)));
        s.timer_divide = register & 0xb;
        if s.timer_running {
            s.timer_start_ns = now_ns.wrapping_sub(done * s.divide().ticks());
        }
    }

    /// Writes the LVT entry, `value` checked already. Going into or out of TSC-deadline mode disarms the timer
    /// (SDM vol. 3A, 11.5.4.1).
    pub(super) fn set_lvt_timer(&mut self, value: u32, now_ns: u64) {
        // What expired under the old setting is lost or requested by the old setting.
        self.timer_fired(now_ns);
        let s = &mut self.state;
        let before = s.timer_mode();
        s.lvt_timer = value;
        let after = s.timer_mode();
        if before != after && (before == TimerMode::TscDeadline || after == TimerMode::TscDeadline) {
            s.timer_running = false;
            s.tsc_deadline = 0;
        }
    }
}

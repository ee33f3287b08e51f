//! The high precision event timer (IA-PC HPET Specification 1.0a).

use std::sync::{Arc, Mutex};

use machine::{
    At, Clock, Device, Drained, Effect, Line, MsiMessage, MsiPort, Schema, Shared, Snapshot, State, StateError, Timer,
    VmTime,
};
use serde::{Deserialize, Serialize};

use super::legacy_route::LegacyRoute;
use crate::regs::{decode, read_dwords, require, write_dwords};

/// The low half of the capabilities register, as the ACPI table repeats it: revision 1, three timers, a 64-bit counter,
/// legacy replacement, Intel's vendor ID.
pub const HARDWARE_ID: u32 = 1 | (TIMERS as u32 - 1) << 8 | 1 << 13 | 1 << 15 | 0x8086 << 16;

/// The period of the main counter in femtoseconds.
pub const PERIOD: u32 = TICK as u32 * 1_000_000;

const TIMERS: usize = 3;
/// Nanoseconds of a tick.
const TICK: u64 = 10;
/// The shortest time between two alarms of a timer in ticks: bounds what a guest costs that asks for each tick.
const SHORTEST: u64 = 2000;

const GENERAL_ENABLE: u64 = 1;
const GENERAL_LEGACY: u64 = 2;

const LEVEL: u64 = 1 << 1;
const ENABLE: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VALUE_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const ROUTE: u64 = 0x1f << 9;
const FSB_ENABLE: u64 = 1 << 14;
/// Periodic mode, 64 bits, and messages are possible.
const CAPABILITIES: u64 = 1 << 4 | 1 << 5 | 1 << 15;
const WRITABLE: u64 = LEVEL | ENABLE | PERIODIC | VALUE_SET | MODE_32 | ROUTE | FSB_ENABLE;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct TimerState {
    config: u64,
    comparator: u64,
    /// What the comparator grows by in periodic mode.
    period: u64,
    fsb: u64,
    /// The counter at the match that comes next; `None` while the counter stands.
    due: Option<u64>,
}

impl Default for TimerState {
    fn default() -> Self {
        Self { config: 0, comparator: u64::MAX, period: 0, fsb: 0, due: None }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct HpetState {
    config: u64,
    /// The interrupts of level-triggered timers that wait to be cleared.
    status: u8,
    /// The main counter at `since`, or where it stands.
    counter: u64,
    since: u64,
    timers: [TimerState; TIMERS],
}

/// The timer block. Window 0: its registers (FED00000h, 400h bytes).
///
/// The main counter counts 10 ns of virtual time; comparisons are derived from it, so that no error adds up.
pub struct Hpet {
    state: HpetState,
    routes: u32,
    inputs: Vec<(u8, Line)>,
    legacy: Arc<LegacyRoute>,
    msi: MsiPort,
    clock: Clock,
    alarms: Vec<Timer>,
}

impl Hpet {
    /// The block on `clock`. `inputs` are the inputs of the I/O APIC that its timers can be routed to, numbers below 32,
    /// `legacy` the switch in front of IRQ0 and IRQ8, and `msi` takes its messages.
    #[must_use]
    pub fn build(clock: &Clock, legacy: Arc<LegacyRoute>, inputs: Vec<(u8, Line)>, msi: MsiPort) -> Shared<Self> {
        let inputs: Vec<_> = inputs.into_iter().filter(|(input, _)| *input < 32).collect();
        let routes = inputs.iter().fold(0, |routes, (input, _)| routes | 1 << input);
        Arc::new_cyclic(|device| {
            let alarms = (0..TIMERS).map(|n| Timer::new(clock, device.clone(), move |hpet: &mut Self| hpet.ring(n)));
            let alarms = alarms.collect();
            let state = HpetState::default();
            Mutex::new(Self { state, routes, inputs, legacy, msi, clock: clock.clone(), alarms })
        })
    }

    fn running(&self) -> bool {
        self.state.config & GENERAL_ENABLE != 0
    }

    fn counter(&self) -> u64 {
        let passed = if self.running() { (self.clock.now().0 / TICK).saturating_sub(self.state.since) } else { 0 };
        self.state.counter.wrapping_add(passed)
    }

    /// Continues the main counter from `counter`.
    fn set_counter(&mut self, counter: u64) {
        self.state.counter = counter;
        self.state.since = self.clock.now().0 / TICK;
        (0..TIMERS).for_each(|n| self.arm(n));
    }

    /// Finds the next match of timer `n` from now on.
    fn arm(&mut self, n: usize) {
        let (counter, running) = (self.counter(), self.running());
        let timer = &mut self.state.timers[n];
        let ahead = timer.comparator.wrapping_sub(counter);
        let ahead = if timer.config & MODE_32 != 0 { ahead & 0xffff_ffff } else { ahead };
        timer.due = running.then(|| counter.wrapping_add(ahead));
        self.schedule(n);
    }

    fn schedule(&mut self, n: usize) {
        let counter = self.counter();
        let Some(alarm) = self.alarms.get(n) else { return };
        match self.state.timers[n].due {
            Some(due) => {
                // A match behind the counter is one that comes after the counter has wrapped: never.
                let ticks = (self.clock.now().0 / TICK).saturating_add(due.wrapping_sub(counter));
                alarm.set(VmTime(ticks.saturating_mul(TICK)));
            }
            None => alarm.cancel(),
        }
    }

    /// The alarm of timer `n`.
    fn ring(&mut self, n: usize) {
        let counter = self.counter();
        let running = self.running();
        let timer = &mut self.state.timers[n];
        let Some(due) = timer.due.filter(|_| running) else { return };
        if counter.wrapping_sub(due) > u64::MAX / 2 {
            // The counter was set back meanwhile.
            return self.schedule(n);
        }
        let wide = timer.config & MODE_32 == 0;
        let mask = if wide { u64::MAX } else { 0xffff_ffff };
        let period = timer.period & mask;
        if timer.config & PERIODIC != 0 && period != 0 {
            // Matches that nobody could take are passed over.
            let late = counter.wrapping_sub(due).max(if period < SHORTEST { SHORTEST } else { 0 });
            let step = (late / period + 1).wrapping_mul(period);
            timer.due = Some(due.wrapping_add(step));
            timer.comparator = timer.comparator.wrapping_add(step) & mask;
        } else {
            // In 32-bit mode the counter comes by again.
            timer.due = (!wide).then(|| due.wrapping_add(1 << 32));
        }
        self.schedule(n);
        self.interrupt(n);
    }

    fn interrupt(&mut self, n: usize) {
        let config = self.state.timers[n].config;
        if config & LEVEL != 0 {
            self.state.status |= 1 << n;
        }
        if config & ENABLE == 0 {
            return;
        }
        if config & FSB_ENABLE != 0 {
            let fsb = self.state.timers[n].fsb;
            self.msi.send(MsiMessage { address: fsb >> 32, data: fsb as u32 });
        } else if config & LEVEL != 0 {
            self.update_lines();
        } else if self.is_legacy(n) {
            self.legacy.set_hpet(n, true);
            self.legacy.set_hpet(n, false);
        } else if let Some(line) = self.line(n).filter(|line| !line.is_high()) {
            line.pulse();
        }
    }

    fn is_legacy(&self, n: usize) -> bool {
        self.state.config & GENERAL_LEGACY != 0 && n < 2
    }

    fn line(&self, n: usize) -> Option<&Line> {
        let route = (self.state.timers[n].config & ROUTE) >> 9;
        self.inputs.iter().find(|(input, _)| u64::from(*input) == route).map(|(_, line)| line)
    }

    /// The levels of all lines, after a change of status or configuration.
    fn update_lines(&mut self) {
        self.legacy.replace(self.state.config & GENERAL_LEGACY != 0);
        let mut high = 0u32;
        for n in 0..TIMERS {
            let config = self.state.timers[n].config;
            let wired = config & (ENABLE | LEVEL | FSB_ENABLE) == ENABLE | LEVEL;
            let asserted = self.running() && wired && self.state.status >> n & 1 != 0;
            if n < 2 {
                self.legacy.set_hpet(n, asserted && self.is_legacy(n));
            }
            if asserted && !self.is_legacy(n) {
                high |= 1 << ((config & ROUTE) >> 9);
            }
        }
        for (input, line) in &self.inputs {
            line.set(high >> input & 1 != 0);
        }
    }

    fn read_register(&self, register: u64) -> u64 {
        match register {
            0x000 => u64::from(HARDWARE_ID) | u64::from(PERIOD) << 32,
            0x010 => self.state.config,
            0x020 => u64::from(self.state.status),
            0x0f0 => self.counter(),
            0x100..0x160 => {
                let timer = &self.state.timers[(register as usize - 0x100) / 0x20];
                match register & 0x1f {
                    0x00 => timer.config | CAPABILITIES | u64::from(self.routes) << 32,
                    0x08 => timer.comparator,
                    0x10 => timer.fsb,
                    _ => 0,
                }
            }
            _ => 0,
        }
    }

    fn write_register(&mut self, register: u64, value: u64, mask: u64) {
        let merge = |old: u64| old & !mask | value & mask;
        match register {
            0x010 => {
                let counter = self.counter();
                self.state.config = merge(self.state.config) & (GENERAL_ENABLE | GENERAL_LEGACY);
                self.set_counter(counter);
                self.update_lines();
            }
            0x020 => {
                self.state.status &= !((value & mask) as u8);
                self.update_lines();
            }
            // Writes while the counter runs are undefined (2.3.7); they take.
            0x0f0 => {
                let counter = merge(self.counter());
                self.set_counter(counter);
            }
            0x100..0x160 => self.write_timer((register as usize - 0x100) / 0x20, register & 0x1f, value, mask),
            _ => {}
        }
    }

    fn write_timer(&mut self, n: usize, register: u64, value: u64, mask: u64) {
        let timer = &mut self.state.timers[n];
        let merge = |old: u64| old & !mask | value & mask;
        match register {
            0x00 => {
                let old = timer.config;
                timer.config = merge(old) & WRITABLE;
                if timer.config & LEVEL == 0 {
                    self.state.status &= !(1 << n);
                }
                if timer.config & MODE_32 != 0 {
                    timer.comparator &= 0xffff_ffff;
                }
                if (old ^ timer.config) & (MODE_32 | PERIODIC) != 0 {
                    self.arm(n);
                }
                self.update_lines();
            }
            0x08 => {
                let wide = timer.config & MODE_32 == 0;
                let limit = if wide { u64::MAX } else { 0xffff_ffff };
                let periodic = timer.config & PERIODIC != 0;
                if periodic {
                    timer.period = merge(timer.period) & limit;
                }
                if !periodic || timer.config & VALUE_SET != 0 {
                    timer.comparator = merge(timer.comparator) & limit;
                    // A write of the low half alone leaves the bit for the high half (2.3.9.2.2).
                    if mask >> 32 != 0 || !wide || !periodic {
                        timer.config &= !VALUE_SET;
                    }
                    self.arm(n);
                }
            }
            0x10 => timer.fsb = merge(timer.fsb),
            _ => {}
        }
    }
}

impl Device for Hpet {
    fn read(&mut self, at: At, data: &mut [u8]) {
        // An aligned read of 8 bytes sees the counter whole.
        let mut last = (u64::MAX, 0);
        read_dwords(at, data, |offset| {
            if last.0 != offset & !7 {
                last = (offset & !7, self.read_register(offset & !7));
            }
            (last.1 >> ((offset & 4) * 8)) as u32
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        if let (Ok(bytes), 0) = (<[u8; 8]>::try_from(data), at.offset & 7) {
            self.write_register(at.offset, u64::from_le_bytes(bytes), u64::MAX);
        } else {
            write_dwords(at, data, |offset, value, mask| {
                let shift = (offset & 4) * 8;
                self.write_register(offset & !7, u64::from(value) << shift, u64::from(mask) << shift);
            });
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.state = HpetState::default();
        (0..TIMERS).for_each(|n| self.schedule(n));
        self.update_lines();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        (0..TIMERS).for_each(|n| self.schedule(n));
        self.update_lines();
    }
}

impl Snapshot for Hpet {
    fn schema(&self) -> Schema {
        Schema { name: "hpet", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: HpetState = decode(self.schema(), version, state)?;
        let configs = state.timers.iter().all(|t| t.config & !WRITABLE == 0);
        let general = state.config & !(GENERAL_ENABLE | GENERAL_LEGACY) == 0 && state.status < 1 << TIMERS;
        require(self.schema(), configs && general, "reserved bits are set")?;
        self.state = state;
        self.resume();
        Ok(())
    }
}

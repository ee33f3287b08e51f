//! The interval timer, 8254 (Intel 8254 datasheet, 231164-005), with system control port B (port 61h), which holds the
//! gate of counter 2 (Intel ICH9 datasheet, 13.7.1).

use std::sync::{Arc, Mutex};

use machine::{At, Clock, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError, Timer, VmTime};
use serde::{Deserialize, Serialize};

use super::i8254_counter::Counter;
use crate::regs::{SECOND, decode, read_bytes, require, scale, scale_up, write_bytes};

/// The clock of the counters: the colour carrier of NTSC over three, in hertz.
pub const FREQUENCY: u64 = 1_193_182;

/// How often the alarm may ring: bounds what a guest costs that programs a period of two clocks.
const SHORTEST: u64 = 20_000;

/// Half the period of the refresh request, which port 61h shows, in nanoseconds.
const REFRESH: u64 = 15_085;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct I8254State {
    counters: [Counter; 3],
    /// The clock up to which the output of counter 0 has been followed.
    followed: u64,
    /// Bits 0 to 3 of port 61h.
    port_b: u8,
}

/// The timer. Windows: 0 its ports (40h, 4 bytes), 1 system control port B (61h, 1 byte).
///
/// Nothing runs: counts and outputs are computed from the virtual time when somebody looks, and deadlines are derived
/// from the clock at which the count went in, so that no error adds up. Of rising edges of IRQ0 that come while nobody
/// could look, one is seen.
pub struct I8254 {
    state: I8254State,
    irq0: Line,
    timer: Timer,
}

impl I8254 {
    /// The timer on `clock`, with the line of counter 0's output.
    #[must_use]
    pub fn build(clock: &Clock, irq0: Line) -> Shared<Self> {
        Arc::new_cyclic(|device| {
            let timer = Timer::new(clock, device.clone(), Self::follow);
            Mutex::new(Self { state: Self::power_on(), irq0, timer })
        })
    }

    fn power_on() -> I8254State {
        let counters = [Counter::new(true), Counter::new(true), Counter::new(false)];
        I8254State { counters, followed: 0, port_b: 0 }
    }

    fn now(&self) -> u64 {
        scale(self.timer.now().0, FREQUENCY, SECOND)
    }

    /// Brings IRQ0 up to now and sets the alarm for the next change.
    fn follow(&mut self) {
        let now = self.now();
        let counter = &mut self.state.counters[0];
        if counter.rises(self.state.followed, now) {
            self.irq0.set(false);
            self.irq0.set(true);
        }
        counter.follow(now);
        self.irq0.set(counter.out(now));
        self.state.followed = now;
        match counter.next_change(now) {
            Some(clock) => {
                let at = scale_up(clock, SECOND, FREQUENCY);
                self.timer.set(VmTime(at.max(self.timer.now().0.saturating_add(SHORTEST))));
            }
            None => self.timer.cancel(),
        }
    }

    fn control(&mut self, value: u8, now: u64) {
        match (value >> 6, value >> 4 & 3) {
            // Read-back: bits 1 to 3 choose the counters, a clear bit 5 the count, a clear bit 4 the status.
            (3, _) => {
                for (i, counter) in self.state.counters.iter_mut().enumerate() {
                    if value >> (i + 1) & 1 != 0 {
                        if value & 0x20 == 0 {
                            counter.latch(now);
                        }
                        if value & 0x10 == 0 {
                            counter.latch_status(now);
                        }
                    }
                }
            }
            (n, 0) => self.state.counters[usize::from(n)].latch(now),
            (n, _) => self.state.counters[usize::from(n)].set_control(value),
        }
    }

    fn read_port_b(&self, now: u64) -> u8 {
        let refresh = (self.timer.now().0 / REFRESH) as u8 & 1;
        self.state.port_b | refresh << 4 | u8::from(self.state.counters[2].out(now)) << 5
    }
}

impl Device for I8254 {
    fn read(&mut self, at: At, data: &mut [u8]) {
        let now = self.now();
        read_bytes(at, data, |offset| match (at.window, offset) {
            (0, n @ 0..=2) => self.state.counters[n as usize].read(now),
            (1, 0) => {
                self.state.counters[2].follow(now);
                self.read_port_b(now)
            }
            _ => 0xff,
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        self.follow();
        let now = self.now();
        let effect = write_bytes(at, data, |offset, value| {
            match (at.window, offset) {
                (0, n @ 0..=2) => self.state.counters[n as usize].write(value, now),
                (0, 3) => self.control(value, now),
                (1, 0) => {
                    self.state.port_b = value & 0x0f;
                    self.state.counters[2].set_gate(value & 1 != 0, now);
                }
                _ => {}
            }
            Effect::None
        });
        self.state.followed = now;
        self.follow();
        effect
    }

    fn reset(&mut self) {
        self.state = Self::power_on();
        self.state.followed = self.now();
        self.follow();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.follow();
    }
}

impl Snapshot for I8254 {
    fn schema(&self) -> Schema {
        Schema { name: "i8254", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.follow();
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: I8254State = decode(self.schema(), version, state)?;
        let gates = state.counters[0].gate() && state.counters[1].gate();
        let gate2 = state.counters[2].gate() == (state.port_b & 1 != 0);
        require(self.schema(), gates && gate2 && state.port_b < 0x10, "gates do not agree with port 61h")?;
        require(self.schema(), state.counters.iter().all(Counter::is_valid), "a counter is out of range")?;
        self.state = state;
        self.follow();
        Ok(())
    }
}

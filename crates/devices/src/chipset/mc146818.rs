//! The real-time clock with its battery-backed memory, MC146818A (Motorola MC146818A data sheet), with the second bank
//! of 128 bytes of the south bridge (Intel ICH9 datasheet, 13.6).

use std::sync::{Arc, Mutex};

use machine::{At, Clock, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError, Timer, VmTime};
use serde::{Deserialize, Serialize};

use super::civil::Civil;
use crate::regs::{SECOND, decode, read_bytes, require, scale, scale_up, write_bytes};

/// What a clock starts from.
#[derive(Debug, Clone, Default)]
pub struct RtcConfig {
    /// The wall-clock time at virtual time zero, in seconds since 1970-01-01, in the guest's time zone.
    pub power_on: u64,
    /// What battery-backed memory holds at first: cell (0 to 255) and value.
    pub cells: Vec<(u8, u8)>,
}

impl RtcConfig {
    /// A clock that shows `power_on` (seconds since 1970-01-01) at virtual time zero.
    #[must_use]
    pub fn at(power_on: u64) -> Self {
        Self { power_on, cells: Vec::new() }
    }

    /// Fills the cells from which firmware learns how much memory there is, in bytes below and above 4 GiB.
    #[must_use]
    pub fn with_memory(mut self, below_4g: u64, above_4g: u64) -> Self {
        const MIB: u64 = 1 << 20;
        let word = |value: u64| (value.min(0xffff) as u16).to_le_bytes();
        let base = word(640);
        let extended = word(below_4g.saturating_sub(MIB) / 1024);
        let above_16m = word(below_4g.saturating_sub(16 * MIB) / 0x10000);
        let high = (above_4g / 0x10000).min(0xff_ffff).to_le_bytes();
        let cells = [(0x15, base), (0x17, extended), (0x30, extended), (0x34, above_16m)];
        self.cells.extend(cells.iter().flat_map(|(cell, [low, high])| [(*cell, *low), (cell + 1, *high)]));
        self.cells.extend([(0x5b, high[0]), (0x5c, high[1]), (0x5d, high[2])]);
        self
    }
}

const SECONDS: u8 = 0x00;
const SECONDS_ALARM: u8 = 0x01;
const MINUTES: u8 = 0x02;
const MINUTES_ALARM: u8 = 0x03;
const HOURS: u8 = 0x04;
const HOURS_ALARM: u8 = 0x05;
const WEEKDAY: u8 = 0x06;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const REG_A: u8 = 0x0a;
const REG_B: u8 = 0x0b;
const REG_C: u8 = 0x0c;
const REG_D: u8 = 0x0d;
/// Where PC firmware and ACPI keep the century, in BCD.
const CENTURY: u8 = 0x32;

/// Register A: an update is in progress.
const UIP: u8 = 0x80;
/// Register B.
const SET: u8 = 0x80;
const BINARY: u8 = 0x04;
const HOURS_24: u8 = 0x02;
/// Registers B (enable) and C (flag): periodic, alarm, update ended; the sum of them is bit 7 of C.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const REQUEST: u8 = 0x80;

/// The time before an update in which UIP is set, in nanoseconds (table 6, tBUC plus tUC).
const UPDATE_CYCLE: u64 = 244_000 + 1_984_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RtcState {
    index: u8,
    bank_index: u8,
    nmi_masked: bool,
    /// 256 cells. Those of the time hold it while the clock is stopped; while it runs, the time is computed.
    cells: Vec<u8>,
    flags: u8,
    /// The time shown at virtual time `since`, while the clock runs.
    seconds: i64,
    since: u64,
    /// What is added to the day of the week as the calendar has it: the guest may count otherwise.
    weekday_shift: u8,
    /// The virtual time up to which events have been noted in `flags`.
    followed: u64,
}

/// The clock. Window 0: its ports (70h, 4 bytes): index and data of the two banks of 128 bytes.
///
/// A reset leaves the time and the cells as they are, as the battery does.
pub struct Mc146818 {
    state: RtcState,
    irq8: Line,
    timer: Timer,
}

impl Mc146818 {
    /// The clock on the virtual `clock`, with its interrupt line.
    #[must_use]
    pub fn build(clock: &Clock, config: RtcConfig, irq8: Line) -> Shared<Self> {
        let mut cells = vec![0; 256];
        for (cell, value) in &config.cells {
            cells[usize::from(*cell)] = *value;
        }
        cells[usize::from(REG_A)] = 0x26;
        cells[usize::from(REG_B)] = HOURS_24;
        let state = RtcState {
            index: 0,
            bank_index: 0,
            nmi_masked: false,
            cells,
            flags: 0,
            // Some ten thousand years are enough, and sums of them do not overflow.
            seconds: i64::try_from(config.power_on.min(1 << 38)).unwrap_or(0),
            since: 0,
            weekday_shift: 0,
            followed: 0,
        };
        Arc::new_cyclic(|device| {
            let timer = Timer::new(clock, device.clone(), Self::follow);
            Mutex::new(Self { state, irq8, timer })
        })
    }

    /// Whether the guest has masked NMIs (port 70h, bit 7).
    #[must_use]
    pub fn nmi_masked(&self) -> bool {
        self.state.nmi_masked
    }

    /// Sets a cell as firmware or the board does, past the ports. The clock's own registers cannot be set so.
    pub fn set_cell(&mut self, cell: u8, value: u8) {
        if cell > REG_D && cell != CENTURY {
            self.state.cells[usize::from(cell)] = value;
        }
    }

    fn cell(&self, cell: u8) -> u8 {
        self.state.cells.get(usize::from(cell)).copied().unwrap_or(0xff)
    }

    fn put(&mut self, cell: u8, value: u8) {
        if let Some(slot) = self.state.cells.get_mut(usize::from(cell)) {
            *slot = value;
        }
    }

    /// Whether time goes on: not while SET is on or the divider is held in reset.
    fn runs(&self) -> bool {
        self.cell(REG_B) & SET == 0 && self.cell(REG_A) & 0x60 != 0x60
    }

    /// Nanoseconds since the time was set.
    fn phase(&self, now: u64) -> u64 {
        now.saturating_sub(self.state.since)
    }

    fn seconds(&self, now: u64) -> i64 {
        self.state.seconds + (self.phase(now) / SECOND) as i64
    }

    fn encode(&self, value: u8) -> u8 {
        if self.cell(REG_B) & BINARY != 0 { value } else { bcd(value) }
    }

    fn decode(&self, raw: u8) -> u8 {
        if self.cell(REG_B) & BINARY != 0 { raw } else { (raw >> 4).wrapping_mul(10).wrapping_add(raw & 0xf) }
    }

    fn encode_hour(&self, hour: u8) -> u8 {
        if self.cell(REG_B) & HOURS_24 != 0 {
            return self.encode(hour);
        }
        let twelve = (hour + 11) % 12 + 1;
        self.encode(twelve) | if hour >= 12 { 0x80 } else { 0 }
    }

    fn decode_hour(&self, raw: u8) -> u8 {
        if self.cell(REG_B) & HOURS_24 != 0 {
            return self.decode(raw);
        }
        self.decode(raw & 0x7f) % 12 + if raw & 0x80 != 0 { 12 } else { 0 }
    }

    /// Writes the time into its cells, as they would show it.
    fn store_time(&mut self, now: u64) {
        let seconds = self.seconds(now);
        let time = Civil::of(seconds);
        let weekday = (Civil::weekday(seconds) + self.state.weekday_shift % 7) % 7 + 1;
        let year = time.year.rem_euclid(10_000);
        self.put(SECONDS, self.encode(time.second));
        self.put(MINUTES, self.encode(time.minute));
        self.put(HOURS, self.encode_hour(time.hour));
        self.put(WEEKDAY, self.encode(weekday));
        self.put(DAY, self.encode(time.day));
        self.put(MONTH, self.encode(time.month));
        self.put(YEAR, self.encode((year % 100) as u8));
        self.put(CENTURY, bcd((year / 100) as u8));
    }

    /// Takes the time from its cells; the next update comes `until` nanoseconds after `now`.
    fn take_time(&mut self, now: u64, until: u64) {
        let century = self.cell(CENTURY);
        let century = i64::from(century >> 4) * 10 + i64::from(century & 0xf);
        let time = Civil {
            year: century * 100 + i64::from(self.decode(self.cell(YEAR))),
            month: self.decode(self.cell(MONTH)),
            day: self.decode(self.cell(DAY)),
            hour: self.decode_hour(self.cell(HOURS)),
            minute: self.decode(self.cell(MINUTES)),
            second: self.decode(self.cell(SECONDS)),
        };
        let seconds = time.seconds();
        let weekday = self.decode(self.cell(WEEKDAY)) % 7 + 6;
        self.state.weekday_shift = (weekday + 7 - Civil::weekday(seconds)) % 7;
        // `since` may not lie before virtual time zero; then the first update is late once.
        self.state.since = now.saturating_sub(SECOND - until.min(SECOND));
        self.state.seconds = seconds;
        self.state.followed = now;
    }

    /// The period of the periodic interrupt in ticks of 32.768 kHz, a power of two (table 5).
    fn period(&self) -> Option<u64> {
        match (self.cell(REG_A) >> 4 & 7, self.cell(REG_A) & 0xf) {
            (3.., _) | (_, 0) => None,
            // The two fastest rates are those of codes 8 and 9 with this crystal.
            (_, rate @ 1..=2) => Some(1 << (rate + 6)),
            (_, rate) => Some(1 << (rate - 1)),
        }
    }

    /// The virtual time of the first periodic event after `now`.
    fn next_periodic(&self, now: u64) -> Option<u64> {
        let period = self.period()?;
        let ticks = scale(self.phase(now), 32_768, SECOND);
        let next = (ticks / period + 1) * period;
        Some(self.state.since.saturating_add(scale_up(next, SECOND, 32_768)))
    }

    /// The virtual time of the first update after `now`.
    fn next_update(&self, now: u64) -> Option<u64> {
        self.runs().then(|| {
            let next = (self.phase(now) / SECOND + 1).saturating_mul(SECOND);
            self.state.since.saturating_add(next)
        })
    }

    /// The virtual time of the first update after `now` at which the alarm matches.
    fn next_alarm(&self, now: u64) -> Option<u64> {
        let first = self.next_update(now)?;
        let shown = self.seconds(first);
        // Alarm bytes from C0h to FFh match everything.
        let matches = |raw: u8, wanted: u8, value: i64| raw >= 0xc0 || i64::from(wanted) == value;
        let (second, minute, hour) = (self.cell(SECONDS_ALARM), self.cell(MINUTES_ALARM), self.cell(HOURS_ALARM));
        let mut at = shown;
        // At most a day's hours, an hour's minutes and a minute's seconds have to be passed over.
        for _ in 0..200 {
            if !matches(hour, self.decode_hour(hour), at.div_euclid(3600).rem_euclid(24)) {
                at = (at.div_euclid(3600) + 1) * 3600;
            } else if !matches(minute, self.decode(minute), at.div_euclid(60).rem_euclid(60)) {
                at = (at.div_euclid(60) + 1) * 60;
            } else if !matches(second, self.decode(second), at.rem_euclid(60)) {
                at += 1;
            } else {
                return Some(first.saturating_add(((at - shown) as u64).saturating_mul(SECOND)));
            }
        }
        None
    }

    /// Notes the events up to now, drives the line and sets the alarm.
    fn follow(&mut self) {
        let now = self.timer.now().0;
        let from = self.state.followed;
        let missing = |flag: u8, state: &RtcState| state.flags & flag == 0;
        if missing(PERIODIC, &self.state) && self.next_periodic(from).is_some_and(|at| at <= now) {
            self.state.flags |= PERIODIC;
        }
        if missing(UPDATE, &self.state) && self.next_update(from).is_some_and(|at| at <= now) {
            self.state.flags |= UPDATE;
        }
        if missing(ALARM, &self.state) && self.next_alarm(from).is_some_and(|at| at <= now) {
            self.state.flags |= ALARM;
        }
        self.state.followed = now;
        let asks = self.state.flags & self.cell(REG_B) & (PERIODIC | ALARM | UPDATE) != 0;
        self.state.flags = self.state.flags & !REQUEST | if asks { REQUEST } else { 0 };
        self.irq8.set(asks);
        self.schedule(now);
    }

    /// Sets the alarm for the first event that would raise the line.
    fn schedule(&self, now: u64) {
        let wanted = self.cell(REG_B) & !self.state.flags;
        let events = [
            (PERIODIC, self.next_periodic(now)),
            (UPDATE, self.next_update(now)),
            (ALARM, if wanted & ALARM != 0 { self.next_alarm(now) } else { None }),
        ];
        match events.iter().filter(|(flag, _)| wanted & flag != 0).filter_map(|(_, at)| *at).min() {
            Some(at) if self.state.flags & REQUEST == 0 => self.timer.set(VmTime(at)),
            _ => self.timer.cancel(),
        }
    }

    fn read_cell(&mut self, cell: u8) -> u8 {
        let now = self.timer.now().0;
        match cell {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                if self.runs() {
                    self.store_time(now);
                }
                self.cell(cell)
            }
            REG_A => {
                let left = self.next_update(now).map_or(u64::MAX, |at| at - now);
                self.cell(REG_A) | if left <= UPDATE_CYCLE { UIP } else { 0 }
            }
            REG_C => {
                self.follow();
                let flags = std::mem::take(&mut self.state.flags);
                self.follow();
                flags
            }
            // The battery is good.
            REG_D => 0x80,
            _ => self.cell(cell),
        }
    }

    fn write_cell(&mut self, cell: u8, value: u8) {
        self.follow();
        let now = self.timer.now().0;
        let ran = self.runs();
        match cell {
            SECONDS | MINUTES | HOURS | WEEKDAY..=YEAR | CENTURY => {
                if ran {
                    let until = SECOND - self.phase(now) % SECOND;
                    self.store_time(now);
                    self.put(cell, value);
                    self.take_time(now, until);
                } else {
                    self.put(cell, value);
                }
            }
            REG_A => {
                if ran {
                    self.store_time(now);
                }
                self.put(REG_A, value & !UIP);
                if self.runs() && !ran {
                    // The first update follows half a second after the divider is let go.
                    self.take_time(now, SECOND / 2);
                }
            }
            REG_B => {
                // The time is stored as the old mode shows it: a change of mode does not convert the cells.
                if ran {
                    self.store_time(now);
                }
                let until = SECOND - self.phase(now) % SECOND;
                let converts = (value ^ self.cell(REG_B)) & (BINARY | HOURS_24) != 0;
                // Setting SET clears the enable of the update-ended interrupt.
                self.put(REG_B, if value & SET != 0 { value & !UPDATE } else { value });
                if self.runs() && (!ran || converts) {
                    self.take_time(now, until);
                }
            }
            REG_C | REG_D => {}
            _ => self.put(cell, value),
        }
        self.follow();
    }
}

impl Device for Mc146818 {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| match offset {
            1 => self.read_cell(self.state.index),
            3 => self.read_cell(self.state.bank_index | 0x80),
            // The index registers are write-only.
            _ => 0xff,
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| {
            match offset {
                0 => {
                    self.state.index = value & 0x7f;
                    self.state.nmi_masked = value & 0x80 != 0;
                }
                1 => self.write_cell(self.state.index, value),
                2 => self.state.bank_index = value & 0x7f,
                3 => self.write_cell(self.state.bank_index | 0x80, value),
                _ => {}
            }
            Effect::None
        })
    }

    fn reset(&mut self) {
        self.follow();
        // What the RESET pin clears (data sheet, RESET): the interrupt enables and flags.
        self.put(REG_B, self.cell(REG_B) & !(PERIODIC | ALARM | UPDATE | 0x08));
        self.state.flags = 0;
        self.state.index = 0;
        self.state.bank_index = 0;
        self.state.nmi_masked = false;
        self.follow();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.follow();
    }
}

impl Snapshot for Mc146818 {
    fn schema(&self) -> Schema {
        Schema { name: "mc146818", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.follow();
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: RtcState = decode(self.schema(), version, state)?;
        require(self.schema(), state.cells.len() == 256, "not 256 cells")?;
        let times = state.seconds.unsigned_abs() < 1 << 40 && state.since < 1 << 60 && state.followed < 1 << 60;
        require(self.schema(), times && state.weekday_shift < 7, "the time is out of range")?;
        require(self.schema(), state.index < 0x80 && state.bank_index < 0x80, "an index is out of range")?;
        self.state = state;
        self.follow();
        Ok(())
    }
}

fn bcd(value: u8) -> u8 {
    ((value / 10 % 10) << 4) | (value % 10)
}

//! One counter of the 8254 as arithmetic: its count and its output at any tick, without anything that runs
//! (Intel 8254 datasheet, 231164-005, mode definitions).

use serde::{Deserialize, Serialize};

/// Which bytes of the count are accessed (control word, RW1 and RW0).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Bytes {
    Low,
    High,
    Both,
}

/// The guest-visible state of one counter. Times are ticks of the 1.193182 MHz clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counter {
    /// The control word's low six bits as the status byte shows them.
    control: u8,
    gate: bool,
    /// The initial count in clocks, 1 to 10000h; `None` before the first one after a control word.
    count: Option<u32>,
    /// The clock at which the initial count went in: elapsed time is counted from here.
    start: u64,
    /// The clocks elapsed when the gate closed, while it is closed in modes 0, 2, 3 and 4.
    held: Option<u64>,
    /// Modes 1 and 5: the trigger has come.
    triggered: bool,
    /// Modes 2 and 3: a count that waits for the end of the period, and the clock of that end.
    next: Option<(u32, u64)>,
    /// The low byte written, until the high byte comes.
    low_written: Option<u8>,
    /// The next byte read is the high one.
    read_high: bool,
    latched: Option<u16>,
    latched_status: Option<u8>,
}

impl Counter {
    pub(super) fn new(gate: bool) -> Self {
        Self {
            control: 0,
            gate,
            count: None,
            start: 0,
            held: None,
            triggered: false,
            next: None,
            low_written: None,
            read_high: false,
            latched: None,
            latched_status: None,
        }
    }

    /// Whether a stored state is one a counter can be in.
    pub(super) fn is_valid(&self) -> bool {
        let fits = |n: u32| (1..=0x10000).contains(&n);
        // No VM runs for so many clocks; sums of these cannot overflow.
        let reachable = self.start < 1 << 60 && self.held.is_none_or(|held| held < 1 << 60);
        self.control < 0x40 && reachable && self.count.is_none_or(fits) && self.next.is_none_or(|(n, _)| fits(n))
    }

    pub(super) fn gate(&self) -> bool {
        self.gate
    }

    pub(super) fn mode(&self) -> u8 {
        match self.control >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        }
    }

    fn bcd(&self) -> bool {
        self.control & 1 != 0
    }

    fn bytes(&self) -> Bytes {
        match self.control >> 4 & 3 {
            1 => Bytes::Low,
            2 => Bytes::High,
            _ => Bytes::Both,
        }
    }

    /// The control word for this counter, counter bits taken off; not a latch command.
    pub(super) fn set_control(&mut self, control: u8) {
        *self = Self { control: control & 0x3f, gate: self.gate, ..Self::new(self.gate) };
    }

    /// The clocks since the count went in.
    fn elapsed(&self, now: u64) -> u64 {
        self.held.unwrap_or_else(|| now.saturating_sub(self.start))
    }

    /// The count in use, after the one that waits has taken its place when its time has come.
    fn settle(&mut self, now: u64) {
        if let Some((count, at)) = self.next.filter(|(_, at)| *at <= now) {
            self.next = None;
            // In mode 3 the new count can go in at the middle of the square: then the low half begins.
            let low = self.mode() == 3 && !self.out(at);
            self.count = Some(count);
            self.start = if low { at.saturating_sub(high_clocks(count)) } else { at };
        }
    }

    /// A count from the guest, as two bytes.
    fn load(&mut self, raw: u16, now: u64) {
        let count = match (self.bcd(), raw) {
            (false, 0) => 0x10000,
            (true, 0) => 10000,
            (false, n) => u32::from(n),
            (true, n) => from_bcd(n).max(1),
        };
        self.settle(now);
        match (self.mode(), self.count) {
            (2 | 3, Some(old)) if self.gate => {
                let elapsed = self.elapsed(now);
                let at = elapsed + 1;
                let period = u64::from(old.max(2));
                let end = match self.mode() {
                    3 if elapsed % period < high_clocks(old) => elapsed - elapsed % period + high_clocks(old),
                    _ => at.next_multiple_of(period),
                };
                self.next = Some((count, self.start + end));
            }
            // The count counts from the next trigger on.
            (1 | 5, _) => {
                self.next = None;
                if self.triggered {
                    self.next = Some((count, u64::MAX));
                } else {
                    self.count = Some(count);
                }
            }
            (mode, _) => {
                self.count = Some(count);
                self.start = now + 1;
                self.held = (!self.gate && matches!(mode, 0 | 2 | 3 | 4)).then_some(0);
            }
        }
    }

    pub(super) fn write(&mut self, value: u8, now: u64) {
        let raw = match (self.bytes(), self.low_written.take()) {
            (Bytes::Low, _) => u16::from(value),
            (Bytes::High, _) => u16::from(value) << 8,
            (Bytes::Both, Some(low)) => u16::from_le_bytes([low, value]),
            (Bytes::Both, None) => {
                self.low_written = Some(value);
                if self.mode() == 0 {
                    // The first byte of two stops the counter, and the output goes low.
                    self.count = None;
                }
                return;
            }
        };
        self.load(raw, now);
    }

    pub(super) fn read(&mut self, now: u64) -> u8 {
        if let Some(status) = self.latched_status.take() {
            return status;
        }
        let count = match self.latched {
            Some(latched) => latched,
            None => self.value(now),
        };
        let [low, high] = count.to_le_bytes();
        let (byte, last) = match (self.bytes(), self.read_high) {
            (Bytes::Low, _) => (low, true),
            (Bytes::High, _) => (high, true),
            (Bytes::Both, false) => (low, false),
            (Bytes::Both, true) => (high, true),
        };
        self.read_high = !last;
        if last {
            self.latched = None;
        }
        byte
    }

    /// The counter latch command; a second one before the first is read has no effect.
    pub(super) fn latch(&mut self, now: u64) {
        if self.latched.is_none() {
            self.latched = Some(self.value(now));
        }
    }

    /// The status part of the read-back command.
    pub(super) fn latch_status(&mut self, now: u64) {
        if self.latched_status.is_none() {
            self.settle(now);
            let waiting = self.count.is_none() || self.next.is_some() || now < self.start;
            self.latched_status = Some(u8::from(self.out(now)) << 7 | u8::from(waiting) << 6 | self.control);
        }
    }

    /// Opens or closes the gate.
    pub(super) fn set_gate(&mut self, gate: bool, now: u64) {
        if gate == self.gate {
            return;
        }
        self.settle(now);
        match (self.mode(), gate) {
            (0 | 4, true) => {
                if let Some(held) = self.held.take() {
                    self.start = now.saturating_sub(held);
                }
            }
            (0 | 4, false) if self.count.is_some() => self.held = Some(self.elapsed(now)),
            (1 | 5, true) => {
                if let Some((count, _)) = self.next.take() {
                    self.count = Some(count);
                }
                self.triggered = true;
                self.start = now + 1;
            }
            (2 | 3, true) => {
                if let Some((count, _)) = self.next.take() {
                    self.count = Some(count);
                }
                self.held = None;
                self.start = now + 1;
            }
            (2 | 3, false) if self.count.is_some() => self.held = Some(self.elapsed(now)),
            _ => {}
        }
        self.gate = gate;
    }

    /// The counting element as the guest reads it.
    fn value(&mut self, now: u64) -> u16 {
        self.settle(now);
        let Some(count) = self.count else { return 0 };
        let n = u64::from(count);
        let elapsed = self.elapsed(now);
        let value = match self.mode() {
            1 | 5 if !self.triggered => n,
            2 => n - elapsed % n,
            3 => {
                let high = high_clocks(count);
                let position = elapsed % n.max(2);
                let half = if position < high { position } else { position - high };
                (n & !1).saturating_sub(2 * half)
            }
            // Past zero the counter wraps and counts on.
            _ => {
                let modulus = if self.bcd() { 10000 } else { 0x10000 };
                (n + modulus - elapsed % modulus) % modulus
            }
        };
        if self.bcd() { to_bcd(value) } else { value as u16 }
    }

    /// The output pin.
    pub(super) fn out(&self, now: u64) -> bool {
        let Some(count) = self.count else { return self.mode() != 0 };
        let n = u64::from(count);
        let elapsed = self.elapsed(now);
        match self.mode() {
            0 => elapsed >= n,
            1 => !self.triggered || now < self.start || elapsed >= n,
            // Low for the last clock of the period.
            2 => !self.gate || elapsed % n.max(2) != n.max(2) - 1,
            3 => !self.gate || elapsed % n.max(2) < high_clocks(count),
            4 => elapsed != n,
            _ => !self.triggered || elapsed != n,
        }
    }

    /// Whether the output rises in `(from, to]`, all of it after the last write.
    pub(super) fn rises(&self, from: u64, to: u64) -> bool {
        self.next_rise(from).is_some_and(|at| at <= to)
    }

    /// The first clock after `now` at which the output rises.
    pub(super) fn next_rise(&self, now: u64) -> Option<u64> {
        let n = u64::from(self.count?);
        let elapsed = self.elapsed(now);
        let after = |at: u64| (elapsed < at).then_some(at);
        let at = match self.mode() {
            _ if self.held.is_some() => None,
            0 => after(n),
            1 if self.triggered => after(n),
            2 | 3 if self.gate => {
                let period = n.max(2);
                Some((elapsed + 1).next_multiple_of(period))
            }
            4 => after(n + 1),
            5 if self.triggered => after(n + 1),
            _ => None,
        }?;
        let at = self.start.saturating_add(at);
        // The new count takes over before; what it does is seen when it is in.
        Some(self.next.map_or(at, |(_, end)| if end > now { at.min(end) } else { at }))
    }

    /// The first clock after `now` at which the output pin is to be looked at again. The low clock of mode 2 and the
    /// strobes are too short to be worth it: they are seen by their rise.
    pub(super) fn next_change(&self, now: u64) -> Option<u64> {
        let rise = self.next_rise(now)?;
        if self.mode() == 3 && self.out(now) {
            let count = self.count?;
            let period = u64::from(count.max(2));
            let fall = now + high_clocks(count).saturating_sub(self.elapsed(now) % period).max(1);
            return Some(rise.min(fall));
        }
        Some(rise)
    }

    /// Lets a waiting count take its place; to be called before the output is followed up to `now`.
    pub(super) fn follow(&mut self, now: u64) {
        self.settle(now);
    }
}

/// The high clocks of a square wave: the longer part of an odd count.
fn high_clocks(count: u32) -> u64 {
    u64::from(count.max(2)).div_ceil(2)
}

fn from_bcd(raw: u16) -> u32 {
    (0..4).rev().fold(0, |n, digit| n * 10 + u32::from(raw >> (4 * digit) & 0xf))
}

fn to_bcd(value: u64) -> u16 {
    (0..4).fold((0, value), |(bcd, rest), digit| (bcd | ((rest % 10) as u16) << (4 * digit), rest / 10)).0
}

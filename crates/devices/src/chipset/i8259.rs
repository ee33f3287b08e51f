//! The pair of interrupt controllers, 8259A, as the PC cascades them (Intel 8259A datasheet, 231468-003), with the
//! edge/level control registers of the south bridge (Intel ICH9 datasheet, 13.4 and 13.7.3).

use std::sync::{Arc, Mutex, PoisonError};

use machine::{At, Device, Drained, Effect, LineSink, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use crate::regs::{decode, read_bytes, require, write_bytes};

/// The INTR output of the pair.
pub struct IntrPin(Box<dyn Fn(bool) + Send + Sync>);

impl IntrPin {
    /// A pin that calls `drive` with its level, on changes, under the lock of the pair.
    pub fn new(drive: impl Fn(bool) + Send + Sync + 'static) -> Self {
        Self(Box::new(drive))
    }
}

/// Which initialisation word a chip waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Expect {
    #[default]
    Operation,
    Icw2,
    Icw3,
    Icw4,
}

/// The guest-visible state of one chip.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chip {
    /// The levels of the inputs.
    inputs: u8,
    irr: u8,
    imr: u8,
    isr: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    vector_base: u8,
    /// The input of lowest priority; the one after it has the highest.
    lowest: u8,
    expect: Expect,
    single: bool,
    needs_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_fully_nested: bool,
    special_mask: bool,
    read_isr: bool,
    poll: bool,
}

impl Chip {
    fn new() -> Self {
        Self { lowest: 7, ..Self::default() }
    }

    fn set_input(&mut self, input: u8, high: bool) {
        let bit = 1u8 << (input & 7);
        let rises = high && self.inputs & bit == 0;
        self.inputs = if high { self.inputs | bit } else { self.inputs & !bit };
        if self.elcr & bit != 0 {
            self.irr = self.irr & !bit | self.inputs & bit;
        } else if rises {
            self.irr |= bit;
        }
    }

    /// The input of highest priority among `bits`, and its rank (0 is the highest).
    fn first(&self, bits: u8) -> Option<(u8, u8)> {
        let start = (self.lowest + 1) & 7;
        let turned = bits.rotate_right(u32::from(start));
        (bits != 0).then(|| {
            let rank = turned.trailing_zeros() as u8;
            ((start + rank) & 7, rank)
        })
    }

    /// The input that asks for service now, if any. `cascade` marks the inputs that come from a slave.
    fn request(&self, cascade: u8) -> Option<u8> {
        let (input, rank) = self.first(self.irr & !self.imr)?;
        let mut served = self.isr;
        if self.special_mask {
            served &= !self.imr;
        }
        if self.special_fully_nested {
            // The slave may interrupt its own service routine (datasheet, special fully nested mode).
            served &= !cascade;
        }
        self.first(served).is_none_or(|(_, busy)| rank < busy).then_some(input)
    }

    /// The acknowledge cycle for `input`.
    fn acknowledge(&mut self, input: u8) {
        let bit = 1u8 << (input & 7);
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if self.auto_eoi {
            if self.rotate_on_auto_eoi {
                self.lowest = input & 7;
            }
        } else {
            self.isr |= bit;
        }
    }

    fn read(&mut self, offset: u64, cascade: u8) -> u8 {
        if std::mem::take(&mut self.poll) {
            return match self.request(cascade) {
                Some(input) => {
                    self.acknowledge(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (offset & 1, self.read_isr) {
            (1, _) => self.imr,
            (_, true) => self.isr,
            (_, false) => self.irr,
        }
    }

    fn write(&mut self, offset: u64, value: u8) {
        match (offset & 1, self.expect) {
            (0, _) if value & 0x10 != 0 => self.icw1(value),
            (0, _) if value & 0x08 != 0 => self.ocw3(value),
            (0, _) => self.ocw2(value),
            (_, Expect::Operation) => self.imr = value,
            (_, Expect::Icw2) => {
                self.vector_base = value & 0xf8;
                self.expect = if self.single { self.after_icw3() } else { Expect::Icw3 };
            }
            // The wiring of the cascade is fixed on a PC.
            (_, Expect::Icw3) => self.expect = self.after_icw3(),
            (_, Expect::Icw4) => {
                self.special_fully_nested = value & 0x10 != 0;
                self.auto_eoi = value & 0x02 != 0;
                self.expect = Expect::Operation;
            }
        }
    }

    fn after_icw3(&self) -> Expect {
        if self.needs_icw4 { Expect::Icw4 } else { Expect::Operation }
    }

    fn icw1(&mut self, value: u8) {
        *self = Self {
            inputs: self.inputs,
            elcr: self.elcr,
            vector_base: self.vector_base,
            // The edge sense circuit starts anew: only level-triggered inputs keep asking.
            irr: self.inputs & self.elcr,
            expect: Expect::Icw2,
            single: value & 0x02 != 0,
            needs_icw4: value & 0x01 != 0,
            ..Self::new()
        };
    }

    fn ocw2(&mut self, value: u8) {
        let named = value & 7;
        let (rotate, specific, eoi) = (value & 0x80 != 0, value & 0x40 != 0, value & 0x20 != 0);
        match (eoi, specific) {
            (true, true) => self.end(named, rotate),
            (true, false) => {
                let served = if self.special_mask { self.isr & !self.imr } else { self.isr };
                if let Some((input, _)) = self.first(served) {
                    self.end(input, rotate);
                }
            }
            (false, false) => self.rotate_on_auto_eoi = rotate,
            (false, true) if rotate => self.lowest = named,
            (false, true) => {}
        }
    }

    fn end(&mut self, input: u8, rotate: bool) {
        self.isr &= !(1 << input);
        if rotate {
            self.lowest = input;
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        if value & 0x04 != 0 {
            self.poll = true;
        } else if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    fn set_elcr(&mut self, value: u8) {
        let changed = self.elcr ^ value;
        self.elcr = value;
        self.irr = self.irr & !changed | self.inputs & changed & value;
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct I8259State {
    master: Chip,
    slave: Chip,
}

/// The master's input that the slave drives.
const CASCADE: u8 = 2;
/// IRQ0 to 2 and IRQ8, IRQ13 are always edge-triggered (ICH9 datasheet, 13.4.9 and 13.4.10).
const ELCR_MASTER: u8 = 0xf8;
const ELCR_SLAVE: u8 = 0xde;

/// The two controllers. Windows: 0 the master's ports (20h, 2 bytes), 1 the slave's (A0h, 2 bytes), 2 ELCR1 and ELCR2
/// (4D0h, 2 bytes).
///
/// Edge-triggered requests stay latched until acknowledged. The acknowledge cycle finds nothing only when the INTR pin
/// was low already, so that the master's default IRQ7 does not arise; the slave's default IRQ15 does.
pub struct I8259Pair {
    state: I8259State,
    intr: IntrPin,
    intr_high: bool,
}

impl I8259Pair {
    /// The pair with its INTR output, which is low.
    #[must_use]
    pub fn build(intr: IntrPin) -> Shared<Self> {
        let state = I8259State { master: Chip::new(), slave: Chip::new() };
        Arc::new(Mutex::new(Self { state, intr, intr_high: false }))
    }

    /// The acknowledge cycle of the CPU: the vector to deliver, `None` when the INTR pin is low.
    pub fn ack(&mut self) -> Option<u8> {
        let input = self.state.master.request(1 << CASCADE)?;
        self.state.master.acknowledge(input);
        let vector = if input == CASCADE {
            // The slave lets go of the cascade during the cycle; without a request of its own it answers as input 7.
            self.state.master.set_input(CASCADE, false);
            let input = self.state.slave.request(0);
            if let Some(input) = input {
                self.state.slave.acknowledge(input);
            }
            self.state.slave.vector_base | input.unwrap_or(7)
        } else {
            self.state.master.vector_base | input
        };
        self.update();
        Some(vector)
    }

    /// Drives input `input` (0 to 15, 2 is the cascade and cannot be driven).
    fn set_input(&mut self, input: u32, high: bool) {
        match input as u8 {
            CASCADE => {}
            n @ 0..=7 => self.state.master.set_input(n, high),
            n @ 8..=15 => self.state.slave.set_input(n - 8, high),
            _ => {}
        }
        self.update();
    }

    fn update(&mut self) {
        let slave = self.state.slave.request(0).is_some();
        self.state.master.set_input(CASCADE, slave);
        let high = self.state.master.request(1 << CASCADE).is_some();
        if high != self.intr_high {
            self.intr_high = high;
            (self.intr.0)(high);
        }
    }

    fn read_byte(&mut self, window: u8, offset: u64) -> u8 {
        let I8259State { master, slave } = &mut self.state;
        match (window, offset) {
            (0, 0 | 1) => master.read(offset, 1 << CASCADE),
            (1, 0 | 1) => slave.read(offset, 0),
            (2, 0) => master.elcr,
            (2, 1) => slave.elcr,
            _ => 0xff,
        }
    }

    fn write_byte(&mut self, window: u8, offset: u64, value: u8) {
        let I8259State { master, slave } = &mut self.state;
        match (window, offset) {
            (0, 0 | 1) => master.write(offset, value),
            (1, 0 | 1) => slave.write(offset, value),
            (2, 0) => master.set_elcr(value & ELCR_MASTER),
            (2, 1) => slave.set_elcr(value & ELCR_SLAVE),
            _ => {}
        }
    }
}

impl Device for I8259Pair {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| self.read_byte(at.window, offset));
        // A read in poll mode is an acknowledge cycle.
        self.update();
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| {
            self.write_byte(at.window, offset, value);
            self.update();
            Effect::None
        })
    }

    fn reset(&mut self) {
        for chip in [&mut self.state.master, &mut self.state.slave] {
            // The levels belong to those who drive the inputs.
            *chip = Chip { inputs: chip.inputs, ..Chip::new() };
        }
        self.state.master.inputs &= !(1 << CASCADE);
        self.update();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        (self.intr.0)(self.intr_high);
    }
}

impl Snapshot for I8259Pair {
    fn schema(&self) -> Schema {
        Schema { name: "i8259", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: I8259State = decode(self.schema(), version, state)?;
        let chips = [(&state.master, ELCR_MASTER), (&state.slave, ELCR_SLAVE)];
        let ok = chips.iter().all(|(c, elcr)| c.lowest < 8 && c.vector_base & 7 == 0 && c.elcr & !elcr == 0);
        require(self.schema(), ok, "priority, vector base or ELCR out of range")?;
        self.state = state;
        self.intr_high = self.state.master.request(1 << CASCADE).is_some();
        (self.intr.0)(self.intr_high);
        Ok(())
    }
}

/// The interrupt inputs of the pair, 0 to 15.
pub struct PicInputs(Shared<I8259Pair>);

impl PicInputs {
    /// The inputs of `pair`.
    #[must_use]
    pub fn new(pair: &Shared<I8259Pair>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(pair)))
    }
}

impl LineSink for PicInputs {
    fn set_input(&self, input: u32, high: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set_input(input, high);
    }
}

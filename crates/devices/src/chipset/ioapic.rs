//! The I/O interrupt controller, 82093AA (Intel 82093AA datasheet, 290566-001) with the EOI register of the south
//! bridges after it (Intel ICH9 datasheet, 13.5).

use std::sync::{Arc, Mutex, PoisonError};

use machine::{
    At, Device, Drained, Effect, LineSink, MsiMessage, MsiPort, Schema, Shared, Snapshot, State, StateError,
};
use serde::{Deserialize, Serialize};

use crate::regs::{decode, read_dwords, require, write_dwords};

/// The number of interrupt inputs.
pub const PINS: usize = 24;

/// Version 20h, the first with an EOI register, and the number of the last entry.
const VERSION: u32 = 0x20 | (PINS as u32 - 1) << 16;

const DELIVERY_STATUS: u64 = 1 << 12;
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
/// The bits of a redirection entry that software writes: vector, modes, polarity, trigger, mask, destination.
const WRITABLE: u64 = 0xff00_0000_0001_afff;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IoapicState {
    id: u8,
    select: u8,
    /// The levels of the inputs; high is asserted, whatever the polarity says.
    inputs: u32,
    entries: [u64; PINS],
}

/// The I/O APIC. Window 0: its page (FEC00000h, 1000h bytes).
///
/// The polarity bit is kept but changes nothing: a high line is an asserted one.
pub struct Ioapic {
    state: IoapicState,
    initial_id: u8,
    msi: MsiPort,
}

impl Ioapic {
    /// The controller with its initial identifier (0 to 15) and the port its messages go to.
    #[must_use]
    pub fn build(id: u8, msi: MsiPort) -> Shared<Self> {
        let id = id & 0xf;
        Arc::new(Mutex::new(Self { state: Self::power_on(id), initial_id: id, msi }))
    }

    fn power_on(id: u8) -> IoapicState {
        IoapicState { id, select: 0, inputs: 0, entries: [MASKED; PINS] }
    }

    /// A local APIC has ended the level-triggered interrupt `vector`.
    pub fn eoi(&mut self, vector: u8) {
        for pin in 0..PINS {
            let entry = &mut self.state.entries[pin];
            if *entry & (LEVEL | REMOTE_IRR) == LEVEL | REMOTE_IRR && *entry as u8 == vector {
                *entry &= !REMOTE_IRR;
                self.service_level(pin);
            }
        }
    }

    fn set_input(&mut self, pin: u32, high: bool) {
        let Some(entry) = self.state.entries.get(pin as usize) else { return };
        let bit = 1u32 << pin;
        let rises = high && self.state.inputs & bit == 0;
        self.state.inputs = if high { self.state.inputs | bit } else { self.state.inputs & !bit };
        if Self::is_level(*entry) {
            self.service_level(pin as usize);
        } else if rises && *entry & MASKED == 0 {
            // Edges on a masked pin are lost (datasheet, 3.2.4, interrupt mask).
            self.send(*entry);
        }
    }

    /// Only fixed and lowest-priority interrupts can be level-triggered (datasheet, 3.2.4, delivery mode).
    fn is_level(entry: u64) -> bool {
        entry & LEVEL != 0 && matches!(entry >> 8 & 7, 0 | 1)
    }

    fn service_level(&mut self, pin: usize) {
        let high = self.state.inputs >> pin & 1 != 0;
        let entry = &mut self.state.entries[pin];
        if high && Self::is_level(*entry) && *entry & (MASKED | REMOTE_IRR) == 0 {
            *entry |= REMOTE_IRR;
            let entry = *entry;
            self.send(entry);
        }
    }

    fn send(&self, entry: u64) {
        let mode = entry >> 8 & 7;
        let logical = entry >> 11 & 1;
        let lowest = u64::from(mode == 1);
        let address = 0xfee0_0000 | (entry >> 56) << 12 | lowest << 3 | logical << 2;
        let trigger = if Self::is_level(entry) { 1 << 15 | 1 << 14 } else { 0 };
        self.msi.send(MsiMessage { address, data: entry as u32 & 0x7ff | trigger });
    }

    fn read_selected(&self) -> u32 {
        match self.state.select {
            0 | 2 => u32::from(self.state.id) << 24,
            1 => VERSION,
            index @ 0x10.. => match self.state.entries.get(usize::from(index - 0x10) / 2) {
                Some(entry) if index & 1 == 0 => *entry as u32,
                Some(entry) => (*entry >> 32) as u32,
                None => 0,
            },
            _ => 0,
        }
    }

    fn write_selected(&mut self, value: u32, mask: u32) {
        match self.state.select {
            0 if mask >> 24 != 0 => self.state.id = (value >> 24) as u8 & 0xf,
            index @ 0x10.. => {
                let pin = usize::from(index - 0x10) / 2;
                let Some(entry) = self.state.entries.get_mut(pin) else { return };
                let shift = u32::from(index & 1) * 32;
                let mask = (u64::from(mask) << shift) & WRITABLE;
                *entry = *entry & !mask | u64::from(value) << shift & mask;
                if *entry & LEVEL == 0 {
                    // Changing to edge forgets that a level-triggered interrupt was in service.
                    *entry &= !REMOTE_IRR;
                }
                self.service_level(pin);
            }
            _ => {}
        }
    }
}

impl Device for Ioapic {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_dwords(at, data, |register| match register {
            0x00 => u32::from(self.state.select),
            0x10 => self.read_selected(),
            _ => 0,
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_dwords(at, data, |register, value, mask| match register {
            0x00 if mask & 0xff != 0 => self.state.select = value as u8,
            0x10 => self.write_selected(value, mask),
            0x40 if mask & 0xff != 0 => self.eoi(value as u8),
            _ => {}
        });
        Effect::None
    }

    fn reset(&mut self) {
        // The levels belong to those who drive the inputs.
        self.state = IoapicState { inputs: self.state.inputs, ..Self::power_on(self.initial_id) };
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Ioapic {
    fn schema(&self) -> Schema {
        Schema { name: "ioapic", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: IoapicState = decode(self.schema(), version, state)?;
        let entries = state.entries.iter().all(|e| e & !(WRITABLE | REMOTE_IRR | DELIVERY_STATUS) == 0);
        require(self.schema(), entries, "a redirection entry has reserved bits set")?;
        require(self.schema(), state.inputs >> PINS == 0 && state.id < 16, "identifier or inputs out of range")?;
        self.state = state;
        Ok(())
    }
}

/// The interrupt inputs of the I/O APIC, 0 to 23.
pub struct IoapicInputs(Shared<Ioapic>);

impl IoapicInputs {
    /// The inputs of `ioapic`.
    #[must_use]
    pub fn new(ioapic: &Shared<Ioapic>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(ioapic)))
    }
}

impl LineSink for IoapicInputs {
    fn set_input(&self, input: u32, high: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set_input(input, high);
    }
}

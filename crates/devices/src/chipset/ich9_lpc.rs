//! The LPC bridge of the ICH9, PCI function 0:1f.0 (Intel ICH9 datasheet, 316972, 13.1): where PCI interrupts become
//! ISA ones.

use std::sync::{Arc, Mutex};

use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use super::pirq::{PirqRouter, Routes};
use crate::regs::{decode, require};

const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
/// ACPI_CNTL: the block at PMBASE answers.
const ACPI_EN: u8 = 0x80;
const SIRQ_CNTL: usize = 0x64;
/// PIRQA to PIRQD, and PIRQE to PIRQH.
const PIRQ_ROUT: &[usize; PIRQS] = &[0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b];
const LPC_IO_DEC: usize = 0x80;
const RCBA: usize = 0xf0;

/// The number of PIRQ lines.
pub const PIRQS: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LpcState {
    config: ConfigState,
    /// The levels of PIRQA (bit 0) to PIRQH.
    pirqs: u8,
}

/// The bridge. It has no windows: where the ACPI block lies is fixed by the board, and PMBASE says it.
pub struct Ich9Lpc {
    config: ConfigSpace,
    router: PirqRouter,
}

impl Ich9Lpc {
    /// The bridge of a board whose ACPI block is at port `pm_base`. `isa` are the inputs of the interrupt controllers
    /// that PIRQs can be routed to: line `n` is IRQ `n`.
    #[must_use]
    pub fn new(pm_base: u16, isa: Vec<Line>) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x2918, revision: 2, class: 0x06_0100, ..Identity::default() };
        let mut config = ConfigSpace::new(id).multifunction();
        config.set_u32(PMBASE, u32::from(pm_base & 0xff80) | 1);
        config.set_u8(ACPI_CNTL, ACPI_EN);
        config.set_u8(SIRQ_CNTL, 0x10);
        config.set_writable(SIRQ_CNTL, &[0xd0]);
        let router = PirqRouter::new(&mut config, PIRQ_ROUT, isa);
        // Decoding ranges and the root complex's registers are kept, but nothing of it moves.
        config.set_writable(LPC_IO_DEC, &[0x77, 0x13, 0x0f, 0x3f]);
        config.set_writable(RCBA, &[0x01, 0xc0, 0xff, 0xff]);
        config.seal();
        Arc::new(Mutex::new(Self { config, router }))
    }
}

impl Routes for Ich9Lpc {
    fn set_pirq(&mut self, pirq: u32, high: bool) {
        self.router.set(pirq, high);
        self.router.route(&self.config);
    }
}

impl PciFunction for Ich9Lpc {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        self.router.route(&self.config);
        Effect::None
    }
}

impl Device for Ich9Lpc {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _at: At, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        // The levels belong to those who drive the PIRQs.
        self.config.reset();
        self.router.route(&self.config);
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.router.route(&self.config);
    }
}

impl Snapshot for Ich9Lpc {
    fn schema(&self) -> Schema {
        Schema { name: "ich9-lpc", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&LpcState { config: self.config.state(), pirqs: self.router.levels() })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: LpcState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.router.set_levels(state.pirqs);
        self.router.route(&self.config);
        Ok(())
    }
}

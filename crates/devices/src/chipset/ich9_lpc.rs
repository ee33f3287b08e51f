//! The LPC bridge of the ICH9, PCI function 0:1f.0 (Intel ICH9 datasheet, 316972, 13.1): where PCI interrupts become
//! ISA ones.

use std::sync::{Arc, Mutex, PoisonError};

use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Line, LineSink, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use crate::regs::{decode, require};

const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
/// ACPI_CNTL: the block at PMBASE answers.
const ACPI_EN: u8 = 0x80;
const SIRQ_CNTL: usize = 0x64;
/// PIRQA to PIRQD, and PIRQE to PIRQH.
const PIRQ_ROUT: [usize; 2] = [0x60, 0x68];
/// PIRQx_ROUT: not routed to an ISA interrupt.
const NOT_ROUTED: u8 = 0x80;
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
    pirqs: u8,
    isa: Vec<Line>,
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
        for first in PIRQ_ROUT {
            for register in first..first + 4 {
                config.set_u8(register, NOT_ROUTED);
                config.set_writable(register, &[0x8f]);
            }
        }
        // Decoding ranges and the root complex's registers are kept, but nothing of it moves.
        config.set_writable(LPC_IO_DEC, &[0x77, 0x13, 0x0f, 0x3f]);
        config.set_writable(RCBA, &[0x01, 0xc0, 0xff, 0xff]);
        config.seal();
        Arc::new(Mutex::new(Self { config, pirqs: 0, isa }))
    }

    fn set_pirq(&mut self, pirq: u32, high: bool) {
        let bit = 1u8.checked_shl(pirq).unwrap_or(0);
        self.pirqs = if high { self.pirqs | bit } else { self.pirqs & !bit };
        self.route();
    }

    /// Drives the ISA lines as the routing registers say.
    fn route(&self) {
        let mut high = 0u16;
        for pirq in 0..PIRQS {
            let rout = self.config.u8(PIRQ_ROUT[pirq / 4] + pirq % 4);
            if self.pirqs >> pirq & 1 != 0 && rout & NOT_ROUTED == 0 && allowed(rout & 0xf) {
                high |= 1 << (rout & 0xf);
            }
        }
        for (irq, line) in self.isa.iter().enumerate().take(16) {
            line.set(high >> irq & 1 != 0);
        }
    }
}

/// Timer, keyboard, cascade, RTC and coprocessor cannot be shared with PCI.
fn allowed(irq: u8) -> bool {
    matches!(irq, 3..=7 | 9..=12 | 14 | 15)
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
        self.route();
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
        self.route();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.route();
    }
}

impl Snapshot for Ich9Lpc {
    fn schema(&self) -> Schema {
        Schema { name: "ich9-lpc", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&LpcState { config: self.config.state(), pirqs: self.pirqs })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: LpcState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.pirqs = state.pirqs;
        self.route();
        Ok(())
    }
}

/// The PIRQ inputs of the bridge: 0 is PIRQA, 7 is PIRQH.
pub struct PirqInputs(Shared<Ich9Lpc>);

impl PirqInputs {
    /// The inputs of `lpc`.
    #[must_use]
    pub fn new(lpc: &Shared<Ich9Lpc>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(lpc)))
    }
}

impl LineSink for PirqInputs {
    fn set_input(&self, input: u32, high: bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).set_pirq(input, high);
    }
}

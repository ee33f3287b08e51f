//! The ISA bridge of the PIIX3, PCI function 0:1.0 (Intel 82371SB PIIX3 datasheet, 290550, 2.2): where PCI interrupts become
//! ISA ones.

use std::sync::{Arc, Mutex};

use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use super::pirq::{PirqRouter, Routes};
use crate::regs::{decode, require};

/// PIRQRCA to PIRQRCD.
const PIRQ_ROUTE: &[usize] = &[0x60, 0x61, 0x62, 0x63];
/// X-bus chip select: among others, which part of the firmware answers. Kept, but nothing moves.
const XBCS: usize = 0x4e;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IsaState {
    config: ConfigState,
    /// The levels of PIRQA (bit 0) to PIRQD.
    pirqs: u8,
}

/// The bridge. It has no windows.
pub struct Piix3Isa {
    config: ConfigSpace,
    router: PirqRouter,
}

impl Piix3Isa {
    /// The bridge. `isa` are the inputs of the interrupt controllers that PIRQs can be routed to: line `n` is IRQ `n`.
    #[must_use]
    pub fn new(isa: Vec<Line>) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x7000, class: 0x06_0100, ..Identity::default() };
        let mut config = ConfigSpace::new(id).multifunction();
        config.set_u16(XBCS, 3);
        config.set_writable(XBCS, &[0xff, 0x01]);
        let router = PirqRouter::new(&mut config, PIRQ_ROUTE, isa);
        config.seal();
        Arc::new(Mutex::new(Self { config, router }))
    }
}

impl Routes for Piix3Isa {
    fn set_pirq(&mut self, pirq: u32, high: bool) {
        self.router.set(pirq, high);
        self.router.route(&self.config);
    }
}

impl PciFunction for Piix3Isa {
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

impl Device for Piix3Isa {
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

impl Snapshot for Piix3Isa {
    fn schema(&self) -> Schema {
        Schema { name: "piix3-isa", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&IsaState { config: self.config.state(), pirqs: self.router.levels() })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: IsaState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.router.set_levels(state.pirqs);
        self.router.route(&self.config);
        Ok(())
    }
}

//! The host bridge of the Q35 chipset, PCI function 0:0.0 (Intel 3 Series Express Chipset Family datasheet, 316966,
//! 5.1).

use std::ops::Range;
use std::sync::{Arc, Mutex};

use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::regs::{decode, require};

/// Where the window of configuration space lies (5.1.15).
const PCIEXBAR: usize = 0x60;

/// The host bridge. It has no windows: where configuration space lies in memory is fixed by the board, and PCIEXBAR says
/// it.
pub struct Q35Mch {
    config: ConfigSpace,
}

impl Q35Mch {
    /// The bridge of a board whose configuration space is at `ecam`.
    #[must_use]
    pub fn new(ecam: Range<u64>) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x29c0, class: 0x06_0000, ..Identity::default() };
        let mut config = ConfigSpace::new(id);
        // Bits 2:1: 256, 128 or 64 buses of a megabyte; bit 0: enabled.
        let length = match (ecam.end - ecam.start.min(ecam.end)) >> 20 {
            256.. => 0,
            128.. => 1 << 1,
            _ => 2 << 1,
        };
        let value = ecam.start | length | u64::from(!ecam.is_empty());
        config.set_u32(PCIEXBAR, value as u32);
        config.set_u32(PCIEXBAR + 4, (value >> 32) as u32);
        config.seal();
        Arc::new(Mutex::new(Self { config }))
    }
}

impl PciFunction for Q35Mch {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
}

impl Device for Q35Mch {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _at: At, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Q35Mch {
    fn schema(&self) -> Schema {
        Schema { name: "q35-mch", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.config.state())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: ConfigState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")
    }
}

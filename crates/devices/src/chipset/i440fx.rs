//! The host bridge of the 440FX chipset, PCI function 0:0.0 (Intel 440FX datasheet, 290549, 3.2).

use std::sync::{Arc, Mutex};

use machine::firmware::ShadowRam;
use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use super::mch::VIRTUAL_MACHINE;
use super::pam::{Pam, SHADOW_WINDOW};
use crate::regs::{decode, require};

const PAM0: usize = 0x59;
const SMRAM: usize = 0x72;
/// The turbo reset control and other registers that are kept, but move nothing (3.2.14 to 3.2.17, 3.2.20 to 3.2.26).
const DRAM_ROWS: usize = 0x60;

/// The host bridge. Window 8: the range of the shadow RAM, for writes that no memory has taken.
pub struct I440fx {
    config: ConfigSpace,
    pam: Pam,
}

impl I440fx {
    /// The number of the window at [`ShadowRam::range`].
    pub const SHADOW_WINDOW: u8 = SHADOW_WINDOW;

    /// The bridge, which switches `shadow` in a machine with firmware.
    #[must_use]
    pub fn new(shadow: Option<Arc<ShadowRam>>) -> Shared<Self> {
        let (subsystem_vendor, subsystem) = VIRTUAL_MACHINE;
        let id =
            Identity { vendor: 0x8086, device: 0x1237, revision: 2, class: 0x06_0000, subsystem_vendor, subsystem };
        let mut config = ConfigSpace::new(id);
        config.set_writable(DRAM_ROWS, &[0xff; 8]);
        let pam = Pam::new(&mut config, PAM0, SMRAM, shadow);
        config.seal();
        Arc::new(Mutex::new(Self { config, pam }))
    }
}

impl PciFunction for I440fx {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        if !self.pam.refuses(&self.config, offset, data.len()) {
            self.config.write(offset, data);
            self.pam.follow(&self.config);
        }
        Effect::None
    }
}

impl Device for I440fx {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        if at.window == SHADOW_WINDOW {
            self.pam.write(at.offset, data);
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
        self.pam.follow(&self.config);
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for I440fx {
    fn schema(&self) -> Schema {
        Schema { name: "i440fx", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.config.state())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: ConfigState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.pam.follow(&self.config);
        Ok(())
    }
}

//! The host bridge of a chipset, PCI function 0:0.0: what firmware knows the board by, and the registers that switch the
//! shadow RAM. The chipsets differ in data alone: `mch` and `i440fx`.

use std::sync::{Arc, Mutex};

use machine::firmware::ShadowRam;
use machine::pci::{ConfigSpace, ConfigState, PciFunction, command};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use super::pam::{Pam, SHADOW_WINDOW};
use crate::regs::{decode, require};

/// The subsystem by which firmware knows that it is in a virtual machine that tells it more by the firmware configuration
/// (QEMU, *PCI IDs* specification).
pub(super) const VIRTUAL_MACHINE: (u16, u16) = (0x1af4, 0x1100);

const COMMAND: usize = 4;

/// The host bridge. Window 8: the range of the shadow RAM, for writes that no memory has taken.
pub struct HostBridge {
    name: &'static str,
    config: ConfigSpace,
    pam: Pam,
}

impl HostBridge {
    /// The number of the window at [`ShadowRam::range`].
    pub const SHADOW_WINDOW: u8 = SHADOW_WINDOW;

    /// The bridge whose state has this name, with PAM0 and SMRAM at these places in `config`.
    pub(super) fn build(
        name: &'static str,
        mut config: ConfigSpace,
        (pam0, smram): (usize, usize),
        shadow: Option<Arc<ShadowRam>>,
    ) -> Shared<Self> {
        // It always answers.
        config.set_u16(COMMAND, command::MEMORY_SPACE | command::BUS_MASTER);
        let pam = Pam::new(&mut config, pam0, smram, shadow);
        config.seal();
        Arc::new(Mutex::new(Self { name, config, pam }))
    }
}

impl PciFunction for HostBridge {
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

impl Device for HostBridge {
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

impl Snapshot for HostBridge {
    fn schema(&self) -> Schema {
        Schema { name: self.name, version: 1 }
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

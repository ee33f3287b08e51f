//! The host bridge of the Q35 chipset, PCI function 0:0.0 (Intel 3 Series Express Chipset Family datasheet, 316966,
//! 5.1).

use std::ops::Range;
use std::sync::{Arc, Mutex};

use machine::firmware::ShadowRam;
use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use super::pam::{Pam, SHADOW_WINDOW};
use crate::regs::{decode, require};

/// Where the window of configuration space lies (5.1.15).
const PCIEXBAR: usize = 0x60;
const PAM0: usize = 0x90;
const SMRAM: usize = 0x9d;
/// The subsystem by which firmware knows that it is in a virtual machine that tells it more by the firmware configuration
/// (QEMU, *PCI IDs* specification).
pub(super) const VIRTUAL_MACHINE: (u16, u16) = (0x1af4, 0x1100);

/// The host bridge. Where configuration space lies in memory is fixed by the board, and PCIEXBAR says it. Window 8: the range
/// of the shadow RAM, for writes that no memory has taken.
pub struct Q35Mch {
    config: ConfigSpace,
    pam: Pam,
}

impl Q35Mch {
    /// The number of the window at [`ShadowRam::range`].
    pub const SHADOW_WINDOW: u8 = SHADOW_WINDOW;

    /// The bridge of a board whose configuration space is at `ecam`. In a machine with firmware it switches `shadow`.
    #[must_use]
    pub fn new(ecam: Range<u64>, shadow: Option<Arc<ShadowRam>>) -> Shared<Self> {
        let (subsystem_vendor, subsystem) = if shadow.is_some() { VIRTUAL_MACHINE } else { (0, 0) };
        let id =
            Identity { vendor: 0x8086, device: 0x29c0, class: 0x06_0000, revision: 0, subsystem_vendor, subsystem };
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
        let pam = Pam::new(&mut config, PAM0, SMRAM, shadow);
        config.seal();
        Arc::new(Mutex::new(Self { config, pam }))
    }
}

impl PciFunction for Q35Mch {
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

impl Device for Q35Mch {
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
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.pam.follow(&self.config);
        Ok(())
    }
}

//! The host bridge of the 440FX chipset (Intel 440FX datasheet, 290549, 3.2).

use std::sync::Arc;

use machine::Shared;
use machine::firmware::ShadowRam;
use machine::pci::{ConfigSpace, Identity};

use super::host_bridge::{HostBridge, VIRTUAL_MACHINE};

const PAM0: usize = 0x59;
const SMRAM: usize = 0x72;
/// The turbo reset control and other registers that are kept, but move nothing (3.2.14 to 3.2.17, 3.2.20 to 3.2.26).
const DRAM_ROWS: usize = 0x60;

impl HostBridge {
    /// That of the 440FX, which switches `shadow` in a machine with firmware.
    #[must_use]
    pub fn i440fx(shadow: Option<Arc<ShadowRam>>) -> Shared<Self> {
        let (subsystem_vendor, subsystem) = VIRTUAL_MACHINE;
        let id =
            Identity { vendor: 0x8086, device: 0x1237, revision: 2, class: 0x06_0000, subsystem_vendor, subsystem };
        let mut config = ConfigSpace::new(id);
        config.set_writable(DRAM_ROWS, &[0xff; 8]);
        Self::build("i440fx", config, (PAM0, SMRAM), shadow)
    }
}

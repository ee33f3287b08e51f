//! The host bridge of the Q35 chipset (Intel 3 Series Express Chipset Family datasheet, 316966, 5.1).

use std::ops::Range;
use std::sync::Arc;

use machine::Shared;
use machine::firmware::ShadowRam;
use machine::pci::{ConfigSpace, Identity};

use super::host_bridge::{HostBridge, VIRTUAL_MACHINE};

/// Where the window of configuration space lies (5.1.15).
const PCIEXBAR: usize = 0x60;
const PAM0: usize = 0x90;
const SMRAM: usize = 0x9d;

impl HostBridge {
    /// That of the Q35. Where configuration space lies in memory, `ecam`, is fixed by the board, and PCIEXBAR says it. In a
    /// machine with firmware it switches `shadow`.
    #[must_use]
    pub fn q35(ecam: Range<u64>, shadow: Option<Arc<ShadowRam>>) -> Shared<Self> {
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
        Self::build("q35-mch", config, (PAM0, SMRAM), shadow)
    }
}

//! PCI: functions with configuration space, the bus that finds them, and the two ways by which a CPU gets there.
//!
//! The sources are the *PCI Local Bus Specification 3.0* and the *PCI Express Base Specification*.

mod access;
mod bus;
mod config;
mod msi;
mod msix;

pub use access::{ConfigPorts, Ecam};
pub use bus::{PciBus, PciError};
pub use config::{Bar, BarKind, ConfigError, ConfigSpace, ConfigState, Decoded, Identity, Pin, command, status};
pub use msi::Msi;
pub use msix::{Msix, MsixPlace, MsixState};

use memory::Store;

use crate::{Device, Effect};

/// The number of a function: bus, device and function (PCI 3.0, 3.2.2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bdf {
    /// The bus.
    pub bus: u8,
    /// The device, 0 to 31.
    pub device: u8,
    /// The function, 0 to 7.
    pub function: u8,
}

impl Bdf {
    /// A function on bus 0.
    #[must_use]
    pub const fn root(device: u8, function: u8) -> Self {
        Self { bus: 0, device, function }
    }
}

impl std::fmt::Display for Bdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus, self.device, self.function)
    }
}

/// A PCI function: a device with a configuration space.
///
/// Its BAR `n` is its window `n` on the machine's buses: [`PciBus`] maps it where the guest has put it. A function that
/// also has fixed windows numbers them from 8 up.
pub trait PciFunction: Device {
    /// The configuration space.
    fn config(&self) -> &ConfigSpace;

    /// The configuration space, to change it.
    fn config_mut(&mut self) -> &mut ConfigSpace;

    /// The memory behind BAR `window`, of the BAR's size: where the BAR answers, the guest accesses it as RAM, and the
    /// device hears nothing of that. Asked once, when the function is added to a bus.
    fn memory(&self, window: u8) -> Option<Store> {
        let _ = window;
        None
    }

    /// The guest reads configuration space; `data` is 1, 2 or 4 bytes at a multiple of its length.
    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        self.config().read(offset, data);
    }

    /// The guest writes configuration space; a function with registers that act overrides this and calls
    /// [`ConfigSpace::write`] for the rest.
    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config_mut().write(offset, data);
        Effect::None
    }
}

#[cfg(test)]
mod tests;

//! How a CPU reaches configuration space: the ports CF8h/CFCh and the memory-mapped window (ECAM).

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Bdf, PciBus};
use crate::{At, Device, Drained, Effect, Schema, Snapshot, State, StateError};

/// Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2) on ports CF8h to CFFh, window 0; and the reset control register
/// CF9h, which shares its ports with the address register and is told from it by the length of the access (Intel ICH9
/// data sheet, 13.7.5).
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    state: Registers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Registers {
    address: u32,
    reset_control: u8,
}

impl ConfigPorts {
    /// The length of window 0 in ports.
    pub const PORTS: u64 = 8;
    const ENABLE: u32 = 1 << 31;
    const SYSTEM_RESET: u8 = 1 << 1;
    const RESET_CPU: u8 = 1 << 2;
    const FULL_RESET: u8 = 1 << 3;

    /// The ports to `bus`.
    #[must_use]
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus, state: Registers::default() }
    }

    /// The function and the register that the data ports stand for.
    fn target(&self, port: u64) -> Option<(Bdf, u16)> {
        let a = self.state.address;
        let bdf = Bdf { bus: (a >> 16) as u8, device: (a >> 11 & 31) as u8, function: (a >> 8 & 7) as u8 };
        (a & Self::ENABLE != 0).then_some((bdf, (a & 0xfc) as u16 + (port & 3) as u16))
    }
}

impl Device for ConfigPorts {
    fn read(&mut self, at: At, data: &mut [u8]) {
        match (at.offset, data.len()) {
            (0, 4) => data.copy_from_slice(&self.state.address.to_le_bytes()),
            (1, 1) => data.fill(self.state.reset_control),
            (port @ 4..8, len) if port as usize % 4 + len <= 4 => match self.target(port) {
                Some((bdf, offset)) => self.bus.config_read(bdf, offset, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        match (at.offset, data) {
            (0, &[a, b, c, d]) => self.state.address = u32::from_le_bytes([a, b, c, d]) & 0x80ff_fffc,
            (1, &[value]) => {
                let rises = value & !self.state.reset_control & Self::RESET_CPU != 0;
                self.state.reset_control = value & (Self::SYSTEM_RESET | Self::RESET_CPU | Self::FULL_RESET);
                if rises {
                    return Effect::Reset;
                }
            }
            (port @ 4..8, data) if port as usize % 4 + data.len() <= 4 => {
                if let Some((bdf, offset)) = self.target(port) {
                    return self.bus.config_write(bdf, offset, data);
                }
            }
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.state = Registers::default();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for ConfigPorts {
    fn schema(&self) -> Schema {
        Schema { name: "pci-config-ports", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        if version != 1 {
            return Err(StateError::Version { name: self.schema().name, version });
        }
        self.state = state.to()?;
        Ok(())
    }
}

/// The enhanced configuration access mechanism (PCI Express, 7.2.2): window 0, a megabyte for each bus.
pub struct Ecam {
    bus: Arc<PciBus>,
}

impl Ecam {
    /// The window to `bus`.
    #[must_use]
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self { bus }
    }

    fn target(offset: u64) -> (Bdf, u16) {
        let bdf =
            Bdf { bus: (offset >> 20) as u8, device: (offset >> 15 & 31) as u8, function: (offset >> 12 & 7) as u8 };
        (bdf, (offset & 0xfff) as u16)
    }
}

impl Device for Ecam {
    fn read(&mut self, at: At, data: &mut [u8]) {
        // Eight bytes are two accesses, and so is what crosses a double word.
        let mut done = 0;
        while let Some(rest) = data.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let offset = at.offset.wrapping_add(done as u64);
            let n = rest.len().min(4 - offset as usize % 4);
            let (bdf, register) = Self::target(offset);
            self.bus.config_read(bdf, register, &mut rest[..n]);
            done += n;
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        let (mut done, mut effect) = (0, Effect::None);
        while let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) {
            let offset = at.offset.wrapping_add(done as u64);
            let n = rest.len().min(4 - offset as usize % 4);
            let (bdf, register) = Self::target(offset);
            match self.bus.config_write(bdf, register, &rest[..n]) {
                Effect::None => {}
                other => effect = other,
            }
            done += n;
        }
        effect
    }

    fn reset(&mut self) {}

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Ecam {
    fn schema(&self) -> Schema {
        Schema { name: "pci-ecam", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        if version != 1 {
            return Err(StateError::Version { name: self.schema().name, version });
        }
        state.to()
    }
}

//! Configuration space (PCI 3.0, chapter 6): bytes with write masks, BARs, capabilities.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// Bits of the command register (PCI 3.0, 6.2.2).
#[allow(missing_docs, reason = "the specification's own names")]
pub mod command {
    pub const IO_SPACE: u16 = 1;
    pub const MEMORY_SPACE: u16 = 1 << 1;
    pub const BUS_MASTER: u16 = 1 << 2;
    pub const PARITY_ERROR_RESPONSE: u16 = 1 << 6;
    pub const SERR_ENABLE: u16 = 1 << 8;
    pub const INTERRUPT_DISABLE: u16 = 1 << 10;
}

/// Bits of the status register (PCI 3.0, 6.2.3).
#[allow(missing_docs, reason = "the specification's own names")]
pub mod status {
    pub const INTERRUPT: u16 = 1 << 3;
    pub const CAPABILITIES: u16 = 1 << 4;
    /// The error bits, which the guest clears by writing ones.
    pub const ERRORS: u16 = 0xf900;
}

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const ROM_BAR: usize = 0x30;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// The number of the expansion ROM among the BARs.
const ROM: usize = 6;

/// What a function says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// The vendor ID.
    pub vendor: u16,
    /// The device ID.
    pub device: u16,
    /// The revision.
    pub revision: u8,
    /// Class, subclass and programming interface in bits 16, 8 and 0.
    pub class: u32,
    /// The subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// The subsystem ID.
    pub subsystem: u16,
}

/// An interrupt pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// INTA#.
    A = 1,
    /// INTB#.
    B = 2,
    /// INTC#.
    C = 3,
    /// INTD#.
    D = 4,
}

/// What a base address register decodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BarKind {
    /// I/O ports.
    Port,
    /// Memory below 4 GiB.
    Memory32,
    /// Memory below 4 GiB without read side effects.
    Prefetchable32,
    /// Memory anywhere; takes two BARs.
    Memory64,
    /// Memory anywhere without read side effects; takes two BARs.
    Prefetchable64,
    /// The expansion ROM, number 6.
    Rom,
}

/// A base address register (PCI 3.0, 6.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// What it decodes.
    pub kind: BarKind,
    /// The size of the window in bytes, a power of two: at least 4 for ports, 16 for memory, 2048 for ROM.
    pub size: u64,
}

/// Where a BAR answers at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The number of the BAR, which is the window of the device.
    pub window: u8,
    /// Whether these are I/O ports.
    pub port: bool,
    /// The addresses.
    pub range: Range<u64>,
}

/// A configuration space cannot be laid out like this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The BAR is of a bad size, its number is out of range or taken.
    #[error("PCI BAR {0} is taken, out of range or of a bad size")]
    Bar(usize),
    /// No room for another capability.
    #[error("no room for PCI capability {0:#x}")]
    Full(u8),
    /// A stored state is not of this function.
    #[error("the state is not of this PCI function: {0}")]
    State(&'static str),
}

/// The guest-visible content of a configuration space.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigState {
    /// All bytes.
    pub bytes: Vec<u8>,
}

/// The configuration space of a function with header type 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: Box<[u8]>,
    /// Bits that the guest writes.
    writable: Box<[u8]>,
    /// Bits that the guest clears by writing ones.
    clearable: Box<[u8]>,
    /// The bytes after a reset.
    initial: Box<[u8]>,
    bars: [Option<Bar>; 7],
    /// The end of the capabilities so far, and where to link the next one.
    capabilities: (usize, usize),
}

impl ConfigSpace {
    /// The 256 bytes of a conventional function.
    #[must_use]
    pub fn new(id: Identity) -> Self {
        Self::sized(id, 256)
    }

    /// The 4096 bytes of an express function.
    #[must_use]
    pub fn express(id: Identity) -> Self {
        Self::sized(id, 4096)
    }

    fn sized(id: Identity, len: usize) -> Self {
        let zero = || vec![0; len].into_boxed_slice();
        let mut space = Self {
            bytes: zero(),
            writable: zero(),
            clearable: zero(),
            initial: zero(),
            bars: [None; 7],
            capabilities: (0x40, CAPABILITIES),
        };
        space.set_u16(0, id.vendor);
        space.set_u16(2, id.device);
        space.set_u32(8, id.class << 8 | u32::from(id.revision));
        space.set_u16(0x2c, id.subsystem_vendor);
        space.set_u16(0x2e, id.subsystem);
        let commands =
            command::BUS_MASTER | command::PARITY_ERROR_RESPONSE | command::SERR_ENABLE | command::INTERRUPT_DISABLE;
        space.set_writable(COMMAND, &commands.to_le_bytes());
        space.set_clearable(STATUS, &status::ERRORS.to_le_bytes());
        space.set_writable(0x0c, &[0xff]);
        space.set_writable(INTERRUPT_LINE, &[0xff]);
        space.seal();
        space
    }

    /// Declares the function one of several of its device.
    #[must_use]
    pub fn multifunction(mut self) -> Self {
        self.set_u8(HEADER_TYPE, 0x80);
        self.seal();
        self
    }

    /// The function uses this interrupt pin.
    #[must_use]
    pub fn interrupt_pin(mut self, pin: Pin) -> Self {
        self.set_u8(INTERRUPT_PIN, pin as u8);
        self.seal();
        self
    }

    /// Gives the function a BAR: 0 to 5, or 6 for the expansion ROM.
    ///
    /// # Errors
    /// [`ConfigError::Bar`] when the number or the size does not fit.
    pub fn with_bar(mut self, index: usize, bar: Bar) -> Result<Self, ConfigError> {
        let bad = ConfigError::Bar(index);
        let (least, most) = match bar.kind {
            BarKind::Port => (4, 256),
            BarKind::Memory32 | BarKind::Prefetchable32 => (16, 1 << 31),
            BarKind::Memory64 | BarKind::Prefetchable64 => (16, 1 << 40),
            BarKind::Rom => (2048, 1 << 24),
        };
        let wide = matches!(bar.kind, BarKind::Memory64 | BarKind::Prefetchable64);
        let last = if wide { index + 1 } else { index };
        let fits = if bar.kind == BarKind::Rom { index == ROM } else { last < ROM };
        let upper_taken = (0..index).any(|i| i + 1 == index && self.is_wide(i));
        let taken = upper_taken || self.bars[index.min(ROM)..=last.min(ROM)].iter().any(Option::is_some);
        if !fits || taken || !bar.size.is_power_of_two() || bar.size < least || bar.size > most {
            return Err(bad);
        }
        let at = Self::bar_offset(index);
        let mask = !(bar.size - 1);
        let (flags, low_mask) = match bar.kind {
            BarKind::Port => (1, mask as u32 & 0xffff_fffc),
            BarKind::Memory32 => (0, mask as u32),
            BarKind::Prefetchable32 => (8, mask as u32),
            BarKind::Memory64 => (4, mask as u32),
            BarKind::Prefetchable64 => (12, mask as u32),
            BarKind::Rom => (0, mask as u32 | 1),
        };
        self.set_u32(at, flags);
        self.set_writable(at, &low_mask.to_le_bytes());
        if wide {
            self.set_writable(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
        let enable = if bar.kind == BarKind::Port { command::IO_SPACE } else { command::MEMORY_SPACE };
        self.writable[COMMAND] |= enable as u8;
        self.bars[index] = Some(bar);
        self.seal();
        Ok(self)
    }

    /// Adds a capability (PCI 3.0, 6.7): `body` follows the ID and the link, `writable` is the mask of its bits that
    /// the guest writes. Returns its offset.
    ///
    /// # Errors [`ConfigError::Full`] when it does not fit below offset 256.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Result<u8, ConfigError> {
        let (at, link) = self.capabilities;
        let end = (at + 2).saturating_add(body.len().max(writable.len())).next_multiple_of(4);
        let (Ok(offset), true) = (u8::try_from(at), end <= 256) else { return Err(ConfigError::Full(id)) };
        self.set_u8(link, offset);
        self.set_u8(at, id);
        self.bytes[at + 2..at + 2 + body.len()].copy_from_slice(body);
        self.set_writable(at + 2, writable);
        self.bytes[STATUS] |= status::CAPABILITIES as u8;
        self.capabilities = (end, at + 1);
        self.seal();
        Ok(offset)
    }

    /// Makes the present bytes those after a reset.
    pub fn seal(&mut self) {
        self.initial.copy_from_slice(&self.bytes);
    }

    /// Back to the bytes after a reset.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial);
    }

    /// Which bits the guest writes from `offset` on. Bytes beyond the space are ignored.
    pub fn set_writable(&mut self, offset: usize, mask: &[u8]) {
        overlay(&mut self.writable, offset, mask);
    }

    /// Which bits the guest clears by writing ones, from `offset` on.
    pub fn set_clearable(&mut self, offset: usize, mask: &[u8]) {
        overlay(&mut self.clearable, offset, mask);
    }

    /// The byte at `offset`; ones beyond the space.
    #[must_use]
    pub fn u8(&self, offset: usize) -> u8 {
        self.bytes.get(offset).copied().unwrap_or(0xff)
    }

    /// The word at `offset`.
    #[must_use]
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.u8(offset), self.u8(offset + 1)])
    }

    /// The double word at `offset`.
    #[must_use]
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from(self.u16(offset)) | u32::from(self.u16(offset + 2)) << 16
    }

    /// Sets a byte as the function itself, past all masks.
    pub fn set_u8(&mut self, offset: usize, value: u8) {
        overlay(&mut self.bytes, offset, &[value]);
    }

    /// Sets a word as the function itself.
    pub fn set_u16(&mut self, offset: usize, value: u16) {
        overlay(&mut self.bytes, offset, &value.to_le_bytes());
    }

    /// Sets a double word as the function itself.
    pub fn set_u32(&mut self, offset: usize, value: u32) {
        overlay(&mut self.bytes, offset, &value.to_le_bytes());
    }

    /// The guest reads; ones beyond the space.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.u8(usize::from(offset) + i);
        }
    }

    /// The guest writes: only what the masks allow.
    pub fn write(&mut self, offset: u16, data: &[u8]) {
        for (i, new) in data.iter().enumerate() {
            let at = usize::from(offset) + i;
            let (Some(byte), Some(writable), Some(clearable)) =
                (self.bytes.get_mut(at), self.writable.get(at), self.clearable.get(at))
            else {
                return;
            };
            *byte = (*byte & !writable | new & writable) & !(new & clearable);
        }
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> u16 {
        self.u16(COMMAND)
    }

    /// Whether the function may access memory by itself.
    #[must_use]
    pub fn is_bus_master(&self) -> bool {
        self.command() & command::BUS_MASTER != 0
    }

    /// Shows in the status register whether the function asks for an interrupt, and tells whether its line is to be
    /// high: it is not while the guest has disabled INTx (PCI 3.0, 6.2.2 and 6.2.3).
    #[must_use]
    pub fn intx(&mut self, asserted: bool) -> bool {
        let bit = status::INTERRUPT as u8;
        self.bytes[STATUS] = self.bytes[STATUS] & !bit | if asserted { bit } else { 0 };
        asserted && self.command() & command::INTERRUPT_DISABLE == 0
    }

    /// Where the BARs answer now. A BAR at zero, or beyond what its kind can address, does not answer.
    #[must_use]
    pub fn decoded(&self) -> Vec<Decoded> {
        (0..self.bars.len()).filter_map(|i| self.decode(i)).collect()
    }

    fn decode(&self, index: usize) -> Option<Decoded> {
        let bar = self.bars[index]?;
        let low = self.u32(Self::bar_offset(index));
        let high = || u64::from(self.u32(Self::bar_offset(index) + 4)) << 32;
        let port = bar.kind == BarKind::Port;
        let (start, limit) = match bar.kind {
            BarKind::Port => (u64::from(low & !3), 1 << 16),
            BarKind::Memory32 | BarKind::Prefetchable32 => (u64::from(low & !15), 1 << 32),
            BarKind::Memory64 | BarKind::Prefetchable64 => (u64::from(low & !15) | high(), 1 << 52),
            BarKind::Rom if low & 1 == 0 => return None,
            BarKind::Rom => (u64::from(low & !0x7ff), 1 << 32),
        };
        let enabled = self.command() & if port { command::IO_SPACE } else { command::MEMORY_SPACE } != 0;
        let end = start.checked_add(bar.size)?;
        (enabled && start != 0 && end <= limit).then_some(Decoded { window: index as u8, port, range: start..end })
    }

    fn is_wide(&self, index: usize) -> bool {
        self.bars[index.min(ROM)].is_some_and(|b| matches!(b.kind, BarKind::Memory64 | BarKind::Prefetchable64))
    }

    const fn bar_offset(index: usize) -> usize {
        if index >= ROM { ROM_BAR } else { BAR0 + 4 * index }
    }

    /// The content to save.
    #[must_use]
    pub fn state(&self) -> ConfigState {
        ConfigState { bytes: self.bytes.to_vec() }
    }

    /// Takes on a saved content. Where the BARs lie is then for [`super::PciBus::sync_all`] to follow.
    ///
    /// # Errors
    /// [`ConfigError::State`] when the length or the identity is another one.
    pub fn restore(&mut self, state: &ConfigState) -> Result<(), ConfigError> {
        if state.bytes.len() != self.bytes.len() {
            return Err(ConfigError::State("length"));
        }
        if state.bytes[..4] != self.bytes[..4] {
            return Err(ConfigError::State("vendor or device"));
        }
        self.bytes.copy_from_slice(&state.bytes);
        Ok(())
    }
}

fn overlay(to: &mut [u8], offset: usize, from: &[u8]) {
    for (to, from) in to.iter_mut().skip(offset).zip(from) {
        *to = *from;
    }
}

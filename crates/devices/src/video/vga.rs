//! The card: a PCI function with a VGA's ports and window, and video memory that the guest has mapped as RAM.

use std::sync::{Arc, Mutex, PoisonError};

use display::{Frame, Picture};
use machine::pci::{Bar, BarKind, ConfigError, ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Clock, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};
use memory::{Store, StoreConfig};
use serde::{Deserialize, Serialize};

use super::dispi::Dispi;
use super::draw::Scene;
use super::edid;
use super::planes::Planes;
use super::registers::Registers;
use crate::regs::{decode, read_bytes, require};

/// The BAR of the video memory.
const MEMORY: usize = 0;
/// The BAR of the registers in memory.
const REGISTERS: usize = 2;
const REGISTER_BYTES: u64 = 0x1000;
/// The expansion ROM.
const ROM: usize = 6;

/// Where the registers are in their BAR: what the monitor says of itself, those of a VGA from 3C0h on, the display interface's, and the extended ones (QEMU,
/// *standard VGA*).
const EDID_END: u64 = 0x400;
const VGA_AT: u64 = 0x400;
const DISPI_AT: u64 = 0x500;
const EXTENDED_AT: u64 = 0x600;
/// The bytes of the extended registers: this number, and the order of bytes.
const EXTENDED_BYTES: u32 = 8;
const LITTLE_ENDIAN: u32 = 0x1e1e_1e1e;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct VgaState {
    config: ConfigState,
    registers: Registers,
    dispi: Dispi,
}

/// The card. Windows: 0 the video memory and 2 the registers in memory, where their BARs are, 6 the ROM;
/// [`Vga::PORTS_WINDOW`], [`Vga::DISPI_WINDOW`] and [`Vga::LEGACY_WINDOW`], which are fixed.
pub struct Vga {
    config: ConfigSpace,
    registers: Registers,
    dispi: Dispi,
    memory: Store,
    rom: Arc<[u8]>,
    edid: [u8; edid::BYTES],
    clock: Clock,
}

impl Vga {
    /// The ports 3B0h to 3DFh.
    pub const PORTS_WINDOW: u8 = 8;
    /// The ports 1CEh to 1D0h.
    pub const DISPI_WINDOW: u8 = 9;
    /// The memory at A0000h, 128 KiB.
    pub const LEGACY_WINDOW: u8 = 10;
    /// The size of the video memory in bytes.
    pub const MEMORY_BYTES: u64 = 16 << 20;
    /// The largest ROM in bytes.
    pub const LARGEST_ROM: usize = 1 << 20;
    const FIRST_PORT: u16 = 0x3b0;
    const STORE: &str = "video";

    /// The video memory, which the guest's memory has to be made with.
    #[must_use]
    pub fn store() -> StoreConfig {
        StoreConfig::movable(Self::STORE, Self::MEMORY_BYTES)
    }

    /// The card in a guest whose memory has [`Vga::store`], with the ROM that starts it, or an empty one.
    ///
    /// # Errors
    /// [`ConfigError`] for a ROM that is larger than [`Vga::LARGEST_ROM`], or a memory without the store.
    pub fn new(memory: &memory::GuestMemory, rom: &[u8], clock: &Clock) -> Result<Shared<Self>, ConfigError> {
        let memory = memory.store(Self::STORE).ok_or(ConfigError::Bar(MEMORY))?;
        let id = Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class: 0x03_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut config = ConfigSpace::new(id)
            .with_bar(MEMORY, Bar { kind: BarKind::Prefetchable32, size: memory.bytes() })?
            .with_bar(REGISTERS, Bar { kind: BarKind::Memory32, size: REGISTER_BYTES })?;
        if !rom.is_empty() {
            let size = rom.len().next_power_of_two().max(0x800);
            if size > Self::LARGEST_ROM {
                return Err(ConfigError::Bar(ROM));
            }
            config = config.with_bar(ROM, Bar { kind: BarKind::Rom, size: size as u64 })?;
        }
        // The ports of a VGA, though no BAR has them.
        config.set_writable(4, &[7, 5]);
        let (registers, dispi) = (Registers::default(), Dispi::default());
        let (rom, edid, clock) = (rom.into(), edid::block(), clock.clone());
        Ok(Arc::new(Mutex::new(Self { config, registers, dispi, memory, rom, edid, clock })))
    }

    /// What the card shows.
    #[must_use]
    pub fn picture(card: &Shared<Self>) -> Arc<dyn Picture> {
        Arc::new(Cable { card: Arc::clone(card) })
    }

    fn color_bits(&self) -> u8 {
        if self.dispi.has_wide_dac() { 0xff } else { 0x3f }
    }

    fn read_port(&mut self, port: u64) -> u8 {
        let now = self.clock.now();
        u16::try_from(port).map_or(0xff, |port| self.registers.read(port, now))
    }

    fn write_port(&mut self, port: u64, value: u8) {
        let bits = self.color_bits();
        if let Ok(port) = u16::try_from(port) {
            self.registers.write(port, value, bits);
        }
    }

    fn write_dispi(&mut self, index: u16, value: u16) {
        let clear = self.dispi.write(index, value, self.memory.bytes());
        let zeros = vec![0; clear.min(self.memory.bytes()) as usize];
        if let Err(error) = self.memory.write(0, &zeros) {
            tracing::debug!(%error, "video memory");
        }
    }

    /// The display interface's ports: the index, and behind it the data, words both.
    fn dispi_port(&self, offset: u64) -> u16 {
        match offset {
            0 => self.dispi.index(),
            1 => self.dispi.read(self.dispi.index(), self.memory.bytes()),
            _ => u16::MAX,
        }
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        match offset {
            0..EDID_END => self.edid.get(offset as usize).copied().unwrap_or(0),
            VGA_AT..0x420 => self.read_port(offset - VGA_AT + 0x3c0),
            DISPI_AT..0x516 => {
                let index = ((offset - DISPI_AT) / 2) as u16;
                byte_of(self.dispi.read(index, self.memory.bytes()).into(), offset & 1)
            }
            EXTENDED_AT..0x604 => byte_of(EXTENDED_BYTES, offset & 3),
            0x604..0x608 => byte_of(LITTLE_ENDIAN, offset & 3),
            _ => 0xff,
        }
    }

    fn write_registers(&mut self, at: u64, data: &[u8]) {
        if (DISPI_AT..0x516).contains(&at) {
            for (pair, offset) in data.chunks(2).zip((at..).step_by(2)) {
                let index = ((offset - DISPI_AT) / 2) as u16;
                // A byte leaves the other one.
                let old = self.dispi.read(index, self.memory.bytes());
                let value = match *pair {
                    [low, high] => u16::from_le_bytes([low, high]),
                    [byte] if offset & 1 == 0 => old & 0xff00 | u16::from(byte),
                    [byte] => old & 0xff | u16::from(byte) << 8,
                    _ => continue,
                };
                self.write_dispi(index, value);
            }
            return;
        }
        for (value, offset) in data.iter().zip(at..) {
            if (VGA_AT..0x420).contains(&offset) {
                self.write_port(offset - VGA_AT + 0x3c0, *value);
            }
        }
    }

    /// The window at A0000h while a mode without planes is set: the memory from the bank on.
    fn banked(&self, offset: u64) -> Option<u64> {
        let inside = self.dispi.is_enabled() && !self.dispi.has_planes();
        (inside && offset < 0x1_0000).then(|| self.dispi.bank() + offset)
    }

    fn planes(&mut self) -> Planes<'_> {
        let bank = if self.dispi.has_planes() { self.dispi.bank() } else { 0 };
        Planes { registers: &mut self.registers, memory: &self.memory, bank }
    }

    fn read_legacy(&mut self, offset: u64, data: &mut [u8]) {
        if self.dispi.is_enabled() && !self.dispi.has_planes() {
            if self.banked(offset).is_none_or(|at| self.memory.read(at, data).is_err()) {
                data.fill(0xff);
            }
            return;
        }
        let mut planes = self.planes();
        data.iter_mut().zip(offset..).for_each(|(byte, offset)| *byte = planes.read(offset));
    }

    fn write_legacy(&mut self, offset: u64, data: &[u8]) {
        if self.dispi.is_enabled() && !self.dispi.has_planes() {
            if let Some(at) = self.banked(offset)
                && let Err(error) = self.memory.write(at, data)
            {
                tracing::trace!(%error, "video memory");
            }
            return;
        }
        let mut planes = self.planes();
        data.iter().zip(offset..).for_each(|(byte, offset)| planes.write(offset, *byte));
    }
}

fn byte_of(value: u32, at: u64) -> u8 {
    (value >> (8 * (at & 3))) as u8
}

impl PciFunction for Vga {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn memory(&self, window: u8) -> Option<Store> {
        (usize::from(window) == MEMORY).then(|| self.memory.clone())
    }
}

impl Device for Vga {
    fn read(&mut self, at: At, data: &mut [u8]) {
        match at.window {
            Self::PORTS_WINDOW => read_bytes(at, data, |offset| self.read_port(offset + u64::from(Self::FIRST_PORT))),
            Self::DISPI_WINDOW => {
                let value = self.dispi_port(at.offset);
                data.iter_mut().zip(value.to_le_bytes().into_iter().chain([0xff; 6])).for_each(|(to, from)| *to = from);
            }
            Self::LEGACY_WINDOW => self.read_legacy(at.offset, data),
            0 if self.memory.read(at.offset, data).is_ok() => {}
            2 => read_bytes(at, data, |offset| self.read_register(offset)),
            6 => read_bytes(at, data, |offset| {
                usize::try_from(offset).ok().and_then(|offset| self.rom.get(offset).copied()).unwrap_or(0xff)
            }),
            _ => data.fill(0xff),
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        match at.window {
            Self::PORTS_WINDOW => {
                for (value, offset) in data.iter().zip(at.offset..) {
                    self.write_port(offset + u64::from(Self::FIRST_PORT), *value);
                }
            }
            Self::DISPI_WINDOW => {
                let value = match *data {
                    [byte] => byte.into(),
                    [low, high, ..] => u16::from_le_bytes([low, high]),
                    [] => 0,
                };
                match at.offset {
                    0 => self.dispi.set_index(value),
                    1 => self.write_dispi(self.dispi.index(), value),
                    _ => {}
                }
            }
            Self::LEGACY_WINDOW => self.write_legacy(at.offset, data),
            // Where the memory could not be mapped.
            0 => _ = self.memory.write(at.offset, data),
            2 => self.write_registers(at.offset, data),
            _ => {}
        }
        Effect::None
    }

    /// The video memory stays as it is.
    fn reset(&mut self) {
        self.config.reset();
        self.registers = Registers::default();
        self.dispi = Dispi::default();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Vga {
    fn schema(&self) -> Schema {
        Schema { name: "vga", version: 1 }
    }

    /// Without the video memory, which is the guest's.
    fn save(&mut self) -> Result<State, StateError> {
        let (config, registers) = (self.config.state(), self.registers.clone());
        State::of(&VgaState { config, registers, dispi: self.dispi })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: VgaState = decode(self.schema(), version, state)?;
        require(self.schema(), state.registers.is_valid(), "the registers of a VGA are not like this")?;
        require(self.schema(), state.dispi.is_valid(self.memory.bytes()), "there is no such mode")?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        (self.registers, self.dispi) = (state.registers, state.dispi);
        Ok(())
    }
}

/// The way from the card to a viewer.
struct Cable {
    card: Shared<Vga>,
}

impl Cable {
    fn scene(&self) -> Scene {
        let card = self.card.lock().unwrap_or_else(PoisonError::into_inner);
        Scene {
            registers: card.registers.clone(),
            dispi: card.dispi,
            memory: card.memory.clone(),
            now: card.clock.now(),
        }
    }
}

impl Picture for Cable {
    fn draw(&self, frame: &mut Frame) {
        self.scene().draw(frame);
    }

    fn text(&self) -> Option<String> {
        self.scene().text()
    }
}

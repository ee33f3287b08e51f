//! The registers by which modes beyond those of a VGA are set (Bochs *VBE display interface*, vbe_display_api.txt), of
//! version B0C5h.

use serde::{Deserialize, Serialize};

/// Numbers of the registers.
mod register {
    pub(super) const ID: u16 = 0;
    pub(super) const X_RES: u16 = 1;
    pub(super) const Y_RES: u16 = 2;
    pub(super) const BPP: u16 = 3;
    pub(super) const ENABLE: u16 = 4;
    pub(super) const BANK: u16 = 5;
    pub(super) const VIRTUAL_WIDTH: u16 = 6;
    pub(super) const VIRTUAL_HEIGHT: u16 = 7;
    pub(super) const X_OFFSET: u16 = 8;
    pub(super) const Y_OFFSET: u16 = 9;
    pub(super) const MEMORY_64K: u16 = 10;
}

/// Bits of the enable register.
const ENABLED: u16 = 1;
/// Reads of the resolution give the largest one.
const GET_CAPS: u16 = 2;
const WIDE_DAC: u16 = 0x20;
const LINEAR: u16 = 0x40;
/// Video memory is left as it is when a mode is set.
const KEEP_MEMORY: u16 = 0x80;

/// The versions, of which a guest may choose an older one.
const FIRST_ID: u16 = 0xb0c0;
const ID: u16 = 0xb0c5;
/// The largest mode.
const MOST: (u16, u16, u16) = (8192, 8192, 32);

/// The registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dispi {
    index: u16,
    id: u16,
    x_res: u16,
    y_res: u16,
    bpp: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    x_offset: u16,
    y_offset: u16,
}

/// What is shown of the video memory in a mode that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linear {
    pub(super) width: u32,
    pub(super) height: u32,
    /// 4, 8, 15, 16, 24 or 32 bits of a pixel.
    pub(super) bpp: u16,
    /// The first byte; with 4 bits, the first offset in the planes.
    pub(super) start: u64,
    /// From one row to the next, as `start`.
    pub(super) pitch: u64,
    /// Pixels left of the first one in its byte, with 4 bits.
    pub(super) skip: u32,
}

impl Default for Dispi {
    fn default() -> Self {
        Self {
            index: 0,
            id: ID,
            x_res: 0,
            y_res: 0,
            bpp: 8,
            enable: 0,
            bank: 0,
            virtual_width: 0,
            x_offset: 0,
            y_offset: 0,
        }
    }
}

/// The bytes that `pixels` of `bpp` bits take: with 4 bits those of one plane.
fn row_bytes(pixels: u64, bpp: u16) -> u64 {
    match bpp {
        4 => pixels / 8,
        15 => pixels * 2,
        _ => pixels * u64::from(bpp / 8),
    }
}

impl Dispi {
    pub(super) fn is_enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// Whether the palette's components have eight bits.
    pub(super) fn has_wide_dac(&self) -> bool {
        self.enable & WIDE_DAC != 0
    }

    /// Whether a mode with planes is set, which keeps the VGA's ways to read and write.
    pub(super) fn has_planes(&self) -> bool {
        self.is_enabled() && self.bpp == 4
    }

    /// The offset in video memory that the window at A0000h shows; with planes, the offset in them.
    pub(super) fn bank(&self) -> u64 {
        if self.is_enabled() { u64::from(self.bank) << 16 } else { 0 }
    }

    /// A state that these registers can be in, of a card with `memory` bytes.
    pub(super) fn is_valid(&self, memory: u64) -> bool {
        (FIRST_ID..=ID).contains(&self.id) && (!self.is_enabled() || self.is_mode() && self.shown_bytes() <= memory)
    }

    fn shown_bytes(&self) -> u64 {
        let planes = if self.bpp == 4 { 4 } else { 1 };
        row_bytes(u64::from(self.x_res), self.bpp) * u64::from(self.y_res) * planes
    }

    fn is_mode(&self) -> bool {
        (1..=MOST.0).contains(&self.x_res)
            && (1..=MOST.1).contains(&self.y_res)
            && matches!(self.bpp, 4 | 8 | 15 | 16 | 24 | 32)
    }

    /// Rows are at least as long as they are shown.
    fn width_in_memory(&self) -> u64 {
        u64::from(self.virtual_width.max(self.x_res))
    }

    /// What is shown.
    pub(super) fn linear(&self) -> Option<Linear> {
        if !self.is_enabled() || !self.is_mode() {
            return None;
        }
        let pitch = row_bytes(self.width_in_memory(), self.bpp);
        let x = u64::from(self.x_offset);
        let start = pitch * u64::from(self.y_offset) + row_bytes(x, self.bpp);
        let height = u32::from(self.y_res);
        let skip = if self.bpp == 4 { (x % 8) as u32 } else { 0 };
        Some(Linear { width: u32::from(self.x_res), height, bpp: self.bpp, start, pitch, skip })
    }

    pub(super) fn index(&self) -> u16 {
        self.index
    }

    pub(super) fn set_index(&mut self, index: u16) {
        self.index = index;
    }

    /// Reads register `index` of a card with `memory` bytes.
    pub(super) fn read(&self, index: u16, memory: u64) -> u16 {
        let caps = self.enable & GET_CAPS != 0;
        match index {
            register::ID => self.id,
            register::X_RES if caps => MOST.0,
            register::Y_RES if caps => MOST.1,
            register::BPP if caps => MOST.2,
            register::X_RES => self.x_res,
            register::Y_RES => self.y_res,
            register::BPP => self.bpp,
            register::ENABLE => self.enable,
            register::BANK => self.bank,
            register::VIRTUAL_WIDTH => self.virtual_width.max(self.x_res),
            register::VIRTUAL_HEIGHT => {
                let memory = if self.bpp == 4 { memory / 4 } else { memory };
                let rows = memory.checked_div(row_bytes(self.width_in_memory(), self.bpp)).unwrap_or(0);
                u16::try_from(rows).unwrap_or(u16::MAX)
            }
            register::X_OFFSET => self.x_offset,
            register::Y_OFFSET => self.y_offset,
            register::MEMORY_64K => u16::try_from(memory >> 16).unwrap_or(u16::MAX),
            _ => 0,
        }
    }

    /// Writes register `index` of a card with `memory` bytes. Gives the number of bytes at the start of video memory that
    /// are to be cleared, since a mode has been set.
    pub(super) fn write(&mut self, index: u16, value: u16, memory: u64) -> u64 {
        match index {
            register::ID if (FIRST_ID..=ID).contains(&value) => self.id = value,
            // A mode is set by the enable register; while it is on, its size stays.
            register::X_RES if !self.is_enabled() => self.x_res = value,
            register::Y_RES if !self.is_enabled() => self.y_res = value,
            // Zero stands for 8.
            register::BPP if !self.is_enabled() => self.bpp = if value == 0 { 8 } else { value },
            register::BANK if u64::from(value) << 16 < memory => self.bank = value,
            register::VIRTUAL_WIDTH => self.virtual_width = value,
            register::X_OFFSET => self.x_offset = value,
            register::Y_OFFSET => self.y_offset = value,
            register::ENABLE => return self.enable(value, memory),
            _ => {}
        }
        0
    }

    fn enable(&mut self, value: u16, memory: u64) -> u64 {
        let was = self.is_enabled();
        self.enable = value & (ENABLED | GET_CAPS | WIDE_DAC | LINEAR | KEEP_MEMORY);
        if !self.is_enabled() {
            self.bank = 0;
            return 0;
        }
        if was {
            return 0;
        }
        let bytes = self.shown_bytes();
        if !self.is_mode() || bytes > memory {
            self.enable &= !ENABLED;
            return 0;
        }
        self.virtual_width = self.x_res;
        (self.x_offset, self.y_offset, self.bank) = (0, 0, 0);
        if self.enable & KEEP_MEMORY == 0 { bytes } else { 0 }
    }
}

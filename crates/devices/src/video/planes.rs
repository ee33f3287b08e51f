//! The memory at A0000h as a CPU sees it: four planes behind the graphics controller, with its latches and its ways to
//! read and write (FreeVGA, *Accessing VGA Display Memory*; IBM PS/2 Hardware Interface Technical Reference).
//!
//! The planes lie in video memory byte by byte beside each other: plane `p` of offset `n` is byte `4n + p`.

use std::ops::Range;

use memory::Store;

use super::registers::{Registers, gfx, seq};

/// The number of offsets of a plane.
pub(super) const PLANE: u64 = 0x1_0000;

/// Where an access falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The offset in the planes.
    offset: u64,
    /// The planes that the address itself chooses: bit `n` for plane `n`.
    planes: u8,
}

/// The planes of the video memory, behind the registers.
pub(super) struct Planes<'a> {
    pub(super) registers: &'a mut Registers,
    pub(super) memory: &'a Store,
    /// The offset that is at the start of the window, for modes with more than 64 KiB in a plane.
    pub(super) bank: u64,
}

/// The part of the 128 KiB at A0000h that answers.
pub(super) fn window(registers: &Registers) -> Range<u64> {
    match registers.gfx(gfx::MISC) >> 2 & 3 {
        0 => 0..0x2_0000,
        1 => 0..0x1_0000,
        2 => 0x1_0000..0x1_8000,
        _ => 0x1_8000..0x2_0000,
    }
}

/// Each of the low four bits of `nibble` as a byte of ones.
pub(super) fn spread(nibble: u8) -> u32 {
    (0..4).filter(|bit| nibble >> bit & 1 != 0).map(|bit| 0xff << (8 * bit)).sum()
}

impl Planes<'_> {
    /// The CPU reads the byte at `at` from A0000h on.
    pub(super) fn read(&mut self, at: u64) -> u8 {
        let Some(at) = self.inside(at) else { return 0xff };
        let mode = self.registers.gfx(gfx::MODE);
        let select = self.registers.gfx(gfx::READ_MAP);
        let (offset, plane) = if self.is_chained() {
            (at & !3, at as u8 & 3)
        } else if mode & 0x10 != 0 {
            (at & !1, select & 2 | at as u8 & 1)
        } else {
            (at, select & 3)
        };
        let latches = self.load(offset);
        self.registers.latches = latches;
        if mode & 8 == 0 || self.is_chained() {
            return latches.to_le_bytes().get(usize::from(plane)).copied().unwrap_or(0);
        }
        // Which pixels have the color that is looked for.
        let wanted = spread(self.registers.gfx(gfx::COLOR_COMPARE));
        let care = spread(self.registers.gfx(gfx::COLOR_IGNORE));
        let [a, b, c, d] = ((latches ^ wanted) & care).to_le_bytes();
        !(a | b | c | d)
    }

    /// The CPU writes the byte at `at` from A0000h on.
    pub(super) fn write(&mut self, at: u64, value: u8) {
        let Some(at) = self.inside(at) else { return };
        let memory_mode = self.registers.seq(seq::MEMORY_MODE);
        let place = if self.is_chained() {
            Place { offset: at & !3, planes: 1 << (at & 3) }
        } else if memory_mode & 4 == 0 {
            Place { offset: at & !1, planes: if at & 1 == 0 { 0b0101 } else { 0b1010 } }
        } else {
            Place { offset: at, planes: 15 }
        };
        let planes = spread(place.planes & self.registers.seq(seq::MAP_MASK));
        if planes == 0 {
            return;
        }
        let new = self.compose(value);
        let old = if planes == u32::MAX { 0 } else { self.load(place.offset) };
        let merged = old & !planes | new & planes;
        if let Err(error) = self.memory.write(self.place(place.offset), &merged.to_le_bytes()) {
            tracing::trace!(%error, "video memory");
        }
    }

    /// What the graphics controller makes of a byte: all four planes.
    fn compose(&self, value: u8) -> u32 {
        let r = &*self.registers;
        let rotated = value.rotate_right(u32::from(r.gfx(gfx::ROTATE) & 7));
        let every = |byte: u8| u32::from(byte) * 0x0101_0101;
        let set_reset = spread(r.gfx(gfx::SET_RESET));
        let mut mask = every(r.gfx(gfx::BIT_MASK));
        let data = match r.gfx(gfx::MODE) & 3 {
            0 => {
                let enabled = spread(r.gfx(gfx::ENABLE_SET_RESET));
                every(rotated) & !enabled | set_reset & enabled
            }
            1 => return r.latches,
            2 => spread(value),
            _ => {
                mask &= every(rotated);
                set_reset
            }
        };
        let data = match r.gfx(gfx::ROTATE) >> 3 & 3 {
            0 => data,
            1 => data & r.latches,
            2 => data | r.latches,
            _ => data ^ r.latches,
        };
        data & mask | r.latches & !mask
    }

    fn is_chained(&self) -> bool {
        self.registers.seq(seq::MEMORY_MODE) & 8 != 0
    }

    /// The offset in the part of the window that answers.
    fn inside(&self, at: u64) -> Option<u64> {
        let window = window(self.registers);
        let enabled = self.registers.misc & 2 != 0;
        (enabled && window.contains(&at)).then(|| at - window.start)
    }

    fn place(&self, offset: u64) -> u64 {
        (self.bank + offset % PLANE) * 4
    }

    fn load(&self, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        match self.memory.read(self.place(offset), &mut bytes) {
            Ok(()) => u32::from_le_bytes(bytes),
            Err(_) => u32::MAX,
        }
    }
}

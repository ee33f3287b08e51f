//! The registers of a VGA (IBM *Personal System/2 Hardware Interface Technical Reference*, Video Subsystem; FreeVGA
//! project; Intel *Open Source HD Graphics PRM*, volume 3 part 1, VGA and extended VGA registers).

use machine::VmTime;
use serde::{Deserialize, Serialize};

/// Registers of the sequencer.
pub(super) mod seq {
    pub(in super::super) const CLOCKING: usize = 1;
    pub(in super::super) const MAP_MASK: usize = 2;
    pub(in super::super) const FONT_SELECT: usize = 3;
    pub(in super::super) const MEMORY_MODE: usize = 4;
}

/// Registers of the CRT controller.
pub(super) mod crtc {
    pub(in super::super) const H_END: usize = 0x01;
    pub(in super::super) const V_TOTAL: usize = 0x06;
    pub(in super::super) const OVERFLOW: usize = 0x07;
    pub(in super::super) const PRESET_ROW: usize = 0x08;
    pub(in super::super) const MAX_SCAN: usize = 0x09;
    pub(in super::super) const CURSOR_START: usize = 0x0a;
    pub(in super::super) const CURSOR_END: usize = 0x0b;
    pub(in super::super) const START_HIGH: usize = 0x0c;
    pub(in super::super) const CURSOR_HIGH: usize = 0x0e;
    pub(in super::super) const V_SYNC_START: usize = 0x10;
    pub(in super::super) const V_SYNC_END: usize = 0x11;
    pub(in super::super) const V_END: usize = 0x12;
    pub(in super::super) const OFFSET: usize = 0x13;
    pub(in super::super) const UNDERLINE: usize = 0x14;
    pub(in super::super) const MODE: usize = 0x17;
    pub(in super::super) const LINE_COMPARE: usize = 0x18;
}

/// Registers of the graphics controller.
pub(super) mod gfx {
    pub(in super::super) const SET_RESET: usize = 0;
    pub(in super::super) const ENABLE_SET_RESET: usize = 1;
    pub(in super::super) const COLOR_COMPARE: usize = 2;
    pub(in super::super) const ROTATE: usize = 3;
    pub(in super::super) const READ_MAP: usize = 4;
    pub(in super::super) const MODE: usize = 5;
    pub(in super::super) const MISC: usize = 6;
    pub(in super::super) const COLOR_IGNORE: usize = 7;
    pub(in super::super) const BIT_MASK: usize = 8;
}

/// Registers of the attribute controller, behind the sixteen of its palette.
pub(super) mod attr {
    pub(in super::super) const MODE: usize = 0x10;
    pub(in super::super) const OVERSCAN: usize = 0x11;
    pub(in super::super) const PLANE_ENABLE: usize = 0x12;
    pub(in super::super) const PANNING: usize = 0x13;
    pub(in super::super) const COLOR_SELECT: usize = 0x14;
}

/// The bits that each register has; the others read as zero.
const SEQ_BITS: [u8; 5] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];
const GFX_BITS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];
/// The rate at which lines are drawn: 31.469 kHz.
const LINE_NANOS: u64 = 31_778;
/// The part of a line that is seen.
const SEEN_NANOS: u64 = 25_422;

/// All registers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Registers {
    /// The miscellaneous output register.
    pub(super) misc: u8,
    pub(super) feature: u8,
    pub(super) seq_index: u8,
    pub(super) seq: [u8; 5],
    pub(super) crtc_index: u8,
    pub(super) crtc: [u8; 25],
    pub(super) gfx_index: u8,
    pub(super) gfx: [u8; 9],
    /// With bit 5, which switches the screen on.
    pub(super) attr_index: u8,
    pub(super) attr: [u8; 21],
    /// The next write to the attribute controller is data.
    pub(super) attr_data: bool,
    pub(super) dac: Dac,
    /// What the last read of the planes has left: plane `n` in byte `n`.
    pub(super) latches: u32,
}

/// The palette of 256 colours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Dac {
    /// Which bits of a pixel count.
    pub(super) mask: u8,
    index: u8,
    /// 0 red, 1 green, 2 blue.
    component: u8,
    reading: bool,
    /// Red and green of the colour that is being written.
    pending: [u8; 2],
    /// Red, green and blue of each colour.
    colors: Vec<u8>,
}

impl Default for Dac {
    fn default() -> Self {
        Self { mask: 0xff, index: 0, component: 0, reading: false, pending: [0; 2], colors: vec![0; 768] }
    }
}

impl Dac {
    fn start(&mut self, index: u8, reading: bool) {
        (self.index, self.component, self.reading) = (index, 0, reading);
    }

    fn next(&mut self) {
        self.component += 1;
        if self.component == 3 {
            self.component = 0;
            self.index = self.index.wrapping_add(1);
        }
    }

    fn read(&mut self) -> u8 {
        let at = usize::from(self.index) * 3 + usize::from(self.component);
        self.next();
        self.colors.get(at).copied().unwrap_or(0)
    }

    /// `bits` is the mask of a component: six bits, or eight.
    fn write(&mut self, value: u8, bits: u8) {
        let at = usize::from(self.index) * 3;
        match (self.component, self.colors.get_mut(at..at + 3)) {
            (0, _) => self.pending[0] = value & bits,
            (1, _) => self.pending[1] = value & bits,
            (_, Some(color)) => color.copy_from_slice(&[self.pending[0], self.pending[1], value & bits]),
            (_, None) => {}
        }
        self.next();
    }

    /// All colours as pixels; with `wide`, components have eight bits.
    pub(super) fn pixels(&self, wide: bool) -> [u32; 256] {
        let widen = |v: u8| u32::from(if wide { v } else { v << 2 | v >> 4 & 3 });
        let mut pixels = [0; 256];
        for (pixel, color) in pixels.iter_mut().zip(self.colors.chunks_exact(3)) {
            if let [red, green, blue] = *color {
                *pixel = widen(red) << 16 | widen(green) << 8 | widen(blue);
            }
        }
        // A pixel is masked before it looks for its color.
        let mask = usize::from(self.mask);
        std::array::from_fn(|n| pixels.get(n & mask).copied().unwrap_or(0))
    }
}

fn reg(registers: &[u8], index: usize) -> u8 {
    registers.get(index).copied().unwrap_or(0)
}

impl Registers {
    /// The palette has its length, and indices are in range.
    pub(super) fn is_valid(&self) -> bool {
        self.dac.colors.len() == 768 && self.dac.component < 3
    }

    pub(super) fn seq(&self, index: usize) -> u8 {
        reg(&self.seq, index)
    }

    pub(super) fn crtc(&self, index: usize) -> u8 {
        reg(&self.crtc, index)
    }

    /// Two registers of the CRT controller: the high byte is at `index`, the low one behind it.
    pub(super) fn crtc_pair(&self, index: usize) -> u32 {
        u32::from(self.crtc(index)) << 8 | u32::from(self.crtc(index + 1))
    }

    pub(super) fn gfx(&self, index: usize) -> u8 {
        reg(&self.gfx, index)
    }

    pub(super) fn attr(&self, index: usize) -> u8 {
        reg(&self.attr, index)
    }

    /// A vertical count: the low eight bits at `index`, bits 8 and 9 in the overflow register.
    pub(super) fn vertical(&self, index: usize, bit8: u8, bit9: u8) -> u32 {
        let overflow = u32::from(self.crtc(crtc::OVERFLOW));
        u32::from(self.crtc(index)) | (overflow >> bit8 & 1) << 8 | (overflow >> bit9 & 1) << 9
    }

    /// Whether the picture is shown at all.
    pub(super) fn is_on(&self) -> bool {
        self.attr_index & 0x20 != 0 && self.seq(seq::CLOCKING) & 0x20 == 0
    }

    /// Whether `port` is there now: the CRT controller and input status 1 have two places, of which the miscellaneous
    /// output register chooses one.
    fn answers(&self, port: u16) -> bool {
        let color = self.misc & 1 != 0;
        match port {
            0x3b0..=0x3bf => !color,
            0x3d0..=0x3df => color,
            _ => true,
        }
    }

    /// Reads a port of 3B0h to 3DFh.
    pub(super) fn read(&mut self, port: u16, now: VmTime) -> u8 {
        if !self.answers(port) {
            return 0xff;
        }
        match port {
            0x3c0 if self.attr_data => self.attr(usize::from(self.attr_index & 0x1f)),
            0x3c0 => self.attr_index,
            0x3c1 => self.attr(usize::from(self.attr_index & 0x1f)),
            // Input status 0: no interrupt, a colour monitor.
            0x3c2 => 0x10,
            0x3c4 => self.seq_index,
            0x3c5 => self.seq(usize::from(self.seq_index)),
            0x3c6 => self.dac.mask,
            0x3c7 => {
                if self.dac.reading {
                    3
                } else {
                    0
                }
            }
            0x3c8 => self.dac.index,
            0x3c9 => self.dac.read(),
            0x3ca => self.feature,
            0x3cc => self.misc,
            0x3ce => self.gfx_index,
            0x3cf => self.gfx(usize::from(self.gfx_index)),
            0x3b4 | 0x3d4 => self.crtc_index,
            0x3b5 | 0x3d5 => self.crtc(usize::from(self.crtc_index)),
            0x3ba | 0x3da => {
                self.attr_data = false;
                self.retrace(now)
            }
            _ => 0xff,
        }
    }

    /// Writes a port of 3B0h to 3DFh; `color_bits` is the mask of the palette's components.
    pub(super) fn write(&mut self, port: u16, value: u8, color_bits: u8) {
        if !self.answers(port) {
            return;
        }
        match port {
            0x3c0 if self.attr_data => {
                self.write_attr(value);
                self.attr_data = false;
            }
            0x3c0 => {
                self.attr_index = value & 0x3f;
                self.attr_data = true;
            }
            0x3c2 => self.misc = value,
            0x3c4 => self.seq_index = value & 7,
            0x3c5 => put(&mut self.seq, self.seq_index, value, &SEQ_BITS),
            0x3c6 => self.dac.mask = value,
            0x3c7 => self.dac.start(value, true),
            0x3c8 => self.dac.start(value, false),
            0x3c9 => self.dac.write(value, color_bits),
            0x3ce => self.gfx_index = value & 15,
            0x3cf => put(&mut self.gfx, self.gfx_index, value, &GFX_BITS),
            0x3b4 | 0x3d4 => self.crtc_index = value & 0x3f,
            0x3b5 | 0x3d5 => self.write_crtc(value),
            0x3ba | 0x3da => self.feature = value & 0x10,
            _ => {}
        }
    }

    fn write_attr(&mut self, value: u8) {
        let index = usize::from(self.attr_index & 0x1f);
        let bits = match index {
            0..16 => 0x3f,
            attr::MODE => 0xef,
            attr::OVERSCAN => 0xff,
            attr::PLANE_ENABLE => 0x3f,
            _ => 0x0f,
        };
        if let Some(register) = self.attr.get_mut(index) {
            *register = value & bits;
        }
    }

    fn write_crtc(&mut self, value: u8) {
        let index = usize::from(self.crtc_index);
        let protected = self.crtc(crtc::V_SYNC_END) & 0x80 != 0;
        let bits = match index {
            crtc::OVERFLOW if protected => 0x10,
            0..=7 if protected => 0,
            _ => 0xff,
        };
        if let Some(register) = self.crtc.get_mut(index) {
            *register = *register & !bits | value & bits;
        }
    }

    /// Input status 1: where the beam is at `now`. Bit 0: nothing is shown; bit 3: vertical retrace.
    fn retrace(&self, now: VmTime) -> u8 {
        let total = u64::from(self.vertical(crtc::V_TOTAL, 0, 5)) + 2;
        let (total, end, sync) = if total < 100 {
            (449, 400, 412..414)
        } else {
            let start = u64::from(self.vertical(crtc::V_SYNC_START, 2, 7));
            // The end has only four bits.
            let len = u64::from(self.crtc(crtc::V_SYNC_END)).wrapping_sub(start) & 15;
            (total, u64::from(self.vertical(crtc::V_END, 1, 6)) + 1, start..start + len.max(2))
        };
        let nanos = now.0;
        let line = nanos / LINE_NANOS % total;
        let hidden = line >= end || nanos % LINE_NANOS >= SEEN_NANOS;
        // A program that waits for the retrace sees one even if the registers have it outside of the picture.
        let sync = if sync.start >= total { total - 2..total } else { sync };
        u8::from(hidden) | u8::from(sync.contains(&line)) << 3
    }
}

fn put(registers: &mut [u8], index: u8, value: u8, bits: &[u8]) {
    let index = usize::from(index);
    if let (Some(register), Some(bits)) = (registers.get_mut(index), bits.get(index)) {
        *register = value & bits;
    }
}

//! From registers and video memory to a picture, scan line by scan line as a CRT controller goes through them (FreeVGA,
//! *Display Generation*, *VGA Text Mode Operation*, *Sequencer Operation*).
//!
//! A frame has the dots of the monitor: 720 by 400 for 80 columns of text, 640 by 400 for 320 by 200 pixels.

use display::Frame;
use machine::VmTime;
use memory::Store;

use super::dispi::{Dispi, Linear};
use super::planes::PLANE;
use super::registers::{Registers, attr, crtc, gfx, seq};

/// The time of one picture, at 70 Hz.
const FRAME_NANOS: u64 = 14_268_000;
/// What is drawn while the registers have no sensible size: the size of a text screen.
const DARK: (u32, u32) = (720, 400);
/// The least size that is one.
const LEAST: u32 = 32;

/// What is to be drawn: a copy of the registers at one moment, and the memory as it is.
pub(super) struct Scene {
    pub(super) registers: Registers,
    pub(super) dispi: Dispi,
    pub(super) memory: Store,
    pub(super) now: VmTime,
}

/// How the bytes of the planes become pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shift {
    /// Characters.
    Text,
    /// A bit of each plane is a pixel.
    Planes,
    /// Pairs of bits, as a CGA has them.
    Pairs,
    /// Bytes of 256 colors.
    Bytes,
}

/// A character with its attribute and how it is drawn.
#[derive(Debug, Clone, Copy)]
struct Cell {
    code: u8,
    attribute: u8,
    /// The address of the CRT controller.
    counter: u32,
}

impl Scene {
    /// Draws all.
    pub(super) fn draw(&self, frame: &mut Frame) {
        let palette = self.registers.dac.pixels(self.dispi.has_wide_dac());
        match self.dispi.linear() {
            Some(linear) if !self.is_on() => black(frame, linear.width, linear.height),
            Some(linear) => self.draw_linear(frame, &linear, &palette),
            None => self.draw_vga(frame, &palette),
        }
    }

    /// The characters, if there are.
    pub(super) fn text(&self) -> Option<String> {
        if self.dispi.is_enabled() || !self.is_on() || self.shift() != Shift::Text {
            return None;
        }
        let planes = self.planes();
        let (_, height) = self.size();
        let rows = (height >> u32::from(self.is_double())) / self.char_height();
        let mut text = String::new();
        for row in 0..rows {
            let line: String = (0..self.columns())
                .map(|column| {
                    super::text::character(self.cell(&planes, self.start() + row * self.step() + column).code)
                })
                .collect();
            text.push_str(line.trim_end());
            text.push('\n');
        }
        Some(text)
    }

    fn is_on(&self) -> bool {
        self.registers.is_on()
    }

    /// All planes.
    fn planes(&self) -> Vec<u8> {
        let mut planes = vec![0; 4 * PLANE as usize];
        if let Err(error) = self.memory.read(0, &mut planes) {
            tracing::debug!(%error, "video memory");
        }
        planes
    }

    fn shift(&self) -> Shift {
        let mode = self.registers.gfx(gfx::MODE);
        match () {
            () if self.registers.gfx(gfx::MISC) & 1 == 0 => Shift::Text,
            () if mode & 0x40 != 0 => Shift::Bytes,
            () if mode & 0x20 != 0 => Shift::Pairs,
            () => Shift::Planes,
        }
    }

    /// The characters or groups of dots of a row.
    fn columns(&self) -> u32 {
        u32::from(self.registers.crtc(crtc::H_END)) + 1
    }

    /// The dots of a column.
    fn column_dots(&self) -> u32 {
        let clocking = self.registers.seq(seq::CLOCKING);
        let dots = if self.shift() == Shift::Text && clocking & 1 == 0 { 9 } else { 8 };
        if self.is_wide() { 2 * dots } else { dots }
    }

    /// Whether each dot is drawn twice: 40 columns.
    fn is_wide(&self) -> bool {
        self.registers.seq(seq::CLOCKING) & 8 != 0
    }

    /// Whether each scan line is drawn twice.
    fn is_double(&self) -> bool {
        self.registers.crtc(crtc::MAX_SCAN) & 0x80 != 0
    }

    fn char_height(&self) -> u32 {
        u32::from(self.registers.crtc(crtc::MAX_SCAN) & 0x1f) + 1
    }

    /// The dots of the monitor.
    fn size(&self) -> (u32, u32) {
        (self.columns() * self.column_dots(), self.registers.vertical(crtc::V_END, 1, 6) + 1)
    }

    /// The first address.
    fn start(&self) -> u32 {
        let skip = u32::from(self.registers.crtc(crtc::PRESET_ROW) >> 5 & 3);
        self.registers.crtc_pair(crtc::START_HIGH) + skip
    }

    /// From one row to the next.
    fn step(&self) -> u32 {
        2 * u32::from(self.registers.crtc(crtc::OFFSET))
    }

    /// The offset in the planes that the CRT controller's address `counter` is, in scan line `scan` of its row.
    fn offset(&self, counter: u32, scan: u32) -> usize {
        let mode = self.registers.crtc(crtc::MODE);
        let mut offset = if self.registers.crtc(crtc::UNDERLINE) & 0x40 != 0 {
            counter << 2 | counter >> 14 & 3
        } else if mode & 0x40 == 0 {
            let high = if mode & 0x20 != 0 { 15 } else { 13 };
            counter << 1 | counter >> high & 1
        } else {
            counter
        };
        if mode & 1 == 0 {
            offset = offset & !(1 << 13) | (scan & 1) << 13;
        }
        if mode & 2 == 0 {
            offset = offset & !(1 << 14) | (scan >> 1 & 1) << 14;
        }
        offset as usize & (PLANE as usize - 1)
    }

    fn cell(&self, planes: &[u8], counter: u32) -> Cell {
        let at = 4 * self.offset(counter, 0);
        let byte = |plane: usize| planes.get(at + plane).copied().unwrap_or(0);
        Cell { code: byte(0), attribute: byte(1), counter: counter & 0xffff }
    }

    /// The attribute controller's way from four bits to a pixel.
    fn sixteen(&self, palette: &[u32; 256]) -> [u32; 16] {
        let registers = &self.registers;
        let select = registers.attr(attr::COLOR_SELECT);
        let enabled = registers.attr(attr::PLANE_ENABLE) & 15;
        let split = registers.attr(attr::MODE) & 0x80 != 0;
        std::array::from_fn(|n| {
            let inner = registers.attr(n & usize::from(enabled));
            let low = if split { inner & 0x0f | (select & 3) << 4 } else { inner & 0x3f };
            palette.get(usize::from(low | (select & 0x0c) << 4)).copied().unwrap_or(0)
        })
    }

    fn draw_vga(&self, frame: &mut Frame, palette: &[u32; 256]) {
        let (width, height) = self.size();
        if width < LEAST || height < LEAST {
            return black(frame, DARK.0, DARK.1);
        }
        if !self.is_on() {
            return black(frame, width, height);
        }
        frame.resize(width, height);
        let planes = self.planes();
        let colors = self.sixteen(palette);
        let shift = self.shift();
        let registers = &self.registers;
        // The line behind which the memory is shown from its start on.
        let split = u32::from(registers.crtc(crtc::LINE_COMPARE))
            | u32::from(registers.crtc(crtc::OVERFLOW) >> 4 & 1) << 8
            | u32::from(registers.crtc(crtc::MAX_SCAN) >> 6 & 1) << 9;
        let char_height = self.char_height();
        let preset = u32::from(registers.crtc(crtc::PRESET_ROW) & 0x1f);
        let doubled = u32::from(self.is_double());
        let mut dots = Vec::with_capacity(width as usize + 32);
        for y in 0..height {
            let lower = y > split;
            let line = if lower { (y - split - 1) >> doubled } else { (y >> doubled) + preset };
            let (row, scan) = (line / char_height, line % char_height);
            let start = if lower { 0 } else { self.start() };
            let counter = start.wrapping_add(row.wrapping_mul(self.step()));
            let panned = !(lower && registers.attr(attr::MODE) & 0x20 != 0);
            dots.clear();
            let skip = if panned { self.skipped(shift) } else { 0 };
            // One more column comes in from the right.
            for column in 0..=self.columns() {
                let counter = counter.wrapping_add(column);
                match shift {
                    Shift::Text => self.text_dots(&planes, self.cell(&planes, counter), scan, &colors, &mut dots),
                    _ => self.pixels(&planes, self.offset(counter, scan), shift, palette, &colors, &mut dots),
                }
            }
            frame.set_row(y, dots.get(skip.min(dots.len())..).unwrap_or_default());
        }
    }

    /// The dots that are shifted out to the left.
    fn skipped(&self, shift: Shift) -> usize {
        let panning = usize::from(self.registers.attr(attr::PANNING) & 15);
        let wide = usize::from(self.is_wide()) + 1;
        match shift {
            // With nine dots, 8 stands for none and 0 for one.
            Shift::Text if self.registers.seq(seq::CLOCKING) & 1 == 0 => {
                if panning >= 8 {
                    0
                } else {
                    (panning + 1) * wide
                }
            }
            Shift::Bytes => ((panning / 2) & 3) * 2 * wide,
            _ => (panning & 7) * wide,
        }
    }

    /// One scan line of a character.
    fn text_dots(&self, planes: &[u8], cell: Cell, scan: u32, colors: &[u32; 16], dots: &mut Vec<u32>) {
        let registers = &self.registers;
        let select = registers.seq(seq::FONT_SELECT);
        // The font that attribute bit 3 chooses, if there are two.
        let (a, b) = (select >> 2 & 3 | select >> 3 & 4, select & 3 | select >> 2 & 4);
        let font = if cell.attribute & 8 != 0 { a } else { b };
        let base = [0, 0x4000, 0x8000, 0xc000, 0x2000, 0x6000, 0xa000, 0xe000];
        let base = base.get(usize::from(font)).copied().unwrap_or(0);
        let at = base + usize::from(cell.code) * 32 + scan as usize;
        let mut bits = planes.get(4 * at + 2).copied().unwrap_or(0);
        let mode = registers.attr(attr::MODE);
        let (mut front, mut back) = (cell.attribute & 15, cell.attribute >> 4);
        if mode & 8 != 0 {
            back &= 7;
            if cell.attribute & 0x80 != 0 && self.frame() / 16 % 2 == 1 {
                front = back;
            }
        }
        // The underline of monochrome text.
        if mode & 2 != 0 && cell.attribute & 0x77 == 1 && scan == u32::from(registers.crtc(crtc::UNDERLINE) & 0x1f) {
            bits = 0xff;
        }
        let mut ninth = mode & 4 != 0 && (0xc0..0xe0).contains(&cell.code) && bits & 1 != 0;
        if self.has_cursor(cell.counter, scan) {
            bits = 0xff;
            ninth = true;
        }
        let color = |n: u8| colors.get(usize::from(n)).copied().unwrap_or(0);
        let (front, back) = (color(front), color(back));
        let wide = self.is_wide();
        let mut dot = |on: bool| {
            let pixel = if on { front } else { back };
            dots.push(pixel);
            if wide {
                dots.push(pixel);
            }
        };
        (0..8).for_each(|bit| dot(bits & 0x80 >> bit != 0));
        if registers.seq(seq::CLOCKING) & 1 == 0 {
            dot(ninth);
        }
    }

    /// The number of the picture, by which cursor and characters blink.
    fn frame(&self) -> u64 {
        self.now.0 / FRAME_NANOS
    }

    fn has_cursor(&self, counter: u32, scan: u32) -> bool {
        let registers = &self.registers;
        let start = registers.crtc(crtc::CURSOR_START);
        let lines = u32::from(start & 0x1f)..=u32::from(registers.crtc(crtc::CURSOR_END) & 0x1f);
        start & 0x20 == 0
            && lines.contains(&scan)
            && counter == registers.crtc_pair(crtc::CURSOR_HIGH)
            && (self.frame() / 8).is_multiple_of(2)
    }

    /// The dots of one group of bytes.
    fn pixels(
        &self,
        planes: &[u8],
        offset: usize,
        shift: Shift,
        palette: &[u32; 256],
        colors: &[u32; 16],
        dots: &mut Vec<u32>,
    ) {
        let at = 4 * offset;
        let Some(&[a, b, c, d]) = planes.get(at..at + 4).and_then(|four| <&[u8; 4]>::try_from(four).ok()) else {
            return;
        };
        let wide = self.is_wide();
        let mut dot = |pixel: u32| {
            dots.push(pixel);
            if wide {
                dots.push(pixel);
            }
        };
        let color = |n: u8| colors.get(usize::from(n)).copied().unwrap_or(0);
        match shift {
            // Two dots for each byte.
            Shift::Bytes => {
                for byte in [a, b, c, d] {
                    let pixel = palette.get(usize::from(byte)).copied().unwrap_or(0);
                    dot(pixel);
                    dot(pixel);
                }
            }
            Shift::Pairs => {
                for (low, high) in [(a, c), (b, d)] {
                    for bit in [6, 4, 2, 0] {
                        dot(color(low >> bit & 3 | (high >> bit & 3) << 2));
                    }
                }
            }
            Shift::Planes | Shift::Text => {
                for bit in (0..8).rev() {
                    let bit = |byte: u8| byte >> bit & 1;
                    dot(color(bit(a) | bit(b) << 1 | bit(c) << 2 | bit(d) << 3));
                }
            }
        }
    }

    fn draw_linear(&self, frame: &mut Frame, linear: &Linear, palette: &[u32; 256]) {
        frame.resize(linear.width, linear.height);
        let colors = self.sixteen(palette);
        let mut row = vec![0u32; linear.width as usize];
        let per_pixel = usize::from(linear.bpp.div_ceil(8));
        let bytes = match linear.bpp {
            4 => 4 * (linear.width as usize).div_ceil(8) + 4,
            _ => linear.width as usize * per_pixel,
        };
        let mut line = vec![0u8; bytes];
        for y in 0..linear.height {
            let start = linear.start + linear.pitch * u64::from(y);
            let start = if linear.bpp == 4 { 4 * start } else { start };
            // What is beyond the memory is black.
            let len = self.memory.bytes().saturating_sub(start).min(bytes as u64) as usize;
            let (inside, outside) = line.split_at_mut(len);
            outside.fill(0);
            if len > 0 && self.memory.read(start, inside).is_err() {
                inside.fill(0);
            }
            match linear.bpp {
                4 => {
                    for (x, pixel) in (linear.skip as usize..).zip(&mut row) {
                        let four = line.get(x / 8 * 4..x / 8 * 4 + 4).unwrap_or(&[0; 4]);
                        let index = (0..4).zip(four).map(|(n, byte)| (byte >> (7 - x % 8) & 1) << n).sum::<u8>();
                        *pixel = colors.get(usize::from(index)).copied().unwrap_or(0);
                    }
                }
                8 => {
                    for (pixel, byte) in row.iter_mut().zip(&line) {
                        *pixel = palette.get(usize::from(*byte)).copied().unwrap_or(0);
                    }
                }
                _ => {
                    for (pixel, bytes) in row.iter_mut().zip(line.chunks_exact(per_pixel)) {
                        *pixel = true_color(linear.bpp, bytes);
                    }
                }
            }
            frame.set_row(y, &row);
        }
    }
}

/// A pixel that is its own color.
fn true_color(bpp: u16, bytes: &[u8]) -> u32 {
    match *bytes {
        [low, high] => {
            let value = u32::from(low) | u32::from(high) << 8;
            let five = |v: u32| (v & 31) << 3 | (v & 31) >> 2;
            if bpp == 15 {
                five(value >> 10) << 16 | five(value >> 5) << 8 | five(value)
            } else {
                let green = value >> 5 & 63;
                five(value >> 11) << 16 | (green << 2 | green >> 4) << 8 | five(value)
            }
        }
        [blue, green, red, ..] => u32::from(red) << 16 | u32::from(green) << 8 | u32::from(blue),
        _ => 0,
    }
}

fn black(frame: &mut Frame, width: u32, height: u32) {
    frame.resize(width, height);
    let row = vec![0; width as usize];
    (0..height).for_each(|y| frame.set_row(y, &row));
}

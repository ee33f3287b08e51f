//! The VGA on the Rig: what its modes show of what a program has written.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::video::Vga;
use display::{Frame, Picture};
use machine::pci::{Bdf, PciBus};
use machine::{At, Bus, Device};
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::rig::{Access, Battery, Random, Rig};

/// The registers of a mode (IBM PS/2 *Hardware Interface Technical Reference*, BIOS video modes).
struct Mode {
    misc: u8,
    seq: [u8; 5],
    crtc: [u8; 25],
    gfx: [u8; 9],
    attr: [u8; 21],
}

const TEXT: Mode = Mode {
    misc: 0x67,
    seq: [3, 0, 3, 0, 2],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x1f,
        0x96, 0xb9, 0xa3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f, 0x0c, 0, 0x0f, 8, 0],
};
/// 640 by 480 pixels of 16 colors.
const PLANAR: Mode = Mode {
    misc: 0xe3,
    seq: [3, 1, 0x0f, 0, 6],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c, 0xdf, 0x28, 0, 0xe7, 4,
        0xe3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0, 5, 0x0f, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 0x0f, 0, 0],
};
/// 320 by 200 pixels of 256 colors.
const BYTES: Mode = Mode {
    misc: 0x63,
    seq: [3, 1, 0x0f, 0, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0x40, 0x96,
        0xb9, 0xa3, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x40, 5, 0x0f, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0x41, 0, 0x0f, 0, 0],
};
/// A CGA's 320 by 200 pixels of 4 colors.
const PAIRS: Mode = Mode {
    misc: 0x63,
    seq: [3, 9, 3, 0, 2],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x14, 0, 0x96,
        0xb9, 0xa2, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 3, 0, 0],
};
/// A CGA's 640 by 200 pixels of 2 colors.
const BITS: Mode = Mode {
    misc: 0x63,
    seq: [3, 1, 1, 0, 6],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e, 0x8f, 0x28, 0, 0x96,
        0xb9, 0xc2, 0xff,
    ],
    gfx: [0, 0, 0, 0, 0, 0, 0x0d, 0, 0xff],
    attr: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 1, 0, 1, 0, 0],
};

const PORTS: u8 = Vga::PORTS_WINDOW;
const LEGACY: u8 = Vga::LEGACY_WINDOW;
const DISPI: u8 = Vga::DISPI_WINDOW;
/// The offset of B8000h in the window at A0000h.
const B8000: u64 = 0x1_8000;

/// A card without a CPU.
struct Card {
    rig: Rig,
    memory: GuestMemory,
    card: Arc<Mutex<Vga>>,
    picture: Arc<dyn Picture>,
}

fn memory() -> GuestMemory {
    let ram = Region { start: Gpa(0), len: 0x1000, kind: Kind::Ram };
    GuestMemory::with_stores(&[ram], &[Vga::store()]).unwrap()
}

impl Card {
    fn new() -> Self {
        let (rig, memory) = (Rig::new(), memory());
        let card = Vga::new(&memory, &[0x55, 0xaa, 3], rig.clock()).unwrap();
        let picture = Vga::picture(&card);
        Self { rig, memory, card, picture }
    }

    fn out(&self, port: u16, value: u8) {
        let _ = self.card.out8(PORTS, u64::from(port - 0x3b0), value);
    }

    fn port(&self, port: u16) -> u8 {
        self.card.in8(PORTS, u64::from(port - 0x3b0))
    }

    /// Sets an indexed register.
    fn set(&self, port: u16, index: u8, value: u8) {
        self.out(port, index);
        self.out(port + 1, value);
    }

    fn attr(&self, index: u8, value: u8) {
        self.port(0x3da);
        self.out(0x3c0, index);
        self.out(0x3c0, value);
        self.out(0x3c0, 0x20);
    }

    fn gfx(&self, index: u8, value: u8) {
        self.set(0x3ce, index, value);
    }

    fn seq(&self, index: u8, value: u8) {
        self.set(0x3c4, index, value);
    }

    fn crtc(&self, index: u8, value: u8) {
        self.set(0x3d4, index, value);
    }

    /// Sets a mode, with colors `n` of (n, 2n, 3n) in six bits.
    fn mode(mode: &Mode) -> Self {
        let card = Self::new();
        card.out(0x3c2, mode.misc);
        (0..).zip(mode.seq).for_each(|(n, value)| card.seq(n, value));
        card.crtc(0x11, 0);
        (0..).zip(mode.crtc).for_each(|(n, value)| card.crtc(n, value));
        (0..).zip(mode.gfx).for_each(|(n, value)| card.gfx(n, value));
        card.out(0x3c8, 0);
        (0..=255u8).for_each(|n| [n, n << 1, n.wrapping_mul(3)].into_iter().for_each(|value| card.out(0x3c9, value)));
        (0..).zip(mode.attr).for_each(|(n, value)| card.attr(n, value));
        card
    }

    fn write(&self, at: u64, value: u8) {
        let _ = self.card.out8(LEGACY, at, value);
    }

    fn read(&self, at: u64) -> u8 {
        self.card.in8(LEGACY, at)
    }

    fn dispi(&self, index: u16, value: u16) {
        let write = |offset, value: u16| {
            let _ = self.card.lock().unwrap().write(At { window: DISPI, offset }, &value.to_le_bytes());
        };
        write(0, index);
        write(1, value);
    }

    fn dispi_read(&self, index: u16) -> u16 {
        let mut data = index.to_le_bytes();
        let mut card = self.card.lock().unwrap();
        let _ = card.write(At { window: DISPI, offset: 0 }, &data);
        card.read(At { window: DISPI, offset: 1 }, &mut data);
        u16::from_le_bytes(data)
    }

    fn draw(&self) -> Frame {
        let mut frame = Frame::new();
        self.picture.draw(&mut frame);
        frame
    }

    /// Writes video memory as the guest does where its BAR is.
    fn poke(&self, at: u64, bytes: &[u8]) {
        self.memory.store("video").unwrap().write(at, bytes).unwrap();
    }

    /// The four planes at an offset.
    fn planes(&self, at: u64) -> [u8; 4] {
        let mut planes = [0; 4];
        self.memory.store("video").unwrap().read(4 * at, &mut planes).unwrap();
        planes
    }
}

/// Color `n` of the palette.
fn color(n: u8) -> u32 {
    let wide = |v: u8| u32::from((v & 63) << 2 | (v & 63) >> 4);
    wide(n) << 16 | wide(n << 1) << 8 | wide(n.wrapping_mul(3))
}

fn size(frame: &Frame) -> (u32, u32) {
    (frame.width(), frame.height())
}

/// Loads a glyph as a BIOS does: plane 2, one byte after the other.
fn glyph(card: &Card, font: u64, code: u8, rows: &[u8]) {
    card.seq(2, 4);
    card.seq(4, 7);
    card.gfx(5, 0);
    card.gfx(6, 4);
    (font + u64::from(code) * 32..).zip(rows).for_each(|(at, row)| card.write(at, *row));
    card.seq(2, 3);
    card.seq(4, 3);
    card.gfx(5, 0x10);
    card.gfx(6, 0x0e);
}

fn put(card: &Card, column: u64, row: u64, code: u8, attribute: u8) {
    let at = B8000 + 2 * (80 * row + column);
    card.write(at, code);
    card.write(at + 1, attribute);
}

fn dots(frame: &Frame, x: u32, y: u32, count: usize) -> Vec<u32> {
    frame.row(y).iter().skip(x as usize).take(count).copied().collect()
}

#[test]
fn text_has_characters_and_glyphs() {
    let card = Card::mode(&TEXT);
    card.crtc(0x0a, 0x20);
    glyph(&card, 0, b'A', &[0x81, 0x42]);
    glyph(&card, 0, 0xc4, &[0xff, 0x01, 0x80]);
    put(&card, 0, 0, b'A', 0x1e);
    put(&card, 79, 24, 0xc4, 0x07);
    assert_eq!(card.read(B8000), b'A');
    assert_eq!(card.read(B8000 + 1), 0x1e);
    let frame = card.draw();
    assert_eq!(size(&frame), (720, 400));
    let (front, back) = (color(0x3e), color(1));
    let of = |bits: [u8; 9], front, back| bits.map(|bit| if bit == 1 { front } else { back }).to_vec();
    assert_eq!(dots(&frame, 0, 0, 9), of([1, 0, 0, 0, 0, 0, 0, 1, 0], front, back));
    assert_eq!(dots(&frame, 0, 1, 9), of([0, 1, 0, 0, 0, 0, 1, 0, 0], front, back));
    assert_eq!(dots(&frame, 0, 2, 9), of([0; 9], front, back));
    // Of line graphics the ninth dot is the eighth.
    let (front, back) = (color(7), color(0));
    for (y, bits) in [(384, [1; 9]), (385, [0, 0, 0, 0, 0, 0, 0, 1, 1]), (386, [1, 0, 0, 0, 0, 0, 0, 0, 0])] {
        assert_eq!(dots(&frame, 711, y, 9), of(bits, front, back));
    }
    let text = card.picture.text().unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], lines[24]), (25, "A", format!("{}─", " ".repeat(79)).as_str()));
    // Eight dots, and 40 columns.
    card.seq(1, 9);
    assert_eq!(size(&card.draw()), (1280, 400));
    card.crtc(0x11, 0x0e);
    card.crtc(1, 39);
    let frame = card.draw();
    assert_eq!(size(&frame), (640, 400));
    assert_eq!(dots(&frame, 0, 0, 4), [color(0x3e), color(0x3e), color(1), color(1)]);
}

#[test]
fn the_cursor_and_characters_blink() {
    let card = Card::mode(&TEXT);
    put(&card, 2, 1, 0xdb, 0x8c);
    glyph(&card, 0, 0xdb, &[0xff; 16]);
    card.crtc(0x0e, 0);
    card.crtc(0x0f, 83);
    put(&card, 3, 1, b' ', 0x02);
    let seen = |card: &Card| {
        let frame = card.draw();
        (dots(&frame, 18, 16, 1)[0] == color(0x3c), dots(&frame, 27, 16 + 13, 1)[0] == color(2))
    };
    let mut states = std::collections::BTreeSet::new();
    for _ in 0..64 {
        states.insert(seen(&card));
        card.rig.advance(Duration::from_nanos(14_268_000));
    }
    assert_eq!(states.len(), 4, "{states:?}");
    // Not above its first line, and nowhere when it is off.
    assert!((0..16).all(|_| {
        card.rig.advance(Duration::from_nanos(14_268_000));
        dots(&card.draw(), 27, 16 + 12, 1)[0] == color(0)
    }));
    card.crtc(0x0a, 0x20);
    assert!((0..32).all(|_| {
        card.rig.advance(Duration::from_nanos(14_268_000));
        !seen(&card).1
    }));
    // Without blinking, the highest bit is of the background.
    card.attr(0x10, 4);
    put(&card, 4, 1, b' ', 0x90);
    assert_eq!(dots(&card.draw(), 36, 16, 1), [color(0x39)]);
}

#[test]
fn a_second_font_and_split_screens() {
    let card = Card::mode(&TEXT);
    card.crtc(0x0a, 0x20);
    glyph(&card, 0, 1, &[0xf0; 16]);
    glyph(&card, 0x4000, 1, &[0x0f; 16]);
    // Attribute bit 3 chooses between the first and the second font.
    card.seq(3, 4);
    put(&card, 0, 0, 1, 0x07);
    put(&card, 1, 0, 1, 0x0f);
    let frame = card.draw();
    assert_eq!([dots(&frame, 0, 0, 1)[0], dots(&frame, 9, 0, 1)[0]], [color(7), color(0)]);
    // From line 160 on the start of the memory is shown, whatever the start address.
    put(&card, 0, 5, 1, 0x07);
    card.crtc(0x0d, 160);
    card.crtc(0x18, 159);
    card.crtc(0x07, 0x0f);
    card.crtc(0x09, 0x0f);
    let frame = card.draw();
    assert_eq!([0, 3 * 16, 160].map(|y| dots(&frame, 0, y, 1)[0]), [color(0), color(7), color(7)]);
    assert!(card.picture.text().unwrap().lines().nth(3).is_some_and(|line| line.starts_with('☺')));
    // Smooth scrolling: by lines, and by dots.
    card.crtc(0x18, 0xff);
    card.crtc(0x07, 0x1f);
    card.crtc(0x08, 3);
    card.attr(0x13, 1);
    let frame = card.draw();
    assert_eq!([44, 45, 60, 61].map(|y| dots(&frame, 0, y, 1)[0] == color(7)), [false, true, true, false]);
    assert_eq!(dots(&frame, 0, 45, 3), [color(7), color(7), color(0)]);
}

#[test]
fn planes_are_written_in_four_modes_and_read_in_two() {
    let card = Card::mode(&PLANAR);
    // Mode 0: rotated data, set/reset, the bit mask with latches.
    card.write(0, 0x81);
    assert_eq!(card.planes(0), [0x81; 4]);
    card.gfx(3, 1);
    card.write(0, 0x81);
    assert_eq!(card.planes(0), [0xc0; 4]);
    card.gfx(3, 0);
    card.gfx(0, 0b0110);
    card.gfx(1, 0b0011);
    card.write(0, 0x55);
    assert_eq!(card.planes(0), [0, 0xff, 0x55, 0x55]);
    card.gfx(1, 0);
    card.gfx(8, 0x0f);
    card.read(0);
    card.write(0, 0xa5);
    assert_eq!(card.planes(0), [0x05, 0xf5, 0x55, 0x55]);
    // AND, OR and XOR with the latches.
    card.gfx(8, 0xff);
    for (function, expected) in
        [(1, [0x01, 0x31, 0x11, 0x11]), (2, [0x37, 0xf7, 0x77, 0x77]), (3, [0x36, 0xc6, 0x66, 0x66])]
    {
        card.gfx(3, function << 3);
        card.read(0);
        card.write(1, 0x33);
        assert_eq!(card.planes(1), expected);
    }
    card.gfx(3, 0);
    // Mode 1 copies the latches, into the planes of the map mask.
    card.gfx(5, 1);
    card.seq(2, 0b1001);
    card.read(0);
    card.write(2, 0x99);
    assert_eq!(card.planes(2), [0x05, 0, 0, 0x55]);
    card.seq(2, 15);
    // Mode 2: the data is a color.
    card.gfx(5, 2);
    card.gfx(8, 0x18);
    card.read(9);
    card.write(9, 0b1010);
    assert_eq!(card.planes(9), [0, 0x18, 0, 0x18]);
    // Mode 3: the data is a mask.
    card.gfx(5, 3);
    card.gfx(0, 0b0101);
    card.gfx(8, 0xf0);
    card.read(10);
    card.write(10, 0x3c);
    assert_eq!(card.planes(10), [0x30, 0, 0x30, 0]);
    // Read modes: a plane, and a comparison of colors.
    card.gfx(5, 0);
    let plane = |n| {
        card.gfx(4, n);
        card.read(0)
    };
    assert_eq!([0, 1, 2, 3].map(plane), [0x05, 0xf5, 0x55, 0x55]);
    card.gfx(5, 8);
    card.gfx(2, 0b0010);
    card.gfx(7, 0b1111);
    // Bits 5 and 7 have only plane 1.
    assert_eq!(card.read(0), 0xa0);
    card.gfx(7, 0b0001);
    assert_eq!(card.read(0), !0x05);
    let frame = card.draw();
    assert_eq!(size(&frame), (640, 480));
    let expected = [2, 14, 2, 14, 0, 15, 0, 15].map(color);
    assert_eq!(dots(&frame, 0, 0, 8), expected);
    // One row below, and the last pixel.
    card.gfx(5, 0);
    card.gfx(0, 0);
    card.gfx(8, 0xff);
    card.write(80, 0x80);
    card.write(80 * 480 - 1, 1);
    let frame = card.draw();
    assert_eq!([dots(&frame, 0, 1, 1)[0], dots(&frame, 639, 479, 1)[0]], [color(15); 2]);
    // Panning shifts to the left.
    card.attr(0x13, 3);
    assert_eq!(dots(&card.draw(), 0, 0, 5), expected[3..]);
    // Where the window is: nothing answers elsewhere, or when the memory is off.
    assert_eq!([card.read(0x1_0000), card.read(B8000)], [0xff; 2]);
    card.out(0x3c2, 0xe1);
    assert_eq!(card.read(0), 0xff);
}

#[test]
fn bytes_are_colors() {
    let card = Card::mode(&BYTES);
    for (at, value) in [(0, 1), (1, 2), (2, 3), (3, 4), (320, 5), (64_000 - 1, 0xff)] {
        card.write(at, value);
    }
    assert_eq!([0, 1, 3, 320].map(|at| card.read(at)), [1, 2, 4, 5]);
    let frame = card.draw();
    assert_eq!(size(&frame), (640, 400));
    let expected = [1, 1, 2, 2, 3, 3, 4, 4].map(color);
    assert_eq!([0, 1].map(|y| dots(&frame, 0, y, 8)), [expected, expected]);
    assert_eq!([2, 3].map(|y| dots(&frame, 0, y, 2)), [[color(5); 2]; 2]);
    assert_eq!(dots(&frame, 638, 399, 2), [color(255); 2]);
    assert!(card.picture.text().is_none());
    // The mask of the palette.
    card.out(0x3c6, 1);
    assert_eq!(dots(&card.draw(), 0, 0, 8), [1, 1, 0, 0, 1, 1, 0, 0].map(color));
    card.out(0x3c6, 0xff);
    // The same without the chain: four planes at each address, and a start address.
    card.seq(4, 6);
    card.crtc(0x14, 0);
    card.crtc(0x17, 0xe3);
    for plane in 0..4 {
        card.seq(2, 1 << plane);
        card.write(80, 0x10 + plane);
        card.write(160, 0x20 + plane);
    }
    card.crtc(0x0d, 80);
    let frame = card.draw();
    assert_eq!(dots(&frame, 0, 0, 8), [0x10, 0x10, 0x11, 0x11, 0x12, 0x12, 0x13, 0x13].map(color));
    assert_eq!(dots(&frame, 0, 2, 2), [color(0x20); 2]);
}

#[test]
fn cga_modes_interleave_lines() {
    let card = Card::mode(&PAIRS);
    card.write(B8000, 0b00_01_10_11);
    card.write(B8000 + 1, 0b11_00_00_00);
    card.write(B8000 + 0x2000, 0b10_00_00_00);
    card.write(B8000 + 80, 0b01_00_00_00);
    let frame = card.draw();
    assert_eq!(size(&frame), (640, 400));
    let expected = [0, 0, 1, 1, 2, 2, 3, 3, 3, 3, 0, 0].map(color);
    assert_eq!([0, 1].map(|y| dots(&frame, 0, y, 12)), [expected, expected]);
    assert_eq!([2, 4].map(|y| dots(&frame, 0, y, 2)), [[color(2); 2], [color(1); 2]]);
    let card = Card::mode(&BITS);
    card.write(B8000, 0b1010_0000);
    card.write(B8000 + 0x2000, 1);
    let frame = card.draw();
    assert_eq!(size(&frame), (640, 400));
    assert_eq!(dots(&frame, 0, 0, 4), [1, 0, 1, 0].map(color));
    assert_eq!(dots(&frame, 6, 2, 2), [color(0), color(1)]);
}

#[test]
fn modes_of_the_display_interface() {
    let card = Card::mode(&TEXT);
    assert_eq!([0, 10].map(|n| card.dispi_read(n)), [0xb0c5, 256]);
    card.dispi(4, 2);
    assert_eq!([1, 2, 3].map(|n| card.dispi_read(n)), [8192, 8192, 32]);
    let shown = |bpp, bytes: &[u8]| {
        card.dispi(4, 0);
        [(1, 64), (2, 48), (3, bpp), (4, 0x41)].into_iter().for_each(|(n, value)| card.dispi(n, value));
        card.poke(0, bytes);
        let frame = card.draw();
        assert_eq!(size(&frame), (64, 48));
        dots(&frame, 0, 0, 2)
    };
    assert_eq!(shown(32, &[1, 2, 3, 0xff, 4, 5, 6, 7]), [0x03_0201, 0x06_0504]);
    assert_eq!(shown(24, &[1, 2, 3, 4, 5, 6]), [0x03_0201, 0x06_0504]);
    assert_eq!(shown(16, &[0x1f, 0xf8, 0xe0, 0x07]), [0xff_00ff, 0x00_ff00]);
    assert_eq!(shown(15, &[0x1f, 0x7c, 0xe0, 0x03]), [0xff_00ff, 0x00_ff00]);
    assert_eq!(shown(8, &[9, 200]), [color(9), color(200)]);
    // What a mode clears, and what it does not.
    card.dispi(4, 0);
    card.poke(64 * 48, &[7]);
    card.dispi(4, 1);
    assert_eq!(dots(&card.draw(), 0, 0, 1), [color(0)]);
    card.poke(0, &[9]);
    card.dispi(4, 0);
    card.dispi(4, 0x81);
    assert_eq!(dots(&card.draw(), 0, 0, 1), [color(9)]);
    // Banks at A0000h.
    card.dispi(5, 3);
    card.write(0xffff, 0x5a);
    assert_eq!(card.planes(0xffff), [0, 0, 0, 0x5a]);
    assert_eq!([card.read(0xffff), card.read(0x1_0000)], [0x5a, 0xff]);
    // A wider memory, and a part of it.
    card.dispi(6, 100);
    assert_eq!([6, 7].map(|n| card.dispi_read(n)), [100, u16::MAX]);
    card.dispi(8, 10);
    card.dispi(9, 2);
    card.poke(2 * 100 + 10, &[3]);
    card.poke(3 * 100 + 10, &[4]);
    let frame = card.draw();
    assert_eq!([0, 1].map(|y| dots(&frame, 0, y, 1)[0]), [color(3), color(4)]);
    // What is beyond the memory is not shown; a mode that does not fit is not set.
    card.dispi(9, u16::MAX);
    card.dispi(6, 8192);
    assert_eq!((size(&card.draw()), dots(&card.draw(), 0, 0, 1)), ((64, 48), vec![color(0)]));
    card.dispi(4, 0);
    [(1, 8192), (2, 8192), (3, 32), (4, 1)].into_iter().for_each(|(n, value)| card.dispi(n, value));
    assert_eq!(card.dispi_read(4) & 1, 0);
    assert_eq!(size(&card.draw()), (720, 400));
    // Eight bits for each component of the palette.
    card.dispi(4, 0);
    [(1, 64), (2, 48), (3, 8), (4, 0x21)].into_iter().for_each(|(n, value)| card.dispi(n, value));
    card.out(0x3c8, 0);
    [0x81, 0x42, 0xff].into_iter().for_each(|value| card.out(0x3c9, value));
    assert_eq!(dots(&card.draw(), 0, 0, 1), [0x81_42ff]);
    // The screen is switched off.
    card.port(0x3da);
    card.out(0x3c0, 0);
    assert_eq!(dots(&card.draw(), 0, 0, 1), [0]);
}

#[test]
fn planes_of_the_display_interface() {
    let card = Card::mode(&PLANAR);
    [(1, 1024), (2, 768), (3, 4), (4, 1)].into_iter().for_each(|(n, value)| card.dispi(n, value));
    card.seq(2, 0b0101);
    card.dispi(5, 1);
    card.write(128 * 700 - 0x1_0000, 0x80);
    let frame = card.draw();
    assert_eq!(size(&frame), (1024, 768));
    assert_eq!(dots(&frame, 0, 700, 2), [color(5), color(0)]);
}

#[test]
fn registers_are_in_memory_too() {
    let card = Card::mode(&TEXT);
    // What the monitor says of itself, and nothing behind it.
    assert_eq!([0, 4, 0x80].map(|at| card.card.in32(2, at)), [0xffff_ff00, 0x00ff_ffff, 0]);
    assert_eq!([0x600, 0x604].map(|at| card.card.in32(2, at)), [8, 0x1e1e_1e1e]);
    assert_eq!(card.card.in32(2, 0x500) & 0xffff, 0xb0c5);
    let word = |index: u64, value: u16| {
        let _ = card.card.lock().unwrap().write(At { window: 2, offset: 0x500 + 2 * index }, &value.to_le_bytes());
    };
    [(1, 320), (2, 200), (3, 32), (4, 0x41)].into_iter().for_each(|(n, value)| word(n, value));
    assert_eq!(size(&card.draw()), (320, 200));
    assert_eq!(card.card.in8(2, 0x40c), 0x67);
    let _ = card.card.out8(2, 0x402, 0x63);
    assert_eq!(card.port(0x3cc), 0x63);
    assert_eq!([card.card.in8(6, 0), card.card.in8(6, 2), card.card.in8(6, 3)], [0x55, 3, 0xff]);
}

#[test]
fn registers_read_back_and_are_protected() {
    let card = Card::mode(&TEXT);
    card.out(0x3d4, 0x11);
    assert_eq!(card.port(0x3d5), 0x8e);
    card.crtc(0, 0x12);
    assert_eq!(card.port(0x3d5), 0x5f);
    card.crtc(7, 0);
    assert_eq!(card.port(0x3d5), 0x0f);
    // The monochrome address does not answer.
    assert_eq!(card.port(0x3b5), 0xff);
    card.out(0x3c2, 0x66);
    assert_eq!([card.port(0x3b5), card.port(0x3d5)], [0x0f, 0xff]);
    card.out(0x3c2, 0x67);
    // The palette reads back, component by component.
    card.out(0x3c7, 10);
    assert_eq!([card.port(0x3c7), card.port(0x3c9), card.port(0x3c9), card.port(0x3c9)], [3, 10, 20, 30]);
    assert_eq!([card.port(0x3c8), card.port(0x3c9)], [11, 11]);
    // Input status 1 has the attribute controller start with an index.
    card.port(0x3da);
    card.out(0x3c0, 0x32);
    card.port(0x3da);
    card.out(0x3c0, 0x31);
    assert_eq!(card.port(0x3c0), 0);
    card.out(0x3c0, 9);
    assert_eq!(card.port(0x3c1), 9);
}

#[test]
fn the_beam_moves_with_time() {
    let card = Card::mode(&TEXT);
    let (mut edges, mut last, mut hidden) = (0, false, 0);
    for _ in 0..100_000 {
        let status = card.port(0x3da);
        edges += u32::from(status & 8 != 0 && !last);
        last = status & 8 != 0;
        hidden += u32::from(status & 1);
        assert!(!last || status & 1 != 0);
        card.rig.advance(Duration::from_micros(10));
    }
    // A second: 70 pictures of 449 lines, of which 400 are seen for four fifths of their time.
    assert!((69..=71).contains(&edges), "{edges}");
    assert!((26_000..32_000).contains(&hidden), "{hidden}");
}

#[test]
fn video_memory_is_where_its_bar_is() {
    let card = Card::new();
    let (ports, bus) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
    let told = Arc::new(Mutex::new(0));
    let count = Arc::clone(&told);
    let pci = PciBus::with_memory(ports, Arc::clone(&bus), move || *count.lock().unwrap() += 1);
    let at = Bdf::root(2, 0);
    pci.add(at, Arc::clone(&card.card)).unwrap();
    let write = |offset, value: u32| _ = pci.config_write(at, offset, &value.to_le_bytes());
    write(0x10, u32::MAX);
    let mut bar = [0; 4];
    pci.config_read(at, 0x10, &mut bar);
    assert_eq!(u32::from_le_bytes(bar), 0xff00_0008);
    write(0x10, 0xe000_0000);
    assert!(card.memory.read(Gpa(0xe000_0000), &mut [0]).is_err());
    write(4, 2);
    card.memory.write(Gpa(0xe000_0000 + 0xff_ffff), &[0x42]).unwrap();
    assert_eq!(*told.lock().unwrap(), 1);
    write(0x10, 0xd000_0000);
    assert!(card.memory.read(Gpa(0xe000_0000), &mut [0]).is_err());
    assert_eq!(card.memory.read_array(Gpa(0xd000_0000 + 0xff_ffff)).unwrap(), [0x42]);
    // Over RAM there is RAM.
    let low = GuestMemory::with_stores(&[Region { start: Gpa(0), len: 32 << 20, kind: Kind::Ram }], &[Vga::store()]);
    let low = low.unwrap();
    let under = Vga::new(&low, &[], card.rig.clock()).unwrap();
    pci.add(Bdf::root(3, 0), Arc::clone(&under)).unwrap();
    let other = Bdf::root(3, 0);
    let _ = pci.config_write(other, 0x10, &(16u32 << 20).to_le_bytes());
    let _ = pci.config_write(other, 4, &2u16.to_le_bytes());
    low.write(Gpa(16 << 20), &[1]).unwrap();
    let mut byte = [1];
    low.store("video").unwrap().read(0, &mut byte).unwrap();
    assert_eq!(byte, [0]);
    // A reset takes it away.
    card.card.lock().unwrap().reset();
    pci.sync_all();
    assert!(card.memory.read(Gpa(0xd000_0000), &mut [0]).is_err());
    assert!(pci.remove(other));
}

/// The battery; and whatever the registers are, a picture of them is drawn.
#[test]
fn any_registers_give_a_picture() {
    let rig = Rig::new();
    let windows = &[
        (PORTS, 0x30),
        (PORTS, 0x30),
        (PORTS, 0x30),
        (DISPI, 3),
        (DISPI, 3),
        (LEGACY, 0x2_0000),
        (2, 0x700),
        (6, 0x900),
        (0, 0x100),
    ];
    Battery { windows, clock: Some(rig.clock()), forgets: true, seed: 30 }
        .run(|| Vga::new(&memory(), &[0x55, 0xaa], rig.clock()).unwrap());
    let mut random = Random::new(31);
    let mut frame = Frame::new();
    for _ in 0..40 {
        let card = Card::mode([&TEXT, &PLANAR, &BYTES, &PAIRS, &BITS][random.below(5) as usize]);
        for _ in 0..random.below(60) {
            let (port, count) = [(0x3c4, 5), (0x3ce, 9), (0x3d4, 25)][random.below(3) as usize];
            card.set(port, random.below(count) as u8, random.draw() as u8);
            card.attr(random.below(21) as u8, random.draw() as u8);
            card.write(random.below(0x2_0000), random.draw() as u8);
        }
        for _ in 0..random.below(3) {
            for index in [1, 2, 3, 4, 5, 6, 8, 9] {
                let small = [32, 64, 24, 1, 0, 0x41, 0xffff, 4][random.below(8) as usize];
                card.dispi(index, if random.below(4) == 0 { random.draw() as u16 } else { small });
            }
        }
        card.picture.draw(&mut frame);
        let _ = card.picture.text();
        assert_eq!(frame.pixels().len(), frame.width() as usize * frame.height() as usize);
    }
}

//! Pixels in the form that a client wants (RFC 6143, section 7.4).

/// The form of a pixel on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PixelFormat {
    bits: u8,
    depth: u8,
    big_endian: bool,
    true_colour: bool,
    max: [u16; 3],
    shift: [u8; 3],
}

/// Why a pixel format cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadFormat;

impl PixelFormat {
    /// The server's own: 32 bits, blue in the lowest byte, in the order of the host's bytes on x86.
    pub(super) const NATIVE: Self =
        Self { bits: 32, depth: 24, big_endian: false, true_colour: true, max: [255; 3], shift: [16, 8, 0] };

    /// Reads the 16 bytes of the wire.
    pub(super) fn parse(bytes: &[u8; 16]) -> Result<Self, BadFormat> {
        let [bits, depth, big, colour, r1, r0, g1, g0, b1, b0, rs, gs, bs, ..] = *bytes;
        let mut format = Self {
            bits,
            depth,
            big_endian: big != 0,
            true_colour: colour != 0,
            max: [u16::from_be_bytes([r1, r0]), u16::from_be_bytes([g1, g0]), u16::from_be_bytes([b1, b0])],
            shift: [rs, gs, bs],
        };
        if !format.true_colour {
            // A colour map has 256 entries, which are told to be red, green and blue in 3, 3 and 2 bits.
            if bits != 8 {
                return Err(BadFormat);
            }
            (format.max, format.shift) = ([7, 7, 3], [5, 2, 0]);
        }
        let fits = |(max, shift): (&u16, &u8)| {
            u64::from(*max).checked_shl(u32::from(*shift)).is_some_and(|top| *shift < 32 && top >> format.bits == 0)
        };
        let good = matches!(bits, 8 | 16 | 32) && format.max.iter().zip(&format.shift).all(fits);
        if good { Ok(format) } else { Err(BadFormat) }
    }

    /// The 16 bytes of the wire.
    pub(super) fn bytes(&self) -> [u8; 16] {
        let [[r1, r0], [g1, g0], [b1, b0]] = self.max.map(u16::to_be_bytes);
        let [rs, gs, bs] = self.shift;
        let (big, colour) = (u8::from(self.big_endian), u8::from(self.true_colour));
        [self.bits, self.depth, big, colour, r1, r0, g1, g0, b1, b0, rs, gs, bs, 0, 0, 0]
    }

    /// Whether the client has no colours but those of a map that it has to be told.
    pub(super) fn wants_map(&self) -> bool {
        !self.true_colour
    }
}

/// Translates pixels into the form that a client wants.
pub(super) struct Translator {
    /// What 0 to 255 of red, green and blue become.
    tables: [Box<[u32; 256]>; 3],
    /// The bytes of a pixel: how many, and whether the highest comes first.
    size: usize,
    big_endian: bool,
    /// The bytes of a compressed pixel: how many, and how far its value is shifted down before.
    compressed: (usize, u32),
    /// Nothing has to be done.
    native: bool,
}

impl Translator {
    pub(super) fn new(format: &PixelFormat) -> Self {
        let table = |channel: usize| {
            let mut table = Box::new([0; 256]);
            let (max, shift) = (u32::from(format.max[channel]), u32::from(format.shift[channel]));
            for (value, entry) in (0u32..).zip(table.iter_mut()) {
                *entry = ((value * max + 127) / 255) << shift;
            }
            table
        };
        let tables = [table(0), table(1), table(2)];
        let used = tables.iter().flat_map(|table| table.iter()).fold(0, |all, value| all | value);
        let size = usize::from(format.bits / 8);
        // RFC 6143, 7.7.5: a pixel of 32 bits whose colours fit into three of its bytes goes without the fourth.
        let short = size == 4 && format.true_colour && format.depth <= 24;
        let compressed = match used {
            0..=0x00ff_ffff if short => (3, 0),
            _ if short && used & 0xff == 0 => (3, 8),
            _ => (size, 0),
        };
        let native = *format == PixelFormat::NATIVE;
        Self { tables, size, big_endian: format.big_endian, compressed, native }
    }

    /// The value of a pixel, of which the host has red, green and blue in the three low bytes.
    pub(super) fn value(&self, pixel: u32) -> u32 {
        if self.native {
            return pixel & 0x00ff_ffff;
        }
        let [blue, green, red, _] = pixel.to_le_bytes();
        let [reds, greens, blues] = &self.tables;
        reds[usize::from(red)] | greens[usize::from(green)] | blues[usize::from(blue)]
    }

    /// Puts a pixel's value to the end of `out`.
    pub(super) fn put(&self, value: u32, out: &mut Vec<u8>) {
        put(value, self.size, self.big_endian, out);
    }

    /// Puts a pixel's value to the end of `out`, in its compressed form.
    pub(super) fn put_compressed(&self, value: u32, out: &mut Vec<u8>) {
        let (size, shift) = self.compressed;
        put(value >> shift, size, self.big_endian, out);
    }

    /// The bytes of a compressed pixel.
    pub(super) fn compressed_size(&self) -> usize {
        self.compressed.0
    }

    /// The bytes of a pixel.
    pub(super) fn size(&self) -> usize {
        self.size
    }
}

fn put(value: u32, size: usize, big_endian: bool, out: &mut Vec<u8>) {
    let (big, little) = (value.to_be_bytes(), value.to_le_bytes());
    out.extend_from_slice(if big_endian { &big[4 - size..] } else { &little[..size] });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn format(bits: u8, depth: u8, big: u8, max: [u16; 3], shift: [u8; 3]) -> Result<PixelFormat, BadFormat> {
        let [[a, b], [c, d], [e, f]] = max.map(u16::to_be_bytes);
        let [r, g, l] = shift;
        PixelFormat::parse(&[bits, depth, big, 1, a, b, c, d, e, f, r, g, l, 0, 0, 0])
    }

    #[test]
    fn formats_are_checked() {
        assert_eq!(PixelFormat::parse(&PixelFormat::NATIVE.bytes()), Ok(PixelFormat::NATIVE));
        assert!(format(16, 16, 0, [31, 63, 31], [11, 5, 0]).is_ok());
        for (bits, max, shift) in [
            (24, [255; 3], [16, 8, 0]),
            (0, [0; 3], [0; 3]),
            (8, [7, 7, 3], [6, 2, 0]),
            (32, [255; 3], [32, 8, 0]),
            (32, [255; 3], [255, 8, 0]),
            (32, [u16::MAX; 3], [17, 8, 0]),
        ] {
            assert_eq!(format(bits, 24, 0, max, shift), Err(BadFormat), "{bits} {max:?} {shift:?}");
        }
        assert_eq!(PixelFormat::parse(&[32, 24, 0, 0, 0, 255, 0, 255, 0, 255, 0, 0, 0, 0, 0, 0]), Err(BadFormat));
        let map = PixelFormat::parse(&[8, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        assert!(map.wants_map());
    }

    #[test]
    fn pixels_are_translated() {
        let bytes = |format: PixelFormat, pixel: u32| {
            let translator = Translator::new(&format);
            let (mut whole, mut short) = (Vec::new(), Vec::new());
            translator.put(translator.value(pixel), &mut whole);
            translator.put_compressed(translator.value(pixel), &mut short);
            (whole, short)
        };
        assert_eq!(bytes(PixelFormat::NATIVE, 0xff12_3456), (vec![0x56, 0x34, 0x12, 0], vec![0x56, 0x34, 0x12]));
        let high = format(32, 24, 1, [255; 3], [24, 16, 8]).unwrap();
        assert_eq!(bytes(high, 0x12_3456), (vec![0x12, 0x34, 0x56, 0], vec![0x12, 0x34, 0x56]));
        let wide = format(32, 30, 0, [1023; 3], [20, 10, 0]).unwrap();
        assert_eq!(bytes(wide, 0xff_ffff), (vec![255, 255, 255, 0x3f], vec![255, 255, 255, 0x3f]));
        let small = format(16, 16, 0, [31, 63, 31], [11, 5, 0]).unwrap();
        assert_eq!(bytes(small, 0xff_0000), (vec![0, 0xf8], vec![0, 0xf8]));
    }
}

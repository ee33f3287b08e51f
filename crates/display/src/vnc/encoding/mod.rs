//! How rectangles are written (RFC 6143, section 7.7).

mod hextile;
mod raw;
#[cfg(test)]
pub(super) mod reader;
mod zrle;

use super::pixel::Translator;
use super::rect::Rect;

pub(super) use zrle::Zrle;

/// The pixels of a picture, row by row.
#[derive(Clone, Copy)]
pub(super) struct Pixels<'a> {
    /// All of them.
    pub(super) all: &'a [u32],
    /// How many make a row.
    pub(super) width: usize,
}

impl<'a> Pixels<'a> {
    /// The rows of the part `rect`, which lies within the picture.
    pub(super) fn rows(self, rect: Rect) -> impl Iterator<Item = &'a [u32]> {
        let (x, width) = (usize::from(rect.x), usize::from(rect.width));
        let rows = self.all.chunks_exact(self.width.max(1)).skip(usize::from(rect.y)).take(usize::from(rect.height));
        rows.map(move |row| row.get(x..x + width).unwrap_or_default())
    }
}

/// The encodings that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Pixel by pixel.
    Raw,
    /// Tiles of 16 by 16 pixels, of which plain ones are short.
    Hextile,
    /// Tiles of 64 by 64 pixels with palettes and runs, through zlib.
    Zrle,
}

impl Encoding {
    /// The encoding of this number, if it is one that is written.
    pub(super) fn of(number: i32) -> Option<Self> {
        match number {
            0 => Some(Self::Raw),
            5 => Some(Self::Hextile),
            16 => Some(Self::Zrle),
            _ => None,
        }
    }

    /// Its number.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Raw => 0,
            Self::Hextile => 5,
            Self::Zrle => 16,
        }
    }
}

/// What is kept between two rectangles for one client.
#[derive(Default)]
pub(super) struct Encoder {
    zrle: Zrle,
    /// Room for the pixels of one tile.
    tile: Vec<u32>,
}

impl Encoder {
    /// Puts the pixels of `rect` to the end of `out`, without the rectangle's head.
    pub(super) fn put(&mut self, encoding: Encoding, to: &Translator, from: Pixels<'_>, rect: Rect, out: &mut Vec<u8>) {
        match encoding {
            Encoding::Raw => raw::put(to, from, rect, out),
            Encoding::Hextile => hextile::put(to, from, rect, &mut self.tile, out),
            Encoding::Zrle => self.zrle.put(to, from, rect, &mut self.tile, out),
        }
    }
}

/// Takes the values of the pixels of `tile` into `values`.
fn values(to: &Translator, from: Pixels<'_>, tile: Rect, values: &mut Vec<u32>) {
    values.clear();
    from.rows(tile).for_each(|row| values.extend(row.iter().map(|pixel| to.value(*pixel))));
}

/// Few colours, and which pixel has which.
struct Palette {
    colours: Vec<u32>,
}

impl Palette {
    /// The colours of `values` in the order in which they come; `None` when there are more than `most`.
    fn of(values: &[u32], most: usize) -> Option<Self> {
        let mut colours: Vec<u32> = Vec::new();
        let mut last = None;
        for value in values {
            if last != Some(*value) {
                last = Some(*value);
                if !colours.contains(value) {
                    if colours.len() == most {
                        return None;
                    }
                    colours.push(*value);
                }
            }
        }
        Some(Self { colours })
    }

    fn index(&self, value: u32) -> u8 {
        // There are at most 127 of them.
        self.colours.iter().position(|colour| *colour == value).unwrap_or(0) as u8
    }
}

/// The runs of equal values: the value and its length.
fn runs(values: &[u32]) -> impl Iterator<Item = (u32, usize)> {
    values.chunk_by(|a, b| a == b).filter_map(|run| Some((*run.first()?, run.len())))
}

#[cfg(test)]
mod tests {
    use super::super::pixel::PixelFormat;
    use super::reader::Reader;
    use super::*;

    fn noise(seed: u32) -> impl FnMut() -> u32 {
        let mut state = seed;
        move || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state
        }
    }

    /// A picture of `colours` colours in runs of about `run` pixels.
    fn picture(width: usize, height: usize, colours: u32, run: u32) -> Vec<u32> {
        let mut next = noise(colours * 31 + run);
        let mut all = Vec::new();
        while all.len() < width * height {
            let colour = (next() % colours).wrapping_mul(0x0107_0b0d) & 0xff_ffff;
            let len = 1 + next() % run;
            all.extend((0..len).map(|_| colour));
        }
        all.truncate(width * height);
        all
    }

    #[test]
    fn every_encoding_gives_back_the_picture() {
        let formats = [
            PixelFormat::NATIVE,
            PixelFormat::parse(&[32, 24, 1, 1, 0, 255, 0, 255, 0, 255, 24, 16, 8, 0, 0, 0]).unwrap(),
            PixelFormat::parse(&[16, 16, 0, 1, 0, 31, 0, 63, 0, 31, 11, 5, 0, 0, 0, 0]).unwrap(),
            PixelFormat::parse(&[8, 8, 0, 1, 0, 7, 0, 7, 0, 3, 5, 2, 0, 0, 0, 0]).unwrap(),
        ];
        for format in formats {
            let to = Translator::new(&format);
            for encoding in [Encoding::Raw, Encoding::Hextile, Encoding::Zrle] {
                let mut encoder = Encoder::default();
                let mut reader = Reader::new(&to);
                for (colours, run) in [
                    (1, 9),
                    (2, 1),
                    (2, 300),
                    (3, 4),
                    (4, 40),
                    (9, 2),
                    (16, 3),
                    (17, 2),
                    (60, 30),
                    (127, 9),
                    (1 << 20, 1),
                ] {
                    for (width, height) in [(1, 1), (16, 16), (64, 64), (65, 33), (130, 70), (260, 230)] {
                        let all = picture(width + 5, height + 3, colours, run);
                        let from = Pixels { all: &all, width: width + 5 };
                        let rect = Rect { x: 3, y: 2, width: width as u16, height: height as u16 };
                        let mut out = Vec::new();
                        encoder.put(encoding, &to, from, rect, &mut out);
                        let read = reader.read(encoding, &out, width, height);
                        let mut expected = Vec::new();
                        values(&to, from, rect, &mut expected);
                        assert!(read == expected, "{encoding:?} {format:?} {colours} {run} {width} {height}");
                        assert!(out.len() <= width * height * to.size() + 64 + width * height / 16, "{encoding:?}");
                    }
                }
            }
        }
    }
}

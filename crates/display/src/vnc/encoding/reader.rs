//! The other side, for tests: a client's decoders, written from the specification.

use flate2::{Decompress, FlushDecompress};

use super::super::pixel::Translator;
use super::super::rect::Rect;
use super::Encoding;

/// A client's decoders.
pub(crate) struct Reader {
    size: usize,
    compressed: usize,
    zlib: Decompress,
    /// The value of a compressed pixel's bytes, as the translator has put them.
    big: bool,
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }
}

impl Reader {
    pub(crate) fn new(to: &Translator) -> Self {
        let mut probe = Vec::new();
        to.put(1, &mut probe);
        let big = probe.len() > 1 && probe.first() == Some(&0);
        Self { size: to.size(), compressed: to.compressed_size(), zlib: Decompress::new(true), big }
    }

    fn value(&self, bytes: &[u8]) -> u32 {
        let shift_up = self.size == 4 && bytes.len() == 3 && self.big;
        let fold = |all: u32, byte: &u8| all << 8 | u32::from(*byte);
        let value = if self.big { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) };
        // The only format of the tests with colours in the upper bytes has the highest byte first.
        if shift_up { value << 8 } else { value }
    }

    /// The values of the pixels of one rectangle, which is all of `data`.
    pub(crate) fn read(&mut self, encoding: Encoding, data: &[u8], width: usize, height: usize) -> Vec<u32> {
        let rect = Rect { x: 0, y: 0, width: width as u16, height: height as u16 };
        let mut all = vec![0; width * height];
        match encoding {
            Encoding::Raw => {
                assert_eq!(data.len(), all.len() * self.size);
                all = data.chunks(self.size).map(|bytes| self.value(bytes)).collect();
            }
            Encoding::Hextile => self.hextile(Bytes(data), rect, &mut all),
            Encoding::Zrle => {
                let mut data = Bytes(data);
                let len = u32::from_be_bytes(data.take(4).try_into().unwrap()) as usize;
                assert_eq!(data.0.len(), len);
                let mut plain = Vec::with_capacity(width * height * 5 + 1000);
                let mut rest = data.0;
                loop {
                    let (read, written) = (self.zlib.total_in(), plain.len());
                    self.zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync).unwrap();
                    let taken = (self.zlib.total_in() - read) as usize;
                    rest = &rest[taken..];
                    if taken == 0 && plain.len() == written {
                        break;
                    }
                    plain.reserve(4096);
                }
                assert!(rest.is_empty());
                self.zrle(Bytes(&plain), rect, &mut all);
            }
        }
        all
    }

    fn hextile(&self, mut data: Bytes<'_>, rect: Rect, all: &mut [u32]) {
        let (mut back, mut fore) = (0, 0);
        for part in rect.tiles(16) {
            let flags = data.byte();
            if flags & 1 != 0 {
                fill(all, rect, part, |_| self.value(data.take(self.size)));
                continue;
            }
            if flags & 2 != 0 {
                back = self.value(data.take(self.size));
            }
            if flags & 4 != 0 {
                fore = self.value(data.take(self.size));
            }
            fill(all, rect, part, |_| back);
            let count = if flags & 8 != 0 { data.byte() } else { 0 };
            for _ in 0..count {
                let colour = if flags & 16 != 0 { self.value(data.take(self.size)) } else { fore };
                let (at, size) = (data.byte(), data.byte());
                let (x, y) = (part.x + u16::from(at >> 4), part.y + u16::from(at & 15));
                let (width, height) = (u16::from(size >> 4) + 1, u16::from(size & 15) + 1);
                fill(all, rect, Rect { x, y, width, height }, |_| colour);
            }
        }
        assert!(data.0.is_empty());
    }

    fn zrle(&self, mut data: Bytes<'_>, rect: Rect, all: &mut [u32]) {
        for part in rect.tiles(64) {
            let kind = data.byte();
            let area = part.area();
            let mut values = Vec::new();
            let length = |data: &mut Bytes<'_>| {
                let mut len = 1;
                loop {
                    let byte = data.byte();
                    len += usize::from(byte);
                    if byte != 255 {
                        return len;
                    }
                }
            };
            match kind {
                0 => {
                    values = data.take(area * self.compressed).chunks(self.compressed).map(|b| self.value(b)).collect()
                }
                1 => values = vec![self.value(data.take(self.compressed)); area],
                2..=16 => {
                    let palette: Vec<_> = (0..kind).map(|_| self.value(data.take(self.compressed))).collect();
                    let bits = if kind == 2 {
                        1
                    } else if kind <= 4 {
                        2
                    } else {
                        4
                    };
                    for _ in 0..part.height {
                        let row = data.take((usize::from(part.width) * bits).div_ceil(8));
                        for x in 0..usize::from(part.width) {
                            let byte = row[x * bits / 8] >> (8 - bits - x * bits % 8);
                            values.push(palette[usize::from(byte) & ((1 << bits) - 1)]);
                        }
                    }
                }
                128 => {
                    while values.len() < area {
                        let value = self.value(data.take(self.compressed));
                        values.extend(vec![value; length(&mut data)]);
                    }
                }
                130.. => {
                    let palette: Vec<_> = (128..kind).map(|_| self.value(data.take(self.compressed))).collect();
                    while values.len() < area {
                        let index = data.byte();
                        let len = if index & 0x80 != 0 { length(&mut data) } else { 1 };
                        values.extend(vec![palette[usize::from(index & 0x7f)]; len]);
                    }
                }
                _ => panic!("no such tile: {kind}"),
            }
            assert_eq!(values.len(), area);
            fill(all, rect, part, |at| values[at]);
        }
        assert!(data.0.is_empty());
    }
}

fn fill(all: &mut [u32], rect: Rect, part: Rect, mut value: impl FnMut(usize) -> u32) {
    let mut at = 0;
    for y in part.y..part.y + part.height {
        for x in part.x..part.x + part.width {
            all[usize::from(y) * usize::from(rect.width) + usize::from(x)] = value(at);
            at += 1;
        }
    }
}

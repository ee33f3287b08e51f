//! ZRLE: tiles of 64 by 64 pixels, through zlib (RFC 6143, section 7.7.6).

use flate2::{Compress, Compression, FlushCompress};

use super::super::pixel::Translator;
use super::super::rect::Rect;
use super::{Palette, Pixels, runs, values};

/// The most colours of a palette whose indices are packed, and of one with runs.
const PACKED: usize = 16;
const WITH_RUNS: usize = 127;

/// Room for what the compressor has held back so far.
const ROOM: usize = 128 << 10;
/// The end of a flush: an empty block (RFC 1951, section 3.2.4).
const FLUSHED: [u8; 4] = [0, 0, 0xff, 0xff];

/// The stream of one client, which goes on from one rectangle to the next.
pub(in super::super) struct Zrle {
    zlib: Compress,
    /// What is to be compressed.
    plain: Vec<u8>,
}

impl Default for Zrle {
    fn default() -> Self {
        Self { zlib: Compress::new(Compression::fast(), true), plain: Vec::new() }
    }
}

impl Zrle {
    pub(super) fn put(
        &mut self,
        to: &Translator,
        from: Pixels<'_>,
        rect: Rect,
        tile: &mut Vec<u32>,
        out: &mut Vec<u8>,
    ) {
        let at = out.len();
        out.extend([0; 4]);
        for part in rect.tiles(64) {
            values(to, from, part, tile);
            put_tile(to, usize::from(part.width), tile, &mut self.plain);
            if self.plain.len() > 1 << 16 {
                self.compress(FlushCompress::None, out);
            }
        }
        self.compress(FlushCompress::Sync, out);
        let len = u32::try_from(out.len() - at - 4).unwrap_or(u32::MAX);
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&len.to_be_bytes());
        }
    }

    /// Compresses what is waiting. With a flush, all of it is in `out` then, up to a whole byte.
    fn compress(&mut self, flush: FlushCompress, out: &mut Vec<u8>) {
        let mut taken = 0;
        loop {
            out.reserve(self.plain.len() + ROOM);
            let (read, written) = (self.zlib.total_in(), out.len());
            let rest = self.plain.get(taken..).unwrap_or_default();
            // Compressing fails only when it is asked for what cannot be, which it is not.
            if self.zlib.compress_vec(rest, out, flush).is_err() {
                break;
            }
            let more = usize::try_from(self.zlib.total_in() - read).unwrap_or(rest.len());
            taken += more;
            let flushed = matches!(flush, FlushCompress::None) || out.ends_with(&FLUSHED);
            let at_rest = more == 0 && out.len() == written;
            if at_rest || taken >= self.plain.len() && flushed {
                break;
            }
        }
        self.plain.clear();
    }
}

/// Writes one tile in the form that is the shortest.
fn put_tile(to: &Translator, width: usize, tile: &[u32], out: &mut Vec<u8>) {
    let size = to.compressed_size();
    let palette = Palette::of(tile, WITH_RUNS);
    let run_bytes = |pixel: usize| runs(tile).map(|(_, len)| pixel + 1 + (len - 1) / 255).sum::<usize>();
    let index_bytes = || runs(tile).map(|(_, len)| if len == 1 { 1 } else { 2 + (len - 1) / 255 }).sum::<usize>();
    let mut best = (tile.len() * size, Form::Raw);
    let mut offer = |bytes: usize, form: Form| {
        if bytes < best.0 {
            best = (bytes, form);
        }
    };
    if let Some(palette) = &palette {
        let colours = palette.colours.len();
        if colours <= PACKED {
            let rows = tile.len() / width.max(1);
            offer(colours * size + (width * index_bits(colours)).div_ceil(8) * rows, Form::Packed);
        }
        offer(colours * size + index_bytes(), Form::PaletteRuns);
        // Two colours at least make a palette: with one, the number says that the tile is plain.
        if colours == 1 {
            best = (0, Form::Packed);
        }
    } else {
        offer(run_bytes(size), Form::Runs);
    }
    match (best.1, &palette) {
        (Form::Packed, Some(palette)) => put_packed(to, width, tile, palette, out),
        (Form::PaletteRuns, Some(palette)) => put_palette_runs(to, tile, palette, out),
        (Form::Runs, _) => {
            out.push(128);
            for (value, len) in runs(tile) {
                to.put_compressed(value, out);
                put_length(len, out);
            }
        }
        _ => {
            out.push(0);
            tile.iter().for_each(|value| to.put_compressed(*value, out));
        }
    }
}

#[derive(Clone, Copy)]
enum Form {
    Raw,
    Packed,
    PaletteRuns,
    Runs,
}

/// The bits of an index into a packed palette.
fn index_bits(colours: usize) -> usize {
    match colours {
        0 | 1 => 0,
        2 => 1,
        3 | 4 => 2,
        _ => 4,
    }
}

fn put_packed(to: &Translator, width: usize, tile: &[u32], palette: &Palette, out: &mut Vec<u8>) {
    let colours = palette.colours.len();
    out.push(colours as u8);
    palette.colours.iter().for_each(|colour| to.put_compressed(*colour, out));
    let bits = index_bits(colours);
    if bits == 0 {
        return;
    }
    for row in tile.chunks(width.max(1)) {
        for part in row.chunks(8 / bits) {
            let mut byte = 0;
            for (place, value) in part.iter().enumerate() {
                byte |= palette.index(*value) << (8 - bits * (place + 1));
            }
            out.push(byte);
        }
    }
}

fn put_palette_runs(to: &Translator, tile: &[u32], palette: &Palette, out: &mut Vec<u8>) {
    out.push(128 + palette.colours.len() as u8);
    palette.colours.iter().for_each(|colour| to.put_compressed(*colour, out));
    for (value, len) in runs(tile) {
        let index = palette.index(value);
        if len == 1 {
            out.push(index);
        } else {
            out.push(index | 0x80);
            put_length(len, out);
        }
    }
}

/// The length of a run: bytes of 255, and what is left over.
fn put_length(len: usize, out: &mut Vec<u8>) {
    let more = len - 1;
    out.extend(std::iter::repeat_n(255, more / 255));
    out.push((more % 255) as u8);
}

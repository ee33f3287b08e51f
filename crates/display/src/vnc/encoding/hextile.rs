//! Hextile: tiles of 16 by 16 pixels (RFC 6143, section 7.7.4).

use super::super::pixel::Translator;
use super::super::rect::Rect;
use super::{Palette, Pixels, values};

const RAW: u8 = 1;
const BACKGROUND: u8 = 1 << 1;
const FOREGROUND: u8 = 1 << 2;
const SUBRECTS: u8 = 1 << 3;
const COLOURED: u8 = 1 << 4;

/// More colours than this are better sent raw.
const MOST_COLOURS: usize = 16;

pub(super) fn put(to: &Translator, from: Pixels<'_>, rect: Rect, tile: &mut Vec<u32>, out: &mut Vec<u8>) {
    // The colours of the tile before hold on, unless that was a raw one.
    let (mut background, mut foreground) = (None, None);
    for part in rect.tiles(16) {
        values(to, from, part, tile);
        let start = out.len();
        let tidy = Palette::of(tile, MOST_COLOURS).is_some_and(|palette| {
            put_tile(to, part, tile, &palette, (&mut background, &mut foreground), out);
            out.len() - start < 1 + tile.len() * to.size()
        });
        if !tidy {
            out.truncate(start);
            out.push(RAW);
            // The rectangles have been taken out of it.
            values(to, from, part, tile);
            tile.iter().for_each(|value| to.put(*value, out));
            (background, foreground) = (None, None);
        }
    }
}

fn put_tile(
    to: &Translator,
    part: Rect,
    tile: &mut [u32],
    palette: &Palette,
    (background, foreground): (&mut Option<u32>, &mut Option<u32>),
    out: &mut Vec<u8>,
) {
    let count = |colour: &&u32| tile.iter().filter(|value| value == colour).count();
    let Some(ground) = palette.colours.iter().max_by_key(count).copied() else { return };
    let head = out.len();
    out.push(0);
    let mut flags = 0;
    if *background != Some(ground) {
        flags |= BACKGROUND;
        to.put(ground, out);
        *background = Some(ground);
    }
    let coloured = palette.colours.len() > 2;
    let other = palette.colours.iter().find(|colour| **colour != ground).copied();
    if let Some(other) = other {
        flags |= SUBRECTS;
        if coloured {
            flags |= COLOURED;
            // With coloured rectangles the foreground is no longer known.
            *foreground = None;
        } else if *foreground != Some(other) {
            flags |= FOREGROUND;
            to.put(other, out);
            *foreground = Some(other);
        }
        let at = out.len();
        out.push(0);
        let mut rects: u8 = 0;
        take_rects(tile, usize::from(part.width), ground, |colour, x, y, width, height| {
            // A tile has at most 255 rectangles: its first pixel's colour may be the ground, or they are larger than one.
            rects = rects.saturating_add(1);
            if coloured {
                to.put(colour, out);
            }
            out.push(x << 4 | y);
            out.push((width - 1) << 4 | (height - 1));
        });
        if let Some(place) = out.get_mut(at) {
            *place = rects;
        }
    }
    if let Some(place) = out.get_mut(head) {
        *place = flags;
    }
}

/// Takes one rectangle of a colour after the other out of the tile, until all of it is ground.
fn take_rects(tile: &mut [u32], width: usize, ground: u32, mut take: impl FnMut(u32, u8, u8, u8, u8)) {
    let height = tile.len() / width.max(1);
    for y in 0..height {
        for x in 0..width {
            let at = |x: usize, y: usize| y * width + x;
            let colour = tile[at(x, y)];
            if colour == ground {
                continue;
            }
            let wide = (x..width).take_while(|x| tile[at(*x, y)] == colour).count();
            let same = |y: &usize| (x..x + wide).all(|x| tile[at(x, *y)] == colour);
            let high = (y..height).take_while(same).count();
            for row in y..y + high {
                tile[at(x, row)..at(x + wide, row)].fill(ground);
            }
            // A tile is at most 16 pixels wide and high.
            take(colour, x as u8, y as u8, wide as u8, high as u8);
        }
    }
}

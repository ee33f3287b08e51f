//! A picture in tiles, row by row: which of them have changed, and how they are sent together.

use super::rect::Rect;

/// The size of a tile.
const TILE_WIDTH: u16 = 32;
const TILE_HEIGHT: u16 = 16;

fn columns(width: u16) -> usize {
    usize::from(width.div_ceil(TILE_WIDTH))
}

/// How many tiles a picture of this size has.
pub(super) fn tile_count(width: u16, height: u16) -> usize {
    columns(width) * usize::from(height.div_ceil(TILE_HEIGHT))
}

/// Joins parts of one tile's height that lie below each other and are equally wide.
pub(super) fn joined(parts: Vec<Rect>) -> Vec<Rect> {
    let mut all: Vec<Rect> = Vec::with_capacity(parts.len());
    // Where in `all` the parts begin that end where this row begins.
    let mut open = 0;
    let mut row = None;
    for part in parts {
        if row != Some(part.y) {
            row = Some(part.y);
            while all.get(open).is_some_and(|above| above.y + above.height < part.y) {
                open += 1;
            }
        }
        let fits =
            |above: &&mut Rect| above.y + above.height == part.y && above.x == part.x && above.width == part.width;
        match all.iter_mut().skip(open).find(fits) {
            Some(above) => above.height += part.height,
            None => all.push(part),
        }
    }
    all
}

/// The least rectangle around both.
pub(super) fn around(one: Rect, other: Rect) -> Rect {
    let (x, y) = (one.x.min(other.x), one.y.min(other.y));
    let right = one.x.saturating_add(one.width).max(other.x.saturating_add(other.width));
    let bottom = one.y.saturating_add(one.height).max(other.y.saturating_add(other.height));
    Rect { x, y, width: right - x, height: bottom - y }
}

/// The numbers of the tiles that `rect` touches, in a picture of this width.
pub(super) fn tiles_of(rect: Rect, width: u16) -> impl Iterator<Item = usize> {
    let span = |at: u16, len: u16, tile: u16| {
        let (at, end) = (usize::from(at), usize::from(at) + usize::from(len));
        if len == 0 { 0..0 } else { at / usize::from(tile)..end.div_ceil(usize::from(tile)) }
    };
    let across = span(rect.x, rect.width, TILE_WIDTH);
    let columns = columns(width);
    span(rect.y, rect.height, TILE_HEIGHT).flat_map(move |y| across.clone().map(move |x| y * columns + x))
}

/// The place of a tile in a picture of this size.
pub(super) fn tile_rect(tile: usize, width: u16, height: u16) -> Rect {
    let columns = columns(width).max(1);
    // A tile's number comes from its place, so that fits.
    let (x, y) = ((tile % columns) as u16 * TILE_WIDTH, (tile / columns) as u16 * TILE_HEIGHT);
    Rect { x, y, width: TILE_WIDTH, height: TILE_HEIGHT }.within(width, height)
}

/// Copies a tile; returns whether it was another one before.
pub(super) fn copy_tile(from: &[u32], to: &mut [u32], (width, height): (u16, u16), tile: usize) -> bool {
    let rect = tile_rect(tile, width, height);
    let (width, x) = (usize::from(width), usize::from(rect.x));
    let mut changed = false;
    for y in usize::from(rect.y)..usize::from(rect.y) + usize::from(rect.height) {
        let at = y * width + x..y * width + x + usize::from(rect.width);
        if let (Some(old), Some(new)) = (to.get_mut(at.clone()), from.get(at))
            && old != new
        {
            old.copy_from_slice(new);
            changed = true;
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u16, y: u16, width: u16, height: u16) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn parts_are_joined() {
        let parts = vec![
            rect(0, 0, 32, 16),
            rect(64, 0, 32, 16),
            rect(0, 16, 32, 16),
            rect(64, 16, 64, 16),
            rect(0, 48, 32, 16),
        ];
        let expected = [rect(0, 0, 32, 32), rect(64, 0, 32, 16), rect(64, 16, 64, 16), rect(0, 48, 32, 16)];
        assert_eq!(joined(parts), expected);
    }

    #[test]
    fn tiles_cover_the_picture() {
        let (width, height) = (100, 50);
        let all: Vec<_> = tiles_of(rect(0, 0, width, height), width).collect();
        assert_eq!(all, (0..tile_count(width, height)).collect::<Vec<_>>());
        let area: usize = all.iter().map(|tile| tile_rect(*tile, width, height).area()).sum();
        assert_eq!(area, 5000);
        assert_eq!(tiles_of(rect(31, 15, 2, 2), width).collect::<Vec<_>>(), [0, 1, 4, 5]);
        assert_eq!(tiles_of(rect(5, 5, 0, 9), width).count(), 0);
    }
}

//! Parts of a picture.

/// A part of a picture, in pixels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Rect {
    pub(super) x: u16,
    pub(super) y: u16,
    pub(super) width: u16,
    pub(super) height: u16,
}

impl Rect {
    /// How many pixels it has.
    pub(super) fn area(self) -> usize {
        usize::from(self.width) * usize::from(self.height)
    }

    /// What of it lies within a picture of this size.
    pub(super) fn within(self, width: u16, height: u16) -> Self {
        let (x, y) = (self.x.min(width), self.y.min(height));
        Self { x, y, width: self.width.min(width - x), height: self.height.min(height - y) }
    }

    /// Its tiles of `side` pixels, from left to right and from top to bottom.
    pub(super) fn tiles(self, side: u16) -> impl Iterator<Item = Self> {
        let steps = move |len: u16| (0..len).step_by(usize::from(side));
        steps(self.height).flat_map(move |y| {
            steps(self.width).map(move |x| Self {
                x: self.x + x,
                y: self.y + y,
                width: side.min(self.width - x),
                height: side.min(self.height - y),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_within() {
        let part = |x, y, width, height| Rect { x, y, width, height };
        assert_eq!(part(5, 5, 65535, 65535).within(20, 10), part(5, 5, 15, 5));
        assert_eq!(part(65535, 65535, 65535, 65535).within(20, 10).area(), 0);
        let tiles: Vec<_> = part(1, 1, 17, 16).tiles(16).collect();
        assert_eq!(tiles, [part(1, 1, 16, 16), part(17, 1, 1, 16)]);
    }
}

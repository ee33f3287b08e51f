//! What is seen on a screen at one moment, and what of it has changed.

/// A part of a screen, in pixels from its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Rect {
    /// The first column.
    pub x: u32,
    /// The first row.
    pub y: u32,
    /// The number of columns.
    pub width: u32,
    /// The number of rows.
    pub height: u32,
}

impl Rect {
    /// Whether it holds no pixel.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.width == 0 || self.height == 0
    }

    /// The least rectangle that holds both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        if self.is_empty() {
            return *other;
        }
        if other.is_empty() {
            return *self;
        }
        let (x, y) = (self.x.min(other.x), self.y.min(other.y));
        let right = self.x.saturating_add(self.width).max(other.x.saturating_add(other.width));
        let bottom = self.y.saturating_add(self.height).max(other.y.saturating_add(other.height));
        Self { x, y, width: right - x, height: bottom - y }
    }
}

/// A screen's pixels. Who draws a picture brings a frame up to date row by row, and the frame notes what differs from
/// what it held before: so each viewer that has a frame of its own learns what has changed since *its* last look.
///
/// A pixel is XRGB8888: blue in bits 0 to 7, green in 8 to 15, red in 16 to 23; bits 24 to 31 are zero.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    width: u32,
    height: u32,
    pixels: Vec<u32>,
    damage: Vec<Rect>,
}

impl Frame {
    /// The widest and the highest frame, in pixels.
    pub const MOST: u32 = 16384;

    /// A frame without pixels: the first drawing gives it its size.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The number of columns.
    #[must_use]
    pub fn width(&self) -> u32 {
        self.width
    }

    /// The number of rows.
    #[must_use]
    pub fn height(&self) -> u32 {
        self.height
    }

    /// The distance between two rows in [`Frame::pixels`], in pixels.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.width as usize
    }

    /// All pixels, row by row.
    #[must_use]
    pub fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// The pixels of row `y`; none beyond the last one.
    #[must_use]
    pub fn row(&self, y: u32) -> &[u32] {
        let start = y as usize * self.stride();
        self.pixels.get(start..start.saturating_add(self.stride())).unwrap_or_default()
    }

    /// The whole frame.
    #[must_use]
    pub fn bounds(&self) -> Rect {
        Rect { x: 0, y: 0, width: self.width, height: self.height }
    }

    /// What has changed since [`Frame::take_damage`] was last called, from top to bottom, without overlaps. After a change
    /// of the size, all of it.
    #[must_use]
    pub fn damage(&self) -> &[Rect] {
        &self.damage
    }

    /// As [`Frame::damage`], which is then empty.
    pub fn take_damage(&mut self) -> Vec<Rect> {
        std::mem::take(&mut self.damage)
    }

    /// Gives it this size, at most [`Frame::MOST`] each way. Another one than it has leaves it black and damages all.
    pub fn resize(&mut self, width: u32, height: u32) {
        let (width, height) = (width.min(Self::MOST), height.min(Self::MOST));
        if (width, height) == (self.width, self.height) {
            return;
        }
        (self.width, self.height) = (width, height);
        self.pixels.clear();
        self.pixels.resize(width as usize * height as usize, 0);
        self.damage = vec![self.bounds()];
    }

    /// Draws row `y` from the left. What is beyond the frame is left out, what is missing stays as it is.
    pub fn set_row(&mut self, y: u32, row: &[u32]) {
        let start = y as usize * self.stride();
        let Some(old) = self.pixels.get_mut(start..start + self.width as usize) else { return };
        let len = old.len().min(row.len());
        let (Some(old), Some(new)) = (old.get_mut(..len), row.get(..len)) else { return };
        if old == new {
            return;
        }
        let differs = |(a, b): (&u32, &u32)| a != b;
        let first = old.iter().zip(new).position(differs).unwrap_or(0);
        let last = old.iter().zip(new).rposition(differs).unwrap_or(0);
        old.copy_from_slice(new);
        self.note(Rect { x: first as u32, y, width: (last - first) as u32 + 1, height: 1 });
    }

    /// Adds what differs in one row.
    fn note(&mut self, rect: Rect) {
        let (top, bottom) = (rect.y, rect.y + rect.height);
        // A drawing goes from top to bottom: mostly the last rectangle ends here. What is damaged already is not new.
        let touching = |old: &&mut Rect| old.y <= bottom && top <= old.y + old.height;
        match self.damage.iter_mut().rev().find(touching) {
            Some(old) => *old = old.union(&rect),
            None => {
                let at = self.damage.partition_point(|old| old.y < rect.y);
                self.damage.insert(at, rect);
                return;
            }
        }
        // It may have grown into its neighbours.
        self.damage.dedup_by(|next, one| {
            let touch = next.y <= one.y + one.height;
            if touch {
                *one = one.union(next);
            }
            touch
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: u32, y: u32, width: u32, height: u32) -> Rect {
        Rect { x, y, width, height }
    }

    #[test]
    fn damage_is_what_differs() {
        let mut frame = Frame::new();
        frame.resize(8, 6);
        assert_eq!(frame.take_damage(), [rect(0, 0, 8, 6)]);
        frame.resize(8, 6);
        frame.set_row(0, &[0; 8]);
        assert!(frame.damage().is_empty());
        frame.set_row(1, &[0, 0, 1, 0, 1]);
        frame.set_row(2, &[0, 7]);
        frame.set_row(5, &[0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(frame.damage(), [rect(1, 1, 4, 2), rect(7, 5, 1, 1)]);
        assert_eq!(frame.row(1), [0, 0, 1, 0, 1, 0, 0, 0]);
        assert_eq!(frame.pixels().len(), 48);
        // A second drawing before the first was looked at.
        frame.set_row(3, &[1]);
        frame.set_row(4, &[1]);
        assert_eq!(frame.take_damage(), [rect(0, 1, 8, 5)]);
        // Rows and columns that are not there.
        frame.set_row(6, &[1; 8]);
        frame.set_row(0, &[1; 20]);
        assert_eq!(frame.take_damage(), [rect(0, 0, 8, 1)]);
        assert!(frame.row(6).is_empty());
    }

    #[test]
    fn rows_in_any_order_do_not_overlap() {
        let mut frame = Frame::new();
        frame.resize(4, 100);
        let _ = frame.take_damage();
        for y in (0..100).rev().step_by(2).chain([4, 50]) {
            frame.set_row(y, &[y; 2]);
        }
        let damage = frame.take_damage();
        assert!(damage.windows(2).all(|pair| pair[0].y + pair[0].height < pair[1].y), "{damage:?}");
        assert_eq!(damage.iter().map(|rect| rect.height).sum::<u32>(), 52);
    }
}

//! A client's pointer.

use std::sync::Arc;

use crate::input::{Buttons, Input, Motion, Pointer};

/// In relative motion, this stands for none.
const ORIGIN: i32 = 0x7fff;

/// Bits of the buttons.
const LEFT: u8 = 1;
const MIDDLE: u8 = 1 << 1;
const RIGHT: u8 = 1 << 2;
const WHEEL_UP: u8 = 1 << 3;
const WHEEL_DOWN: u8 = 1 << 4;
const BACK: u8 = 1 << 7;

/// What one client's pointer was like.
pub(super) struct Mouse {
    input: Arc<dyn Input>,
    buttons: u8,
    /// Where it was, if it has been anywhere.
    at: Option<(u16, u16)>,
}

impl Mouse {
    pub(super) fn new(input: Arc<dyn Input>) -> Self {
        Self { input, buttons: 0, at: None }
    }

    /// The pointer of a client that sees a screen of this size. With `relative`, it tells motions and not places.
    pub(super) fn event(&mut self, buttons: u8, x: u16, y: u16, (width, height): (u16, u16), relative: bool) {
        let motion = if relative {
            self.at = None;
            Motion::By { dx: i32::from(x) - ORIGIN, dy: i32::from(y) - ORIGIN }
        } else if self.input.is_absolute() {
            Motion::To { x: share(x, width), y: share(y, height) }
        } else {
            let (before_x, before_y) = self.at.unwrap_or((x, y));
            Motion::By { dx: i32::from(x) - i32::from(before_x), dy: i32::from(y) - i32::from(before_y) }
        };
        if !relative {
            self.at = Some((x, y));
        }
        // The wheel turns one step when its button goes down.
        let pressed = buttons & !self.buttons;
        let step = |bit: u8| i8::from(pressed & bit != 0);
        let wheel = step(WHEEL_DOWN) - step(WHEEL_UP);
        self.buttons = buttons;
        self.input.pointer(Pointer { motion, buttons: named(buttons), wheel });
    }
}

impl Drop for Mouse {
    /// Who goes away holds nothing.
    fn drop(&mut self) {
        if self.buttons & (LEFT | MIDDLE | RIGHT | BACK) != 0 {
            let motion = Motion::By { dx: 0, dy: 0 };
            self.input.pointer(Pointer { motion, buttons: Buttons::default(), wheel: 0 });
        }
    }
}

fn named(bits: u8) -> Buttons {
    let is = |bit: u8| bits & bit != 0;
    Buttons { left: is(LEFT), middle: is(MIDDLE), right: is(RIGHT), back: is(BACK), forward: false }
}

/// A place on an edge of this length, as a share of it.
fn share(at: u16, len: u16) -> u16 {
    let last = u32::from(len.saturating_sub(1)).max(1);
    // The quotient is at most 65535.
    (u32::from(at).min(last) * u32::from(u16::MAX) / last) as u16
}

#[cfg(test)]
mod tests {
    #[test]
    fn places_are_shares() {
        assert_eq!(super::share(0, 640), 0);
        assert_eq!(super::share(639, 640), u16::MAX);
        assert_eq!(super::share(u16::MAX, 640), u16::MAX);
        assert_eq!(super::share(5, 0), u16::MAX);
        assert_eq!(super::share(65534, u16::MAX), u16::MAX);
    }
}

//! The joint to a machine's keyboard and pointer.

use std::time::Duration;

use crate::keys::Key;

/// The keyboard's lights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leds {
    /// Scroll Lock.
    pub scroll: bool,
    /// Num Lock.
    pub num: bool,
    /// Caps Lock.
    pub caps: bool,
}

/// The buttons of a pointer that are down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Buttons {
    /// The left button.
    pub left: bool,
    /// The middle button, or the wheel as a button.
    pub middle: bool,
    /// The right button.
    pub right: bool,
    /// The side button that leads back.
    pub back: bool,
    /// The side button that leads forward.
    pub forward: bool,
}

/// Where a pointer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Motion {
    /// By so much, in pixels; right and down are positive.
    By {
        /// To the right.
        dx: i32,
        /// Down.
        dy: i32,
    },
    /// To this place: 0 is the left or upper edge, [`u16::MAX`] the right or lower one.
    To {
        /// From the left.
        x: u16,
        /// From above.
        y: u16,
    },
}

/// What a pointer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pointer {
    /// Where it goes.
    pub motion: Motion,
    /// The buttons that are down now.
    pub buttons: Buttons,
    /// Steps of the wheel; towards the user is positive.
    pub wheel: i8,
}

/// A machine's keyboard and pointer, from the outside. No method but [`Input::wait_for_room`] blocks.
pub trait Input: Send + Sync {
    /// A key goes down or up. Returns whether that was taken: a press that was not is as if it had never been, and so is
    /// its release. A key that is down already repeats.
    fn key(&self, key: Key, down: bool) -> bool;

    /// Releases all keys that are down.
    fn release_all(&self);

    /// The pointer moves, or its buttons change.
    fn pointer(&self, event: Pointer);

    /// Whether the pointer can be put to a place ([`Motion::To`]). Otherwise such events have no effect but for the
    /// buttons.
    fn is_absolute(&self) -> bool;

    /// The keyboard's lights, as the guest has set them.
    fn leds(&self) -> Leds;

    /// Waits until the guest has read all keys so far, at most for `patience`; returns whether it has.
    fn wait_for_room(&self, patience: Duration) -> bool;
}

/// Presses `keys` together and releases them. Returns whether the guest's keyboard has taken them.
pub fn press(input: &dyn Input, keys: &[Key]) -> bool {
    let all = keys.iter().all(|key| input.key(*key, true));
    // What was not taken needs no release, and gets none.
    keys.iter().rev().for_each(|key| {
        input.key(*key, false);
    });
    all
}

//! Screens: what a guest shows, and who looks at it. A display device is a [`Picture`] and knows no viewer; a viewer has a
//! [`Frame`], has the picture draw into it when it wants to, and finds there what has changed.
#![forbid(unsafe_code)]

mod frame;
mod input;
pub mod keys;
mod picture;
mod png;
pub mod vnc;

pub use frame::{Frame, Rect};
pub use input::{Buttons, Input, Leds, Motion, Pointer, press};
pub use picture::Picture;
pub use png::write_png;

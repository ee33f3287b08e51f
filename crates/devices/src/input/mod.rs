//! Keyboard and mouse.

mod i8042;
mod ps2_keyboard;
mod ps2_mouse;
mod ps2_queue;

pub use i8042::I8042;

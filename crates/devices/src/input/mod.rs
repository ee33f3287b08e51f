//! Keyboard and mouse.

mod i8042;
mod ps2_keyboard;
mod ps2_mouse;
mod ps2_queue;
mod waiting;

pub use i8042::I8042;
pub use ps2_mouse::MouseEvent;

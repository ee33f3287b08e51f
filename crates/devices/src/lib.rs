//! The devices, one folder per bus. Each is driven through [`machine::Device`], owns its own lock and its own state,
//! and knows neither interrupt numbers nor engines: it is handed lines, timers and ports when it is built.
#![forbid(unsafe_code)]

pub mod chipset;
pub mod ide;
pub mod input;
pub mod misc;
pub mod serial;

mod chars;
mod regs;

pub use chars::CharOut;

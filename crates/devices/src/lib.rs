//! The devices, one folder per bus. Each is driven through [`machine::Device`], owns its own lock and its own state,
//! and knows neither interrupt numbers nor engines: it is handed lines, timers and ports when it is built.
#![forbid(unsafe_code)]

pub mod ahci;
pub mod ata;
pub mod block;
pub mod chipset;
pub mod flash;
pub mod ide;
pub mod input;
pub mod misc;
pub mod optical;
pub mod scsi;
pub mod serial;
pub mod video;
pub mod virtio;

mod chars;
mod regs;

pub use chars::CharOut;

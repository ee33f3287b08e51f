//! A CD or DVD drive as far as it does not depend on what it is connected to: the tray with its medium, and the commands
//! (INCITS 408-2005, *SCSI Primary Commands 3*; INCITS 468-2010, *Multi-Media Commands 6*).

mod commands;
mod drive;
mod media;
#[cfg(test)]
mod tests;
mod tray;

pub use crate::scsi::Sense;
pub use drive::{CdDrive, CdState, Reply};
pub use tray::{Locked, Tray};

/// The bytes of a block of a CD.
pub const BLOCK: u64 = 2048;

//! ATA and ATAPI drives as far as it does not matter whether they are on a parallel cable or on a serial link: their
//! registers, what they say of themselves, and what their commands come to (INCITS 397-2005, *ATA/ATAPI-7*, volume 1;
//! INCITS 482-2012, *ATA/ATAPI Command Set 2*, for what only serial drives have).
//!
//! A command comes to an `Action`; how its data gets to the guest is the controller's affair: `ide` and `ahci`.

mod commands;
mod drive;
mod identify;
mod registers;

pub use drive::AtaUnit;

pub(crate) use commands::{Action, How, Transfer};
pub(crate) use drive::{Cable, Drive, QueueError, UnitState, error_of, sense_of};
pub(crate) use registers::{Registers, error, status};

/// The size of a sector of a disk in bytes.
pub(crate) const SECTOR: u64 = 512;

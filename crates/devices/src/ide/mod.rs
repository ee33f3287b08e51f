//! ATA and ATAPI drives behind the IDE function of a south bridge (INCITS 397-2005, *ATA/ATAPI-7*, volumes 1 and 2; *Programming
//! Interface for Bus Master IDE Controller* 1.0).

mod bus_master;
mod channel;
mod drive;
mod piix;

pub use piix::{IdePorts, Piix3Ide};

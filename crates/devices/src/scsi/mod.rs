//! SCSI logical units, whatever brings the commands: *SCSI Primary Commands 4* (SPC-4), *SCSI Block Commands 3* (SBC-3) and
//! *SCSI Architecture Model 5* (SAM-5), of T10.
//!
//! A [`Target`] takes a command and answers with a [`Step`]: what there is to say, or what its disk has to do. How data and
//! answers travel is the business of whoever asks.

mod cdb;
mod disk;
mod inquiry;
mod mode;
mod sense;
mod target;

pub use disk::{ScsiDisk, ScsiDiskState, Step};
pub use sense::Sense;
pub use target::{Target, TargetState};

/// The status of a command (SAM-5, 5.3.1).
#[allow(missing_docs, reason = "the specification's own names")]
pub mod status {
    pub const GOOD: u8 = 0;
    pub const CHECK_CONDITION: u8 = 2;
}

#[cfg(test)]
mod tests;

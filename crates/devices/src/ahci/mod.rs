//! SATA drives behind an AHCI host bus adapter (Intel, *Serial ATA Advanced Host Controller Interface* 1.3.1; *Serial ATA*
//! 3.0 for the frames between adapter and drive).

mod command;
mod frame;
mod hba;
mod port;
mod registers;

pub use hba::Ahci;

/// The ports of the adapter.
pub const PORTS: usize = 6;

//! Virtio devices (*Virtual I/O Device (VIRTIO) Version 1.2*, OASIS, committee specification 01).
//!
//! A [`Kind`] is what a device does, [`VirtioPci`] how a driver gets at it, [`Queue`] what lies between them.

mod blk;
mod jobs;
mod kind;
mod pci;
mod queue;
mod scsi;

pub use blk::Blk;
pub use kind::Kind;
pub use pci::VirtioPci;
pub use queue::{Broken, Buffers, Chain, Queue, QueueState, Token};
pub use scsi::{Scsi, ScsiUnit};

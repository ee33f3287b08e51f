//! Virtio devices on the Rig, against virtio 1.2: a driver without a CPU, and one that breaks all rules.

mod abuse;
mod blk;
mod driver;
mod scsi;
mod transport;

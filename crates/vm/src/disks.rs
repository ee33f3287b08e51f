//! The disks that a VM is handed.

use std::sync::Arc;

use disk::Image;
use machine::Board;
use machine::board::Chipset;
use serde::{Deserialize, Serialize};

/// A disk of a VM, or a drive for discs.
#[derive(Clone)]
pub struct Disk {
    /// Its content. Where a disc goes in and out, one of no bytes is none: the drive is empty.
    pub image: Arc<dyn Image>,
    /// The serial number that the guest sees, of at most 20 characters.
    pub serial: String,
    /// What it is connected to.
    pub bus: DiskBus,
    /// What kind of drive it is.
    pub drive: Drive,
    /// Its place in the order in which firmware looks for a system, the lowest first. Those without one come behind, in an
    /// order of the firmware's own.
    pub boot: Option<u32>,
}

/// A kind of drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Drive {
    /// A hard disk.
    #[default]
    Disk,
    /// A drive for CDs and DVDs, with a disc in it.
    Cd,
}

/// What a disk is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskBus {
    /// The IDE function of the board's south bridge.
    Ide,
    /// The SATA function of the board's south bridge.
    Sata,
    /// A SCSI host that is a virtio function, for guests that have a driver for it.
    Scsi,
    /// A virtio function of its own: fast, for guests that have a driver for it.
    Virtio,
}

impl DiskBus {
    /// Those that a VM can have, by their names.
    pub const KNOWN: &[(&'static str, Self)] =
        &[("ide", Self::Ide), ("sata", Self::Sata), ("scsi", Self::Scsi), ("virtio", Self::Virtio)];

    /// The bus for disks of a board when nothing is said of it: one that systems and firmware have known for long.
    #[must_use]
    pub fn usual(board: &str) -> Self {
        match Board::named(board).map(|board| board.chipset) {
            Ok(Chipset::Q35) => Self::Sata,
            Ok(Chipset::I440fx) | Err(_) => Self::Ide,
        }
    }
}

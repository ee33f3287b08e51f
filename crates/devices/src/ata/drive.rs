//! A drive: a disk, or a CD drive that takes packets.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::registers::{Registers, error};
use super::{SECTOR, Transfer};
use crate::block::{Backend, Failure};
use crate::optical::{CdDrive, CdState, Sense};

/// What is connected to a place of an ATA controller.
pub enum AtaUnit {
    /// A disk. Its serial number is of at most 20 characters.
    Disk(Backend),
    /// A CD drive.
    Cd(CdDrive),
}

/// How a drive is connected: only serial drives have a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cable {
    Parallel,
    Serial,
}

/// How cylinders, heads and sectors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Geometry {
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    const DEFAULT: Self = Self { heads: 16, sectors: 63 };

    /// The cylinders of a disk, as far as they can be told.
    pub(super) fn cylinders(self, total: u64) -> u16 {
        let one = u64::from(self.heads).max(1) * u64::from(self.sectors).max(1);
        (total / one).min(16383) as u16
    }
}

/// The queued command that has failed, as its log tells (ACS-2, A.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct QueueError {
    pub(crate) tag: u8,
    pub(crate) status: u8,
    pub(crate) error: u8,
    pub(crate) first: u64,
    pub(crate) count: u16,
}

/// What of a drive a snapshot holds, but for the registers that its controller keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum UnitState {
    Disk { geometry: Geometry, multiple: u8, queue_error: Option<QueueError> },
    Cd(CdState),
}

pub(super) struct Disk {
    pub(super) backend: Arc<Backend>,
    pub(super) sectors: u64,
    pub(super) geometry: Geometry,
    /// Sectors of a block of READ MULTIPLE; 0 when that is not set.
    pub(super) multiple: u8,
    pub(super) queue_error: Option<QueueError>,
}

pub(super) enum Unit {
    Disk(Disk),
    Cd(CdDrive),
}

/// A drive.
pub(crate) struct Drive {
    pub(super) unit: Unit,
    pub(super) cable: Cable,
}

impl Drive {
    pub(crate) fn new(unit: AtaUnit, cable: Cable) -> Self {
        let unit = match unit {
            AtaUnit::Disk(backend) => Unit::Disk(Disk {
                sectors: backend.size() / SECTOR,
                backend: Arc::new(backend),
                geometry: Geometry::DEFAULT,
                multiple: 0,
                queue_error: None,
            }),
            AtaUnit::Cd(drive) => Unit::Cd(drive),
        };
        Self { unit, cable }
    }

    /// Hangs up a bell, which rings after a request has finished, on a thread that holds no lock.
    pub(crate) fn on_finished(&self, ring: impl Fn() + Send + Sync + 'static) {
        match &self.unit {
            Unit::Disk(disk) => disk.backend.on_finished(ring),
            Unit::Cd(drive) => drive.on_finished(ring),
        }
    }

    /// As after a reset. What the registers then show is [`Drive::signature`].
    pub(crate) fn reset(&mut self) {
        match &mut self.unit {
            Unit::Disk(disk) => {
                (disk.geometry, disk.multiple, disk.queue_error) = (Geometry::DEFAULT, 0, None);
            }
            Unit::Cd(drive) => drive.reset(),
        }
    }

    /// The registers after a reset (ATA-7, volume 2, 9.2).
    pub(crate) fn signature(&self) -> Registers {
        if self.is_packet() { Registers::PACKET } else { Registers::DISK }
    }

    /// Whether it takes packets.
    pub(crate) fn is_packet(&self) -> bool {
        matches!(self.unit, Unit::Cd(_))
    }

    /// Where requests go now.
    pub(crate) fn backend(&self) -> Option<Arc<Backend>> {
        match &self.unit {
            Unit::Disk(disk) => Some(Arc::clone(&disk.backend)),
            Unit::Cd(drive) => drive.medium(),
        }
    }

    /// The CD drive, if it is one.
    pub(crate) fn cd(&mut self) -> Option<&mut CdDrive> {
        match &mut self.unit {
            Unit::Disk(_) => None,
            Unit::Cd(drive) => Some(drive),
        }
    }

    /// A queued command has failed: the log tells so until it is read.
    pub(crate) fn queue_failed(&mut self, failed: QueueError) {
        if let Unit::Disk(disk) = &mut self.unit {
            disk.queue_error = Some(failed);
        }
    }

    pub(crate) fn state(&self) -> UnitState {
        match &self.unit {
            Unit::Disk(Disk { geometry, multiple, queue_error, .. }) => {
                UnitState::Disk { geometry: *geometry, multiple: *multiple, queue_error: *queue_error }
            }
            Unit::Cd(drive) => UnitState::Cd(drive.state()),
        }
    }

    /// Whether this drive can be in `state`.
    pub(crate) fn accepts(&self, state: &UnitState) -> bool {
        match (&self.unit, state) {
            (Unit::Disk(_), UnitState::Disk { geometry, multiple, .. }) => {
                geometry.sectors != 0 && geometry.heads != 0 && *multiple <= super::identify::MOST_MULTIPLE
            }
            (Unit::Cd(_), UnitState::Cd(_)) => true,
            _ => false,
        }
    }

    /// Whether these sectors are on the disk.
    pub(crate) fn has(&self, transfer: &Transfer) -> bool {
        let end = transfer.first.checked_add(transfer.count.into());
        matches!(&self.unit, Unit::Disk(disk) if end.is_some_and(|end| end <= disk.sectors))
    }

    /// Takes on a state that it [accepts](Drive::accepts).
    pub(crate) fn restore(&mut self, state: UnitState) {
        match (&mut self.unit, state) {
            (Unit::Disk(disk), UnitState::Disk { geometry, multiple, queue_error }) => {
                (disk.geometry, disk.multiple, disk.queue_error) = (geometry, multiple, queue_error);
            }
            (Unit::Cd(drive), UnitState::Cd(state)) => drive.restore(state),
            _ => {}
        }
    }
}

/// What the error register shows for a failed request.
pub(crate) fn error_of(failure: Failure, write: bool) -> u8 {
    match failure {
        Failure::Beyond => error::NOT_FOUND,
        Failure::Disk if !write => error::UNCORRECTABLE,
        Failure::Disk | Failure::ReadOnly | Failure::NoSpace | Failure::Memory => error::ABORTED,
    }
}

/// What a CD drive says of a failed request.
pub(crate) fn sense_of(failure: Failure) -> Sense {
    match failure {
        Failure::Beyond => Sense::BEYOND,
        Failure::Memory => Sense::FAILED,
        _ => Sense::READ_ERROR,
    }
}

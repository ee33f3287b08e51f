//! Drives for the controllers that speak ATA.

use std::sync::Arc;

use devices::ata::AtaUnit;
use devices::block::Backend;
use devices::optical::{CdDrive, Tray};

use super::super::Wiring;
use crate::{Disk, Drive};

/// The drive that this disk is.
pub(super) fn unit(wiring: &mut Wiring, disk: Disk) -> AtaUnit {
    let backend = Backend::new(disk.image, wiring.memory.clone(), disk.serial.clone());
    match disk.drive {
        Drive::Disk => AtaUnit::Disk(backend),
        Drive::Cd => {
            // A disc of no bytes is none.
            let tray = Tray::new(Some(backend).filter(|medium| medium.size() != 0));
            wiring.trays.push((disk.serial.clone(), Arc::clone(&tray)));
            AtaUnit::Cd(CdDrive::new(tray, disk.serial))
        }
    }
}

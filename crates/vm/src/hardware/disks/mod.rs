//! The disks, each on its bus.

mod ata;
mod ide;
mod sata;
mod scsi;
mod virtio;

use machine::pci::PciBus;

use super::Wiring;
use super::irq::Irqs;
use crate::{Disk, DiskBus, Drive, Error};

/// Builds the controllers of these disks.
pub(super) fn build(wiring: &mut Wiring, pci: &PciBus, irqs: &Irqs, disks: Vec<Disk>) -> Result<(), Error> {
    let mut on_ide = Vec::new();
    let mut on_sata = Vec::new();
    let mut on_scsi = Vec::new();
    let mut on_virtio = Vec::new();
    for disk in disks {
        match disk.bus {
            DiskBus::Ide => on_ide.push(disk),
            DiskBus::Sata => on_sata.push(disk),
            DiskBus::Scsi | DiskBus::Virtio if disk.drive == Drive::Cd => return Err(Error::NoCds),
            DiskBus::Scsi => on_scsi.push(disk),
            DiskBus::Virtio => on_virtio.push(disk),
        }
    }
    ide::build(wiring, pci, irqs, on_ide)?;
    sata::build(wiring, pci, irqs, on_sata)?;
    scsi::build(wiring, pci, irqs, on_scsi)?;
    virtio::build(wiring, pci, irqs, on_virtio)
}

//! The disks that are virtio functions, one for each.

use devices::virtio::{Blk, VirtioPci};
use machine::MsiPort;
use machine::pci::{PciBus, Pin};

use super::super::Wiring;
use super::super::irq::Irqs;
use crate::{Disk, Error};

/// The most queues of a disk: each CPU has one, up to here.
const MOST_QUEUES: u32 = 8;

/// Builds a function for each of these disks.
pub(super) fn build(wiring: &mut Wiring, pci: &PciBus, irqs: &Irqs, disks: Vec<Disk>) -> Result<(), Error> {
    let queues = wiring.cpus.clamp(1, MOST_QUEUES) as u16;
    for disk in disks {
        let at = wiring.next_slot()?;
        wiring.boot_order.note(disk.boot, "scsi", at, "disk@0,0");
        let blk = Blk::new(disk.image, wiring.memory.clone(), disk.serial, queues);
        let msi = MsiPort::to(wiring.partition.clone());
        let line = irqs.intx(wiring.board, at.device, Pin::A);
        let function = VirtioPci::build(Box::new(blk), &wiring.memory, msi, line)?;
        wiring.add_function(pci, at, &function)?;
    }
    Ok(())
}

//! The disks on a SCSI host, a virtio function: each is a target of its own.

use devices::virtio::{Scsi, ScsiUnit, VirtioPci};
use machine::MsiPort;
use machine::pci::{PciBus, Pin};

use super::super::Wiring;
use super::super::irq::Irqs;
use crate::{Disk, Error};

/// The most queues of requests: each CPU has one, up to here.
const MOST_QUEUES: u32 = 8;
/// The targets of a host.
const TARGETS: usize = 256;

/// Builds the host, if there is a disk for it.
pub(super) fn build(wiring: &mut Wiring, pci: &PciBus, irqs: &Irqs, disks: Vec<Disk>) -> Result<(), Error> {
    if disks.is_empty() {
        return Ok(());
    }
    if disks.len() > TARGETS {
        return Err(Error::Disks { count: disks.len(), bus: "SCSI", most: TARGETS });
    }
    let at = wiring.next_slot()?;
    for (disk, target) in disks.iter().zip(0..TARGETS) {
        wiring.boot_order.note(disk.boot, "scsi", at, &format!("channel@0/disk@{target:x},0"));
    }
    let unit = |(disk, target): (Disk, u8)| ScsiUnit { target, lun: 0, image: disk.image, serial: disk.serial };
    let units = disks.into_iter().zip(0..=u8::MAX).map(unit).collect();
    let scsi = Scsi::new(units, &wiring.memory, wiring.cpus.clamp(1, MOST_QUEUES) as u16);
    let msi = MsiPort::to(wiring.partition.clone());
    let line = irqs.intx(wiring.board, at.device, Pin::A);
    let function = VirtioPci::build(Box::new(scsi), &wiring.memory, msi, line)?;
    wiring.add_function(pci, at, &function)
}

//! The drives on the SATA function of the chipset.

use devices::ahci::{Ahci, PORTS};
use machine::MsiPort;
use machine::board::Chipset;
use machine::pci::{Bdf, PciBus, Pin};

use super::super::Wiring;
use super::super::irq::Irqs;
use super::ata::unit;
use crate::{Disk, Error};

/// The function of the ICH9's device that is the SATA adapter.
const FUNCTION: u8 = 2;

/// Builds the SATA adapter of boards that have one, with these drives.
pub(super) fn build(wiring: &mut Wiring, pci: &PciBus, irqs: &Irqs, disks: Vec<Disk>) -> Result<(), Error> {
    let board = wiring.board;
    if disks.is_empty() {
        return Ok(());
    }
    if board.chipset != Chipset::Q35 {
        return Err(Error::NoSata { board: board.name });
    }
    if disks.len() > PORTS {
        return Err(Error::Disks { count: disks.len(), bus: "SATA", most: PORTS });
    }
    let at = Bdf { function: FUNCTION, ..board.isa_bridge };
    let mut places = [const { None }; PORTS];
    for ((place, disk), number) in places.iter_mut().zip(disks).zip(0..) {
        wiring.boot_order.note(disk.boot, "pci8086,2922", at, &format!("drive@{number}/disk@0"));
        *place = Some(unit(wiring, disk));
    }
    let line = (Pin::A, irqs.intx(board, at.device, Pin::A));
    let messages = MsiPort::to(wiring.partition.clone());
    let ahci = Ahci::ich9(places, line, messages, wiring.memory.clone())?;
    wiring.add_function(pci, at, &ahci)
}

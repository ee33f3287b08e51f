//! The disks on the IDE function of the chipset.

use std::sync::Arc;

use devices::ide::{IdePorts, Piix3Ide};
use machine::board::Chipset;
use machine::pci::{Bdf, PciBus};

use super::super::Wiring;
use super::super::irq::Irqs;
use super::ata::unit;
use crate::{Disk, Error};

/// The places of IDE disks.
const PLACES: usize = 4;

/// Builds the IDE function of boards that have one, with these disks.
pub(super) fn build(wiring: &mut Wiring, pci: &PciBus, irqs: &Irqs, disks: Vec<Disk>) -> Result<(), Error> {
    let board = wiring.board;
    if disks.is_empty() {
        return Ok(());
    }
    if board.chipset != Chipset::I440fx {
        return Err(Error::NoIde { board: board.name });
    }
    if disks.len() > PLACES {
        return Err(Error::Disks { count: disks.len(), bus: "IDE", most: PLACES });
    }
    let mut places = [const { None }; PLACES];
    let at = Bdf { function: 1, ..board.isa_bridge };
    for ((place, disk), number) in places.iter_mut().zip(disks).zip(0..) {
        let path = format!("drive@{}/disk@{}", number / 2, number % 2);
        wiring.boot_order.note(disk.boot, "ide", at, &path);
        *place = Some(unit(wiring, disk));
    }
    let lines = IdePorts::IRQS.map(|irq| irqs.isa(irq));
    let ide = Piix3Ide::new(places, lines, wiring.memory.clone())?;
    wiring.add_function(pci, at, &ide)?;
    for (ports, window) in IdePorts::WINDOWS.into_iter().zip(Piix3Ide::FIRST_WINDOW..) {
        wiring.ports.map(u64::from(ports.start)..u64::from(ports.end), Arc::clone(&ide) as _, window)?;
    }
    Ok(())
}

//! The disks, on the IDE function of the chipset.

use std::sync::Arc;

use devices::ide::{IdeDisk, IdePorts, Piix3Ide};
use machine::board::Chipset;
use machine::pci::{Bdf, PciBus};
use memory::GuestMemory;

use super::Wiring;
use super::irq::Irqs;
use crate::Error;

/// The places of IDE disks.
pub(crate) const MOST_DISKS: usize = 4;

/// Builds the IDE function of boards that have one, with these disks.
pub(super) fn build(
    wiring: &mut Wiring,
    pci: &PciBus,
    irqs: &Irqs,
    disks: Vec<IdeDisk>,
    memory: &GuestMemory,
) -> Result<(), Error> {
    let board = wiring.board;
    if disks.len() > MOST_DISKS || !disks.is_empty() && board.chipset != Chipset::I440fx {
        return Err(Error::Disks { count: disks.len(), board: board.name });
    }
    if disks.is_empty() {
        return Ok(());
    }
    let mut places = [const { None }; MOST_DISKS];
    places.iter_mut().zip(disks).for_each(|(place, disk)| *place = Some(disk));
    let lines = IdePorts::IRQS.map(|irq| irqs.isa(irq));
    let ide = Piix3Ide::new(places, lines, memory.clone())?;
    wiring.add_function(pci, Bdf { function: 1, ..board.isa_bridge }, &ide)?;
    for (ports, window) in IdePorts::WINDOWS.into_iter().zip(Piix3Ide::FIRST_WINDOW..) {
        wiring.ports.map(u64::from(ports.start)..u64::from(ports.end), Arc::clone(&ide) as _, window)?;
    }
    Ok(())
}

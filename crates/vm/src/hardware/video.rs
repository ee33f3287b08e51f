//! The display.

use std::sync::Arc;

use devices::video::Vga;
use display::Picture;
use machine::board::VGA_HOLE;
use machine::pci::PciBus;

use super::{Wiring, ports};
use crate::{Error, Payload, Video};

/// Builds the card, with the ROM that has firmware use it.
pub(super) fn build(
    wiring: &mut Wiring,
    pci: &PciBus,
    video: Video,
    rom: Option<Payload>,
) -> Result<Option<Arc<dyn Picture>>, Error> {
    if video == Video::None {
        return Ok(None);
    }
    let mut rom = rom.unwrap_or_else(|| Payload::bytes("no ROM", Vec::new()));
    let rom = rom.read(Vga::LARGEST_ROM as u64)?;
    let card = Vga::new(&wiring.memory, &rom, wiring.partition.clock())?;
    let at = wiring.next_slot()?;
    wiring.add_function(pci, at, &card)?;
    wiring.map_ports(&card, &ports(0x3b0, 0x30), Vga::PORTS_WINDOW)?;
    wiring.map_ports(&card, &ports(0x1ce, 3), Vga::DISPI_WINDOW)?;
    wiring.mmio.map(VGA_HOLE, Arc::clone(&card) as _, Vga::LEGACY_WINDOW)?;
    Ok(Some(Vga::picture(&card)))
}

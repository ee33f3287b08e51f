//! The interrupt lines: which controllers' inputs each of them reaches.

use std::sync::Arc;

use devices::chipset::{IoapicInputs, PicInputs};
use machine::{Board, Line, LineSink, Wire};

/// The lines of a PC with a PIC pair and an I/O APIC.
pub(super) struct Irqs {
    /// ISA IRQ n: the PIC's input n, and the I/O APIC's input of the same number but for the PIT.
    isa: Vec<Arc<Wire>>,
    /// The I/O APIC's inputs from 16 up.
    high: Vec<Arc<Wire>>,
}

/// The first input of the I/O APIC behind those of the ISA interrupts.
const FIRST_HIGH: u32 = 16;

impl Irqs {
    pub(super) fn new(board: &Board, pic: &Arc<PicInputs>, ioapic: &Arc<IoapicInputs>) -> Self {
        let gsi = |irq| if irq == u32::from(board.irqs.pit) { board.irqs.pit_gsi } else { irq };
        let isa =
            |irq| Wire::new(vec![(Arc::clone(pic) as Arc<dyn LineSink>, irq), (Arc::clone(ioapic) as _, gsi(irq))]);
        let high = |input| Wire::new(vec![(Arc::clone(ioapic) as Arc<dyn LineSink>, input)]);
        Self { isa: (0..FIRST_HIGH).map(isa).collect(), high: (FIRST_HIGH..board.ioapic_inputs).map(high).collect() }
    }

    /// A new driver of ISA IRQ `irq`. IRQ 2 is the PICs' cascade and has none.
    pub(super) fn isa(&self, irq: u8) -> Line {
        match self.isa.get(usize::from(irq)) {
            Some(wire) if irq != 2 => wire.driver(),
            _ => Line::unconnected(),
        }
    }

    /// A new driver of each line of an input of the I/O APIC from 20 up, with the input's number.
    pub(super) fn inputs_20_up(&self) -> Vec<(u8, Line)> {
        (16..).zip(&self.high).filter(|(input, _)| *input >= 20).map(|(input, wire)| (input, wire.driver())).collect()
    }
}

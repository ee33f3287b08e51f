//! The interrupt lines: which controllers' inputs each of them reaches.

use std::sync::Arc;

use devices::chipset::{IoapicInputs, PicInputs, PirqInputs};
use machine::pci::Pin;
use machine::{Board, Line, LineSink, Wire};

/// The lines of a PC with a PIC pair and an I/O APIC.
pub(super) struct Irqs {
    /// ISA IRQ n: the PIC's input n, and the I/O APIC's input of the same number but for the PIT.
    isa: Vec<Arc<Wire>>,
    /// The I/O APIC's inputs from 16 up.
    high: Vec<Arc<Wire>>,
    /// PIRQA and so on: the router's input, and the I/O APIC's.
    pirqs: Vec<Arc<Wire>>,
}

/// The first input of the I/O APIC behind those of the ISA interrupts.
const FIRST_HIGH: u32 = 16;

impl Irqs {
    pub(super) fn new(board: &Board, pic: &Arc<PicInputs>, ioapic: &Arc<IoapicInputs>) -> Self {
        let gsi = |irq| if irq == u32::from(board.irqs.pit) { board.irqs.pit_gsi } else { irq };
        let isa =
            |irq| Wire::new(vec![(Arc::clone(pic) as Arc<dyn LineSink>, irq), (Arc::clone(ioapic) as _, gsi(irq))]);
        let high = |input| Wire::new(vec![(Arc::clone(ioapic) as Arc<dyn LineSink>, input)]);
        Self {
            isa: (0..FIRST_HIGH).map(isa).collect(),
            high: (FIRST_HIGH..board.ioapic_inputs).map(high).collect(),
            pirqs: Vec::new(),
        }
    }

    /// Connects the interrupt router: a PIRQ reaches it and, for systems that use the I/O APIC, an input of that.
    pub(super) fn connect_pirqs(&mut self, board: &Board, router: &Arc<PirqInputs>) {
        let wire = |(pirq, high): (u8, &Arc<Wire>)| {
            Wire::new(vec![(Arc::clone(router) as Arc<dyn LineSink>, u32::from(pirq)), (Arc::new(high.driver()), 0)])
        };
        self.pirqs = (0..board.pirqs).zip(&self.high).map(wire).collect();
    }

    /// A new driver of the line that an interrupt pin of a device on bus 0 is connected to.
    pub(super) fn intx(&self, board: &Board, device: u8, pin: Pin) -> Line {
        let pirq = board.pirq(device, pin as u8 - 1);
        self.pirqs.get(usize::from(pirq)).map_or_else(Line::unconnected, Wire::driver)
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

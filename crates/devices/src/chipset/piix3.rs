//! The ISA bridge of the PIIX3, PCI function 0:1.0 (Intel 82371SB PIIX3 datasheet, 290550, 2.2).

use machine::pci::{ConfigSpace, Identity};
use machine::{Line, Shared};

use super::isa_bridge::IsaBridge;

/// PIRQRCA to PIRQRCD.
const PIRQ_ROUTE: &[usize] = &[0x60, 0x61, 0x62, 0x63];
/// X-bus chip select: among others, which part of the firmware answers. Kept, but nothing moves.
const XBCS: usize = 0x4e;

impl IsaBridge {
    /// That of the PIIX3. `isa` are the inputs of the interrupt controllers that PIRQs can be routed to: line `n` is IRQ `n`.
    #[must_use]
    pub fn piix3(isa: Vec<Line>) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x7000, class: 0x06_0100, ..Identity::default() };
        let mut config = ConfigSpace::new(id).multifunction();
        config.set_u16(XBCS, 3);
        config.set_writable(XBCS, &[0xff, 0x01]);
        Self::build("piix3-isa", config, PIRQ_ROUTE, isa)
    }
}

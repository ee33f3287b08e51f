//! The LPC bridge of the ICH9, PCI function 0:1f.0 (Intel ICH9 datasheet, 316972, 13.1).

use machine::pci::{ConfigSpace, Identity};
use machine::{Line, Shared};

use super::isa_bridge::IsaBridge;

const PMBASE: usize = 0x40;
const ACPI_CNTL: usize = 0x44;
/// ACPI_CNTL: the block at PMBASE answers.
const ACPI_EN: u8 = 0x80;
const SIRQ_CNTL: usize = 0x64;
/// PIRQA to PIRQD, and PIRQE to PIRQH.
const PIRQ_ROUT: &[usize] = &[0x60, 0x61, 0x62, 0x63, 0x68, 0x69, 0x6a, 0x6b];
const LPC_IO_DEC: usize = 0x80;
const RCBA: usize = 0xf0;

impl IsaBridge {
    /// That of the ICH9, on a board whose ACPI block is at port `pm_base`: where it lies is fixed by the board, and PMBASE
    /// says it. `isa` are the inputs of the interrupt controllers that PIRQs can be routed to: line `n` is IRQ `n`.
    #[must_use]
    pub fn ich9(pm_base: u16, isa: Vec<Line>) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x2918, revision: 2, class: 0x06_0100, ..Identity::default() };
        let mut config = ConfigSpace::new(id).multifunction();
        config.set_u32(PMBASE, u32::from(pm_base & 0xff80) | 1);
        config.set_u8(ACPI_CNTL, ACPI_EN);
        config.set_u8(SIRQ_CNTL, 0x10);
        config.set_writable(SIRQ_CNTL, &[0xd0]);
        // Decoding ranges and the root complex's registers are kept, but nothing of it moves.
        config.set_writable(LPC_IO_DEC, &[0x77, 0x13, 0x0f, 0x3f]);
        config.set_writable(RCBA, &[0x01, 0xc0, 0xff, 0xff]);
        Self::build("ich9-lpc", config, PIRQ_ROUT, isa)
    }
}

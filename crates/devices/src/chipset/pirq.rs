//! The interrupt router of a south bridge: PCI interrupts become ISA ones, as its registers say (Intel PIIX3 datasheet,
//! 290550, 2.2.5; Intel ICH9 datasheet, 316972, 13.1.12).

use machine::Line;
use machine::pci::ConfigSpace;

/// PIRQx_ROUT: not routed to an ISA interrupt.
const NOT_ROUTED: u8 = 0x80;

/// The router.
pub(super) struct PirqRouter {
    /// The register of each PIRQ.
    registers: &'static [usize],
    /// The levels of PIRQA (bit 0) and so on.
    levels: u8,
    isa: Vec<Line>,
}

impl PirqRouter {
    /// A router with a register for each PIRQ in `config`. `isa` are the inputs that PIRQs can be routed to: line `n` is
    /// IRQ `n`.
    pub(super) fn new(config: &mut ConfigSpace, registers: &'static [usize], isa: Vec<Line>) -> Self {
        for register in registers {
            config.set_u8(*register, NOT_ROUTED);
            config.set_writable(*register, &[NOT_ROUTED | 0xf]);
        }
        Self { registers, levels: 0, isa }
    }

    pub(super) fn levels(&self) -> u8 {
        self.levels
    }

    pub(super) fn set_levels(&mut self, levels: u8) {
        self.levels = levels;
    }

    pub(super) fn set(&mut self, pirq: u32, high: bool) {
        let bit = 1u8.checked_shl(pirq).unwrap_or(0);
        self.levels = if high { self.levels | bit } else { self.levels & !bit };
    }

    /// Drives the ISA lines as the registers say.
    pub(super) fn route(&self, config: &ConfigSpace) {
        let mut high = 0u16;
        for (register, pirq) in self.registers.iter().zip(0..) {
            let rout = config.u8(*register);
            if self.levels >> pirq & 1 != 0 && rout & NOT_ROUTED == 0 && allowed(rout & 0xf) {
                high |= 1 << (rout & 0xf);
            }
        }
        for (irq, line) in self.isa.iter().enumerate().take(16) {
            line.set(high >> irq & 1 != 0);
        }
    }
}

/// Timer, keyboard, cascade, RTC and coprocessor cannot be shared with PCI.
fn allowed(irq: u8) -> bool {
    matches!(irq, 3..=7 | 9..=12 | 14 | 15)
}

//! Power management of the PIIX4, PCI function 0:1.3 (Intel 82371AB PIIX4 datasheet, 290562, 7.1): where the ACPI block is.

use std::sync::{Arc, Mutex};

use machine::pci::{ConfigSpace, ConfigState, Identity, PciFunction, Pin};
use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::regs::{decode, require};

const INTERRUPT_LINE: usize = 0x3c;
const PMBASE: usize = 0x40;
const DEVACTB: usize = 0x58;
/// DEVACTB: writes to the APM port raise an SMI. Set from the start, it says that the firmware's handler is in place: there is
/// no system-management mode that it could set up.
const APMC_ENABLE: u32 = 1 << 25;
const PMREGMISC: usize = 0x80;
/// PMREGMISC: the block at PMBASE answers.
const PM_IO_ENABLE: u8 = 1;

/// The function. It has no windows: where the ACPI block lies is fixed by the board, and PMBASE says it.
pub struct Piix4Pm {
    config: ConfigSpace,
}

impl Piix4Pm {
    /// The function of a board whose ACPI block is at port `pm_base` and interrupts by ISA IRQ `sci`.
    #[must_use]
    pub fn new(pm_base: u16, sci: u8) -> Shared<Self> {
        let id = Identity { vendor: 0x8086, device: 0x7113, revision: 3, class: 0x06_8000, ..Identity::default() };
        let mut config = ConfigSpace::new(id).interrupt_pin(Pin::A);
        config.set_u8(INTERRUPT_LINE, sci);
        config.set_u32(PMBASE, u32::from(pm_base & 0xffc0) | 1);
        config.set_u32(DEVACTB, APMC_ENABLE);
        config.set_u8(PMREGMISC, PM_IO_ENABLE);
        config.seal();
        Arc::new(Mutex::new(Self { config }))
    }
}

impl PciFunction for Piix4Pm {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }
}

impl Device for Piix4Pm {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _at: At, _data: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Piix4Pm {
    fn schema(&self) -> Schema {
        Schema { name: "piix4-pm", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.config.state())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: ConfigState = decode(self.schema(), version, state)?;
        let restored = self.config.restore(&state);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")
    }
}

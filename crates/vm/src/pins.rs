//! The pins of the CPUs: what they reach outside of the engine.

use std::sync::{Arc, PoisonError};

use devices::chipset::{I8259Pair, Ioapic};
use engine::CpuIo;
use machine::{Bus, Effect, Shared};

use crate::control::Control;
use crate::{OnReset, Outcome};

/// The buses and interrupt controllers, as every CPU of the machine sees them.
pub(crate) struct Pins {
    pub(crate) ports: Arc<Bus>,
    pub(crate) mmio: Arc<Bus>,
    pub(crate) pic: Shared<I8259Pair>,
    pub(crate) ioapic: Shared<Ioapic>,
    pub(crate) on_reset: OnReset,
    pub(crate) control: Arc<Control>,
}

impl Pins {
    /// The guest, or a CPU, asks for a reset.
    pub(crate) fn reset(&self) {
        match self.on_reset {
            OnReset::Restart => self.control.reset_by_guest(),
            OnReset::Exit => self.control.end(Outcome::Reset),
        }
    }

    fn follow(&self, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Reset => self.reset(),
            // S5 is soft off; the other sleep states are not offered in the ACPI tables.
            Effect::PowerOff | Effect::Sleep(5) => self.control.end(Outcome::PowerOff),
            Effect::Sleep(state) => {
                tracing::warn!(state, "the guest asks for a sleep state that the machine does not have")
            }
            Effect::Exit(code) => self.control.end(Outcome::Exit(code)),
        }
    }
}

impl CpuIo for Pins {
    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        self.mmio.read(addr, data);
        tracing::trace!(addr, ?data, "mmio read");
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        tracing::trace!(addr, ?data, "mmio write");
        self.follow(self.mmio.write(addr, data));
    }

    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.ports.read(u64::from(port), data);
        tracing::trace!(port, ?data, "port read");
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        tracing::trace!(port, ?data, "port write");
        self.follow(self.ports.write(u64::from(port), data));
    }

    fn pic_ack(&self) -> Option<u8> {
        self.pic.lock().unwrap_or_else(PoisonError::into_inner).ack()
    }

    fn eoi(&self, vector: u8) {
        self.ioapic.lock().unwrap_or_else(PoisonError::into_inner).eoi(vector);
    }
}

//! The port by which a guest's kernel tells of its panic (QEMU, pvpanic device specification).

use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::regs::decode;

/// What the guest reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PanicEvent {
    /// The guest has panicked.
    Panicked,
    /// The guest has panicked and goes on with its own crash kernel.
    CrashLoaded,
}

const PANICKED: u8 = 1;
const CRASH_LOADED: u8 = 2;

/// The port. Window 0: 1 byte; a read tells the events that are understood.
pub struct Pvpanic {
    report: Box<dyn FnMut(PanicEvent) + Send>,
}

impl Pvpanic {
    /// The port; `report` is called under the device's lock and may only notify.
    #[must_use]
    pub fn new(report: impl FnMut(PanicEvent) + Send + 'static) -> Shared<Self> {
        Arc::new(Mutex::new(Self { report: Box::new(report) }))
    }
}

impl Device for Pvpanic {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(PANICKED | CRASH_LOADED);
    }

    fn write(&mut self, _at: At, data: &[u8]) -> Effect {
        let events = data.first().copied().unwrap_or(0);
        if events & PANICKED != 0 {
            (self.report)(PanicEvent::Panicked);
        }
        if events & CRASH_LOADED != 0 {
            (self.report)(PanicEvent::CrashLoaded);
        }
        Effect::None
    }

    fn reset(&mut self) {}

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Pvpanic {
    fn schema(&self) -> Schema {
        Schema { name: "pvpanic", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        decode(self.schema(), version, state)
    }
}

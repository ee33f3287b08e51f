//! The port by which a test in the guest ends the VM with an exit code.

use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::regs::decode;

/// The port. Window 0: 4 bytes; a write of `n` to the first of them ends the VM with exit code `n` (its low byte).
#[derive(Default)]
pub struct DebugExit {}

impl DebugExit {
    /// The port.
    #[must_use]
    pub fn new() -> Shared<Self> {
        Arc::new(Mutex::new(Self::default()))
    }
}

impl Device for DebugExit {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        match (at.offset, data) {
            (0, [code, ..]) => Effect::Exit(*code),
            _ => Effect::None,
        }
    }

    fn reset(&mut self) {}

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for DebugExit {
    fn schema(&self) -> Schema {
        Schema { name: "debug-exit", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        decode(self.schema(), version, state)
    }
}

//! The debug output port: E9h as in Bochs, 402h as firmware uses it. What is written is shown; a read gives E9h, by which
//! software knows the port.

use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::CharOut;
use crate::regs::decode;

/// The port. Any window: one byte.
pub struct DebugPort {
    out: Box<dyn CharOut>,
}

impl DebugPort {
    /// The port; what the guest writes goes to `out`.
    #[must_use]
    pub fn new(out: Box<dyn CharOut>) -> Shared<Self> {
        Arc::new(Mutex::new(Self { out }))
    }
}

impl Device for DebugPort {
    fn read(&mut self, _at: At, data: &mut [u8]) {
        data.fill(0xe9);
    }

    fn write(&mut self, _at: At, data: &[u8]) -> Effect {
        self.out.put(data);
        Effect::None
    }

    fn reset(&mut self) {}

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for DebugPort {
    fn schema(&self) -> Schema {
        Schema { name: "debug-port", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&())
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        decode(self.schema(), version, state)
    }
}

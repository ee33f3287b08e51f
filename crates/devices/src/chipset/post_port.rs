//! The diagnostic port 80h, to which firmware writes how far it has come, and which software writes to for delays.

use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};

use crate::regs::{decode, read_bytes, write_bytes};

/// The port. Any window: one byte, the same latch.
#[derive(Default)]
pub struct PostPort {
    code: u8,
}

impl PostPort {
    /// The port.
    #[must_use]
    pub fn new() -> Shared<Self> {
        Arc::new(Mutex::new(Self::default()))
    }

    /// The last code written.
    #[must_use]
    pub fn code(&self) -> u8 {
        self.code
    }
}

impl Device for PostPort {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| if offset == 0 { self.code } else { 0xff });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| {
            if offset == 0 {
                tracing::trace!(code = value, "POST");
                self.code = value;
            }
            Effect::None
        })
    }

    fn reset(&mut self) {
        self.code = 0;
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for PostPort {
    fn schema(&self) -> Schema {
        Schema { name: "post-port", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.code)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        self.code = decode(self.schema(), version, state)?;
        Ok(())
    }
}

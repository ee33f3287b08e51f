//! Port 92h: fast reset and the A20 gate (Intel ICH9 datasheet, 13.7.4).

use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use crate::regs::{decode, read_bytes, write_bytes};

/// A rise of this bit resets.
const INIT_NOW: u8 = 1;
/// The A20 gate, always open: address line 20 is never masked.
const A20: u8 = 2;

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Port92State {
    init_now: bool,
}

/// The port. Window 0: port 92h (1 byte).
#[derive(Default)]
pub struct Port92 {
    state: Port92State,
}

impl Port92 {
    /// The port.
    #[must_use]
    pub fn new() -> Shared<Self> {
        Arc::new(Mutex::new(Self::default()))
    }
}

impl Device for Port92 {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| if offset == 0 { A20 | u8::from(self.state.init_now) } else { 0xff });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| {
            if offset != 0 {
                return Effect::None;
            }
            let was = std::mem::replace(&mut self.state.init_now, value & INIT_NOW != 0);
            if self.state.init_now && !was { Effect::Reset } else { Effect::None }
        })
    }

    fn reset(&mut self) {
        self.state = Port92State::default();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Port92 {
    fn schema(&self) -> Schema {
        Schema { name: "port92", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        self.state = decode(self.schema(), version, state)?;
        Ok(())
    }
}

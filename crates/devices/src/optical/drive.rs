//! The drive: what it remembers between commands, and what a command comes to.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::tray::TrayState;
use super::{Sense, Tray};
use crate::block::Backend;

/// What a command comes to. Data is cut to the length that the command has asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is done.
    Done,
    /// These bytes go to the guest.
    Data(Vec<u8>),
    /// Bytes of the medium go to the guest.
    Read {
        /// The first one.
        offset: u64,
        /// How many; not 0.
        len: u64,
    },
    /// The guest sends so many bytes, which do not matter.
    Ignore {
        /// How many; not 0.
        len: u64,
    },
}

/// What of a drive a snapshot holds. What lies in the tray is the configuration's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CdState {
    sense: Sense,
    tray: TrayState,
}

/// A CD or DVD drive.
pub struct CdDrive {
    pub(super) tray: Arc<Tray>,
    pub(super) serial: String,
    /// What REQUEST SENSE tells.
    pub(super) sense: Sense,
}

impl CdDrive {
    /// A drive with this tray.
    #[must_use]
    pub fn new(tray: Arc<Tray>, serial: String) -> Self {
        Self { tray, serial, sense: Sense::NONE }
    }

    /// Hangs up a bell, which rings after a request of whatever medium has finished, on a thread that holds no lock.
    pub fn on_finished(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.tray.hang(ring);
    }

    /// The tray.
    #[must_use]
    pub fn tray(&self) -> &Arc<Tray> {
        &self.tray
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The medium, to read what a [`Reply::Read`] names.
    #[must_use]
    pub fn medium(&self) -> Option<Arc<Backend>> {
        self.tray.medium().ok()
    }

    /// As after power-on, but for the tray and what lies in it.
    pub fn reset(&mut self) {
        self.sense = Sense::NONE;
        self.tray.reset();
    }

    /// What a command block asks for. An error is also what REQUEST SENSE tells next.
    ///
    /// # Errors
    /// The sense data of what is wrong.
    pub fn command(&mut self, block: &[u8]) -> Result<Reply, Sense> {
        let result = self.perform(block);
        if let Err(sense) = result {
            self.sense = sense;
        }
        result
    }

    /// A transfer of a command has failed: what REQUEST SENSE tells next.
    pub fn failed(&mut self, sense: Sense) {
        self.sense = sense;
    }

    /// What a snapshot holds.
    #[must_use]
    pub fn state(&self) -> CdState {
        CdState { sense: self.sense, tray: self.tray.state() }
    }

    /// Takes on what a snapshot has held.
    pub fn restore(&mut self, state: CdState) {
        self.sense = state.sense;
        self.tray.set_state(state.tray);
    }
}

//! What a PS/2 device has to send: a short queue, as the devices have it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// The bytes that wait, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queue {
    bytes: VecDeque<u8>,
    /// The last byte sent, for RESEND.
    last: u8,
}

/// The size of a device's buffer.
const ROOM: usize = 16;

impl Queue {
    /// Answers to a command: they take the place of all that waits.
    pub(super) fn answer(&mut self, bytes: &[u8]) {
        self.bytes.clear();
        self.bytes.extend(bytes.iter().take(ROOM));
    }

    /// Answers to a command that come before what waits, unless there is no room for both.
    pub(super) fn answer_first(&mut self, bytes: &[u8]) {
        if self.bytes.len() + bytes.len() > ROOM {
            return self.answer(bytes);
        }
        bytes.iter().rev().for_each(|byte| self.bytes.push_front(*byte));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Adds a packet, if all of it fits. Returns whether it did.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        let fits = self.bytes.len() + bytes.len() <= ROOM;
        if fits {
            self.bytes.extend(bytes);
        }
        fits
    }

    pub(super) fn pop(&mut self) -> Option<u8> {
        let byte = self.bytes.pop_front()?;
        self.last = byte;
        Some(byte)
    }

    pub(super) fn last(&self) -> u8 {
        self.last
    }

    pub(super) fn is_valid(&self) -> bool {
        self.bytes.len() <= ROOM
    }
}

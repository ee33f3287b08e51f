//! A PS/2 keyboard with 102 keys (IBM PS/2 Hardware Interface Technical Reference, Keyboards), sending scan code set 2.

use serde::{Deserialize, Serialize};

use super::ps2_queue::Queue;

pub(super) const ACK: u8 = 0xfa;
pub(super) const RESEND: u8 = 0xfe;
/// The basic assurance test has passed.
pub(super) const BAT_OK: u8 = 0xaa;

/// Scan code set 2 to set 1, as the controller translates (Microsoft, Keyboard Scan Code Specification, appendix C).
pub(super) const SET2_TO_SET1: [u8; 128] = [
    0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40, 0x3e, 0x0f, 0x29, 0x59, //
    0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a, 0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, //
    0x67, 0x2e, 0x2d, 0x20, 0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d, //
    0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24, 0x16, 0x08, 0x09, 0x5f, //
    0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60, 0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, //
    0x6d, 0x73, 0x28, 0x74, 0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76, //
    0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b, 0x47, 0x7e, 0x7f, 0x6f, //
    0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45, 0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
];

/// The set 2 make code of a set 1 make code.
fn set2_of(set1: u8) -> u8 {
    match set1 {
        // F7 and SysRq lie outside of the table.
        0x41 => 0x83,
        0x54 => 0x84,
        _ => SET2_TO_SET1.iter().position(|code| *code == set1).unwrap_or(0) as u8,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Keyboard {
    pub(super) queue: Queue,
    scanning: bool,
    leds: u8,
    typematic: u8,
    set: u8,
    /// The command whose parameter is awaited.
    command: Option<u8>,
}

impl Keyboard {
    pub(super) fn new() -> Self {
        Self { queue: Queue::default(), scanning: true, leds: 0, typematic: 0x2b, set: 2, command: None }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.queue.is_valid() && matches!(self.set, 1 | 2)
    }

    /// Bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    pub(super) fn leds(&self) -> u8 {
        self.leds
    }

    fn defaults(&mut self) {
        *self = Self { queue: std::mem::take(&mut self.queue), leds: self.leds, ..Self::new() };
    }

    /// A byte from the host.
    pub(super) fn write(&mut self, byte: u8) {
        // Commands that begin anew throw away what was typed before; others do not.
        let anew = self.command.is_none() && matches!(byte, 0xf4..=0xf6 | 0xff);
        let answer: &[u8] = match (self.command.take(), byte) {
            (Some(0xed), leds @ 0..0x80) => {
                self.leds = leds & 7;
                &[ACK]
            }
            (Some(0xf3), rate @ 0..0x80) => {
                self.typematic = rate;
                &[ACK]
            }
            (Some(0xf0), 0) => &[ACK, self.set],
            (Some(0xf0), set @ 1..=2) => {
                self.set = set;
                &[ACK]
            }
            // A parameter that is none is taken as a command.
            (_, 0xed | 0xf0 | 0xf3) => {
                self.command = Some(byte);
                &[ACK]
            }
            (_, 0xee) => &[0xee],
            (_, 0xf2) => &[ACK, 0xab, 0x83],
            (_, 0xf4) => {
                self.scanning = true;
                &[ACK]
            }
            (_, 0xf5) => {
                self.defaults();
                self.scanning = false;
                &[ACK]
            }
            (_, 0xf6) => {
                self.defaults();
                &[ACK]
            }
            // Key types of set 3, which have no effect in set 2.
            (_, 0xf7..=0xfa) => &[ACK],
            (_, 0xfe) => &[self.queue.last()],
            (_, 0xff) => {
                self.defaults();
                self.leds = 0;
                &[ACK, BAT_OK]
            }
            _ => &[RESEND],
        };
        if anew {
            self.queue.answer(answer);
        } else {
            self.queue.answer_first(answer);
        }
    }

    /// A key goes down or up, as its bytes of set 1. Returns whether there was room.
    pub(super) fn key(&mut self, set1: &[u8]) -> bool {
        if !self.scanning {
            return true;
        }
        if self.set == 1 {
            return self.queue.push(set1);
        }
        let mut set2 = Vec::with_capacity(2 * set1.len());
        for byte in set1 {
            match byte {
                0xe0 | 0xe1 => set2.push(*byte),
                make @ 0..0x80 => set2.push(set2_of(*make)),
                released => set2.extend([0xf0, set2_of(released & 0x7f)]),
            }
        }
        self.queue.push(&set2)
    }
}

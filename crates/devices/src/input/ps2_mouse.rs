//! A PS/2 mouse with three buttons (IBM PS/2 Hardware Interface Technical Reference, Mouse).

use serde::{Deserialize, Serialize};

use super::ps2_keyboard::{ACK, BAT_OK, RESEND};
use super::ps2_queue::Queue;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    pub(super) queue: Queue,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// Bit 0 left, bit 1 right, bit 2 middle.
    buttons: u8,
    dx: i16,
    dy: i16,
    command: Option<u8>,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            queue: Queue::default(),
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            buttons: 0,
            dx: 0,
            dy: 0,
            command: None,
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        self.queue.is_valid() && self.buttons < 8
    }

    fn defaults(&mut self) {
        *self = Self { queue: std::mem::take(&mut self.queue), buttons: self.buttons, ..Self::new() };
    }

    /// A byte from the host.
    pub(super) fn write(&mut self, byte: u8) {
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            return self.queue.answer(&[byte]);
        }
        let flag = |on: bool| u8::from(on);
        match (self.command.take(), byte) {
            (Some(0xe8), resolution) => self.resolution = resolution & 3,
            (Some(0xf3), rate) => self.rate = rate,
            (_, 0xe6 | 0xe7) => self.scaling = byte == 0xe7,
            (_, 0xe8 | 0xf3) => self.command = Some(byte),
            (_, 0xe9) => {
                let left_first = flag(self.buttons & 1 != 0) << 2 | self.buttons & 2 | flag(self.buttons & 4 != 0);
                let modes = flag(self.remote) << 6 | flag(self.reporting) << 5 | flag(self.scaling) << 4;
                return self.queue.answer(&[ACK, modes | left_first, self.resolution, self.rate]);
            }
            (_, 0xea) => self.remote = false,
            (_, 0xeb) => {
                let [a, b, c] = self.packet();
                return self.queue.answer(&[ACK, a, b, c]);
            }
            (_, 0xec) => self.wrap = false,
            (_, 0xee) => self.wrap = true,
            (_, 0xf0) => self.remote = true,
            (_, 0xf2) => return self.queue.answer(&[ACK, 0x00]),
            (_, 0xf4) => self.reporting = true,
            (_, 0xf5) => self.reporting = false,
            (_, 0xf6) => self.defaults(),
            (_, 0xfe) => return self.queue.answer(&[self.queue.last()]),
            (_, 0xff) => {
                self.defaults();
                return self.queue.answer(&[ACK, BAT_OK, 0x00]);
            }
            _ => return self.queue.answer(&[RESEND]),
        }
        self.queue.answer(&[ACK]);
    }

    /// The movement so far, as a packet of three bytes.
    fn packet(&mut self) -> [u8; 3] {
        let take = |sum: &mut i16| {
            let step = (*sum).clamp(-256, 255);
            *sum -= step;
            step
        };
        let (dx, dy) = (take(&mut self.dx), take(&mut self.dy));
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        [0x08 | signs | self.buttons, dx as u8, dy as u8]
    }

    /// The mouse is moved (right and up are positive), its buttons are as given.
    pub(super) fn pointer(&mut self, dx: i16, dy: i16, buttons: u8) {
        self.dx = self.dx.saturating_add(dx);
        self.dy = self.dy.saturating_add(dy);
        self.buttons = buttons & 7;
        if self.reporting && !self.remote {
            let before = (self.dx, self.dy);
            let packet = self.packet();
            if !self.queue.push(&packet) {
                // What cannot be told now is told with the next movement.
                (self.dx, self.dy) = before;
            }
        }
    }
}

//! A PS/2 mouse with three buttons (IBM PS/2 Hardware Interface Technical Reference, Mouse), which becomes one with a wheel
//! or with a wheel and five buttons when it is asked to (Microsoft, IntelliMouse and IntelliMouse Explorer protocols).

use serde::{Deserialize, Serialize};

use super::ps2_keyboard::{ACK, BAT_OK, RESEND};
use super::ps2_queue::Queue;

/// What a mouse does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MouseEvent {
    /// How far it moves to the right.
    pub dx: i16,
    /// How far it moves up.
    pub dy: i16,
    /// Steps of the wheel, positive towards the user.
    pub wheel: i16,
    /// The buttons that are down now: bit 0 left, 1 right, 2 middle, 3 back, 4 forward.
    pub buttons: u8,
}

/// What the mouse is: its identification.
const PLAIN: u8 = 0;
const WITH_WHEEL: u8 = 3;
const WITH_FIVE_BUTTONS: u8 = 4;

/// The rates that, set one after the other, turn it into another mouse.
const ASK_FOR_WHEEL: [u8; 3] = [200, 100, 80];
const ASK_FOR_FIVE_BUTTONS: [u8; 3] = [200, 200, 80];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mouse {
    pub(super) queue: Queue,
    kind: u8,
    reporting: bool,
    remote: bool,
    wrap: bool,
    scaling: bool,
    resolution: u8,
    rate: u8,
    /// The last three rates, the newest last.
    rates: [u8; 3],
    /// As in [`MouseEvent`].
    buttons: u8,
    /// The buttons that the last packet told.
    told: u8,
    dx: i16,
    dy: i16,
    wheel: i16,
    command: Option<u8>,
}

impl Mouse {
    pub(super) fn new() -> Self {
        Self {
            queue: Queue::default(),
            kind: PLAIN,
            reporting: false,
            remote: false,
            wrap: false,
            scaling: false,
            resolution: 2,
            rate: 100,
            rates: [0; 3],
            buttons: 0,
            told: 0,
            dx: 0,
            dy: 0,
            wheel: 0,
            command: None,
        }
    }

    pub(super) fn is_valid(&self) -> bool {
        let kind = matches!(self.kind, PLAIN | WITH_WHEEL | WITH_FIVE_BUTTONS);
        self.queue.is_valid() && kind && self.buttons < 32 && self.told < 32
    }

    fn defaults(&mut self) {
        *self = Self { queue: std::mem::take(&mut self.queue), buttons: self.buttons, kind: self.kind, ..Self::new() };
        self.told = self.buttons;
    }

    fn set_rate(&mut self, rate: u8) {
        let [_, older, old] = self.rates;
        self.rate = rate;
        self.rates = [older, old, rate];
        match self.rates {
            ASK_FOR_WHEEL if self.kind == PLAIN => self.kind = WITH_WHEEL,
            ASK_FOR_FIVE_BUTTONS => self.kind = WITH_FIVE_BUTTONS,
            _ => {}
        }
    }

    /// A byte from the host.
    pub(super) fn write(&mut self, byte: u8) {
        if self.wrap && !matches!(byte, 0xec | 0xff) {
            return self.queue.answer(&[byte]);
        }
        let flag = |on: bool| u8::from(on);
        match (self.command.take(), byte) {
            (Some(0xe8), resolution) => self.resolution = resolution & 3,
            (Some(0xf3), rate) => self.set_rate(rate),
            (_, 0xe6 | 0xe7) => self.scaling = byte == 0xe7,
            (_, 0xe8 | 0xf3) => self.command = Some(byte),
            (_, 0xe9) => {
                let left_first = flag(self.buttons & 1 != 0) << 2 | self.buttons & 2 | flag(self.buttons & 4 != 0);
                let modes = flag(self.remote) << 6 | flag(self.reporting) << 5 | flag(self.scaling) << 4;
                return self.queue.answer(&[ACK, modes | left_first, self.resolution, self.rate]);
            }
            (_, 0xea) => self.remote = false,
            (_, 0xeb) => {
                let mut answer = vec![ACK];
                answer.extend(self.packet());
                return self.queue.answer(&answer);
            }
            (_, 0xec) => self.wrap = false,
            (_, 0xee) => self.wrap = true,
            (_, 0xf0) => self.remote = true,
            (_, 0xf2) => return self.queue.answer(&[ACK, self.kind]),
            (_, 0xf4) => self.reporting = true,
            (_, 0xf5) => self.reporting = false,
            (_, 0xf6) => self.defaults(),
            (_, 0xfe) => return self.queue.answer(&[self.queue.last()]),
            (_, 0xff) => {
                self.kind = PLAIN;
                self.defaults();
                return self.queue.answer(&[ACK, BAT_OK, PLAIN]);
            }
            _ => return self.queue.answer(&[RESEND]),
        }
        self.queue.answer(&[ACK]);
    }

    /// The movement so far, as a packet of three or four bytes.
    fn packet(&mut self) -> Vec<u8> {
        let take = |sum: &mut i16, least: i16, most: i16| {
            let step = (*sum).clamp(least, most);
            *sum -= step;
            step
        };
        let (dx, dy) = (take(&mut self.dx, -256, 255), take(&mut self.dy, -256, 255));
        let wheel = take(&mut self.wheel, -8, 7) as u8;
        self.told = self.buttons;
        let signs = u8::from(dx < 0) << 4 | u8::from(dy < 0) << 5;
        let mut packet = vec![0x08 | signs | self.buttons & 7, dx as u8, dy as u8];
        match self.kind {
            WITH_WHEEL => packet.push(wheel),
            WITH_FIVE_BUTTONS => packet.push(wheel & 0x0f | (self.buttons & 0x18) << 1),
            _ => {}
        }
        packet
    }

    /// Something is done with it. Who sends no reports and is not asked for them counts nothing.
    pub(super) fn event(&mut self, event: MouseEvent) {
        if self.reporting || self.remote {
            self.dx = self.dx.saturating_add(event.dx);
            self.dy = self.dy.saturating_add(event.dy);
            // A mouse without a wheel does not know of one.
            if self.kind != PLAIN {
                self.wheel = self.wheel.saturating_add(event.wheel);
            }
        }
        self.buttons = event.buttons & 0x1f;
        if !(self.reporting || self.remote) {
            self.told = self.buttons;
        }
        self.report();
    }

    /// Sends a packet if there is something to tell, and the last one has been read.
    pub(super) fn report(&mut self) {
        let known = if self.kind == WITH_FIVE_BUTTONS { 0x1f } else { 7 };
        let news = self.dx != 0 || self.dy != 0 || self.wheel != 0 || (self.buttons ^ self.told) & known != 0;
        if news && self.reporting && !self.remote && self.queue.is_empty() {
            let packet = self.packet();
            self.queue.push(&packet);
        }
    }
}

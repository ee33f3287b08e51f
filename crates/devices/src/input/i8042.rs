//! The keyboard controller, 8042, with a keyboard and a mouse (IBM PS/2 Hardware Interface Technical Reference,
//! Keyboard and Auxiliary Device Controller).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use machine::{At, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError};
use serde::{Deserialize, Serialize};

use super::ps2_keyboard::{Keyboard, SET2_TO_SET1};
use super::ps2_mouse::{Mouse, MouseEvent};
use super::waiting::Waiting;
use crate::regs::{decode, read_bytes, require, write_bytes};

/// Bits of the status register.
const OUTPUT_FULL: u8 = 1;
const SYSTEM_FLAG: u8 = 1 << 2;
const COMMAND_LAST: u8 = 1 << 3;
const NOT_INHIBITED: u8 = 1 << 4;
const AUX_OUTPUT_FULL: u8 = 1 << 5;

/// Bits of the command byte.
const KEYBOARD_INTERRUPT: u8 = 1;
const AUX_INTERRUPT: u8 = 1 << 1;
const KEYBOARD_DISABLED: u8 = 1 << 4;
const AUX_DISABLED: u8 = 1 << 5;
const TRANSLATE: u8 = 1 << 6;

/// The prefix of a released key in set 2.
const RELEASED: u8 = 0xf0;

/// Where a byte comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Source {
    Controller,
    Keyboard,
    Aux,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct I8042State {
    /// The controller's memory; byte 0 is the command byte.
    memory: [u8; 32],
    output_port: u8,
    /// The command that awaits a byte at port 60h.
    command: Option<u8>,
    command_last: bool,
    output: Option<(u8, Source)>,
    /// The controller's own answers, before they get into the output buffer.
    answers: VecDeque<(u8, Source)>,
    /// Translation has seen the prefix of a released key.
    released: bool,
    keyboard: Keyboard,
    mouse: Mouse,
}

/// The controller. Windows: 0 its data port (60h, 1 byte), 1 its status and command port (64h, 1 byte).
///
/// At power-on it is as firmware leaves it (keyboard interrupt and translation on, mouse off), since a kernel may be
/// started without any.
pub struct I8042 {
    state: I8042State,
    /// What the guest has not been offered yet.
    waiting: Waiting,
    irq1: Line,
    irq12: Line,
}

impl I8042 {
    /// The controller with the lines of keyboard and mouse.
    #[must_use]
    pub fn build(irq1: Line, irq12: Line) -> Shared<Self> {
        Arc::new(Mutex::new(Self { state: Self::power_on(), waiting: Waiting::default(), irq1, irq12 }))
    }

    fn power_on() -> I8042State {
        let mut memory = [0; 32];
        memory[0] = KEYBOARD_INTERRUPT | SYSTEM_FLAG | AUX_DISABLED | TRANSLATE;
        I8042State {
            memory,
            output_port: 0x03,
            command: None,
            command_last: false,
            output: None,
            answers: VecDeque::new(),
            released: false,
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    /// A key goes down: its bytes of scan code set 1 (`[1e]`, `[e0, 48]`). It waits until the guest has read those before
    /// it; returns whether there was room for that.
    pub fn press(&mut self, set1: &[u8]) -> bool {
        let taken = self.waiting.press(set1);
        self.update();
        taken
    }

    /// A key that was taken goes up: its bytes of scan code set 1 (`[9e]`, `[e0, c8]`). There is always room for that.
    pub fn release(&mut self, set1: &[u8]) {
        self.waiting.release(set1);
        self.update();
    }

    /// Something is done with the mouse.
    pub fn mouse(&mut self, event: MouseEvent) {
        self.waiting.mouse(event);
        self.update();
    }

    /// `bell` is called whenever the guest has read all keys. It must not call back.
    pub fn on_all_keys_read(&mut self, bell: impl Fn() + Send + 'static) {
        self.waiting.on_all_read(Box::new(bell));
    }

    /// Whether the guest has read all keys.
    #[must_use]
    pub fn all_keys_read(&self) -> bool {
        let state = &self.state;
        let in_buffer = matches!(state.output, Some((_, Source::Keyboard)));
        !in_buffer && state.keyboard.queue.is_empty() && !self.waiting.has_keys()
    }

    /// The keyboard's lights: bit 0 scroll lock, bit 1 num lock, bit 2 caps lock.
    #[must_use]
    pub fn leds(&self) -> u8 {
        self.state.keyboard.leds()
    }

    fn control(&self) -> u8 {
        self.state.memory[0]
    }

    fn answer(&mut self, byte: u8) {
        // Nobody needs more; a guest that asks without reading loses answers.
        if self.state.answers.len() < 16 {
            self.state.answers.push_back((byte, Source::Controller));
        }
    }

    /// Fills the output buffer and drives the lines.
    fn update(&mut self) {
        while self.state.output.is_none() {
            let Some((byte, source)) = self.next_byte() else { break };
            self.state.output = match source {
                Source::Keyboard if self.control() & TRANSLATE != 0 => self.translate(byte).map(|byte| (byte, source)),
                _ => Some((byte, source)),
            };
        }
        let aux = match self.state.output {
            Some((_, Source::Aux)) => Some(true),
            Some(_) => Some(false),
            None => None,
        };
        self.irq1.set(aux == Some(false) && self.control() & KEYBOARD_INTERRUPT != 0);
        self.irq12.set(aux == Some(true) && self.control() & AUX_INTERRUPT != 0);
    }

    fn next_byte(&mut self) -> Option<(u8, Source)> {
        if let Some(answer) = self.state.answers.pop_front() {
            return Some(answer);
        }
        let control = self.control();
        let Self { state, waiting, .. } = self;
        if control & KEYBOARD_DISABLED == 0 {
            // One key at a time, so that a command of the guest in between costs at most one.
            while state.keyboard.queue.is_empty()
                && let Some(key) = waiting.next_key()
            {
                state.keyboard.key(&key);
            }
            if let Some(byte) = state.keyboard.queue.pop() {
                return Some((byte, Source::Keyboard));
            }
        }
        if control & AUX_DISABLED == 0 {
            state.mouse.report();
            while state.mouse.queue.is_empty()
                && let Some(event) = waiting.next_mouse()
            {
                state.mouse.event(event);
            }
            return state.mouse.queue.pop().map(|byte| (byte, Source::Aux));
        }
        None
    }

    /// Set 2 to set 1; the prefix of a released key becomes bit 7 of what follows.
    fn translate(&mut self, byte: u8) -> Option<u8> {
        let code = match byte {
            RELEASED => {
                self.state.released = true;
                return None;
            }
            0x83 => 0x41,
            0x84 => 0x54,
            _ => SET2_TO_SET1.get(usize::from(byte)).copied().unwrap_or(byte),
        };
        Some(if std::mem::take(&mut self.state.released) { code | 0x80 } else { code })
    }

    fn status(&self) -> u8 {
        let output = match self.state.output {
            None => 0,
            Some((_, Source::Aux)) => OUTPUT_FULL | AUX_OUTPUT_FULL,
            Some(_) => OUTPUT_FULL,
        };
        let last = if self.state.command_last { COMMAND_LAST } else { 0 };
        output | last | NOT_INHIBITED | self.control() & SYSTEM_FLAG
    }

    fn read_data(&mut self) -> u8 {
        let (byte, source) = self.state.output.take().unwrap_or((0, Source::Controller));
        // The lines fall before the next byte raises them, so that each byte is an edge.
        self.irq1.set(false);
        self.irq12.set(false);
        self.update();
        if source == Source::Keyboard && self.all_keys_read() {
            self.waiting.ring();
        }
        byte
    }

    fn write_command(&mut self, command: u8) -> Effect {
        self.state.command_last = true;
        self.state.command = None;
        match command {
            0x20..=0x3f => self.answer(self.state.memory[usize::from(command & 0x1f)]),
            0x60..=0x7f | 0xd1..=0xd4 => self.state.command = Some(command),
            // No password is installed.
            0xa4 => self.answer(0xf1),
            0xa7 => self.state.memory[0] |= AUX_DISABLED,
            0xa8 => self.state.memory[0] &= !AUX_DISABLED,
            0xa9 | 0xab | 0xe0 => self.answer(0x00),
            0xaa => {
                self.state.memory[0] |= SYSTEM_FLAG;
                self.answer(0x55);
            }
            0xad => self.state.memory[0] |= KEYBOARD_DISABLED,
            0xae => self.state.memory[0] &= !KEYBOARD_DISABLED,
            // The input port: the keyboard is not locked.
            0xc0 => self.answer(0x80),
            0xd0 => {
                let keyboard = matches!(self.state.output, Some((_, Source::Controller | Source::Keyboard)));
                let aux = matches!(self.state.output, Some((_, Source::Aux)));
                self.answer(self.state.output_port | u8::from(keyboard) << 4 | u8::from(aux) << 5);
            }
            // Pulse the output port's low bits that are clear; bit 0 is the reset line.
            0xf0..=0xff if command & 1 == 0 => return Effect::Reset,
            _ => {}
        }
        self.update();
        Effect::None
    }

    fn write_data(&mut self, byte: u8) -> Effect {
        self.state.command_last = false;
        match self.state.command.take() {
            Some(command @ 0x60..=0x7f) => self.state.memory[usize::from(command & 0x1f)] = byte,
            Some(0xd1) => {
                // Address line 20 stays open whatever bit 1 says.
                self.state.output_port = byte & 0x03;
                if byte & 1 == 0 {
                    return Effect::Reset;
                }
            }
            Some(0xd2) => self.state.output = Some((byte, Source::Controller)),
            Some(0xd3) => self.state.output = Some((byte, Source::Aux)),
            Some(0xd4) => {
                // Sending to a device opens its clock line.
                self.state.memory[0] &= !AUX_DISABLED;
                self.state.mouse.write(byte);
            }
            _ => {
                self.state.memory[0] &= !KEYBOARD_DISABLED;
                self.state.released = false;
                self.state.keyboard.write(byte);
            }
        }
        self.irq1.set(false);
        self.irq12.set(false);
        self.update();
        Effect::None
    }
}

impl Device for I8042 {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| match (at.window, offset) {
            (0, 0) => self.read_data(),
            (1, 0) => self.status(),
            _ => 0xff,
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| match (at.window, offset) {
            (0, 0) => self.write_data(value),
            (1, 0) => self.write_command(value),
            _ => Effect::None,
        })
    }

    fn reset(&mut self) {
        self.state = Self::power_on();
        self.waiting.clear();
        self.update();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.update();
    }
}

impl Snapshot for I8042 {
    fn schema(&self) -> Schema {
        Schema { name: "i8042", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: I8042State = decode(self.schema(), version, state)?;
        let fits = state.answers.len() <= 16 && state.keyboard.is_valid() && state.mouse.is_valid();
        require(self.schema(), fits, "a queue is too long, or a setting out of range")?;
        self.state = state;
        self.update();
        Ok(())
    }
}

//! The serial port, 16550A (National Semiconductor PC16550D data sheet, TL/C/8652).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use machine::{At, Clock, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError, Timer, VmTime};
use serde::{Deserialize, Serialize};

use crate::CharOut;
use crate::regs::{decode, read_bytes, require, write_bytes};

/// The size of the receive FIFO.
const FIFO: usize = 16;
/// How much waits for the guest on the host's side at most.
const QUEUE: usize = 64 * 1024;
/// The time of a character of ten bits at 115200 baud in nanoseconds. Input comes at this pace whatever the divisor
/// says, so that the guest's own buffers are not flooded.
const CHARACTER: u64 = 86_806;

/// Bits of the interrupt enable register.
const IER_RECEIVED: u8 = 1;
const IER_EMPTY: u8 = 1 << 1;
const IER_LINE: u8 = 1 << 2;
const IER_MODEM: u8 = 1 << 3;

/// Values of the interrupt identification register, by falling priority.
const IIR_LINE: u8 = 0x06;
const IIR_RECEIVED: u8 = 0x04;
const IIR_TIMEOUT: u8 = 0x0c;
const IIR_EMPTY: u8 = 0x02;
const IIR_MODEM: u8 = 0x00;
const IIR_NONE: u8 = 0x01;

const LCR_DIVISOR: u8 = 1 << 7;

const MCR_DTR: u8 = 1;
const MCR_RTS: u8 = 1 << 1;
const MCR_OUT1: u8 = 1 << 2;
/// On a PC this output lets the interrupt through.
const MCR_OUT2: u8 = 1 << 3;
const MCR_LOOP: u8 = 1 << 4;

const LSR_READY: u8 = 1;
const LSR_OVERRUN: u8 = 1 << 1;
const LSR_BREAK: u8 = 1 << 4;
/// A character with an error is in the FIFO.
const LSR_FIFO_ERROR: u8 = 1 << 7;
/// The transmitter is always empty: transmission takes no time.
const LSR_EMPTY: u8 = 1 << 5 | 1 << 6;

const MSR_CTS: u8 = 1 << 4;
const MSR_DSR: u8 = 1 << 5;
const MSR_RI: u8 = 1 << 6;
const MSR_DCD: u8 = 1 << 7;
/// A received character that is a break: a zero with this bit.
const BREAK: u16 = 1 << 8;

/// The modem that is always there.
const CONNECTED: u8 = MSR_CTS | MSR_DSR | MSR_DCD;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Uart16550State {
    /// Received characters, with [`BREAK`] until the line status has been read.
    fifo: VecDeque<u16>,
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    /// A character was lost, and the line status not read since.
    overrun: bool,
    msr: u8,
    scratch: u8,
    divisor: u16,
    /// The transmitter has become empty, and nobody has been told.
    empty_pending: bool,
}

/// Who reads the line status so often with nothing to send waits for characters.
const PATIENCE: u8 = 16;

/// The port. Window 0: its registers (8 bytes).
///
/// What the guest sends goes out at once. What it is to receive waits in a queue on the host's side and follows into
/// the FIFO as there is room and the guest raises RTS, or reads the line status again and again, as firmware does that
/// knows no RTS; nothing of it is lost. A FIFO that holds less than
/// its trigger level counts as timed out at once.
pub struct Uart16550 {
    state: Uart16550State,
    irq: Line,
    out: Box<dyn CharOut>,
    timer: Timer,
    queue: VecDeque<u16>,
    /// When the line is free for the next characters.
    line_free: u64,
    /// How often the line status has been read since anything was written, up to [`PATIENCE`].
    looks: u8,
    /// [`Uart16550::receive`] had to refuse something.
    refused: bool,
    drained: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Uart16550 {
    /// The port on `clock` with its interrupt line; what the guest sends goes to `out`.
    #[must_use]
    pub fn build(clock: &Clock, irq: Line, out: Box<dyn CharOut>) -> Shared<Self> {
        Arc::new_cyclic(|device| {
            let timer = Timer::new(clock, device.clone(), Self::feed);
            Mutex::new(Self {
                state: Self::power_on(),
                irq,
                out,
                timer,
                queue: VecDeque::new(),
                line_free: 0,
                looks: 0,
                refused: false,
                drained: None,
            })
        })
    }

    fn power_on() -> Uart16550State {
        Uart16550State {
            fifo: VecDeque::new(),
            ier: 0,
            fcr: 0,
            lcr: 0,
            mcr: 0,
            overrun: false,
            msr: CONNECTED,
            scratch: 0,
            divisor: 1,
            empty_pending: false,
        }
    }

    /// Characters for the guest. Returns how many of them were taken; the rest is to be offered again when there is
    /// [`Uart16550::room`], of which [`Uart16550::on_drained`] tells.
    pub fn receive(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room());
        self.queue.extend(bytes.iter().take(taken).map(|byte| u16::from(*byte)));
        self.refused |= taken < bytes.len();
        self.feed();
        taken
    }

    /// The BREAK condition for the guest, behind the characters that wait.
    pub fn receive_break(&mut self) {
        if self.room() != 0 {
            self.queue.push_back(BREAK);
        }
        self.feed();
    }

    /// How many characters [`Uart16550::receive`] would take.
    #[must_use]
    pub fn room(&self) -> usize {
        QUEUE.saturating_sub(self.queue.len())
    }

    /// Sets what is called when there is room again after something was refused. It is called under the device's lock
    /// and may only notify.
    pub fn on_drained(&mut self, call: impl Fn() + Send + Sync + 'static) {
        self.drained = Some(Box::new(call));
    }

    fn fifo_enabled(&self) -> bool {
        self.state.fcr & 1 != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_enabled() { FIFO } else { 1 }
    }

    /// Moves characters from the queue into the FIFO, at the pace of the line.
    fn feed(&mut self) {
        // What is typed before the guest has opened the port waits too: a driver empties the FIFO when it starts.
        let opened = self.state.mcr & MCR_RTS != 0 || self.looks == PATIENCE;
        let held = self.state.mcr & MCR_LOOP != 0 || !opened;
        let room = self.capacity().saturating_sub(self.state.fifo.len());
        let count = if held { 0 } else { room.min(self.queue.len()) };
        let now = self.timer.now().0;
        if count != 0 && now >= self.line_free {
            self.state.fifo.extend(self.queue.drain(..count));
            self.line_free = now.saturating_add(CHARACTER * count as u64);
        } else if count != 0 {
            self.timer.set(VmTime(self.line_free));
        }
        if self.refused && self.queue.len() <= QUEUE / 2 {
            self.refused = false;
            if let Some(call) = &self.drained {
                call();
            }
        }
        self.update();
        // What is left follows when the line is free; a full FIFO is fed when the guest reads.
        if !held && !self.queue.is_empty() && self.state.fifo.len() < self.capacity() {
            self.timer.set(VmTime(self.line_free));
        }
    }

    /// Whether the next character to be read is a break, of which the line status tells.
    fn break_in_front(&self) -> bool {
        self.state.fifo.front().is_some_and(|character| character & BREAK != 0)
    }

    /// The line status; reading it clears the errors.
    fn read_line_status(&mut self) -> u8 {
        let any = |set: bool, bit: u8| if set { bit } else { 0 };
        let broken = self.fifo_enabled() && self.state.fifo.iter().any(|character| character & BREAK != 0);
        let status = any(!self.state.fifo.is_empty(), LSR_READY)
            | any(std::mem::take(&mut self.state.overrun), LSR_OVERRUN)
            | any(self.break_in_front(), LSR_BREAK)
            | any(broken, LSR_FIFO_ERROR);
        if let Some(character) = self.state.fifo.front_mut() {
            *character &= !BREAK;
        }
        status | LSR_EMPTY
    }

    /// The interrupt of highest priority that is pending and enabled (table IV).
    fn pending(&self) -> u8 {
        let state = &self.state;
        let trigger = match (self.fifo_enabled(), state.fcr >> 6) {
            (false, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        };
        if state.ier & IER_LINE != 0 && (state.overrun || self.break_in_front()) {
            IIR_LINE
        } else if state.ier & IER_RECEIVED != 0 && state.fifo.len() >= trigger {
            IIR_RECEIVED
        } else if state.ier & IER_RECEIVED != 0 && !state.fifo.is_empty() {
            IIR_TIMEOUT
        } else if state.ier & IER_EMPTY != 0 && state.empty_pending {
            IIR_EMPTY
        } else if state.ier & IER_MODEM != 0 && state.msr & 0x0f != 0 {
            IIR_MODEM
        } else {
            IIR_NONE
        }
    }

    fn update(&self) {
        let through = self.state.mcr & (MCR_OUT2 | MCR_LOOP) == MCR_OUT2;
        self.irq.set(through && self.pending() != IIR_NONE);
    }

    /// The modem status follows its inputs, in loopback mode the modem control register.
    fn update_modem(&mut self) {
        let mcr = self.state.mcr;
        let inputs = if mcr & MCR_LOOP == 0 {
            CONNECTED
        } else {
            let wired = [(MCR_RTS, MSR_CTS), (MCR_DTR, MSR_DSR), (MCR_OUT1, MSR_RI), (MCR_OUT2, MSR_DCD)];
            wired.iter().fold(0, |all, (from, to)| if mcr & from != 0 { all | to } else { all })
        };
        let old = self.state.msr;
        let changed = old ^ inputs;
        // The ring indicator tells of its falling edge only.
        let ring = changed & MSR_RI & old;
        self.state.msr = inputs | old & 0x0f | (changed & !MSR_RI | ring) >> 4;
    }

    fn transmit(&mut self, byte: u8) {
        if self.state.mcr & MCR_LOOP == 0 {
            self.out.put(&[byte]);
        } else if self.state.fifo.len() < self.capacity() {
            self.state.fifo.push_back(byte.into());
        } else {
            self.state.overrun = true;
            if !self.fifo_enabled() {
                // Without FIFO the new character takes the place of the old one.
                self.state.fifo.clear();
                self.state.fifo.push_back(byte.into());
            }
        }
        self.state.empty_pending = true;
    }

    fn set_fcr(&mut self, value: u8) {
        let toggled = (self.state.fcr ^ value) & 1 != 0;
        if toggled || value & 2 != 0 {
            self.state.fifo.clear();
        }
        // The other bits can be set only together with the enable bit (8.4).
        self.state.fcr = if value & 1 != 0 { value & 0xc9 } else { 0 };
    }

    fn read_register(&mut self, offset: u64) -> u8 {
        let divisor = self.state.lcr & LCR_DIVISOR != 0;
        match offset {
            0 if divisor => self.state.divisor as u8,
            1 if divisor => (self.state.divisor >> 8) as u8,
            0 => {
                let byte = self.state.fifo.pop_front().unwrap_or(0) as u8;
                // The request falls before the next characters raise it again.
                self.update();
                self.feed();
                byte
            }
            1 => self.state.ier,
            2 => {
                let pending = self.pending();
                if pending == IIR_EMPTY {
                    self.state.empty_pending = false;
                }
                pending | if self.fifo_enabled() { 0xc0 } else { 0 }
            }
            3 => self.state.lcr,
            4 => self.state.mcr,
            5 => {
                if self.looks < PATIENCE {
                    self.looks += 1;
                    if self.looks == PATIENCE {
                        self.feed();
                    }
                }
                self.read_line_status()
            }
            6 => {
                let msr = self.state.msr;
                self.state.msr &= 0xf0;
                msr
            }
            7 => self.state.scratch,
            _ => 0xff,
        }
    }

    fn write_register(&mut self, offset: u64, value: u8) {
        let divisor = self.state.lcr & LCR_DIVISOR != 0;
        match offset {
            0 if divisor => self.state.divisor = self.state.divisor & 0xff00 | u16::from(value),
            1 if divisor => self.state.divisor = self.state.divisor & 0x00ff | u16::from(value) << 8,
            0 => {
                // Writing takes back what was pending, so that each character ends in an edge of its own.
                self.state.empty_pending = false;
                self.update();
                self.transmit(value);
            }
            1 => {
                // Enabling the interrupt while the transmitter is empty asks at once.
                if value & !self.state.ier & IER_EMPTY != 0 {
                    self.state.empty_pending = true;
                }
                self.state.ier = value & 0x0f;
            }
            2 => self.set_fcr(value),
            3 => self.state.lcr = value,
            4 => {
                self.state.mcr = value & 0x1f;
                self.update_modem();
            }
            7 => self.state.scratch = value,
            // Line and modem status are read-only.
            _ => {}
        }
    }
}

impl Device for Uart16550 {
    fn read(&mut self, at: At, data: &mut [u8]) {
        read_bytes(at, data, |offset| {
            let byte = self.read_register(offset);
            self.update();
            byte
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        write_bytes(at, data, |offset, value| {
            self.write_register(offset, value);
            // Who waits for characters writes nothing but what echoes them.
            if offset != 0 || self.looks < PATIENCE {
                self.looks = 0;
            }
            if matches!(offset, 2 | 4) {
                self.feed();
            }
            self.update();
            Effect::None
        })
    }

    fn reset(&mut self) {
        self.state = Self::power_on();
        self.looks = 0;
        // Who typed it meant the system that is gone.
        self.queue.clear();
        self.feed();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.feed();
    }
}

impl Snapshot for Uart16550 {
    fn schema(&self) -> Schema {
        Schema { name: "uart16550", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: Uart16550State = decode(self.schema(), version, state)?;
        let capacity = if state.fcr & 1 != 0 { FIFO } else { 1 };
        require(self.schema(), state.fifo.len() <= capacity, "more in the FIFO than it holds")?;
        let characters = state.fifo.iter().all(|character| matches!(*character, 0..=0xff | BREAK));
        let bits = state.ier < 0x10 && state.mcr < 0x20 && characters;
        require(self.schema(), bits, "reserved bits are set")?;
        self.state = state;
        self.feed();
        Ok(())
    }
}

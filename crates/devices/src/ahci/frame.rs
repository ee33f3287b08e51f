//! Frame information structures: what adapter and drive send each other (SATA 3.0, 10.5), and where the received ones are
//! put in memory (AHCI 1.3.1, 4.2.1).

use crate::ata::Registers;

/// The frame with which the guest writes a drive's registers.
const TO_DEVICE: u8 = 0x27;
/// It is a command, not the control register alone.
const COMMAND: u8 = 1 << 7;
/// The receiver is to be interrupted.
const INTERRUPT: u8 = 1 << 6;
/// The data goes to the guest.
const TO_HOST: u8 = 1 << 5;

/// Where frames are put, from the start of the area.
pub(super) const PIO_SETUP_AT: u64 = 0x20;
pub(super) const REGISTERS_AT: u64 = 0x40;
pub(super) const DEVICE_BITS_AT: u64 = 0x58;

/// What the guest sends to a drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// A command with its registers.
    Command(u8, Registers),
    /// The control register: whether the drive is held in reset.
    Control { reset: bool },
}

/// Reads a frame from the guest; `None` when it is of no kind that a guest sends.
pub(super) fn parse(frame: &[u8; 64]) -> Option<Sent> {
    let [kind, flags, command, features, low, middle, high, device, fourth, fifth, sixth, features_before, ..] = *frame;
    let [.., count, count_before, _, control, _, _, _, _] = *frame.first_chunk::<20>()?;
    if kind != TO_DEVICE {
        return None;
    }
    if flags & COMMAND == 0 {
        return Some(Sent::Control { reset: control & 4 != 0 });
    }
    let registers = Registers {
        features,
        features_before,
        now: [count, low, middle, high],
        before: [count_before, fourth, fifth, sixth],
        device,
    };
    Some(Sent::Command(command, registers))
}

/// The drive shows its registers.
pub(super) fn registers(registers: &Registers, status: u8, error: u8, interrupt: bool) -> [u8; 20] {
    let [count, low, middle, high] = registers.now;
    let [count_before, fourth, fifth, sixth] = registers.before;
    let flags = if interrupt { INTERRUPT } else { 0 };
    [
        0x34,
        flags,
        status,
        error,
        low,
        middle,
        high,
        registers.device,
        fourth,
        fifth,
        sixth,
        0,
        count,
        count_before,
        0,
        0,
        0,
        0,
        0,
        0,
    ]
}

/// The drive is about to send or take data as by a data port; `end` is its status behind that.
pub(super) fn pio_setup(shown: &Registers, status: u8, end: u8, len: u64, to_host: bool) -> [u8; 20] {
    let mut frame = registers(shown, status, 0, true);
    let [low, high, ..] = len.to_le_bytes();
    frame[0] = 0x5f;
    if to_host {
        frame[1] |= TO_HOST;
    }
    (frame[15], frame[16], frame[17]) = (end, low, high);
    frame
}

/// Queued commands are done, by their tags, or one has failed.
pub(super) fn device_bits(status: u8, error: u8, tags: u32) -> [u8; 8] {
    let [a, b, c, d] = tags.to_le_bytes();
    [0xa1, INTERRUPT, status & 0x77, error, a, b, c, d]
}

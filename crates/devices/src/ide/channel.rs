//! A channel: two drives on one cable, with the registers that they share (ATA-7, volume 2, 5 and 9).

use machine::Line;
use serde::{Deserialize, Serialize};

use super::drive::{Asks, DriveState, IdeDrive};
use crate::ata::{AtaUnit, Registers};

/// The device register: the second drive is selected.
const SECOND: u8 = 1 << 4;
/// The device control register.
const NO_INTERRUPT: u8 = 1 << 1;
const SOFTWARE_RESET: u8 = 1 << 2;
const HIGH_ORDER: u8 = 1 << 7;
/// Software reset is under way: busy.
const BUSY: u8 = 1 << 7;
/// What a cable without a drive reads: the host pulls its seventh line down, so that nobody waits for a drive that is busy.
const NOBODY: u8 = 0x7f;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ChannelState {
    drives: [Option<DriveState>; 2],
    registers: Registers,
    control: u8,
    interrupt: bool,
    /// An interrupt has been asked for that the bus master has not noted yet.
    pub(super) noted: bool,
}

/// A channel.
pub(super) struct Channel {
    pub(super) drives: [Option<IdeDrive>; 2],
    /// What has been written to the registers, which both drives take.
    registers: Registers,
    control: u8,
    /// The drive asks for an interrupt.
    interrupt: bool,
    /// It has done so since this was cleared.
    pub(super) noted: bool,
    line: Line,
}

impl Channel {
    pub(super) fn new(units: [Option<AtaUnit>; 2], line: Line) -> Self {
        let drives = units.map(|unit| unit.map(IdeDrive::new));
        Self { drives, registers: Registers::DISK, control: 0, interrupt: false, noted: false, line }
    }

    /// To the state of power-on; what is under way ends first, unseen.
    pub(super) fn reset(&mut self) {
        self.drives.iter_mut().flatten().for_each(IdeDrive::reset);
        self.registers = Registers::DISK;
        self.control = 0;
        self.noted = false;
        self.set_interrupt(false);
    }

    pub(super) fn selected(&mut self) -> Option<&mut IdeDrive> {
        let [first, second] = &mut self.drives;
        if self.registers.device & SECOND == 0 { first.as_mut() } else { second.as_mut() }
    }

    pub(super) fn set_interrupt(&mut self, interrupt: Asks) {
        self.interrupt = interrupt;
        self.noted |= interrupt;
        self.line.set(interrupt && self.control & NO_INTERRUPT == 0);
    }

    pub(super) fn asks(&mut self, asks: Asks) {
        if asks {
            self.set_interrupt(true);
        }
    }

    /// The guest reads a command register, 1 to 7.
    pub(super) fn read(&mut self, register: u64) -> u8 {
        if self.drives.iter().all(Option::is_none) {
            return NOBODY;
        }
        let (registers, control) = (self.registers, self.control);
        let Some(drive) = self.selected() else { return if register == 6 { registers.device | 0xa0 } else { 0 } };
        let (status, error) = (drive.status, drive.error);
        let file = if control & HIGH_ORDER != 0 { drive.registers.before } else { drive.registers.now };
        match register {
            1 => error,
            2..=5 => file.get(register as usize - 2).copied().unwrap_or(0),
            6 => drive.registers.device | 0xa0,
            _ => {
                let status = if control & SOFTWARE_RESET == 0 { status } else { BUSY };
                self.set_interrupt(false);
                status
            }
        }
    }

    /// The status without a side effect.
    pub(super) fn alternate_status(&mut self) -> u8 {
        if self.drives.iter().all(Option::is_none) {
            return NOBODY;
        }
        if self.control & SOFTWARE_RESET != 0 {
            return BUSY;
        }
        self.selected().map_or(0, |drive| drive.status)
    }

    /// The guest writes a command register, 1 to 7.
    pub(super) fn write(&mut self, register: u64, value: u8) {
        self.control &= !HIGH_ORDER;
        match register {
            7 => {
                self.set_interrupt(false);
                let asks = self.selected().is_some_and(|drive| drive.command(value));
                self.asks(asks);
            }
            1 => self.for_each(|registers| {
                registers.features_before = std::mem::replace(&mut registers.features, value);
            }),
            6 => self.for_each(|registers| registers.device = value),
            2..=5 => self.for_each(|registers| {
                let at = register as usize - 2;
                if let (Some(now), Some(before)) = (registers.now.get_mut(at), registers.before.get_mut(at)) {
                    *before = std::mem::replace(now, value);
                }
            }),
            _ => {}
        }
    }

    fn for_each(&mut self, change: impl Fn(&mut Registers)) {
        change(&mut self.registers);
        self.drives.iter_mut().flatten().for_each(|drive| change(&mut drive.registers));
    }

    /// The guest writes the device control register.
    pub(super) fn write_control(&mut self, value: u8) {
        let was = std::mem::replace(&mut self.control, value & (HIGH_ORDER | SOFTWARE_RESET | NO_INTERRUPT));
        if value & SOFTWARE_RESET != 0 && was & SOFTWARE_RESET == 0 {
            self.drives.iter_mut().flatten().for_each(IdeDrive::software_reset);
            self.registers = Registers::DISK;
            self.noted = false;
            self.set_interrupt(false);
        }
        self.line.set(self.interrupt && self.control & NO_INTERRUPT == 0);
    }

    pub(super) fn read_data(&mut self, data: &mut [u8]) {
        data.fill(0xff);
        let asks = self.selected().is_some_and(|drive| drive.read_data(data));
        self.asks(asks);
    }

    pub(super) fn write_data(&mut self, data: &[u8]) {
        let asks = self.selected().is_some_and(|drive| drive.write_data(data));
        self.asks(asks);
    }

    /// Goes on with what has finished.
    pub(super) fn take_finished(&mut self) {
        for n in 0..self.drives.len() {
            let asks = self.drives.get_mut(n).and_then(Option::as_mut).is_some_and(IdeDrive::take_finished);
            self.asks(asks);
        }
    }

    /// Waits until nothing is under way, and goes on with what has finished.
    pub(super) fn settle(&mut self) {
        while self.drives.iter().flatten().any(IdeDrive::drain) {
            self.take_finished();
        }
    }

    /// Whether a transfer by the bus master has ended since this was asked, and well.
    pub(super) fn take_dma_done(&mut self) -> Option<bool> {
        self.drives.iter_mut().flatten().find_map(IdeDrive::take_dma_done)
    }

    pub(super) fn state(&self) -> ChannelState {
        ChannelState {
            drives: [0, 1].map(|n| self.drives.get(n)?.as_ref().map(IdeDrive::state)),
            registers: self.registers,
            control: self.control,
            interrupt: self.interrupt,
            noted: self.noted,
        }
    }

    /// Whether the state is one of a channel with these drives.
    pub(super) fn fits(&self, state: &ChannelState) -> bool {
        let pairs = self.drives.iter().zip(&state.drives);
        pairs.into_iter().all(|(drive, state)| match (drive, state) {
            (Some(drive), Some(state)) => drive.accepts(state),
            (None, None) => true,
            _ => false,
        })
    }

    pub(super) fn restore(&mut self, state: ChannelState) {
        for (drive, state) in self.drives.iter_mut().zip(state.drives) {
            if let (Some(drive), Some(state)) = (drive, state) {
                drive.restore(state);
            }
        }
        (self.registers, self.control) = (state.registers, state.control);
        self.set_interrupt(state.interrupt);
        self.noted = state.noted;
    }
}

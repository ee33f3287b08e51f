//! The bus master of a channel: moves a request's data between the drive and the guest's memory, by a table of regions in
//! that memory (*Programming Interface for Bus Master IDE Controller* 1.0).

use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::drive::{Request, SECTOR, error};

/// The command register: start, and the direction: to memory.
const START: u8 = 1;
const TO_MEMORY: u8 = 1 << 3;
/// The status register: active, error, interrupt, and what the drives can do.
const ACTIVE: u8 = 1;
const ERROR: u8 = 1 << 1;
const INTERRUPT: u8 = 1 << 2;
const CAPABLE: u8 = 3 << 5;

/// The entries of the largest table: 64 KiB.
const MOST_REGIONS: u64 = 8192;
/// A region that is the table's last one.
const LAST: u32 = 1 << 31;

/// The registers of one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct BusMaster {
    command: u8,
    status: u8,
    table: u32,
}

impl BusMaster {
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }

    pub(super) fn read(&self, register: u64) -> u8 {
        match register {
            0 => self.command,
            2 => self.status,
            4..8 => (self.table >> (8 * (register - 4))) as u8,
            _ => 0,
        }
    }

    pub(super) fn write(&mut self, register: u64, value: u8) {
        match register {
            0 => {
                let start = value & START != 0;
                if start && self.command & START == 0 {
                    self.status |= ACTIVE;
                } else if !start {
                    self.status &= !ACTIVE;
                }
                self.command = value & (START | TO_MEMORY);
            }
            2 => self.status = self.status & (ACTIVE | (ERROR | INTERRUPT) & !value) | value & CAPABLE,
            4..8 => {
                let shift = 8 * (register - 4);
                self.table = (self.table & !(0xff << shift) | u32::from(value) << shift) & !3;
            }
            _ => {}
        }
    }

    /// Does what there is to do when a register or the channel has changed.
    pub(super) fn follow(&mut self, channel: &mut Channel, memory: &GuestMemory, allowed: bool) {
        if self.status & ACTIVE != 0
            && allowed
            && let Some((request, write)) = channel.selected().and_then(|drive| drive.state.dma)
        {
            let result = self.transfer(channel, memory, request, write);
            self.status &= !ACTIVE;
            if result.is_err() {
                self.status |= ERROR;
            }
            if let Some(drive) = channel.selected() {
                drive.end(result);
            }
            channel.set_interrupt(true);
        }
        if std::mem::take(&mut channel.noted) {
            self.status |= INTERRUPT;
        }
    }

    /// Moves the data of a whole request.
    fn transfer(&self, channel: &mut Channel, memory: &GuestMemory, request: Request, write: bool) -> Result<(), u8> {
        // The direction has to be that of the command.
        let drive = channel.selected().filter(|_| write == (self.command & TO_MEMORY == 0)).ok_or(error::ABORTED)?;
        let mut at = request.first * SECTOR as u64;
        let end = at + u64::from(request.count) * SECTOR as u64;
        let mut bytes = Vec::new();
        for n in 0..MOST_REGIONS {
            let entry = memory.read_array::<8>(Gpa(u64::from(self.table) + 8 * n)).map_err(|_| error::ABORTED)?;
            let [a, b, c, d, e, f, g, h] = entry;
            let (base, len) = (u32::from_le_bytes([a, b, c, d]) & !1, u32::from_le_bytes([e, f, g, h]));
            // Zero stands for 64 KiB; lengths are even.
            let size = u64::from(if len & 0xfffe == 0 { 0x1_0000 } else { len & 0xfffe }).min(end - at);
            bytes.resize(size as usize, 0);
            let place = Gpa(base.into());
            if write {
                memory.read(place, &mut bytes).map_err(|_| error::ABORTED)?;
                drive.write(at, &bytes)?;
            } else {
                drive.read(at, &mut bytes)?;
                if !memory.is_ram(place, size) {
                    return Err(error::ABORTED);
                }
                memory.write(place, &bytes).map_err(|_| error::ABORTED)?;
            }
            at += size;
            if at == end {
                return Ok(());
            }
            if len & LAST != 0 {
                break;
            }
        }
        // The table has less room than the request.
        Err(error::ABORTED)
    }
}

//! The bus master of a channel: moves a request's data between the drive and the guest's memory, by a table of regions in
//! that memory (*Programming Interface for Bus Master IDE Controller* 1.0).

use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use super::channel::Channel;
use crate::block::Segment;

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
            && let Some(drive) = channel.selected()
            && let Some((len, write)) = drive.waiting_dma()
        {
            // The direction has to be that of the command.
            let fits = write == (self.command & TO_MEMORY == 0);
            let segments = if fits { self.segments(memory, len) } else { None };
            let asks = drive.move_dma(segments, memory);
            channel.asks(asks);
        }
        if let Some(good) = channel.take_dma_done() {
            self.status &= !ACTIVE;
            if !good {
                self.status |= ERROR;
            }
        }
        if std::mem::take(&mut channel.noted) {
            self.status |= INTERRUPT;
        }
    }

    /// The stretches of memory that the table names, `len` bytes in all; `None` when it has less room.
    fn segments(&self, memory: &GuestMemory, len: u64) -> Option<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut left = len;
        for n in 0..MOST_REGIONS {
            let entry = memory.read_array::<8>(Gpa(u64::from(self.table) + 8 * n)).ok()?;
            let [a, b, c, d, e, f, g, h] = entry;
            let (base, size) = (u32::from_le_bytes([a, b, c, d]) & !1, u32::from_le_bytes([e, f, g, h]));
            // Zero stands for 64 KiB; lengths are even.
            let now = u64::from(if size & 0xfffe == 0 { 0x1_0000 } else { size & 0xfffe }).min(left);
            match segments.last_mut() {
                Some(last) if last.at.0 + last.len == u64::from(base) => last.len += now,
                _ => segments.push(Segment { at: Gpa(base.into()), len: now }),
            }
            left -= now;
            if left == 0 {
                return Some(segments);
            }
            if size & LAST != 0 {
                break;
            }
        }
        None
    }
}

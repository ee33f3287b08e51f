//! A disk's commands (SBC-3, 5).

use disk::Info;
use serde::{Deserialize, Serialize};

use super::cdb::{Cdb, READ_CAPACITY_16, op};
use super::{Sense, inquiry, mode};
use crate::block::{Data, Operation, Request};

/// The most blocks that one UNMAP covers in one range, and the most ranges.
pub(super) const MOST_UNMAPPED: u32 = 1 << 22;
pub(super) const MOST_UNMAP_RANGES: u32 = 64;
/// The most blocks of one WRITE SAME.
pub(super) const MOST_SAME: u64 = 0xffff;
/// The most bytes of a pattern that is not zeros, written out.
const MOST_PATTERN: u64 = 64 << 20;

/// Bits of the second byte of a command.
const FUA: u8 = 8;
const UNMAP: u8 = 8;
const NO_DATA: u8 = 1;
const COMPARE: u8 = 6;

/// What a command leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It is done, and these are its data for the initiator.
    Done(Vec<u8>),
    /// Bytes of the disk go to the initiator.
    Read {
        /// From here on.
        offset: u64,
        /// So many.
        len: u64,
    },
    /// Bytes of the initiator go to the disk.
    Write {
        /// From here on.
        offset: u64,
        /// So many.
        len: u64,
        /// They are on stable storage when it is done.
        durable: bool,
    },
    /// The disk does this, one after the other, without data of the initiator.
    Work(Vec<Request>),
    /// The command has failed.
    Refused(Sense),
}

/// What is fixed of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) blocks: u64,
    /// Bytes of a block.
    pub(super) block: u32,
    /// Bytes of a block that is written at once.
    pub(super) physical: u32,
    pub(super) read_only: bool,
    pub(super) serial: String,
}

/// The guest-visible state of a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScsiDiskState {
    /// What the next command is told instead of being done.
    attention: Option<Sense>,
    write_cache: bool,
}

impl ScsiDiskState {
    const AT_POWER_ON: Self = Self { attention: Some(Sense::RESET), write_cache: true };
}

/// A disk as a logical unit.
#[derive(Debug)]
pub struct ScsiDisk {
    shape: Shape,
    state: ScsiDiskState,
}

impl ScsiDisk {
    /// The disk of an image like this, with this serial number.
    #[must_use]
    pub fn new(info: &Info, serial: String) -> Self {
        let block = info.logical_block.max(512);
        let blocks = info.size / u64::from(block);
        let physical = info.physical_block.max(block);
        let shape = Shape { blocks, block, physical, read_only: info.read_only, serial };
        Self { shape, state: ScsiDiskState::AT_POWER_ON }
    }

    /// Back to the state of power-on, which the next command is told.
    pub fn reset(&mut self) {
        self.state = ScsiDiskState::AT_POWER_ON;
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> &ScsiDiskState {
        &self.state
    }

    /// Takes on a saved state.
    pub fn restore(&mut self, state: ScsiDiskState) {
        self.state = state;
    }

    /// Does a command. `parameters` reads so many bytes of what the initiator sends, or as many as there are.
    pub fn execute(&mut self, cdb: &[u8], parameters: &mut dyn FnMut(usize) -> Vec<u8>) -> Step {
        let cdb = Cdb::new(cdb);
        // Some commands are done whatever has happened (SPC-4, 5.14).
        if !matches!(cdb.op(), op::INQUIRY | op::REQUEST_SENSE)
            && let Some(sense) = self.state.attention.take()
        {
            return Step::Refused(sense);
        }
        self.perform(cdb, parameters).unwrap_or_else(Step::Refused)
    }

    fn perform(&mut self, cdb: Cdb, parameters: &mut dyn FnMut(usize) -> Vec<u8>) -> Result<Step, Sense> {
        let done = Ok(Step::Done(Vec::new()));
        match cdb.op() {
            op::TEST_UNIT_READY | op::START_STOP_UNIT | op::SEND_DIAGNOSTIC | op::PREVENT_REMOVAL => done,
            op::REQUEST_SENSE => {
                let sense = self.state.attention.take().unwrap_or(Sense::NONE);
                let data = if cdb.u8(1) & 1 != 0 { sense.described().to_vec() } else { sense.fixed().to_vec() };
                Ok(cut(data, cdb.u8(4).into()))
            }
            op::INQUIRY => {
                let data = match (cdb.u8(1) & 1, cdb.u8(2)) {
                    (0, 0) => inquiry::standard(true),
                    (0, _) => return Err(Sense::FIELD),
                    (_, page) => inquiry::page(page, &self.shape).ok_or(Sense::FIELD)?,
                };
                Ok(cut(data, cdb.u16(3).into()))
            }
            op::MODE_SENSE_6 | op::MODE_SENSE_10 => {
                let long = cdb.op() == op::MODE_SENSE_10;
                let room = if long { cdb.u16(7).into() } else { cdb.u8(4).into() };
                let (shape, state) = (&self.shape, &self.state);
                let data = mode::sense(long, cdb.u8(2), cdb.u8(3), shape.read_only, state.write_cache)?;
                Ok(cut(data, room))
            }
            op::MODE_SELECT_6 | op::MODE_SELECT_10 => {
                let long = cdb.op() == op::MODE_SELECT_10;
                let len = if long { cdb.u16(7).into() } else { cdb.u8(4).into() };
                // Pages in the format of the standard, and nothing is saved.
                if cdb.u8(1) & 0x11 != 0x10 {
                    return Err(Sense::FIELD);
                }
                if let Some(write_cache) = mode::select(long, &parameters(len))? {
                    self.state.write_cache = write_cache;
                    // What is in the cache has to go.
                    return Ok(Step::Work(vec![Request { offset: 0, operation: Operation::Flush }]));
                }
                done
            }
            op::READ_CAPACITY_10 => Ok(Step::Done(self.capacity_10())),
            op::SERVICE_ACTION_IN_16 if cdb.u8(1) & 0x1f == READ_CAPACITY_16 => {
                Ok(cut(self.capacity_16(), cdb.u32(10) as usize))
            }
            op::READ_6 | op::READ_10 | op::READ_12 | op::READ_16 => {
                let (offset, len) = self.range(cdb)?;
                Ok(if len == 0 { Step::Done(Vec::new()) } else { Step::Read { offset, len } })
            }
            op::WRITE_6
            | op::WRITE_10
            | op::WRITE_12
            | op::WRITE_16
            | op::WRITE_VERIFY_10
            | op::WRITE_VERIFY_12
            | op::WRITE_VERIFY_16 => {
                let (offset, len) = self.range(cdb)?;
                self.writable()?;
                let verified = matches!(cdb.op(), op::WRITE_VERIFY_10 | op::WRITE_VERIFY_12 | op::WRITE_VERIFY_16);
                let forced = verified || cdb.op() != op::WRITE_6 && cdb.u8(1) & FUA != 0;
                let durable = forced || !self.state.write_cache;
                Ok(if len == 0 { Step::Done(Vec::new()) } else { Step::Write { offset, len, durable } })
            }
            op::VERIFY_10 | op::VERIFY_12 | op::VERIFY_16 => {
                // The medium is sound; data of the initiator are not compared.
                self.range(cdb)?;
                if cdb.u8(1) & COMPARE != 0 { Err(Sense::FIELD) } else { done }
            }
            op::SYNCHRONIZE_CACHE_10 | op::SYNCHRONIZE_CACHE_16 => {
                self.range(cdb)?;
                Ok(Step::Work(vec![Request { offset: 0, operation: Operation::Flush }]))
            }
            op::WRITE_SAME_10 | op::WRITE_SAME_16 => self.write_same(cdb, parameters),
            op::UNMAP => self.unmap(cdb, parameters),
            _ => Err(Sense::NO_COMMAND),
        }
    }

    /// Offset and length in bytes of what a command is about.
    fn range(&self, cdb: Cdb) -> Result<(u64, u64), Sense> {
        let (first, count) = cdb.blocks();
        self.bytes(first, count)
    }

    fn bytes(&self, first: u64, count: u64) -> Result<(u64, u64), Sense> {
        let end = first.checked_add(count).filter(|end| *end <= self.shape.blocks);
        let block = u64::from(self.shape.block);
        // Inside of the disk, whose bytes have a number.
        end.map(|_| (first * block, count * block)).ok_or(Sense::BEYOND)
    }

    fn writable(&self) -> Result<(), Sense> {
        if self.shape.read_only { Err(Sense::PROTECTED) } else { Ok(()) }
    }

    fn capacity_10(&self) -> Vec<u8> {
        let last = u32::try_from(self.shape.blocks.saturating_sub(1)).unwrap_or(u32::MAX);
        [last.to_be_bytes(), self.shape.block.to_be_bytes()].concat()
    }

    fn capacity_16(&self) -> Vec<u8> {
        let mut data = vec![0; 32];
        data[..8].copy_from_slice(&self.shape.blocks.saturating_sub(1).to_be_bytes());
        data[8..12].copy_from_slice(&self.shape.block.to_be_bytes());
        data[13] = (self.shape.physical / self.shape.block).ilog2() as u8 & 15;
        // What is not needed can be unmapped.
        data[14] = if self.shape.read_only { 0 } else { 0x80 };
        data
    }

    fn write_same(&self, cdb: Cdb, parameters: &mut dyn FnMut(usize) -> Vec<u8>) -> Result<Step, Sense> {
        let (_, count) = cdb.blocks();
        let (offset, len) = self.range(cdb)?;
        self.writable()?;
        let (flags, block) = (cdb.u8(1), self.shape.block as usize);
        // No protection information, no anchors.
        if count == 0 || count > MOST_SAME || flags & 0xf0 != 0 {
            return Err(Sense::FIELD);
        }
        let pattern = if flags & NO_DATA != 0 { vec![0; block] } else { parameters(block) };
        if pattern.len() != block {
            return Err(Sense::PARAMETER_LENGTH);
        }
        let operation = if pattern.iter().all(|byte| *byte == 0) {
            // Who lets it be unmapped expects zeros all the same.
            Operation::Zero { len }
        } else if flags & UNMAP != 0 || len > MOST_PATTERN {
            return Err(Sense::FIELD);
        } else {
            let data = Data::Bytes(pattern.repeat((len / block as u64) as usize));
            Operation::Write { data, durable: !self.state.write_cache }
        };
        Ok(Step::Work(vec![Request { offset, operation }]))
    }

    fn unmap(&self, cdb: Cdb, parameters: &mut dyn FnMut(usize) -> Vec<u8>) -> Result<Step, Sense> {
        self.writable()?;
        let len = usize::from(cdb.u16(7));
        if len == 0 {
            return Ok(Step::Done(Vec::new()));
        }
        let list = parameters(len);
        let Some(ranges) = list.get(8..).filter(|_| list.len() == len && cdb.u8(1) & 1 == 0) else {
            return Err(Sense::PARAMETER_LENGTH);
        };
        let told = list.get(2..4).map_or(0, |bytes| usize::from(bytes[0]) << 8 | usize::from(bytes[1]));
        let (ranges, _) = ranges.get(..told.min(ranges.len())).unwrap_or_default().as_chunks::<16>();
        if ranges.len() > MOST_UNMAP_RANGES as usize {
            return Err(Sense::PARAMETER);
        }
        let mut work = Vec::with_capacity(ranges.len());
        for range in ranges {
            let range = u128::from_be_bytes(*range);
            let (first, count) = ((range >> 64) as u64, (range >> 32) as u32);
            if count > MOST_UNMAPPED {
                return Err(Sense::PARAMETER);
            }
            let (offset, len) = self.bytes(first, count.into())?;
            if len != 0 {
                work.push(Request { offset, operation: Operation::Discard { len } });
            }
        }
        Ok(if work.is_empty() { Step::Done(Vec::new()) } else { Step::Work(work) })
    }
}

/// Data of which the initiator takes so many bytes at most.
fn cut(mut data: Vec<u8>, room: usize) -> Step {
    data.truncate(room);
    Step::Done(data)
}

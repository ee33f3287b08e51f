//! The block device (virtio 1.2, 5.2).

use std::sync::Arc;

use disk::{Image, Info};
use machine::{Schema, Snapshot, State, StateError};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};

use super::jobs::{Flow, Jobs};
use super::{Broken, Buffers, Chain, Kind, Queue, Token};
use crate::block::{Backend, Completion, Data, Operation, Request};
use crate::regs::{decode, require};

/// The unit of all addresses and lengths.
const SECTOR: u64 = 512;
/// The places of a queue, and the most data buffers of a request: header and status take one each.
const PLACES: u16 = 256;
const SEGMENTS: u32 = PLACES as u32 - 2;
/// The most queues.
const MOST_QUEUES: u16 = 64;
/// The most sectors that one discard covers: 2 GiB.
const MOST_DISCARDED: u32 = (1 << 22) - 1;
/// The most sectors that one write of zeros covers: 64 MiB, which a host may have to write out.
const MOST_ZEROED: u32 = 1 << 17;
/// The most data of one request.
const MOST_DATA: u64 = 1 << 30;
/// Bytes of the serial number.
const ID_LEN: usize = 20;
/// Bytes of the configuration, up to the limits of zeroing.
const CONFIG_LEN: usize = 60;
/// Where the cache's mode is in it.
const WRITEBACK: usize = 32;

/// Feature bits (5.2.3).
mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const RO: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const CONFIG_WCE: u64 = 1 << 11;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
}

/// Types of requests (5.2.6).
mod request {
    pub(super) const IN: u32 = 0;
    pub(super) const OUT: u32 = 1;
    pub(super) const FLUSH: u32 = 4;
    pub(super) const GET_ID: u32 = 8;
    pub(super) const DISCARD: u32 = 11;
    pub(super) const WRITE_ZEROES: u32 = 13;
}

/// What a request ends with.
const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

/// A request that the disk is at.
struct Job {
    queue: usize,
    token: Token,
    status: Buffers,
    /// Bytes that it has written when it succeeds, but for the status.
    written: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct BlkState {
    writeback: bool,
}

/// A disk.
pub struct Blk {
    disk: Backend,
    info: Info,
    queues: u16,
    /// What driver and device have agreed on.
    agreed: u64,
    /// The disk may keep writes in a cache until it is told to flush.
    writeback: bool,
    jobs: Jobs<Job>,
}

impl Blk {
    /// The disk whose content is `image`, for a guest with this memory, with so many queues, 1 to 64. The guest sees the
    /// first 20 characters of the serial number.
    #[must_use]
    pub fn new(image: Arc<dyn Image>, memory: GuestMemory, serial: String, queues: u16) -> Self {
        let info = image.info();
        let disk = Backend::new(image, memory, serial);
        let queues = queues.clamp(1, MOST_QUEUES);
        Self { disk, info, queues, agreed: 0, writeback: true, jobs: Jobs::default() }
    }

    /// Whether writes have to be on stable storage before they are done.
    fn is_write_through(&self) -> bool {
        let agreed = |bit| self.agreed & bit != 0;
        !agreed(feature::FLUSH) && !agreed(feature::CONFIG_WCE) || agreed(feature::CONFIG_WCE) && !self.writeback
    }

    fn begin(&mut self, index: usize, queue: &mut Queue, mut chain: Chain) -> Result<(), Broken> {
        let header = chain.readable.take_front(16).read(queue.memory(), 16)?;
        let status = chain.writable.take_back(1);
        let Ok(header) = <[u8; 16]>::try_from(header) else { return Err(Broken::Short) };
        if status.is_empty() {
            return Err(Broken::Short);
        }
        // The type, what is reserved, and the first sector.
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let (token, written) = (chain.token, chain.writable.len());
        let request = match kind {
            request::GET_ID => {
                let mut id = [0; ID_LEN];
                id.iter_mut().zip(self.disk.serial().bytes()).for_each(|(to, from)| *to = from);
                let written = chain.writable.write(queue.memory(), &id)?;
                return end(queue, token, &status, OK, written as u64);
            }
            _ => self.request(kind, sector, chain, queue.memory())?,
        };
        match request {
            Ok(request) => {
                let (bytes, written) = match &request.operation {
                    Operation::Read(data) => (data.len(), written),
                    Operation::Write { data, .. } => (data.len(), 0),
                    // Not every file system of a host does that at once.
                    Operation::Zero { len } => (*len, 0),
                    _ => (0, 0),
                };
                let tag = self.jobs.add(Job { queue: index, token, status, written }, bytes);
                self.disk.start(tag, request);
                Ok(())
            }
            Err(code) => end(queue, token, &status, code, 0),
        }
    }

    /// The request as the disk takes it, or the status with which it is refused.
    fn request(
        &self,
        kind: u32,
        sector: u64,
        chain: Chain,
        memory: &GuestMemory,
    ) -> Result<Result<Request, u8>, Broken> {
        let changes = matches!(kind, request::OUT | request::DISCARD | request::WRITE_ZEROES);
        if changes && self.disk.read_only() {
            return Ok(Err(IO_ERROR));
        }
        let (sector, operation) = match kind {
            request::IN | request::OUT => {
                let data = if kind == request::IN { chain.writable } else { chain.readable };
                if !data.len().is_multiple_of(SECTOR) || data.len() > MOST_DATA {
                    return Ok(Err(IO_ERROR));
                }
                let data = Data::Guest(data.into_segments());
                let durable = self.is_write_through();
                let write = || Operation::Write { data: data.clone(), durable };
                (sector, if kind == request::OUT { write() } else { Operation::Read(data) })
            }
            request::FLUSH => (0, Operation::Flush),
            request::DISCARD | request::WRITE_ZEROES => {
                let discard = kind == request::DISCARD;
                let wanted = if discard { feature::DISCARD } else { feature::WRITE_ZEROES };
                if self.agreed & wanted == 0 {
                    return Ok(Err(UNSUPPORTED));
                }
                let range = chain.readable.read(memory, 17)?;
                let Ok(range) = <[u8; 16]>::try_from(range) else { return Ok(Err(IO_ERROR)) };
                let range = u128::from_le_bytes(range);
                let (sector, sectors, flags) = (range as u64, (range >> 64) as u32, (range >> 96) as u32);
                // Only zeroing may say that the place may be given up, which it may in any case.
                if flags & !u32::from(!discard) != 0 {
                    return Ok(Err(UNSUPPORTED));
                }
                if sectors > if discard { MOST_DISCARDED } else { MOST_ZEROED } {
                    return Ok(Err(IO_ERROR));
                }
                let len = u64::from(sectors) * SECTOR;
                (sector, if discard { Operation::Discard { len } } else { Operation::Zero { len } })
            }
            _ => return Ok(Err(UNSUPPORTED)),
        };
        let offset = sector.checked_mul(SECTOR).ok_or(IO_ERROR);
        Ok(offset.map(|offset| Request { offset, operation }))
    }
}

/// Ends a request: its status is the last byte that is written.
fn end(queue: &mut Queue, token: Token, status: &Buffers, code: u8, written: u64) -> Result<(), Broken> {
    status.write(queue.memory(), &[code])?;
    // Only bytes without a gap in front of them count.
    let written = if code == OK { written.saturating_add(1) } else { 0 };
    queue.finish(token, u32::try_from(written).unwrap_or(u32::MAX))
}

impl Kind for Blk {
    fn id(&self) -> u16 {
        2
    }

    fn class(&self) -> u32 {
        // A mass storage controller of no better-known kind.
        0x01_8000
    }

    fn features(&self) -> u64 {
        let change = if self.disk.read_only() { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        let several = if self.queues > 1 { feature::MQ } else { 0 };
        let always = feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | feature::TOPOLOGY | feature::CONFIG_WCE;
        always | change | several
    }

    fn queues(&self) -> Vec<u16> {
        vec![PLACES; self.queues.into()]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        let mut put = |at: usize, field: &[u8]| config[at..at + field.len()].copy_from_slice(field);
        let block = self.info.logical_block.max(SECTOR as u32);
        let physical = self.info.physical_block.max(block);
        put(0, &(self.disk.size() / SECTOR).to_le_bytes());
        put(12, &SEGMENTS.to_le_bytes());
        put(20, &block.to_le_bytes());
        put(24, &[(physical / block).ilog2() as u8]);
        put(26, &u16::try_from(physical / block).unwrap_or(1).to_le_bytes());
        put(WRITEBACK, &[u8::from(self.writeback)]);
        put(34, &self.queues.to_le_bytes());
        // Most sectors of a discard, most ranges of it, alignment; the same of zeroing, which may give up the place.
        put(36, &MOST_DISCARDED.to_le_bytes());
        put(40, &1u32.to_le_bytes());
        put(44, &(physical / SECTOR as u32).to_le_bytes());
        put(48, &MOST_ZEROED.to_le_bytes());
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
        config
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let ([value], true) = (data, offset == WRITEBACK as u64 && self.agreed & feature::CONFIG_WCE != 0) {
            self.writeback = value & 1 != 0;
        }
    }

    fn agree(&mut self, features: u64) {
        self.agreed = features;
    }

    fn notified(&mut self, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        let Some(queue) = queues.get_mut(index) else { return Ok(()) };
        let mut flow = Flow::new(queue.size());
        loop {
            queue.hush()?;
            while self.jobs.has_room() {
                if !flow.goes_on() {
                    queue.hold();
                    self.jobs.look_again(&self.disk);
                    return Ok(());
                }
                let Some(chain) = queue.take()? else { break };
                self.begin(index, queue, chain)?;
            }
            if !self.jobs.has_room() {
                queue.hold();
                return Ok(());
            }
            if !queue.ask()? {
                return Ok(());
            }
        }
    }

    fn finished(&mut self, queues: &mut [Queue]) -> Result<(), Broken> {
        let mut all = Ok(());
        for Completion { tag, result } in self.disk.take_finished() {
            let Some(job) = self.jobs.take(tag) else { continue };
            let Some(queue) = queues.get_mut(job.queue) else { continue };
            let code = if result.is_ok() { OK } else { IO_ERROR };
            all = all.and(end(queue, job.token, &job.status, code, job.written));
        }
        all
    }

    fn on_finished(&mut self, ring: Box<dyn Fn() + Send + Sync>) {
        self.disk.on_finished(ring);
    }

    fn drain(&mut self) {
        self.disk.drain();
    }

    fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    fn reset(&mut self) {
        self.disk.drain();
        drop(self.disk.take_finished());
        self.jobs.clear();
        self.agreed = 0;
        self.writeback = true;
    }
}

impl Snapshot for Blk {
    fn schema(&self) -> Schema {
        Schema { name: "virtio-blk", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        require(self.schema(), self.jobs.is_empty(), "requests are under way")?;
        State::of(&BlkState { writeback: self.writeback })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let BlkState { writeback } = decode(self.schema(), version, state)?;
        self.writeback = writeback;
        Ok(())
    }
}

//! The SCSI host (virtio 1.2, 5.6).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use disk::Image;
use machine::{Schema, Snapshot, State, StateError};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};

use super::jobs::{Flow, Jobs};
use super::{Broken, Buffers, Chain, Kind, Queue, Token};
use crate::block::{Backend, Completion, Data, Operation, Request};
use crate::regs::{decode, require};
use crate::scsi::{ScsiDisk, Sense, Step, Target, TargetState, status};

/// The queues before those of requests: control and events.
const CONTROL: usize = 0;
const FIRST_REQUESTS: usize = 2;
const PLACES: u16 = 256;
/// The most data buffers of a request: its header and its answer take one each.
const SEGMENTS: u32 = PLACES as u32 - 2;
const MOST_QUEUES: u16 = 64;
const MOST_LUN: u32 = 16383;
/// The most data of one request, in bytes, and as a driver is told.
const MOST_DATA: u64 = 1 << 30;
const MOST_SECTORS: u32 = 0xffff;

/// The sizes of two fields of a request, which the driver may change, within these bounds.
const CDB_SIZE: u32 = 32;
const SENSE_SIZE: u32 = 96;
const MOST_SIZE: u32 = 256;
/// Where they are in the configuration.
const SENSE_SIZE_AT: usize = 20;
const CDB_SIZE_AT: usize = 24;
const CONFIG_LEN: usize = 36;

/// Both directions of data in one request are possible; it goes in one or the other.
const INOUT: u64 = 1;

/// What a request ends with, apart from its SCSI status (5.6.6.1).
const OK: u8 = 0;
const OVERRUN: u8 = 1;
const BAD_TARGET: u8 = 3;
const FAILURE: u8 = 9;

/// What a task management function ends with (5.6.6.2).
const SUCCEEDED: u8 = 10;
const REJECTED: u8 = 11;
const INCORRECT_LUN: u8 = 12;

/// Types of requests on the control queue.
const TASK_MANAGEMENT: u32 = 0;
const ASYNC_QUERY: u32 = 1;
const ASYNC_SUBSCRIBE: u32 = 2;

/// Task management functions.
mod task {
    pub(super) const ABORT_TASK: u32 = 0;
    pub(super) const ABORT_TASK_SET: u32 = 1;
    pub(super) const CLEAR_TASK_SET: u32 = 3;
    pub(super) const NEXUS_RESET: u32 = 4;
    pub(super) const UNIT_RESET: u32 = 5;
    pub(super) const QUERY_TASK: u32 = 6;
    pub(super) const QUERY_TASK_SET: u32 = 7;
}

/// A disk and its address.
pub struct ScsiUnit {
    /// The target, of 256.
    pub target: u8,
    /// The logical unit in it, of 16384.
    pub lun: u16,
    /// The content.
    pub image: Arc<dyn Image>,
    /// The serial number.
    pub serial: String,
}

/// The address of a unit.
type Address = (u8, u16);

/// A request that a disk is at.
struct Job {
    queue: usize,
    unit: Address,
    /// The driver's number of the command.
    id: u64,
    token: Token,
    answer: Buffers,
    /// Bytes that the disk writes for the driver, and those that are left over in its buffers.
    written: u64,
    residual: u64,
    /// It changes the disk.
    write: bool,
    /// What the disk is to do after what it is at.
    rest: VecDeque<Request>,
}

/// A task management function that waits for requests to end.
struct Waiting {
    token: Token,
    answer: Buffers,
    tags: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ScsiState {
    sense_size: u32,
    cdb_size: u32,
    targets: Vec<TargetState>,
}

/// A SCSI host with disks.
pub struct Scsi {
    targets: BTreeMap<u8, Target>,
    disks: BTreeMap<Address, Backend>,
    queues: u16,
    sense_size: u32,
    cdb_size: u32,
    jobs: Jobs<Job>,
    waiting: Vec<Waiting>,
}

impl Scsi {
    /// A host with these disks, for a guest with this memory, with so many queues for requests, 1 to 64.
    #[must_use]
    pub fn new(units: Vec<ScsiUnit>, memory: &GuestMemory, queues: u16) -> Self {
        let mut targets = BTreeMap::<u8, Target>::new();
        let mut disks = BTreeMap::new();
        for ScsiUnit { target, lun, image, serial } in units {
            let lun = lun.min(MOST_LUN as u16);
            let unit = ScsiDisk::new(&image.info(), serial.clone());
            targets.entry(target).or_default().add(lun, unit);
            disks.insert((target, lun), Backend::new(image, memory.clone(), serial));
        }
        Self {
            targets,
            disks,
            queues: queues.clamp(1, MOST_QUEUES),
            sense_size: SENSE_SIZE,
            cdb_size: CDB_SIZE,
            jobs: Jobs::default(),
            waiting: Vec::new(),
        }
    }

    fn begin(&mut self, index: usize, queue: &mut Queue, mut chain: Chain) -> Result<(), Broken> {
        let (cdb_size, sense_size) = (self.cdb_size as usize, self.sense_size as usize);
        let header = chain.readable.take_front(19 + cdb_size as u64).read(queue.memory(), 19 + cdb_size)?;
        let answer = chain.writable.take_front(12 + sense_size as u64);
        let (Some(address), Some(id), Some(cdb)) = (bytes(&header, 0), bytes(&header, 8), header.get(19..)) else {
            return Err(Broken::Short);
        };
        if cdb.len() != cdb_size || answer.len() != 12 + sense_size as u64 {
            return Err(Broken::Short);
        }
        let (token, id) = (chain.token, u64::from_le_bytes(id));
        let mut end = End { token, answer: &answer, sense_size, written: 0, residual: 0 };
        let room = chain.writable.len();
        end.residual = room.saturating_add(chain.readable.len());
        let found = unit(address);
        let Some((unit, target)) = found.and_then(|unit| Some((unit, self.targets.get_mut(&unit.0)?))) else {
            return end.answer(queue, BAD_TARGET, Ok(()));
        };
        let mut broken = None;
        let step = target.execute(unit.1, cdb, &mut |len| {
            chain.readable.clone().take_front(len as u64).read(queue.memory(), len).unwrap_or_else(|error| {
                broken = Some(error);
                Vec::new()
            })
        });
        if let Some(broken) = broken {
            return Err(broken);
        }
        let readable = chain.readable.len();
        let (mut work, write, written) = match step {
            Step::Done(data) => {
                end.written = chain.writable.write(queue.memory(), &data)? as u64;
                end.residual = end.residual.saturating_sub(end.written);
                let response = if end.written < data.len() as u64 { OVERRUN } else { OK };
                return end.answer(queue, response, Ok(()));
            }
            Step::Refused(sense) => return end.answer(queue, OK, Err(sense)),
            Step::Read { len, .. } if len > room => return end.answer(queue, OVERRUN, Ok(())),
            Step::Write { len, .. } if len > readable => return end.answer(queue, OVERRUN, Ok(())),
            Step::Read { len, .. } | Step::Write { len, .. } if len > MOST_DATA => {
                return end.answer(queue, FAILURE, Ok(()));
            }
            Step::Read { offset, len } => {
                let data = Data::Guest(chain.writable.take_front(len).into_segments());
                end.residual = end.residual.saturating_sub(len);
                (VecDeque::from([Request { offset, operation: Operation::Read(data) }]), false, len)
            }
            Step::Write { offset, len, durable } => {
                let data = Data::Guest(chain.readable.take_front(len).into_segments());
                end.residual = end.residual.saturating_sub(len);
                (VecDeque::from([Request { offset, operation: Operation::Write { data, durable } }]), true, 0)
            }
            Step::Work(work) => {
                // Its parameters were taken, whatever their length.
                end.residual = room;
                (VecDeque::from(work), true, 0)
            }
        };
        let (Some(first), Some(disk)) = (work.pop_front(), self.disks.get(&unit)) else {
            return end.answer(queue, OK, Ok(()));
        };
        let moved = match &first.operation {
            Operation::Read(data) | Operation::Write { data, .. } => data.len(),
            Operation::Zero { len } => *len,
            _ => 0,
        };
        let residual = end.residual;
        let job = Job { queue: index, unit, id, token, answer, written, residual, write, rest: work };
        disk.start(self.jobs.add(job, moved), first);
        Ok(())
    }

    /// A request on the control queue.
    fn control(&mut self, queue: &mut Queue, chain: Chain) -> Result<(), Broken> {
        let header = chain.readable.read(queue.memory(), 24)?;
        let Some(kind) = bytes(&header, 0).map(u32::from_le_bytes) else { return Err(Broken::Short) };
        let (token, answer) = (chain.token, chain.writable);
        match kind {
            TASK_MANAGEMENT => {
                let (Some(function), Some(address), Some(id)) =
                    (bytes(&header, 4).map(u32::from_le_bytes), bytes(&header, 8), bytes(&header, 16))
                else {
                    return Err(Broken::Short);
                };
                self.manage(
                    queue,
                    Waiting { token, answer, tags: Vec::new() },
                    function,
                    address,
                    u64::from_le_bytes(id),
                )
            }
            ASYNC_QUERY | ASYNC_SUBSCRIBE => {
                // There are no such events.
                let written = answer.write(queue.memory(), &[0, 0, 0, 0, OK])?;
                queue.finish(token, written as u32)
            }
            _ => Err(Broken::Short),
        }
    }

    fn manage(
        &mut self,
        queue: &mut Queue,
        mut waiting: Waiting,
        function: u32,
        address: [u8; 8],
        id: u64,
    ) -> Result<(), Broken> {
        let found = unit(address).and_then(|unit| Some((unit, self.targets.get_mut(&unit.0)?)));
        let Some((unit, target)) = found else { return waiting.answer(queue, BAD_TARGET) };
        if !target.has(unit.1) && function != task::NEXUS_RESET {
            return waiting.answer(queue, INCORRECT_LUN);
        }
        let tags = self.jobs.like(|job| match function {
            task::ABORT_TASK | task::QUERY_TASK => job.unit == unit && job.id == id,
            task::NEXUS_RESET => job.unit.0 == unit.0,
            _ => job.unit == unit,
        });
        match function {
            task::QUERY_TASK | task::QUERY_TASK_SET => {
                waiting.answer(queue, if tags.is_empty() { OK } else { SUCCEEDED })
            }
            task::ABORT_TASK | task::ABORT_TASK_SET | task::CLEAR_TASK_SET | task::NEXUS_RESET | task::UNIT_RESET => {
                match function {
                    task::NEXUS_RESET => target.reset(None),
                    task::UNIT_RESET => target.reset(Some(unit.1)),
                    _ => {}
                }
                // What the disk is at cannot be called back: the function is done when it is.
                if tags.is_empty() {
                    return waiting.answer(queue, OK);
                }
                waiting.tags = tags;
                self.waiting.push(waiting);
                Ok(())
            }
            _ => waiting.answer(queue, REJECTED),
        }
    }

    fn end_waits(&mut self, tag: u64, queues: &mut [Queue]) -> Result<(), Broken> {
        let Some(queue) = queues.get_mut(CONTROL) else { return Ok(()) };
        self.waiting.iter_mut().for_each(|waiting| waiting.tags.retain(|other| *other != tag));
        let mut all = Ok(());
        while let Some(index) = self.waiting.iter().position(|waiting| waiting.tags.is_empty()) {
            all = all.and(self.waiting.remove(index).answer(queue, OK));
        }
        all
    }
}

impl Waiting {
    fn answer(self, queue: &mut Queue, response: u8) -> Result<(), Broken> {
        let written = self.answer.write(queue.memory(), &[response])?;
        queue.finish(self.token, written as u32)
    }
}

/// How a request ends.
struct End<'a> {
    token: Token,
    answer: &'a Buffers,
    sense_size: usize,
    /// Bytes for the driver behind the answer.
    written: u64,
    /// Bytes of the driver's buffers that were not used.
    residual: u64,
}

impl End<'_> {
    fn answer(self, queue: &mut Queue, response: u8, result: Result<(), Sense>) -> Result<(), Broken> {
        let mut bytes = vec![0; 12 + self.sense_size];
        let residual = u32::try_from(self.residual).unwrap_or(u32::MAX);
        bytes[4..8].copy_from_slice(&residual.to_le_bytes());
        bytes[11] = response;
        if let Err(sense) = result {
            let sense = sense.fixed();
            let len = sense.len().min(self.sense_size);
            bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[10] = status::CHECK_CONDITION;
            bytes[12..12 + len].copy_from_slice(&sense[..len]);
        }
        self.answer.write(queue.memory(), &bytes)?;
        let written = (bytes.len() as u64).saturating_add(self.written);
        queue.finish(self.token, u32::try_from(written).unwrap_or(u32::MAX))
    }
}

/// The unit that an address means (5.6.6.1): one of a target's, in flat space.
fn unit(address: [u8; 8]) -> Option<Address> {
    let [1, target, high, low, 0, 0, 0, 0] = address else { return None };
    Some((target, u16::from(high & 0x3f) << 8 | u16::from(low)))
}

/// Bytes of a header.
fn bytes<const N: usize>(from: &[u8], at: usize) -> Option<[u8; N]> {
    from.get(at..)?.first_chunk().copied()
}

impl Kind for Scsi {
    fn id(&self) -> u16 {
        8
    }

    fn class(&self) -> u32 {
        // A SCSI controller.
        0x01_0000
    }

    fn features(&self) -> u64 {
        INOUT
    }

    fn queues(&self) -> Vec<u16> {
        vec![PLACES; FIRST_REQUESTS + usize::from(self.queues)]
    }

    fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG_LEN];
        let mut put = |at: usize, field: &[u8]| config[at..at + field.len()].copy_from_slice(field);
        put(0, &u32::from(self.queues).to_le_bytes());
        put(4, &SEGMENTS.to_le_bytes());
        put(8, &MOST_SECTORS.to_le_bytes());
        put(12, &u32::from(PLACES / 2).to_le_bytes());
        put(16, &16u32.to_le_bytes());
        put(SENSE_SIZE_AT, &self.sense_size.to_le_bytes());
        put(CDB_SIZE_AT, &self.cdb_size.to_le_bytes());
        put(30, &255u16.to_le_bytes());
        put(32, &MOST_LUN.to_le_bytes());
        config
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        let Ok(value) = <[u8; 4]>::try_from(data).map(u32::from_le_bytes) else { return };
        let value = value.clamp(1, MOST_SIZE);
        if offset == SENSE_SIZE_AT as u64 {
            self.sense_size = value;
        } else if offset == CDB_SIZE_AT as u64 {
            self.cdb_size = value;
        }
    }

    fn agree(&mut self, _: u64) {}

    fn notified(&mut self, index: usize, queues: &mut [Queue]) -> Result<(), Broken> {
        // The buffers for events stay where they are: there are none.
        let (Some(queue), true) = (queues.get_mut(index), index == CONTROL || index >= FIRST_REQUESTS) else {
            return Ok(());
        };
        let mut flow = Flow::new(queue.size());
        loop {
            queue.hush()?;
            while self.jobs.has_room() {
                if !flow.goes_on() {
                    queue.hold();
                    if let Some(disk) = self.disks.values().next() {
                        self.jobs.look_again(disk);
                    }
                    return Ok(());
                }
                let Some(chain) = queue.take()? else { break };
                if index == CONTROL {
                    self.control(queue, chain)?;
                } else {
                    self.begin(index, queue, chain)?;
                }
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
        let finished: Vec<_> = self.disks.values().flat_map(Backend::take_finished).collect();
        let mut all = Ok(());
        for Completion { tag, result } in finished {
            let Some(job) = self.jobs.get_mut(tag) else { continue };
            // The next part, unless one has failed.
            if result.is_ok()
                && let Some(next) = job.rest.pop_front()
                && let Some(disk) = self.disks.get(&job.unit)
            {
                disk.start(tag, next);
                continue;
            }
            let Some(job) = self.jobs.take(tag) else { continue };
            let Some(queue) = queues.get_mut(job.queue) else { continue };
            let result = result.map(drop).map_err(|failure| Sense::of(failure, job.write));
            let (written, sense_size) = (if result.is_ok() { job.written } else { 0 }, self.sense_size_of(&job));
            let end = End { token: job.token, answer: &job.answer, sense_size, written, residual: job.residual };
            all = all.and(end.answer(queue, OK, result));
            all = all.and(self.end_waits(tag, queues));
        }
        all
    }

    fn on_finished(&mut self, ring: Box<dyn Fn() + Send + Sync>) {
        let ring: Arc<dyn Fn() + Send + Sync> = ring.into();
        for disk in self.disks.values() {
            let ring = Arc::clone(&ring);
            disk.on_finished(move || ring());
        }
    }

    fn drain(&mut self) {
        self.disks.values().for_each(Backend::drain);
    }

    fn is_idle(&self) -> bool {
        self.jobs.is_empty() && self.waiting.is_empty()
    }

    fn reset(&mut self) {
        self.disks.values().for_each(|disk| {
            disk.drain();
            drop(disk.take_finished());
        });
        self.jobs.clear();
        self.waiting.clear();
        self.sense_size = SENSE_SIZE;
        self.cdb_size = CDB_SIZE;
        self.targets.values_mut().for_each(|target| target.reset(None));
    }
}

impl Scsi {
    /// The room for sense data in a request, which was measured when it began.
    fn sense_size_of(&self, job: &Job) -> usize {
        usize::try_from(job.answer.len()).unwrap_or(0).saturating_sub(12).min(MOST_SIZE as usize)
    }
}

impl Snapshot for Scsi {
    fn schema(&self) -> Schema {
        Schema { name: "virtio-scsi", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        require(self.schema(), self.jobs.is_empty() && self.waiting.is_empty(), "requests are under way")?;
        let targets = self.targets.values().map(Target::state).collect();
        State::of(&ScsiState { sense_size: self.sense_size, cdb_size: self.cdb_size, targets })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let ScsiState { sense_size, cdb_size, targets } = decode(self.schema(), version, state)?;
        let sizes = [sense_size, cdb_size].iter().all(|size| (1..=MOST_SIZE).contains(size));
        let fit = targets.len() == self.targets.len()
            && self.targets.values().zip(&targets).all(|(target, state)| target.fits(state));
        require(self.schema(), sizes && fit, "the host has other disks")?;
        (self.sense_size, self.cdb_size) = (sense_size, cdb_size);
        self.targets.values_mut().zip(targets).for_each(|(target, state)| target.restore(state));
        Ok(())
    }
}

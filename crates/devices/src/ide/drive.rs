//! One drive on a cable: its registers, and the data that is on its way.

use std::sync::Arc;

use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use crate::ata::{Action, Cable, Drive, How, Registers, SECTOR, Transfer, UnitState, error_of, sense_of};
use crate::ata::{AtaUnit, error, status};
use crate::block::{Backend, Data, Failure, Operation, Request, Segment};
use crate::optical::{Reply, Sense};

/// The most bytes that wait at the data port.
const MOST_BUFFER: u64 = 128 << 10;
/// The length of a packet.
const PACKET: usize = 12;
/// What the count register tells while a packet is on (ATA-7, volume 1, 6.24): a command is taken, data goes to the guest.
const COMMAND: u8 = 1;
const TO_GUEST: u8 = 2;

/// Whether the drive asks for an interrupt.
pub(super) type Asks = bool;

/// What the drive waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// A command.
    Idle,
    /// The guest is to read the data port.
    In(Buffer),
    /// The guest is to write the data port.
    Out(Buffer),
    /// The guest is to write a packet to the data port; its data is to go by the bus master, or not.
    Packet { bytes: Vec<u8>, dma: bool },
    /// The bus master is to fetch or bring data.
    Dma(Dma),
}

/// Data at the data port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Buffer {
    bytes: Vec<u8>,
    at: usize,
    /// The next interrupt is here.
    until: usize,
    /// The bytes between two interrupts.
    block: usize,
    rest: Rest,
}

/// What is to come behind the data at the port; for a write, from that data on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Rest {
    /// Nothing: the answer of a command.
    Nothing,
    /// Sectors.
    Sectors(Transfer),
    /// Bytes of a disc, or none; the packet ends behind them.
    Disc { offset: u64, len: u64 },
}

/// Data for the bus master.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Dma {
    Sectors(Transfer),
    Disc { offset: u64, len: u64 },
    Answer(Vec<u8>),
    Ignored { len: u64 },
}

/// What is done when the request under way has finished.
enum Then {
    Show { block: usize, rest: Rest },
    Go(Transfer),
    EndDma { packet: bool, write: bool },
    End,
}

/// A request under way.
struct Running {
    backend: Arc<Backend>,
    then: Then,
    /// The guest has reset the drive meanwhile.
    reset: bool,
}

/// What of a drive a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DriveState {
    registers: Registers,
    status: u8,
    error: u8,
    phase: Phase,
    unit: UnitState,
}

/// A drive.
pub(super) struct IdeDrive {
    unit: Drive,
    pub(super) registers: Registers,
    pub(super) status: u8,
    pub(super) error: u8,
    phase: Phase,
    running: Option<Running>,
    /// A transfer by the bus master has ended, well or not, and that does not know it yet.
    dma_done: Option<bool>,
}

impl IdeDrive {
    pub(super) fn new(unit: AtaUnit) -> Self {
        let unit = Drive::new(unit, Cable::Parallel);
        let registers = unit.signature();
        let mut drive =
            Self { unit, registers, status: 0, error: 0, phase: Phase::Idle, running: None, dma_done: None };
        drive.show_reset();
        drive
    }

    /// Hangs up a bell, which rings after a request has finished.
    pub(super) fn on_finished(&self, ring: impl Fn() + Send + Sync + 'static) {
        self.unit.on_finished(ring);
    }

    /// To the state of power-on; what is under way ends first, unseen.
    pub(super) fn reset(&mut self) {
        if let Some(running) = self.running.take() {
            running.backend.drain();
            drop(running.backend.take_finished());
        }
        self.unit.reset();
        self.show_reset();
    }

    /// The guest resets the drive: it is busy until what is under way has ended.
    pub(super) fn software_reset(&mut self) {
        match &mut self.running {
            Some(running) => running.reset = true,
            None => {
                self.unit.reset();
                self.show_reset();
            }
        }
    }

    fn show_reset(&mut self) {
        self.registers = self.unit.signature();
        // A packet drive is not ready until it is asked for (ATA-7, volume 2, 9.2).
        self.status = if self.unit.is_packet() { 0 } else { status::READY | status::SEEK_DONE };
        self.error = 1;
        self.phase = Phase::Idle;
        self.dma_done = None;
    }

    /// Waits for the request under way, if there is one.
    pub(super) fn drain(&self) -> bool {
        self.running.as_ref().inspect(|running| running.backend.drain()).is_some()
    }

    /// Carries out a command. A drive that is busy takes none.
    pub(super) fn command(&mut self, command: u8) -> Asks {
        if self.running.is_some() {
            return false;
        }
        self.phase = Phase::Idle;
        match self.unit.command(command, &mut self.registers) {
            Action::Done(result) => self.end(result),
            Action::Answer(bytes) => self.show(bytes, SECTOR as usize, Rest::Nothing),
            Action::Transfer(transfer) => match transfer.how {
                How::Port(_) if transfer.write => {
                    self.expect(transfer);
                    false
                }
                How::Port(block) => self.fetch(block as usize * SECTOR as usize, Rest::Sectors(transfer)),
                How::Dma => self.offer_dma(Dma::Sectors(transfer)),
                How::Queued(_) => self.end(Err(error::ABORTED)),
            },
            Action::Flush => self.start(Request { offset: 0, operation: Operation::Flush }, Then::End),
            Action::Packet => {
                self.registers.now[0] = COMMAND;
                let dma = self.registers.features & 1 != 0;
                self.phase = Phase::Packet { bytes: Vec::new(), dma };
                self.wait_for_guest();
                false
            }
            // Only serial drives know that.
            Action::Discard { .. } => self.end(Err(error::ABORTED)),
            Action::Reset => {
                self.show_reset();
                true
            }
        }
    }

    /// The command is done, or has failed with these error bits.
    fn end(&mut self, result: Result<(), u8>) -> Asks {
        self.phase = Phase::Idle;
        self.status = status::READY | status::SEEK_DONE | if result.is_err() { status::ERROR } else { 0 };
        self.error = result.err().unwrap_or(0);
        true
    }

    /// The packet is done, or has failed.
    fn end_packet(&mut self, result: Result<(), Sense>) -> Asks {
        self.registers.now[0] = COMMAND | TO_GUEST;
        self.end(result.map_err(|sense| sense.key << 4 | if sense.key == 5 { error::ABORTED } else { 0 }))
    }

    /// A request has failed.
    fn fail(&mut self, failure: Failure, packet: bool, write: bool) -> Asks {
        if packet { self.fail_packet(sense_of(failure)) } else { self.end(Err(error_of(failure, write))) }
    }

    fn fail_packet(&mut self, sense: Sense) -> Asks {
        if let Some(cd) = self.unit.cd() {
            cd.failed(sense);
        }
        self.end_packet(Err(sense))
    }

    /// Starts a request, and is busy until it has finished.
    fn start(&mut self, request: Request, then: Then) -> Asks {
        let Some(backend) = self.unit.backend() else {
            return self.fail_packet(Sense::NO_MEDIUM);
        };
        backend.start(0, request);
        self.phase = Phase::Idle;
        self.status = status::BUSY | status::READY | status::SEEK_DONE;
        self.error = 0;
        self.running = Some(Running { backend, then, reset: false });
        false
    }

    fn wait_for_guest(&mut self) {
        self.status = status::READY | status::SEEK_DONE | status::DATA;
        self.error = 0;
    }

    /// Reads what comes next to the data port.
    fn fetch(&mut self, block: usize, rest: Rest) -> Asks {
        let (offset, len, rest) = match rest {
            Rest::Nothing => return self.end(Ok(())),
            Rest::Sectors(transfer) => {
                let (now, rest) = split(transfer);
                (transfer.first * SECTOR, u64::from(now) * SECTOR, Rest::Sectors(rest))
            }
            Rest::Disc { offset, len } => {
                // Whole blocks, as long as there is room for several.
                let now = len.min((MOST_BUFFER / block.max(1) as u64).max(1) * block as u64);
                (offset, now, Rest::Disc { offset: offset.saturating_add(now), len: len - now })
            }
        };
        let operation = Operation::Read(Data::Bytes(vec![0; len as usize]));
        self.start(Request { offset, operation }, Then::Show { block, rest })
    }

    /// Data waits at the data port.
    fn show(&mut self, bytes: Vec<u8>, block: usize, rest: Rest) -> Asks {
        let until = block.min(bytes.len());
        self.phase = Phase::In(Buffer { bytes, at: 0, until, block, rest });
        self.announce(until, matches!(rest, Rest::Disc { .. }), TO_GUEST);
        true
    }

    /// A stretch of the data can be read or written.
    fn announce(&mut self, len: usize, packet: bool, direction: u8) {
        self.wait_for_guest();
        if packet {
            self.registers.now[0] = direction;
            [self.registers.now[2], self.registers.now[3]] = (len as u16).to_le_bytes();
        }
    }

    /// The guest is to write the next sectors.
    fn expect(&mut self, transfer: Transfer) {
        let How::Port(block) = transfer.how else { return };
        let len = u64::from(split(transfer).0) * SECTOR;
        let block = block as usize * SECTOR as usize;
        let bytes = vec![0; len as usize];
        let until = block.min(bytes.len());
        self.phase = Phase::Out(Buffer { bytes, at: 0, until, block, rest: Rest::Sectors(transfer) });
        self.wait_for_guest();
    }

    fn offer_dma(&mut self, dma: Dma) -> Asks {
        self.phase = Phase::Dma(dma);
        self.wait_for_guest();
        false
    }

    /// The most bytes of a packet's data at once that the guest has named.
    fn packet_block(&self) -> usize {
        match u16::from_le_bytes([self.registers.now[2], self.registers.now[3]]) & !1 {
            0 => 0xfffe,
            limit => limit.into(),
        }
    }

    fn packet(&mut self, bytes: &[u8], dma: bool) -> Asks {
        let Some(cd) = self.unit.cd() else { return self.end(Err(error::ABORTED)) };
        let reply = match cd.command(bytes) {
            Ok(reply) => reply,
            Err(sense) => return self.end_packet(Err(sense)),
        };
        let block = self.packet_block();
        match reply {
            Reply::Done => self.end_packet(Ok(())),
            Reply::Data(bytes) if dma => self.offer_dma(Dma::Answer(bytes)),
            Reply::Data(bytes) => self.show(bytes, block, Rest::Disc { offset: 0, len: 0 }),
            Reply::Read { offset, len } if dma => self.offer_dma(Dma::Disc { offset, len }),
            Reply::Read { offset, len } => self.fetch(block, Rest::Disc { offset, len }),
            Reply::Ignore { len } if dma => self.offer_dma(Dma::Ignored { len }),
            Reply::Ignore { len } => {
                let bytes = vec![0; len.min(MOST_BUFFER) as usize];
                let until = block.min(bytes.len());
                self.phase = Phase::Out(Buffer { bytes, at: 0, until, block, rest: Rest::Disc { offset: 0, len: 0 } });
                self.announce(until, true, 0);
                true
            }
        }
    }

    /// The guest reads the data port.
    pub(super) fn read_data(&mut self, data: &mut [u8]) -> Asks {
        data.fill(0xff);
        let Phase::In(buffer) = &mut self.phase else { return false };
        let rest = buffer.bytes.get(buffer.at..).unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        let Some(next) = buffer.advance(data.len()) else { return false };
        let (block, rest, left) = (buffer.block, buffer.rest, next != 0);
        match rest {
            Rest::Disc { .. } if left => {
                self.announce(next, true, TO_GUEST);
                true
            }
            _ if left => true,
            Rest::Sectors(transfer) if transfer.count != 0 => self.fetch(block, rest),
            Rest::Disc { len: 0, .. } => self.end_packet(Ok(())),
            Rest::Disc { .. } => self.fetch(block, rest),
            // The last data of a read needs no further interrupt.
            Rest::Nothing | Rest::Sectors(_) => {
                self.end(Ok(()));
                false
            }
        }
    }

    /// The guest writes the data port.
    pub(super) fn write_data(&mut self, data: &[u8]) -> Asks {
        match &mut self.phase {
            Phase::Packet { bytes, dma } => {
                bytes.extend(data);
                if bytes.len() < PACKET {
                    return false;
                }
                let (bytes, dma) = (std::mem::take(bytes), *dma);
                self.packet(&bytes, dma)
            }
            Phase::Out(buffer) => {
                buffer.bytes.iter_mut().skip(buffer.at).zip(data).for_each(|(to, from)| *to = *from);
                let Some(next) = buffer.advance(data.len()) else { return false };
                match buffer.rest {
                    Rest::Disc { .. } if next != 0 => {
                        self.announce(next, true, 0);
                        true
                    }
                    _ if next != 0 => true,
                    Rest::Sectors(transfer) => {
                        let bytes = std::mem::take(&mut buffer.bytes);
                        self.store(transfer, bytes)
                    }
                    Rest::Disc { .. } => self.end_packet(Ok(())),
                    Rest::Nothing => self.end(Ok(())),
                }
            }
            _ => false,
        }
    }

    fn store(&mut self, transfer: Transfer, bytes: Vec<u8>) -> Asks {
        let operation = Operation::Write { data: Data::Bytes(bytes), durable: transfer.durable };
        let request = Request { offset: transfer.first * SECTOR, operation };
        self.start(request, Then::Go(split(transfer).1))
    }

    /// What the bus master is to move: how many bytes, and whether they come from memory.
    pub(super) fn waiting_dma(&self) -> Option<(u64, bool)> {
        match &self.phase {
            Phase::Dma(Dma::Sectors(transfer)) => Some((u64::from(transfer.count) * SECTOR, transfer.write)),
            Phase::Dma(Dma::Disc { len, .. }) => Some((*len, false)),
            Phase::Dma(Dma::Answer(bytes)) => Some((bytes.len() as u64, false)),
            Phase::Dma(Dma::Ignored { len }) => Some((*len, true)),
            _ => None,
        }
    }

    /// The bus master moves what waits, to or from these stretches of memory; `None` when it cannot.
    pub(super) fn move_dma(&mut self, segments: Option<Vec<Segment>>, memory: &GuestMemory) -> Asks {
        let Phase::Dma(dma) = std::mem::replace(&mut self.phase, Phase::Idle) else { return false };
        let packet = !matches!(dma, Dma::Sectors(_));
        let Some(segments) = segments else {
            self.dma_done = Some(false);
            return self.fail(Failure::Memory, packet, true);
        };
        match dma {
            Dma::Sectors(Transfer { first, write, durable, .. }) => {
                let data = Data::Guest(segments);
                let operation = if write { Operation::Write { data, durable } } else { Operation::Read(data) };
                self.start(Request { offset: first * SECTOR, operation }, Then::EndDma { packet, write })
            }
            Dma::Disc { offset, .. } => {
                let request = Request { offset, operation: Operation::Read(Data::Guest(segments)) };
                let asks = self.start(request, Then::EndDma { packet, write: false });
                if self.running.is_none() {
                    // The disc is gone.
                    self.dma_done = Some(false);
                }
                asks
            }
            Dma::Answer(bytes) => {
                let done = scatter(memory, &segments, &bytes);
                self.dma_done = Some(done);
                if done { self.end_packet(Ok(())) } else { self.fail(Failure::Memory, packet, false) }
            }
            Dma::Ignored { .. } => {
                self.dma_done = Some(true);
                self.end_packet(Ok(()))
            }
        }
    }

    /// Whether a transfer by the bus master has ended since this was asked, and well.
    pub(super) fn take_dma_done(&mut self) -> Option<bool> {
        self.dma_done.take()
    }

    /// Goes on when the request under way has finished.
    pub(super) fn take_finished(&mut self) -> Asks {
        let Some(running) = self.running.take() else { return false };
        let Some(completion) = running.backend.take_finished().pop() else {
            self.running = Some(running);
            return false;
        };
        if running.reset {
            self.unit.reset();
            self.show_reset();
            if matches!(running.then, Then::EndDma { .. }) {
                // The bus master must not go on with the next command.
                self.dma_done = Some(true);
            }
            return false;
        }
        let result = completion.result;
        match running.then {
            Then::Show { block, rest } => {
                let packet = matches!(rest, Rest::Disc { .. });
                match result {
                    Ok(bytes) => self.show(bytes, block, rest),
                    Err(failure) => self.fail(failure, packet, false),
                }
            }
            Then::Go(rest) => match result {
                Ok(_) if rest.count != 0 => {
                    self.expect(rest);
                    true
                }
                Ok(_) => self.end(Ok(())),
                Err(failure) => self.fail(failure, false, true),
            },
            Then::EndDma { packet, write } => {
                self.dma_done = Some(result.is_ok());
                match result {
                    Ok(_) if packet => self.end_packet(Ok(())),
                    Ok(_) => self.end(Ok(())),
                    Err(failure) => self.fail(failure, packet, write),
                }
            }
            Then::End => self.end(result.map(drop).map_err(|failure| error_of(failure, true))),
        }
    }

    pub(super) fn state(&self) -> DriveState {
        DriveState {
            registers: self.registers,
            status: self.status,
            error: self.error,
            phase: self.phase.clone(),
            unit: self.unit.state(),
        }
    }

    /// Whether this drive can be in `state`: what its requests reach has to be on the disk.
    pub(super) fn accepts(&self, state: &DriveState) -> bool {
        let sound = |buffer: &Buffer, write: bool| {
            let len = buffer.bytes.len();
            let sizes = len as u64 <= MOST_BUFFER && buffer.at < buffer.until && buffer.until <= len;
            let rest = match buffer.rest {
                Rest::Nothing | Rest::Disc { .. } => true,
                Rest::Sectors(transfer) => {
                    let whole = !write || u64::from(split(transfer).0) * SECTOR == len as u64;
                    self.unit.has(&transfer) && matches!(transfer.how, How::Port(1..=16)) && whole
                }
            };
            sizes && rest && (1..=0xffff).contains(&buffer.block)
        };
        let phase = match &state.phase {
            Phase::Idle => true,
            Phase::In(buffer) => sound(buffer, false),
            Phase::Out(buffer) => sound(buffer, true),
            Phase::Packet { bytes, .. } => bytes.len() < PACKET && self.unit.is_packet(),
            Phase::Dma(Dma::Sectors(transfer)) => self.unit.has(transfer) && transfer.how == How::Dma,
            Phase::Dma(Dma::Answer(bytes)) => bytes.len() as u64 <= MOST_BUFFER && self.unit.is_packet(),
            Phase::Dma(Dma::Disc { .. } | Dma::Ignored { .. }) => self.unit.is_packet(),
        };
        phase && self.unit.accepts(&state.unit)
    }

    /// Takes on a state that it accepts.
    pub(super) fn restore(&mut self, state: DriveState) {
        self.reset();
        (self.registers, self.status, self.error) = (state.registers, state.status, state.error);
        self.phase = state.phase;
        self.unit.restore(state.unit);
    }
}

impl Buffer {
    /// The guest has moved so many bytes: at the end of a stretch, the length of the next one, or 0 at the end of all.
    fn advance(&mut self, by: usize) -> Option<usize> {
        self.at = self.at.saturating_add(by);
        if self.at < self.until {
            return None;
        }
        let before = self.until;
        self.until = before.saturating_add(self.block).min(self.bytes.len());
        // A wide access at the end of a stretch reaches into the next one.
        if self.at >= self.until {
            return Some(0);
        }
        Some(self.until - before)
    }
}

/// The sectors that wait at the data port at once, and what is left behind them.
fn split(transfer: Transfer) -> (u32, Transfer) {
    let now = transfer.count.min((MOST_BUFFER / SECTOR) as u32);
    (now, Transfer { first: transfer.first + u64::from(now), count: transfer.count - now, ..transfer })
}

/// Writes bytes to stretches of memory. Whether all of it is RAM.
fn scatter(memory: &GuestMemory, segments: &[Segment], mut bytes: &[u8]) -> bool {
    for Segment { at: Gpa(at), len } in segments {
        let (now, rest) = bytes.split_at((*len as usize).min(bytes.len()));
        if !memory.is_ram(Gpa(*at), now.len() as u64) || memory.write(Gpa(*at), now).is_err() {
            return false;
        }
        bytes = rest;
    }
    bytes.is_empty()
}

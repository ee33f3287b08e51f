//! A port: its registers, the drive behind it, and the commands that are under way (AHCI 1.3.1, 3.3 and 5).

use std::collections::VecDeque;
use std::sync::Arc;

use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

use super::command::Header;
use super::frame::{self, Sent};
use super::registers::{command, event};
use crate::ata::{
    Action, AtaUnit, Cable, Drive, How, QueueError, Registers, SECTOR, Transfer, UnitState, error, error_of, sense_of,
    status,
};
use crate::block::{Backend, Data, Failure, Operation, Request};
use crate::optical::{Reply, Sense};

/// What the count register tells at the end of a packet.
const PACKET_DONE: u8 = 3;
/// The status that a port without a drive shows.
const NOBODY: u8 = 0x7f;
/// A drive is there, at 3 Gbit/s, awake.
const LINK_UP: u32 = 0x123;
const LINK_OFF: u32 = 4;

/// The registers of a port and of its drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct PortRegisters {
    list: u64,
    frames: u64,
    events: u32,
    enabled: u32,
    command: u32,
    status: u8,
    error: u8,
    signature: u32,
    link_control: u32,
    link_errors: u32,
    /// Queued commands that are not done, by tag.
    active: u32,
    /// Commands that are not done, by slot.
    issued: u32,
    /// The slot that was last looked at.
    current: u8,
    /// The registers of the drive.
    shown: Registers,
    /// An error has stopped the port until it is started anew.
    halted: bool,
    /// The guest holds the drive in reset.
    held: bool,
    /// The drive's first frame has not been received yet.
    greeting: bool,
}

impl PortRegisters {
    const POWER_ON: Self = Self {
        list: 0,
        frames: 0,
        events: 0,
        enabled: 0,
        command: 0,
        status: NOBODY,
        error: 0,
        signature: u32::MAX,
        link_control: 0,
        link_errors: 0,
        active: 0,
        issued: 0,
        current: 0,
        shown: Registers::DISK,
        halted: false,
        held: false,
        greeting: false,
    };
}

/// What of a port a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PortState {
    registers: PortRegisters,
    unit: Option<UnitState>,
}

/// A command under way.
struct Running {
    header: Header,
    backend: Arc<Backend>,
    kind: Kind,
    /// The guest has stopped the port, or the queue has failed: nobody is to hear of it any more.
    orphan: bool,
}

enum Kind {
    Sectors {
        transfer: Transfer,
    },
    Disc {
        len: u64,
        dma: bool,
    },
    Flush,
    /// Ranges that are to be discarded behind the one under way.
    Discard {
        rest: VecDeque<(u64, u64)>,
    },
}

/// A port.
pub(super) struct Port {
    registers: PortRegisters,
    drive: Option<Drive>,
    running: [Option<Running>; 32],
    /// The drive is to be reset when what is under way has ended.
    reset_due: bool,
}

impl Port {
    pub(super) fn new(unit: Option<AtaUnit>) -> Self {
        let drive = unit.map(|unit| Drive::new(unit, Cable::Serial));
        let running = [const { None }; 32];
        let mut port = Self { registers: PortRegisters::POWER_ON, drive, running, reset_due: false };
        port.reset_drive();
        port
    }

    pub(super) fn drive(&self) -> Option<&Drive> {
        self.drive.as_ref()
    }

    /// To the state of power-on; what is under way ends first, unseen.
    pub(super) fn reset(&mut self) {
        self.drain();
        for running in self.running.iter_mut().filter_map(Option::take) {
            drop(running.backend.take_finished());
        }
        self.registers = PortRegisters::POWER_ON;
        self.reset_drive();
    }

    /// The guest resets the whole adapter (10.4.3).
    pub(super) fn reset_by_adapter(&mut self) {
        self.abandon();
        let PortRegisters { list, frames, .. } = self.registers;
        self.registers = PortRegisters { list, frames, ..PortRegisters::POWER_ON };
        self.reset_link();
    }

    /// Whether nothing is under way.
    pub(super) fn is_quiet(&self) -> bool {
        self.running.iter().all(Option::is_none)
    }

    /// Whether an event asks for an interrupt.
    pub(super) fn interrupts(&self) -> bool {
        self.registers.events & self.registers.enabled != 0
    }

    /// Waits until nothing is under way in the background. Whether something was.
    pub(super) fn drain(&self) -> bool {
        let mut any = false;
        for running in self.running.iter().flatten() {
            running.backend.drain();
            any = true;
        }
        any
    }

    /// The guest reads a register.
    pub(super) fn read(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x00 => registers.list as u32,
            0x04 => (registers.list >> 32) as u32,
            0x08 => registers.frames as u32,
            0x0c => (registers.frames >> 32) as u32,
            0x10 => registers.events,
            0x14 => registers.enabled,
            0x18 => {
                let started = registers.command & command::START != 0;
                let receiving = registers.command & command::RECEIVE != 0;
                registers.command
                    | command::SPUN_UP
                    | command::POWERED
                    | u32::from(registers.current) << 8
                    | if receiving { command::RECEIVING } else { 0 }
                    | if started || !self.is_quiet() { command::RUNNING } else { 0 }
            }
            0x20 => u32::from(registers.error) << 8 | u32::from(registers.status),
            0x24 => registers.signature,
            0x28 => match registers.link_control & 0xf {
                4 => LINK_OFF,
                0 if self.drive.is_some() => LINK_UP,
                _ => 0,
            },
            0x2c => registers.link_control,
            0x30 => registers.link_errors,
            0x34 => registers.active,
            0x38 => registers.issued,
            _ => 0,
        }
    }

    /// The guest writes the bits of a register that `mask` has.
    pub(super) fn write(&mut self, offset: u64, value: u32, mask: u32, memory: &GuestMemory) {
        let registers = &mut self.registers;
        let merge = |old: u32| old & !mask | value & mask;
        let set = value & mask;
        let low = |old: u64, unit: u32| old & !0xffff_ffff | u64::from(merge(old as u32) & !(unit - 1));
        let high = |old: u64| old & 0xffff_ffff | u64::from(merge((old >> 32) as u32)) << 32;
        match offset {
            0x00 => registers.list = low(registers.list, 1024),
            0x04 => registers.list = high(registers.list),
            0x08 => registers.frames = low(registers.frames, 256),
            0x0c => registers.frames = high(registers.frames),
            0x10 => registers.events &= !set,
            0x14 => registers.enabled = merge(registers.enabled) & event::ALL,
            0x18 => {
                let new = merge(registers.command);
                self.write_command(new, memory);
            }
            0x2c => {
                let was = registers.link_control;
                registers.link_control = merge(was) & 0xfff;
                self.write_link(was & 0xf);
            }
            0x30 => registers.link_errors &= !set,
            // These are for a port that has been started.
            0x34 if registers.command & command::START != 0 => registers.active |= set,
            0x38 if registers.command & command::START != 0 => registers.issued |= set,
            _ => {}
        }
    }

    fn write_command(&mut self, value: u32, memory: &GuestMemory) {
        let was = self.registers.command;
        self.registers.command = value & (command::START | command::RECEIVE | command::KEPT);
        let fell = was & !self.registers.command;
        if fell & command::START != 0 {
            self.abandon();
            (self.registers.issued, self.registers.active, self.registers.current) = (0, 0, 0);
            self.registers.halted = false;
        }
        if value & command::OVERRIDE != 0 {
            self.registers.status &= !(status::BUSY | status::DATA);
        }
        self.greet(memory);
    }

    /// Nobody is to hear of what is under way any more.
    fn abandon(&mut self) {
        self.running.iter_mut().flatten().for_each(|running| running.orphan = true);
    }

    fn write_link(&mut self, was: u32) {
        let now = self.registers.link_control & 0xf;
        if was == now {
            return;
        }
        self.abandon();
        if now == 0 {
            self.reset_link();
        } else {
            // No link, no drive: it is reset when the link comes back.
            self.reset_due = false;
            (self.registers.status, self.registers.error, self.registers.signature) = (NOBODY, 0, u32::MAX);
            self.registers.greeting = false;
        }
    }

    /// The drive is reset with its link: at once, or when what is under way has ended.
    fn reset_link(&mut self) {
        self.registers.held = false;
        if self.is_quiet() {
            self.reset_drive();
        } else {
            self.reset_due = true;
            self.registers.status = status::BUSY;
        }
    }

    fn reset_drive(&mut self) {
        self.reset_due = false;
        let Some(drive) = &mut self.drive else { return };
        drive.reset();
        self.registers.shown = drive.signature();
        // A packet drive is not ready until it is asked for.
        self.registers.status = if drive.is_packet() { 0 } else { status::READY | status::SEEK_DONE };
        self.registers.error = 1;
        self.registers.greeting = true;
        let [count, low, middle, high] = self.registers.shown.now;
        self.registers.signature = u32::from_le_bytes([count, low, middle, high]);
    }

    /// The drive's first frame is received as soon as the guest receives any.
    fn greet(&mut self, memory: &GuestMemory) {
        if self.registers.greeting && self.registers.command & command::RECEIVE != 0 {
            self.registers.greeting = false;
            self.show_registers(memory, false);
        }
    }

    /// Puts a received frame into memory.
    fn receive(&self, memory: &GuestMemory, at: u64, frame: &[u8]) {
        if self.registers.command & command::RECEIVE != 0
            && let Some(place) = self.registers.frames.checked_add(at)
        {
            // A guest that wants its frames where no memory is, or ROM, does not get them.
            if memory.is_ram(Gpa(place), frame.len() as u64) {
                let _ = memory.write(Gpa(place), frame);
            }
        }
    }

    fn show_registers(&mut self, memory: &GuestMemory, interrupt: bool) {
        let PortRegisters { shown, status, error, .. } = self.registers;
        self.receive(memory, frame::REGISTERS_AT, &frame::registers(&shown, status, error, interrupt));
        if interrupt {
            self.registers.events |= event::REGISTERS;
        }
    }

    /// Takes up the commands that can be.
    pub(super) fn kick(&mut self, memory: &GuestMemory) {
        self.greet(memory);
        // Each round takes a command from the list or ends the loop.
        for _ in 0..32 {
            let registers = &self.registers;
            let started = registers.command & command::START != 0 && !registers.halted;
            let busy = registers.status & (status::BUSY | status::DATA) != 0 || self.reset_due;
            let waiting = registers.issued & !self.slots_running();
            let orphans = self.running.iter().flatten().any(|running| running.orphan);
            if !started || busy || orphans || waiting == 0 || !self.take_up(waiting.trailing_zeros(), memory) {
                return;
            }
        }
    }

    fn slots_running(&self) -> u32 {
        self.running
            .iter()
            .zip(0..)
            .filter(|(running, _)| running.is_some())
            .fold(0, |mask, (_, slot)| mask | 1 << slot)
    }

    /// Takes up the command in a slot. Returns whether it has.
    fn take_up(&mut self, slot: u32, memory: &GuestMemory) -> bool {
        let header = Header::read(memory, self.registers.list, slot);
        let frame = header.and_then(|header| header.frame(memory));
        let (Some(header), Some(frame)) = (header, frame) else {
            self.stop(event::BUS_FATAL);
            return false;
        };
        match frame::parse(&frame) {
            Some(Sent::Command(command, registers)) => self.command(slot, header, command, registers, memory),
            Some(Sent::Control { reset }) => {
                self.registers.issued &= !(1 << slot);
                let was = std::mem::replace(&mut self.registers.held, reset);
                if was && !reset {
                    self.abandon();
                    self.reset_link();
                    self.greet(memory);
                }
                true
            }
            // No drive hears that.
            None => {
                self.registers.issued &= !(1 << slot);
                true
            }
        }
    }

    /// An error stops the port.
    fn stop(&mut self, events: u32) {
        self.registers.halted = true;
        self.registers.events |= events;
    }

    fn command(&mut self, slot: u32, header: Header, code: u8, sent: Registers, memory: &GuestMemory) -> bool {
        let Some(drive) = &mut self.drive else { return false };
        let queued = matches!(code, 0x60 | 0x61) && !drive.is_packet();
        // What is not queued waits until the queue is empty.
        if !queued && self.running.iter().any(Option::is_some) {
            return false;
        }
        self.registers.current = slot as u8;
        self.registers.shown = sent;
        let action = drive.command(code, &mut self.registers.shown);
        if queued {
            self.queue(slot, header, action, sent, memory);
            return true;
        }
        match action {
            Action::Done(result) => self.finish(slot, header, result, 0, memory),
            Action::Answer(bytes) => self.answer(slot, header, &bytes, memory),
            Action::Transfer(transfer) => {
                let kind = Kind::Sectors { transfer };
                match self.sectors(&header, transfer, memory) {
                    Some(request) => self.start(slot, header, request, kind, memory),
                    None => self.no_room(slot, header, false, memory),
                }
            }
            Action::Flush => {
                let request = Request { offset: 0, operation: Operation::Flush };
                self.start(slot, header, request, Kind::Flush, memory);
            }
            Action::Discard { blocks } => self.discard(slot, header, blocks, memory),
            Action::Packet => self.packet(slot, header, memory),
            Action::Reset => {
                self.registers.shown = self.drive.as_ref().map_or(Registers::DISK, Drive::signature);
                self.finish(slot, header, Ok(()), 0, memory);
                self.registers.error = 1;
            }
        }
        true
    }

    fn sectors(&self, header: &Header, transfer: Transfer, memory: &GuestMemory) -> Option<Request> {
        let Transfer { first, count, write, durable, .. } = transfer;
        let data = Data::Guest(header.segments(memory, u64::from(count) * SECTOR)?);
        let operation = if write { Operation::Write { data, durable } } else { Operation::Read(data) };
        Some(Request { offset: first * SECTOR, operation })
    }

    fn discard(&mut self, slot: u32, header: Header, blocks: u32, memory: &GuestMemory) {
        let Some(bytes) = header.gather(memory, u64::from(blocks) * SECTOR) else {
            return self.no_room(slot, header, false, memory);
        };
        match self.drive.as_ref().map_or(Err(error::ABORTED), |drive| drive.unneeded(&bytes)) {
            Ok(rest) => self.discard_next(slot, header, rest, memory),
            Err(error) => self.finish(slot, header, Err(error), 0, memory),
        }
    }

    fn discard_next(&mut self, slot: u32, header: Header, mut rest: VecDeque<(u64, u64)>, memory: &GuestMemory) {
        match rest.pop_front() {
            Some((offset, len)) => {
                let request = Request { offset, operation: Operation::Discard { len } };
                self.start(slot, header, request, Kind::Discard { rest }, memory);
            }
            None => self.finish(slot, header, Ok(()), 0, memory),
        }
    }

    /// A queued command: the drive takes it at once, and tells later by its tag that it is done.
    fn queue(&mut self, slot: u32, header: Header, action: Action, sent: Registers, memory: &GuestMemory) {
        let named = slot as u8 == sent.now[0] >> 3 && self.registers.active >> slot & 1 != 0;
        let request = match action {
            Action::Transfer(transfer) if named => {
                self.sectors(&header, transfer, memory).map(|request| (request, transfer)).ok_or(error::ABORTED)
            }
            Action::Done(Err(error)) => Err(error),
            _ => Err(error::ABORTED),
        };
        let backend = self.drive.as_ref().and_then(Drive::backend);
        match (request, backend) {
            (Ok((request, transfer)), Some(backend)) => {
                self.registers.issued &= !(1 << slot);
                (self.registers.status, self.registers.error) = (status::READY | status::SEEK_DONE, 0);
                self.show_registers(memory, false);
                backend.start(u64::from(slot), request);
                self.keep(slot, Running { header, backend, kind: Kind::Sectors { transfer }, orphan: false });
            }
            (result, _) => {
                self.registers.issued &= !(1 << slot);
                let error = result.err().unwrap_or(error::ABORTED);
                self.fail_queue(slot, error, sent.long_address(), sent.long_features(), memory);
            }
        }
    }

    /// A queued command has failed: all others are given up, and the port stops.
    fn fail_queue(&mut self, slot: u32, error: u8, first: u64, count: u32, memory: &GuestMemory) {
        let status = status::READY | status::SEEK_DONE | status::ERROR;
        if let Some(drive) = &mut self.drive {
            drive.queue_failed(QueueError { tag: slot as u8, status, error, first, count: count as u16 });
        }
        (self.registers.status, self.registers.error) = (status, error);
        self.receive(memory, frame::DEVICE_BITS_AT, &frame::device_bits(status, error, 0));
        self.abandon();
        self.stop(event::DEVICE_BITS | event::FILE_ERROR);
    }

    fn keep(&mut self, slot: u32, running: Running) {
        if let Some(place) = self.running.get_mut(slot as usize) {
            *place = Some(running);
        }
    }

    /// Starts a request, and is busy until it has finished.
    fn start(&mut self, slot: u32, header: Header, request: Request, kind: Kind, memory: &GuestMemory) {
        let Some(backend) = self.drive.as_ref().and_then(Drive::backend) else {
            return self.fail_packet(slot, header, Sense::NO_MEDIUM, memory);
        };
        self.registers.status = status::BUSY | status::READY | status::SEEK_DONE;
        backend.start(u64::from(slot), request);
        self.keep(slot, Running { header, backend, kind, orphan: false });
    }

    /// The guest has left too little room for the data, or has said where in a way that cannot be read.
    fn no_room(&mut self, slot: u32, header: Header, packet: bool, memory: &GuestMemory) {
        self.registers.events |= event::OVERFLOW;
        if packet {
            self.fail_packet(slot, header, Sense::FAILED, memory);
        } else {
            self.finish(slot, header, Err(error::ABORTED), 0, memory);
        }
    }

    /// Data of a command that is read as by a data port.
    fn answer(&mut self, slot: u32, header: Header, bytes: &[u8], memory: &GuestMemory) {
        if !header.scatter(memory, bytes) {
            return self.no_room(slot, header, false, memory);
        }
        self.finish_port_read(slot, header, bytes.len() as u64, memory);
    }

    /// A read as by a data port ends with the announcement of its last data.
    fn finish_port_read(&mut self, slot: u32, header: Header, len: u64, memory: &GuestMemory) {
        let end = status::READY | status::SEEK_DONE;
        self.announce(len, true, end, memory);
        (self.registers.status, self.registers.error) = (end, 0);
        header.tell_moved(memory, len);
        self.registers.issued &= !(1 << slot);
    }

    fn announce(&mut self, len: u64, to_host: bool, end: u8, memory: &GuestMemory) {
        let status = status::READY | status::SEEK_DONE | status::DATA;
        let frame = frame::pio_setup(&self.registers.shown, status, end, len, to_host);
        self.receive(memory, frame::PIO_SETUP_AT, &frame);
        self.registers.events |= event::PIO_SETUP;
    }

    /// A command is done, or has failed with these error bits.
    fn finish(&mut self, slot: u32, header: Header, result: Result<(), u8>, moved: u64, memory: &GuestMemory) {
        self.registers.status = status::READY | status::SEEK_DONE | if result.is_err() { status::ERROR } else { 0 };
        self.registers.error = result.err().unwrap_or(0);
        header.tell_moved(memory, moved);
        self.show_registers(memory, true);
        match result {
            Ok(()) => self.registers.issued &= !(1 << slot),
            // It stays in the list.
            Err(_) => self.stop(event::FILE_ERROR),
        }
    }

    fn fail_packet(&mut self, slot: u32, header: Header, sense: Sense, memory: &GuestMemory) {
        if let Some(cd) = self.drive.as_mut().and_then(Drive::cd) {
            cd.failed(sense);
        }
        self.finish_packet(slot, header, Err(sense), 0, memory);
    }

    fn finish_packet(
        &mut self,
        slot: u32,
        header: Header,
        result: Result<(), Sense>,
        moved: u64,
        memory: &GuestMemory,
    ) {
        self.registers.shown.now[0] = PACKET_DONE;
        let result = result.map_err(|sense| sense.key << 4 | if sense.key == 5 { error::ABORTED } else { 0 });
        self.finish(slot, header, result, moved, memory);
    }

    fn packet(&mut self, slot: u32, header: Header, memory: &GuestMemory) {
        let Some(packet) = header.packet(memory) else { return self.stop(event::BUS_FATAL) };
        let dma = self.registers.shown.features & 1 != 0;
        let reply = match self.drive.as_mut().and_then(Drive::cd) {
            Some(cd) => cd.command(packet.get(..12).unwrap_or_default()),
            None => Err(Sense::NO_COMMAND),
        };
        match reply {
            Err(sense) => self.finish_packet(slot, header, Err(sense), 0, memory),
            Ok(Reply::Done) => self.finish_packet(slot, header, Ok(()), 0, memory),
            Ok(Reply::Data(bytes)) if header.scatter(memory, &bytes) => {
                let len = bytes.len() as u64;
                self.announce_packet(len, true, dma, memory);
                self.finish_packet(slot, header, Ok(()), len, memory);
            }
            Ok(Reply::Data(_)) => self.no_room(slot, header, true, memory),
            Ok(Reply::Read { offset, len }) => match header.segments(memory, len) {
                Some(segments) => {
                    let request = Request { offset, operation: Operation::Read(Data::Guest(segments)) };
                    self.start(slot, header, request, Kind::Disc { len, dma }, memory);
                }
                None => self.no_room(slot, header, true, memory),
            },
            Ok(Reply::Ignore { len }) => {
                self.announce_packet(len, false, dma, memory);
                self.finish_packet(slot, header, Ok(()), len, memory);
            }
        }
    }

    fn announce_packet(&mut self, len: u64, to_host: bool, dma: bool, memory: &GuestMemory) {
        if !dma {
            [self.registers.shown.now[2], self.registers.shown.now[3]] = (len.min(0xfffe) as u16).to_le_bytes();
            self.announce(len.min(0xfffe), to_host, status::READY | status::SEEK_DONE, memory);
        }
    }

    /// Goes on with what has finished.
    pub(super) fn take_finished(&mut self, memory: &GuestMemory) {
        // All that is under way is of one medium.
        let Some(backend) = self.running.iter().flatten().map(|running| Arc::clone(&running.backend)).next() else {
            return;
        };
        let mut tags = 0;
        for done in backend.take_finished() {
            let slot = done.tag as u32;
            let Some(running) = self.running.get_mut(slot as usize).and_then(Option::take) else { continue };
            if running.orphan {
                continue;
            }
            match running.kind {
                Kind::Sectors { transfer } if matches!(transfer.how, How::Queued(_)) => match done.result {
                    Ok(_) => tags |= 1 << slot,
                    Err(failure) => {
                        let error = error_of(failure, transfer.write);
                        self.fail_queue(slot, error, transfer.first, transfer.count, memory);
                    }
                },
                kind => self.end(slot, running.header, kind, done.result.map(drop), memory),
            }
        }
        if tags != 0 {
            self.registers.active &= !tags;
            let PortRegisters { status, error, .. } = self.registers;
            self.receive(memory, frame::DEVICE_BITS_AT, &frame::device_bits(status, error, tags));
            self.registers.events |= event::DEVICE_BITS;
        }
        if self.is_quiet() {
            if self.reset_due {
                self.reset_drive();
            } else if self.registers.status & status::BUSY != 0 {
                // The drive has ended what nobody waits for any more.
                self.registers.status = status::READY | status::SEEK_DONE;
            }
        }
    }

    fn end(&mut self, slot: u32, header: Header, kind: Kind, result: Result<(), Failure>, memory: &GuestMemory) {
        match (kind, result) {
            (Kind::Sectors { transfer }, Ok(())) => {
                let len = u64::from(transfer.count) * SECTOR;
                match transfer.how {
                    How::Port(_) if !transfer.write => self.finish_port_read(slot, header, len, memory),
                    _ => self.finish(slot, header, Ok(()), len, memory),
                }
            }
            (Kind::Disc { len, dma }, Ok(())) => {
                self.announce_packet(len, true, dma, memory);
                self.finish_packet(slot, header, Ok(()), len, memory);
            }
            (Kind::Disc { .. }, Err(failure)) => self.fail_packet(slot, header, sense_of(failure), memory),
            (Kind::Discard { rest }, Ok(())) => self.discard_next(slot, header, rest, memory),
            (Kind::Flush | Kind::Discard { .. }, result) => {
                let result = result.map_err(|failure| error_of(failure, true));
                self.finish(slot, header, result, 0, memory);
            }
            (Kind::Sectors { transfer }, Err(failure)) => {
                let error = error_of(failure, transfer.write);
                self.finish(slot, header, Err(error), 0, memory);
            }
        }
    }

    pub(super) fn state(&self) -> PortState {
        PortState { registers: self.registers, unit: self.drive.as_ref().map(Drive::state) }
    }

    /// Whether this port can be in `state`.
    pub(super) fn accepts(&self, state: &PortState) -> bool {
        match (&self.drive, &state.unit) {
            (Some(drive), Some(unit)) => drive.accepts(unit),
            (None, None) => true,
            _ => false,
        }
    }

    /// Takes on a state that it accepts.
    pub(super) fn restore(&mut self, state: PortState) {
        self.reset();
        self.registers = state.registers;
        if let (Some(drive), Some(unit)) = (&mut self.drive, state.unit) {
            drive.restore(unit);
        }
    }
}

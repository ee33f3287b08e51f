//! A driver of a virtio function: it negotiates, makes chains available in either ring layout, and takes what is used.

use std::sync::{Arc, Mutex};

use devices::virtio::{Kind, VirtioPci};
use disk::Image;
use disk::raw::Raw;
use machine::pci::PciFunction;
use machine::{At, Device};
use memory::{Gpa, GuestMemory, Kind as MemoryKind, Region};
use testkit::folder::Folder;
use testkit::rig::{Access, Messages, Probe};

pub(crate) const RAM: u64 = 4 << 20;
pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const PACKED: u64 = 1 << 34;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const INDIRECT: u64 = 1 << 28;

pub(crate) const STATUS: u64 = 20;
pub(crate) const NOTIFY: u64 = 0x3000;
pub(crate) const ISR: u64 = 0x1000;
pub(crate) const CONFIG: u64 = 0x2000;
/// The offset of the MSI-X table, and the capability's offset in configuration space.
pub(crate) const MSIX_TABLE: u64 = 0x4000;

/// Where the rings of a queue are, and its buffers.
const RINGS: u64 = 0x1_0000;
const RINGS_LEN: u64 = 0x4000;
const BUFFERS: u64 = 0x10_0000;

pub(crate) const SIZE: u16 = 16;

pub(crate) fn memory() -> GuestMemory {
    GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: MemoryKind::Ram }]).unwrap()
}

/// An image of so many bytes, of which each block of 512 begins with its number.
pub(crate) fn image(folder: &Folder, name: &str, len: usize) -> Arc<dyn Image> {
    let path = folder.join(name);
    let mut bytes = vec![0; len];
    for (n, block) in bytes.chunks_mut(512).enumerate() {
        block[..4].copy_from_slice(&(n as u32).to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    let file = disk::file::HostFile::open(&path, disk::file::Access::Write).unwrap();
    Arc::new(Raw::new(Arc::new(file)))
}

pub(crate) struct Ring {
    packed: bool,
    base: u64,
    /// How many chains were made available, and how many were taken.
    available: u16,
    used: u16,
    /// Places of the packed ring that were filled and read.
    filled: u16,
    read: u16,
}

impl Ring {
    pub(crate) fn new(packed: bool, queue: u16) -> Self {
        Self { packed, base: RINGS + RINGS_LEN * u64::from(queue), available: 0, used: 0, filled: 0, read: 0 }
    }

    pub(crate) fn areas(&self) -> [u64; 3] {
        [self.base, self.base + 0x1000, self.base + 0x2000]
    }
}

pub(crate) struct Driver {
    pub(crate) memory: GuestMemory,
    pub(crate) function: Arc<Mutex<VirtioPci>>,
    pub(crate) messages: Messages,
    pub(crate) line: Probe,
    pub(crate) rings: Vec<Ring>,
    features: u64,
    free: u64,
    _folder: Option<Folder>,
}

/// What is available and not yet taken: where its parts to write are.
pub(crate) struct Submitted {
    queue: usize,
    writable: Vec<(u64, u32)>,
    places: u16,
}

impl Driver {
    /// A driver that has not yet done anything.
    pub(crate) fn new(make: impl FnOnce(GuestMemory) -> Box<dyn Kind>, folder: Option<Folder>) -> Self {
        let (memory, messages, line) = (memory(), Messages::new(), Probe::new());
        let function = VirtioPci::build(make(memory.clone()), &memory, messages.port(), line.line()).unwrap();
        let driver =
            Self { memory, function, messages, line, rings: Vec::new(), features: 0, free: BUFFERS, _folder: folder };
        // Memory space and bus master.
        driver.config_write(4, &6u16.to_le_bytes());
        driver
    }

    pub(crate) fn config_read(&self, offset: u16) -> u32 {
        let mut data = [0; 4];
        self.function.lock().unwrap().config_read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn config_write(&self, offset: u16, data: &[u8]) {
        let _ = self.function.lock().unwrap().config_write(offset, data);
    }

    /// The offset of the capability of this ID, and of this kind if it is virtio's.
    pub(crate) fn capability(&self, id: u8, kind: Option<u8>) -> u16 {
        let mut at = self.config_read(0x34) as u8;
        while at != 0 {
            let head = self.config_read(at.into()).to_le_bytes();
            if head[0] == id && kind.is_none_or(|kind| head[3] == kind) {
                return at.into();
            }
            at = head[1];
        }
        panic!("no capability {id:#x} {kind:?}");
    }

    pub(crate) fn out16(&self, offset: u64, value: u16) {
        let _ = self.function.lock().unwrap().write(At { window: 0, offset }, &value.to_le_bytes());
    }

    pub(crate) fn in16(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.function.lock().unwrap().read(At { window: 0, offset }, &mut data);
        u16::from_le_bytes(data)
    }

    pub(crate) fn status(&self) -> u8 {
        self.function.in8(0, STATUS)
    }

    pub(crate) fn offered(&self) -> u64 {
        let half = |select| {
            let _ = self.function.out32(0, 0, select);
            u64::from(self.function.in32(0, 4))
        };
        half(0) | half(1) << 32
    }

    /// Resets, and agrees on these features; returns whether the device has.
    pub(crate) fn agree(&mut self, features: u64) -> bool {
        let function = &self.function;
        for status in [0, 1, 3] {
            let _ = function.out8(0, STATUS, status);
        }
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            let _ = function.out32(0, 8, select);
            let _ = function.out32(0, 12, half);
        }
        let _ = function.out8(0, STATUS, 11);
        (self.features, self.rings) = (features, Vec::new());
        self.status() == 11
    }

    /// Sets queue `index` up, with message `index + 1`.
    pub(crate) fn enable(&mut self, index: u16) {
        let ring = Ring::new(self.features & PACKED != 0, index);
        self.memory.write(Gpa(ring.base), &vec![0; RINGS_LEN as usize]).unwrap();
        self.out16(22, index);
        self.out16(24, SIZE);
        self.out16(26, index + 1);
        for (register, area) in [32, 40, 48].into_iter().zip(ring.areas()) {
            let _ = self.function.out64(0, register, area);
        }
        self.out16(28, 1);
        assert_eq!(self.in16(28), 1);
        let index = usize::from(index);
        self.rings.truncate(index);
        while self.rings.len() < index {
            let skipped = self.rings.len() as u16;
            self.rings.push(Ring::new(ring.packed, skipped));
        }
        self.rings.push(ring);
    }

    /// Agrees on features, sets up all queues and MSI-X, and goes.
    pub(crate) fn start(&mut self, features: u64) {
        assert!(self.agree(features | VERSION_1));
        let queues = self.in16(18);
        for index in 0..queues {
            self.enable(index);
        }
        self.enable_msix(queues + 1);
        self.out16(16, 0);
        self.go();
    }

    pub(crate) fn go(&self) {
        let _ = self.function.out8(0, STATUS, 15);
        assert_eq!(self.status(), 15);
    }

    /// Gives each message its own data, its number.
    pub(crate) fn enable_msix(&self, messages: u16) {
        self.config_write(self.capability(0x11, None) + 2, &0x8000u16.to_le_bytes());
        for n in 0..u64::from(messages) {
            let entry = MSIX_TABLE + 16 * n;
            let _ = self.function.out64(0, entry, 0xfee0_0000);
            let _ = self.function.out32(0, entry + 8, n as u32);
            let _ = self.function.out32(0, entry + 12, 0);
        }
    }

    /// The numbers of the messages since the last call.
    pub(crate) fn told(&self) -> Vec<u32> {
        self.messages.take().iter().map(|message| message.data).collect()
    }

    /// A place for a buffer.
    pub(crate) fn place(&mut self, len: u64) -> u64 {
        let at = self.free;
        self.free += len.next_multiple_of(16) + 16;
        if self.free > RAM - 0x1000 {
            self.free = BUFFERS;
            return self.place(len);
        }
        at
    }

    /// Makes a chain available: what is to read, and room for what is written.
    pub(crate) fn submit(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> Submitted {
        let mut parts = Vec::new();
        for bytes in readable {
            let at = self.place(bytes.len() as u64);
            self.memory.write(Gpa(at), bytes).unwrap();
            parts.push((at, bytes.len() as u32, 0));
        }
        let mut places = Vec::new();
        for len in writable {
            let at = self.place((*len).into());
            self.memory.write(Gpa(at), &vec![0xee; *len as usize]).unwrap();
            parts.push((at, *len, 2));
            places.push((at, *len));
        }
        let taken = self.available(queue, &parts);
        Submitted { queue, writable: places, places: taken }
    }

    /// Makes descriptors available as one chain; returns the places that it takes.
    pub(crate) fn available(&mut self, queue: usize, parts: &[(u64, u32, u16)]) -> u16 {
        let indirect = self.features & INDIRECT != 0;
        let packed = self.rings[queue].packed;
        let (parts, flags): (Vec<_>, u16) = if indirect {
            let table = self.place(16 * parts.len() as u64);
            for (n, (at, len, flags)) in parts.iter().enumerate() {
                let more = u16::from(n + 1 < parts.len());
                let last = if packed { (0, *flags) } else { (flags | more, n as u16 + 1) };
                self.descriptor(table + 16 * n as u64, *at, *len, last);
            }
            (vec![(table, 16 * parts.len() as u32, 0)], 4)
        } else {
            (parts.to_vec(), 0)
        };
        let ring = &mut self.rings[queue];
        let [table, driver, _] = ring.areas();
        let count = parts.len() as u16;
        let mut writes = Vec::new();
        for (n, (at, len, more)) in (0..).zip(&parts) {
            let next = u16::from(n + 1 < count);
            let flags = flags | more | next;
            if packed {
                let place = ring.filled % SIZE;
                let round = if (ring.filled / SIZE).is_multiple_of(2) { 0x80 } else { 0x8000 };
                writes.push((table + 16 * u64::from(place), *at, *len, (ring.available, flags | round)));
                ring.filled = ring.filled.wrapping_add(1);
            } else {
                // One chain at a time fills the table from the start.
                writes.push((table + 16 * u64::from(n), *at, *len, (flags, n + 1)));
            }
        }
        // The first one last: it makes the chain available.
        let available = ring.available;
        ring.available = available.wrapping_add(1);
        for (to, at, len, last) in writes.into_iter().rev() {
            self.descriptor(to, at, len, last);
        }
        if !packed {
            let entry = driver + 4 + 2 * u64::from(available % SIZE);
            self.memory.write(Gpa(entry), &0u16.to_le_bytes()).unwrap();
            self.memory.write(Gpa(driver + 2), &available.wrapping_add(1).to_le_bytes()).unwrap();
        }
        count
    }

    fn descriptor(&self, to: u64, at: u64, len: u32, last: (u16, u16)) {
        self.memory.write(Gpa(to), &at.to_le_bytes()).unwrap();
        self.memory.write(Gpa(to + 8), &len.to_le_bytes()).unwrap();
        self.memory.write(Gpa(to + 12), &last.0.to_le_bytes()).unwrap();
        self.memory.write(Gpa(to + 14), &last.1.to_le_bytes()).unwrap();
    }

    pub(crate) fn notify(&self, queue: usize) {
        self.out16(NOTIFY + 4 * queue as u64, queue as u16);
    }

    /// Waits until the device is at nothing.
    pub(crate) fn settle(&self) {
        let mut function = self.function.lock().unwrap();
        let _drained = function.pause();
        function.resume();
    }

    /// Takes a chain that is used: the bytes that were told, and what is in the parts to write.
    pub(crate) fn take(&mut self, submitted: &Submitted) -> Option<(u32, Vec<Vec<u8>>)> {
        let ring = &mut self.rings[submitted.queue];
        let [table, _, device] = ring.areas();
        let written = if ring.packed {
            let place = table + 16 * u64::from(ring.read % SIZE);
            let flags = u16::from_le_bytes(self.memory.read_array(Gpa(place + 14)).unwrap());
            let round = if (ring.read / SIZE).is_multiple_of(2) { 0x8080 } else { 0 };
            if flags & 0x8080 != round {
                return None;
            }
            ring.read = ring.read.wrapping_add(submitted.places);
            u32::from_le_bytes(self.memory.read_array(Gpa(place + 8)).unwrap())
        } else {
            let index = u16::from_le_bytes(self.memory.read_array(Gpa(device + 2)).unwrap());
            if index == ring.used {
                return None;
            }
            let entry = device + 4 + 8 * u64::from(ring.used % SIZE);
            ring.used = ring.used.wrapping_add(1);
            u32::from_le_bytes(self.memory.read_array(Gpa(entry + 4)).unwrap())
        };
        let read = |(at, len): &(u64, u32)| {
            let mut bytes = vec![0; *len as usize];
            self.memory.read(Gpa(*at), &mut bytes).unwrap();
            bytes
        };
        Some((written, submitted.writable.iter().map(read).collect()))
    }

    /// A whole request.
    pub(crate) fn request(&mut self, queue: usize, readable: &[&[u8]], writable: &[u32]) -> (u32, Vec<Vec<u8>>) {
        let submitted = self.submit(queue, readable, writable);
        self.notify(queue);
        self.settle();
        self.take(&submitted).expect("the request is done")
    }
}

impl Driver {
    /// Takes a chain without looking at it.
    pub(crate) fn skip(&mut self, queue: usize, places: u16) {
        let submitted = Submitted { queue, writable: Vec::new(), places };
        assert!(self.take(&submitted).is_some(), "the request is done");
    }
}

//! The AHCI adapter on the Rig: commands from lists in memory, queued ones too, and what a hostile guest puts there.

use std::sync::{Arc, Mutex};

use devices::ahci::{Ahci, PORTS};
use devices::ata::AtaUnit;
use devices::block::Backend;
use devices::optical::{CdDrive, Tray};
use machine::pci::{PciFunction, Pin};
use machine::{Device, Snapshot};
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::folder::Folder;
use testkit::rig::{Access, Battery, Messages, Probe, Random};

/// The window of the registers, and ports in it.
const ABAR: u8 = 5;
const DISK: u64 = 0x100;
const CD: u64 = 0x180;
const NOBODY: u64 = 0x200;
/// Where the lists, the frames, the tables and the data of the tests are.
const LIST: u64 = 0x1000;
const FRAMES: u64 = 0x2000;
const TABLES: u64 = 0x4000;
const DATA: u64 = 0x1_0000;
const RAM: u64 = 0x8_0000;
/// Registers of a port.
const EVENTS: u64 = 0x10;
const ENABLED: u64 = 0x14;
const COMMAND: u64 = 0x18;
const FILE: u64 = 0x20;
const ACTIVE: u64 = 0x34;
const ISSUE: u64 = 0x38;
const START: u32 = 0x11;

fn memory() -> GuestMemory {
    GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }]).unwrap()
}

fn backend(path: &std::path::Path, memory: &GuestMemory) -> Backend {
    let file = disk::file::HostFile::open(path, disk::file::Access::Write).unwrap();
    Backend::new(Arc::new(disk::raw::Raw::new(Arc::new(file))), memory.clone(), "1".into())
}

/// A disk whose sectors hold their numbers at port 0, a CD of the same content at port 1.
fn units(folder: &Folder, memory: &GuestMemory) -> [Option<AtaUnit>; PORTS] {
    let (path, copy) = (folder.join("disk"), folder.join("disc"));
    for path in [&path, &copy] {
        std::fs::write(path, (0..128u8).flat_map(|n| [n; 512]).collect::<Vec<u8>>()).unwrap();
    }
    let cd = CdDrive::new(Tray::new(Some(backend(&copy, memory))), "2".into());
    [Some(AtaUnit::Disk(backend(&path, memory))), Some(AtaUnit::Cd(cd)), None, None, None, None]
}

struct Bench {
    ahci: Arc<Mutex<Ahci>>,
    memory: GuestMemory,
    probe: Probe,
    messages: Messages,
    _folder: Folder,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let (memory, probe, messages) = (memory(), Probe::new(), Messages::new());
        let line = (Pin::A, probe.line());
        let ahci = Ahci::ich9(units(&folder, &memory), line, messages.port(), memory.clone()).unwrap();
        let _ = ahci.lock().unwrap().config_write(4, &[6, 0]);
        let bench = Self { ahci, memory, probe, messages, _folder: folder };
        bench.write(4, 2);
        [DISK, CD].into_iter().for_each(|port| bench.start(port));
        bench
    }

    fn start(&self, port: u64) {
        for (register, value) in [(0, LIST), (4, 0), (8, FRAMES), (12, 0), (ENABLED, 0xffff_ffff)] {
            self.write(port + register, value as u32);
        }
        self.write(port + COMMAND, 0x10);
        self.write(port + COMMAND, START);
    }

    fn read(&self, offset: u64) -> u32 {
        self.ahci.in32(ABAR, offset)
    }

    fn write(&self, offset: u64, value: u32) {
        let _ = self.ahci.out32(ABAR, offset, value);
    }

    /// Lets what is under way finish.
    fn settle(&self) {
        let _ = self.ahci.lock().unwrap().pause();
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).unwrap();
    }

    fn get<const N: usize>(&self, at: u64) -> [u8; N] {
        self.memory.read_array(Gpa(at)).unwrap()
    }

    /// Puts a command into a slot, with these regions: where, and how many bytes.
    fn prepare(&self, slot: u64, frame: [u8; 16], regions: &[(u64, u32)]) {
        let table = TABLES + slot * 0x200;
        let count = (regions.len() as u32) << 16;
        let header: Vec<u8> = [count | 5, 0, table as u32, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        self.put(LIST + slot * 32, &header);
        self.put(table, &frame);
        for (n, (at, len)) in regions.iter().enumerate() {
            let entry = [*at as u32, (*at >> 32) as u32, 0, len - 1];
            let entry: Vec<u8> = entry.iter().flat_map(|word| word.to_le_bytes()).collect();
            self.put(table + 0x80 + 16 * n as u64, &entry);
        }
    }

    fn issue(&self, port: u64, slots: u32) {
        self.write(port + ISSUE, slots);
        self.settle();
    }

    /// Puts a packet into slot 0 of the CD and runs it; status and error.
    fn packet(&self, dma: u8, bytes: &[u8], regions: &[(u64, u32)]) -> u32 {
        self.prepare(0, frame(0xa0, 0, 0, dma), regions);
        self.put(TABLES + 0x40, &[0; 16]);
        self.put(TABLES + 0x40, bytes);
        self.issue(CD, 1);
        let file = self.read(CD + FILE);
        if file & 1 != 0 {
            self.write(CD + COMMAND, 0x10);
            self.write(CD + COMMAND, START);
        }
        file
    }
}

fn frame(command: u8, first: u32, count: u16, features: u8) -> [u8; 16] {
    let [a, b, c, d] = first.to_le_bytes();
    let [low, high] = count.to_le_bytes();
    [0x27, 0x80, command, features, a, b, c, 0x40, d, 0, 0, 0, low, high, 0, 0]
}

/// A queued command: the count is in the features, the tag in the count.
fn queued(command: u8, tag: u8, first: u32, count: u8) -> [u8; 16] {
    frame(command, first, u16::from(tag << 3), count)
}

#[test]
fn the_battery() {
    let folder = Folder::new("ahci-battery");
    let disks = memory();
    drop(units(&folder, &disks));
    let options =
        |name: &str| disk::OpenOptions { format: Some(disk::Format::Raw), ..disk::OpenOptions::new(folder.join(name)) };
    let images = ["disk", "disc"].map(|name| disk::block_on(disk::open(options(name))).unwrap());
    let mut random = Random::new(9);
    // Lists and tables of noise in which many frames are sound.
    let mut noise: Vec<u8> = (0..RAM / 8).flat_map(|_| random.draw().to_le_bytes()).collect();
    for at in (0..noise.len()).step_by(128) {
        noise[at] = 0x27;
        noise[at + 1] |= 0x80;
        noise[at + 2] = [0x25, 0x35, 0x60, 0x61, 0xec, 0xa0, 0xc8, 0xea][at / 128 % 8];
        noise[at + 5..at + 12].fill(0);
        noise[at + 7] = 0x40;
    }
    let make = || -> Arc<Mutex<dyn Device>> {
        let memory = memory();
        memory.write(Gpa(0), &noise).unwrap();
        let backend = |n: usize| Backend::new(images[n].clone(), memory.clone(), "1".into());
        let cd = CdDrive::new(Tray::new(Some(backend(1))), "2".into());
        let units = [Some(AtaUnit::Disk(backend(0))), Some(AtaUnit::Cd(cd)), None, None, None, None];
        let line = (Pin::A, Probe::new().line());
        let ahci = Ahci::ich9(units, line, Messages::new().port(), memory).unwrap();
        let _ = ahci.lock().unwrap().config_write(4, &[6, 0]);
        Arc::new(Mutex::new(BusMaster(ahci)))
    };
    Battery { windows: &[(5, 0x400), (5, 0x200)], clock: None, forgets: true, seed: 12 }.run(make);
}

/// An adapter that may always access memory, also after a reset.
struct BusMaster(Arc<Mutex<Ahci>>);

impl Device for BusMaster {
    fn read(&mut self, at: machine::At, data: &mut [u8]) {
        self.0.lock().unwrap().read(at, data);
    }
    fn write(&mut self, at: machine::At, data: &[u8]) -> machine::Effect {
        self.0.lock().unwrap().write(at, data)
    }
    fn reset(&mut self) {
        let mut ahci = self.0.lock().unwrap();
        ahci.reset();
        let _ = ahci.config_write(4, &[6, 0]);
    }
    fn pause(&mut self) -> machine::Drained {
        self.0.lock().unwrap().pause()
    }
    fn resume(&mut self) {
        self.0.lock().unwrap().resume();
    }
}

impl Snapshot for BusMaster {
    fn schema(&self) -> machine::Schema {
        self.0.lock().unwrap().schema()
    }
    fn save(&mut self) -> Result<machine::State, machine::StateError> {
        self.0.lock().unwrap().save()
    }
    fn load(&mut self, version: u16, state: machine::State) -> Result<(), machine::StateError> {
        self.0.lock().unwrap().load(version, state)
    }
}

#[test]
fn drives_say_that_they_are_there() {
    let bench = Bench::new("ahci-there");
    assert_eq!((bench.read(0x0c), bench.read(0x10)), (0x3f, 0x0001_0301));
    assert_eq!([DISK, CD, NOBODY].map(|port| bench.read(port + 0x28)), [0x123, 0x123, 0]);
    assert_eq!([DISK, CD, NOBODY].map(|port| bench.read(port + 0x24)), [0x101, 0xeb14_0101, 0xffff_ffff]);
    assert_eq!([DISK, CD, NOBODY].map(|port| bench.read(port + FILE)), [0x150, 0x100, 0x7f]);
    assert_eq!(bench.get::<4>(FRAMES + 0x40)[0], 0x34, "the first frame came when frames were received");
    // A reset of the link brings it again.
    bench.put(FRAMES + 0x40, &[0; 20]);
    bench.write(DISK + COMMAND, 0x10);
    bench.write(DISK + 0x2c, 1);
    assert_eq!((bench.read(DISK + 0x28), bench.read(DISK + FILE)), (0, 0x7f));
    bench.write(DISK + 0x2c, 0);
    assert_eq!((bench.read(DISK + 0x28), bench.read(DISK + FILE)), (0x123, 0x150));
    assert_eq!(bench.get::<20>(FRAMES + 0x40)[..3], [0x34, 0, 0x50]);
}

#[test]
fn sectors_are_read_and_written() {
    let bench = Bench::new("ahci-sectors");
    bench.prepare(3, frame(0x25, 10, 3, 0), &[(DATA, 1000), (DATA + 0x1000, 536)]);
    bench.issue(DISK, 1 << 3);
    assert_eq!((bench.read(DISK + ISSUE), bench.read(DISK + FILE), bench.read(DISK + EVENTS)), (0, 0x50, 1));
    assert_eq!((bench.get::<1>(DATA)[0], bench.get::<1>(DATA + 999)[0]), (10, 11));
    assert_eq!((bench.get::<1>(DATA + 0x1000)[0], bench.get::<2>(DATA + 0x1000 + 535)), (11, [12, 0]));
    assert_eq!(bench.get::<4>(LIST + 3 * 32 + 4), 1536u32.to_le_bytes(), "so much has been moved");
    assert!(bench.probe.is_high());
    bench.write(DISK + EVENTS, 1);
    assert!(bench.probe.is_high(), "the adapter's own register still says so");
    bench.write(8, 1);
    assert!(!bench.probe.is_high());

    bench.put(DATA, &[0xaa; 512]);
    bench.prepare(0, frame(0x35, 99, 1, 0), &[(DATA, 512)]);
    bench.prepare(1, frame(0xea, 0, 0, 0), &[]);
    bench.prepare(2, frame(0x20, 99, 1, 0), &[(DATA + 0x2000, 512)]);
    bench.issue(DISK, 7);
    assert_eq!((bench.read(DISK + ISSUE), bench.read(DISK + EVENTS)), (0, 3));
    assert_eq!(bench.get::<512>(DATA + 0x2000), [0xaa; 512]);
    let setup = bench.get::<20>(FRAMES + 0x20);
    assert_eq!((setup[0], setup[15], setup[16..18].to_vec()), (0x5f, 0x50, vec![0, 2]));
    bench.prepare(0, frame(0xec, 0, 0, 0), &[(DATA, 512)]);
    bench.issue(DISK, 1);
    assert_eq!((bench.get::<10>(DATA + 54), bench.get::<2>(DATA + 150)), (*b"uHksd si k", [31, 0]));
}

#[test]
fn what_is_trimmed_is_checked_first() {
    let bench = Bench::new("ahci-trim");
    let trim = |ranges: &[(u64, u64)]| {
        bench.put(DATA, &[0; 1024]);
        for (n, (first, count)) in ranges.iter().enumerate() {
            bench.put(DATA + 8 * n as u64, &(first | count << 48).to_le_bytes());
        }
        bench.prepare(0, frame(0x06, 0, 2, 1), &[(DATA, 1024)]);
        bench.issue(DISK, 1);
        bench.read(DISK + FILE)
    };
    assert_eq!(trim(&[(0, 8), (64, 64)]), 0x50);
    assert_eq!(trim(&[]), 0x50);
    assert_eq!(trim(&[(0, 8), (127, 2)]), 0x1051);
}

#[test]
fn queued_commands_end_by_their_tags() {
    let bench = Bench::new("ahci-queue");
    for tag in 0..32u8 {
        let at = DATA + u64::from(tag) * 0x400;
        bench.put(at, &[0x80 | tag; 512]);
        let write = tag % 2 == 0;
        bench.prepare(tag.into(), queued(if write { 0x61 } else { 0x60 }, tag, 64 + u32::from(tag), 1), &[(at, 512)]);
    }
    bench.write(DISK + ACTIVE, u32::MAX);
    bench.issue(DISK, u32::MAX);
    assert_eq!((bench.read(DISK + ACTIVE), bench.read(DISK + ISSUE), bench.read(DISK + EVENTS)), (0, 0, 8));
    for tag in 0..32u8 {
        let expected = if tag % 2 == 0 { 0x80 | tag } else { 64 + tag };
        assert_eq!(bench.get::<512>(DATA + u64::from(tag) * 0x400), [expected; 512]);
    }
    bench.prepare(0, frame(0x25, 64, 1, 0), &[(DATA, 512)]);
    bench.issue(DISK, 1);
    assert_eq!(bench.get::<512>(DATA), [0x80; 512]);
}

#[test]
fn a_failed_queue_stops_and_says_why_in_its_log() {
    let bench = Bench::new("ahci-queue-fails");
    bench.prepare(4, queued(0x60, 4, 127, 2), &[(DATA, 1024)]);
    bench.prepare(5, queued(0x60, 5, 1, 1), &[(DATA, 512)]);
    bench.write(DISK + ACTIVE, 0x30);
    bench.issue(DISK, 0x30);
    assert_eq!(bench.read(DISK + FILE), 0x1051);
    assert_eq!((bench.read(DISK + EVENTS) & 0x4000_0008, bench.read(DISK + ACTIVE)), (0x4000_0008, 0x30));
    assert_eq!((bench.read(DISK + ISSUE), bench.get::<1>(DATA)[0]), (0x20, 0), "the other one was not begun");
    bench.write(DISK + COMMAND, 0x10);
    assert_eq!((bench.read(DISK + ACTIVE), bench.read(DISK + ISSUE), bench.read(DISK + COMMAND) >> 14 & 3), (0, 0, 1));
    bench.write(DISK + COMMAND, START);
    bench.prepare(0, frame(0x2f, 0x10, 1, 0), &[(DATA, 512)]);
    bench.issue(DISK, 1);
    let log = bench.get::<512>(DATA);
    assert_eq!(log[..7], [4, 0, 0x51, 0x10, 127, 0, 0]);
    assert_eq!(log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    bench.issue(DISK, 1);
    assert_eq!(bench.get::<1>(DATA)[0], 0x80, "nothing has failed since");
}

#[test]
fn a_cd_is_read_by_packets() {
    let bench = Bench::new("ahci-cd");
    assert_eq!(bench.packet(0, &[0], &[]), 0x6051, "it was reset");
    assert_eq!(bench.packet(0, &[0], &[]), 0x50);
    assert_eq!(bench.packet(0, &[0x25], &[(DATA, 8)]), 0x50);
    assert_eq!(bench.get::<8>(DATA), [0, 0, 0, 31, 0, 0, 8, 0]);
    for dma in [0, 1] {
        bench.put(DATA, &[0; 4096]);
        let regions = [(DATA, 3000), (DATA + 0x4000, 9000)];
        assert_eq!(bench.packet(dma, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], &regions), 0x50);
        assert_eq!((bench.get::<1>(DATA)[0], bench.get::<1>(DATA + 0x4000)[0]), (4, 9));
        assert_eq!(bench.get::<4>(LIST + 4), 4096u32.to_le_bytes());
    }
    assert_eq!(bench.packet(1, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], &[(DATA, 3000)]) & 0xf001, 0xb001, "too little room");
    assert_eq!(bench.packet(1, &[0x28, 0, 0, 0, 0, 1, 0, 0, 2], &[(RAM, 4096)]) & 0xf001, 0xb001, "no memory");
    assert_eq!(bench.packet(1, &[0xff], &[]), 0x5451);
}

#[test]
fn messages_are_sent_once_for_each_event() {
    let bench = Bench::new("ahci-msi");
    {
        let mut ahci = bench.ahci.lock().unwrap();
        let at = u16::from(ahci.config().u8(0x34));
        for (offset, value) in [(4, 0xfee0_0000u32), (8, 0), (12, 0x41), (16, 0)] {
            let _ = ahci.config_write(at + offset, &value.to_le_bytes());
        }
        let _ = ahci.config_write(at + 2, &1u16.to_le_bytes());
    }
    bench.prepare(0, frame(0xe5, 0, 0, 0), &[]);
    bench.issue(DISK, 1);
    assert_eq!((bench.messages.take().len(), bench.probe.is_high()), (1, false));
    // The guest has seen the port but not yet told the adapter: the next event is told when it does.
    bench.write(DISK + EVENTS, 1);
    bench.issue(DISK, 1);
    assert_eq!(bench.messages.take().len(), 0);
    bench.write(8, 1);
    let message = bench.messages.take();
    assert_eq!((message.len(), message[0].address, message[0].data), (1, 0xfee0_0000, 0x41));
    bench.write(DISK + EVENTS, 1);
    bench.write(8, 1);
    assert_eq!((bench.messages.take().len(), bench.read(8)), (0, 0));
}

#[test]
fn hostile_lists_stop_the_port_alone() {
    let bench = Bench::new("ahci-hostile");
    let restart = |list: u64| {
        bench.write(DISK + COMMAND, 0x10);
        bench.write(DISK, list as u32);
        bench.write(DISK + 4, (list >> 32) as u32);
        bench.write(DISK + EVENTS, 0xffff_ffff);
        bench.write(DISK + COMMAND, START);
    };
    // Lists, tables and data where no memory is.
    for list in [RAM, u64::MAX - 0x3ff, 0xffff_fc00] {
        restart(list);
        bench.issue(DISK, 0x8000_0001);
        assert_eq!(bench.read(DISK + EVENTS), 1 << 29, "{list:#x}");
    }
    restart(LIST);
    bench.prepare(0, frame(0x25, 0, 1, 0), &[(DATA, 512)]);
    for table in [RAM - 0x40, 0xffff_ff80, 0x80] {
        bench.put(LIST + 8, &[(table as u32).to_le_bytes(), 0xffu32.to_le_bytes()].concat());
        restart(LIST);
        bench.issue(DISK, 1);
        assert_eq!(bench.read(DISK + EVENTS), 1 << 29);
    }
    for regions in
        [&[(RAM - 256, 512)][..], &[(u64::MAX - 1, 512)], &[(u64::MAX - 255, 256), (0, 256)], &[(1 << 40, 512)]]
    {
        bench.prepare(0, frame(0x25, 0, 1, 0), regions);
        restart(LIST);
        bench.issue(DISK, 1);
        assert_eq!((bench.read(DISK + FILE), bench.read(DISK + EVENTS) >> 30), (0x451, 1), "{regions:x?}");
    }
    // Too few regions, none at all, and as many as there can be, which leave memory.
    for regions in [1u16, 0] {
        bench.prepare(0, frame(0x25, 0, 3, 0), &[(DATA, 512)]);
        bench.put(LIST + 2, &regions.to_le_bytes());
        restart(LIST);
        bench.issue(DISK, 1);
        assert_eq!((bench.read(DISK + FILE), bench.read(DISK + EVENTS)), (0x451, 1 << 30 | 1 << 24 | 1));
    }
    bench.prepare(0, frame(0x25, 0, 100, 0), &[]);
    bench.put(LIST + 2, &[0xff, 0xff]);
    bench.put(TABLES, &frame(0x25, 0, 100, 0));
    bench.put(TABLES + 0x80, &vec![0; (RAM - TABLES - 0x80) as usize]);
    restart(LIST);
    bench.issue(DISK, 1);
    assert_eq!(bench.read(DISK + EVENTS) >> 30 & 1, 0, "regions of two bytes are enough");
    // Frames that are none, and a tag that is another slot's or not announced.
    bench.prepare(0, [0xff; 16], &[]);
    restart(LIST);
    bench.issue(DISK, 1);
    assert_eq!((bench.read(DISK + ISSUE), bench.read(DISK + EVENTS)), (0, 0));
    for (tag, active) in [(7, 1), (0, 0)] {
        bench.prepare(0, queued(0x60, tag, 1, 1), &[(DATA, 512)]);
        restart(LIST);
        bench.write(DISK + ACTIVE, active);
        bench.issue(DISK, 1);
        assert_eq!(bench.read(DISK + FILE), 0x451);
    }
    assert_eq!(bench.packet(0, &[0], &[]), 0x6051, "the other port does not mind");
}

#[test]
fn nothing_moves_after_a_reset() {
    let bench = Bench::new("ahci-reset");
    for way in 0..4 {
        bench.prepare(0, frame(0x25, 10, 64, 0), &[(DATA, 32 << 10)]);
        {
            let mut ahci = bench.ahci.lock().unwrap();
            let mut write =
                |offset, value: u32| _ = ahci.write(machine::At { window: ABAR, offset }, &value.to_le_bytes());
            write(DISK + ISSUE, 1);
            match way {
                0 => ahci.reset(),
                // The whole adapter, the link, and the port: each is done only when all has landed.
                1 => write(4, 1),
                2 => {
                    write(DISK + COMMAND, 0x10);
                    write(DISK + 0x2c, 1);
                    write(DISK + 0x2c, 0);
                }
                _ => write(DISK + COMMAND, 0x10),
            }
            let mut data = [0; 4];
            let mut read = |offset| {
                ahci.read(machine::At { window: ABAR, offset }, &mut data);
                u32::from_le_bytes(data)
            };
            // The bell cannot have got in.
            match way {
                0 => bench.memory.write(Gpa(DATA), &[0xee; 512]).unwrap(),
                1 => assert_eq!(read(4) & 1, 1),
                2 => assert_eq!(read(DISK + FILE) & 0x80, 0x80),
                _ => assert_eq!(read(DISK + COMMAND) >> 15 & 1, 1),
            }
        }
        bench.settle();
        assert_eq!((bench.read(4) & 1, bench.read(DISK + ISSUE), bench.read(DISK + COMMAND) >> 15 & 1), (0, 0, 0));
        if way == 0 {
            assert_eq!((bench.get::<1>(DATA)[0], bench.read(DISK + 8)), (0xee, 0));
            let _ = bench.ahci.lock().unwrap().config_write(4, &[6, 0]);
        }
        if way < 3 {
            assert_eq!(bench.read(DISK + FILE), 0x150);
        }
        bench.start(DISK);
        bench.issue(DISK, 1);
        assert_eq!((bench.read(DISK + FILE), bench.get::<1>(DATA)[0]), (0x50, 10), "it works on");
    }
}

#[test]
fn a_soft_reset_is_two_frames() {
    let bench = Bench::new("ahci-soft");
    let control = |value: u8| {
        let mut frame = [0; 16];
        (frame[0], frame[15]) = (0x27, value);
        bench.prepare(0, frame, &[]);
        bench.issue(DISK, 1);
    };
    bench.prepare(0, frame(0xff, 0, 0, 0), &[]);
    bench.issue(DISK, 1);
    assert_eq!(bench.read(DISK + FILE), 0x451);
    bench.write(DISK + COMMAND, 0x10);
    bench.write(DISK + COMMAND, START);
    bench.put(FRAMES + 0x40, &[0; 20]);
    control(4);
    control(0);
    assert_eq!((bench.read(DISK + FILE), bench.read(DISK + ISSUE)), (0x150, 0));
    assert_eq!(bench.get::<20>(FRAMES + 0x40)[..7], [0x34, 0, 0x50, 1, 1, 0, 0]);
}

//! IDE drives on the Rig: by the data port, by the bus master, and what a guest can do to them.

use std::sync::{Arc, Mutex};

use devices::ata::AtaUnit;
use devices::block::Backend;
use devices::ide::Piix3Ide;
use devices::optical::{CdDrive, Tray};
use machine::pci::PciFunction;
use machine::{At, Device, Line, Snapshot};
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::folder::Folder;
use testkit::rig::{Access, Battery, Probe};

/// The windows of the primary channel: commands, control; and that of the bus masters.
const COMMANDS: u8 = 8;
const CONTROL: u8 = 9;
const MASTER: u8 = 4;

fn memory() -> GuestMemory {
    GuestMemory::new(&[Region { start: Gpa(0), len: 0x4_0000, kind: Kind::Ram }]).unwrap()
}

/// A small disk, whose sectors hold their numbers.
fn file(folder: &Folder, sectors: u8) -> std::path::PathBuf {
    let path = folder.join("disk");
    std::fs::write(&path, (0..sectors).flat_map(|n| [n; 512]).collect::<Vec<u8>>()).unwrap();
    path
}

fn backend(path: &std::path::Path, memory: &GuestMemory) -> Backend {
    let file = disk::file::HostFile::open(path, disk::file::Access::Write).unwrap();
    Backend::new(Arc::new(disk::raw::Raw::new(Arc::new(file))), memory.clone(), "1".into())
}

/// A disk as primary master, a CD of the same content as primary slave.
struct Bench {
    ide: Arc<Mutex<Piix3Ide>>,
    memory: GuestMemory,
    probe: Probe,
    tray: Arc<Tray>,
    _folder: Folder,
}

impl Bench {
    fn new(name: &str) -> Self {
        let folder = Folder::new(name);
        let (memory, probe) = (memory(), Probe::new());
        let path = file(&folder, 64);
        let copy = folder.join("disc");
        std::fs::copy(&path, &copy).unwrap();
        let tray = Tray::new(Some(backend(&copy, &memory)));
        let units = [
            Some(AtaUnit::Disk(backend(&path, &memory))),
            Some(AtaUnit::Cd(CdDrive::new(Arc::clone(&tray), "2".into()))),
            None,
            None,
        ];
        let ide = Piix3Ide::new(units, [probe.line(), Line::unconnected()], memory.clone()).unwrap();
        let _ = ide.lock().unwrap().config_write(4, &[5, 0]);
        Self { ide, memory, probe, tray, _folder: folder }
    }

    /// Lets what is under way finish.
    fn settle(&self) {
        let _ = self.ide.lock().unwrap().pause();
    }

    fn command(&self, device: u8, [features, count, low, middle, high]: [u8; 5], command: u8) {
        let registers = [(6, device), (1, features), (2, count), (3, low), (4, middle), (5, high), (7, command)];
        for (register, value) in registers {
            let _ = self.ide.out8(COMMANDS, register, value);
        }
        self.settle();
    }

    fn status(&self) -> u8 {
        self.ide.in8(COMMANDS, 7)
    }

    fn data<const N: usize>(&self) -> [u8; N] {
        let mut data = [0; N];
        for word in data.chunks_mut(2) {
            self.ide.lock().unwrap().read(At { window: COMMANDS, offset: 0 }, word);
        }
        self.settle();
        data
    }

    fn put(&self, data: &[u8]) {
        for word in data.chunks(2) {
            let _ = self.ide.lock().unwrap().write(At { window: COMMANDS, offset: 0 }, word);
        }
        self.settle();
    }

    /// Runs the bus master in a direction; its status.
    fn master(&self, direction: u8) -> u8 {
        let _ = self.ide.out32(MASTER, 4, 0x100);
        let _ = self.ide.out8(MASTER, 2, 6);
        let _ = self.ide.out8(MASTER, 0, direction);
        let _ = self.ide.out8(MASTER, 0, direction | 1);
        self.settle();
        let status = self.ide.in8(MASTER, 2);
        let _ = self.ide.out8(MASTER, 0, direction);
        status
    }

    fn table(&self, regions: &[(u32, u32)]) {
        let bytes: Vec<u8> = regions.iter().flat_map(|(a, b)| [a.to_le_bytes(), b.to_le_bytes()].concat()).collect();
        self.memory.write(Gpa(0x100), &bytes).unwrap();
    }

    fn byte(&self, at: u64) -> u8 {
        self.memory.read_array::<1>(Gpa(at)).unwrap()[0]
    }

    /// Sends a packet to the CD; the status behind it.
    fn packet(&self, features: u8, limit: u16, bytes: &[u8]) -> u8 {
        let [low, high] = limit.to_le_bytes();
        self.command(0xb0, [features, 0, 0, low, high], 0xa0);
        assert_eq!((self.status(), self.ide.in8(COMMANDS, 2)), (0x58, 1), "it waits for the packet");
        let mut packet = [0; 12];
        packet[..bytes.len()].copy_from_slice(bytes);
        self.put(&packet);
        self.ide.in8(CONTROL, 0)
    }
}

const LAST: u32 = 1 << 31;

#[test]
fn the_battery() {
    let folder = Folder::new("ide-battery");
    let path = file(&folder, 64);
    let windows = &[(4, 16), (8, 8), (9, 1), (10, 8), (11, 1)];
    let options = || disk::OpenOptions { format: Some(disk::Format::Raw), ..disk::OpenOptions::new(&path) };
    let image = disk::block_on(disk::open(options())).unwrap();
    let make = || -> Arc<Mutex<dyn Device>> {
        let memory = memory();
        let backend = || Backend::new(image.clone(), memory.clone(), "1".into());
        let cd = CdDrive::new(Tray::new(Some(backend())), "2".into());
        let units = [Some(AtaUnit::Disk(backend())), None, Some(AtaUnit::Cd(cd)), Some(AtaUnit::Disk(backend()))];
        Piix3Ide::new(units, [Line::unconnected(), Line::unconnected()], memory.clone()).unwrap()
    };
    Battery { windows, clock: None, forgets: true, seed: 11 }.run(make);
}

#[test]
fn sectors_move_by_the_data_port() {
    let bench = Bench::new("ide-port");
    bench.command(0xe0, [0, 2, 5, 0, 0], 0x20);
    assert_eq!((bench.status(), bench.probe.rises()), (0x58, 1));
    assert_eq!(bench.data(), [5; 512]);
    assert_eq!((bench.status(), bench.probe.rises()), (0x58, 1), "an interrupt for each sector");
    assert_eq!(bench.data(), [6; 512]);
    assert_eq!((bench.status(), bench.probe.rises()), (0x50, 0));
    bench.command(0xe0, [0, 1, 9, 0, 0], 0x30);
    assert_eq!((bench.status(), bench.probe.rises()), (0x58, 0));
    bench.put(&[0xab, 0xcd].repeat(256));
    assert_eq!((bench.status(), bench.probe.rises()), (0x50, 1));
    bench.command(0xe0, [0, 1, 9, 0, 0], 0x20);
    assert_eq!(bench.data::<512>()[..4], [0xab, 0xcd, 0xab, 0xcd]);
    // The last sector, and one more than there is.
    bench.command(0xe0, [0, 1, 63, 0, 0], 0x20);
    assert_eq!(bench.data(), [63; 512]);
    bench.command(0xe0, [0, 2, 63, 0, 0], 0x20);
    assert_eq!((bench.status(), bench.ide.in8(COMMANDS, 1)), (0x51, 0x10));
    bench.command(0xe0, [0; 5], 0xec);
    let answer = bench.data::<512>();
    assert_eq!(answer[120..124], 64u32.to_le_bytes());
    assert_eq!(&answer[54..64], b"uHksd si k");
    // Eight sectors at a time.
    bench.command(0xe0, [0, 8, 0, 0, 0], 0xc6);
    bench.command(0xe0, [0, 12, 20, 0, 0], 0xc4);
    let _ = bench.probe.rises();
    assert_eq!((bench.data::<4096>()[4095], bench.probe.rises()), (27, 0));
    assert_eq!((bench.status(), bench.data::<2048>()[0], bench.status()), (0x58, 28, 0x50));
}

#[test]
fn a_drive_is_busy_while_a_request_is_under_way() {
    let bench = Bench::new("ide-busy");
    // A bus that the bell cannot get into: the request cannot be seen to finish.
    let mut ide = bench.ide.lock().unwrap();
    let at = |offset| At { window: COMMANDS, offset };
    for (register, value) in [(6, 0xe0), (2, 1), (3, 7), (4, 0), (5, 0), (7, 0x20)] {
        let _ = ide.write(at(register), &[value]);
    }
    let mut status = [0];
    ide.read(at(7), &mut status);
    assert_eq!(status[0] & 0x88, 0x80);
    // A command to a busy drive is not taken; a reset waits.
    let _ = ide.write(at(7), &[0xec]);
    let _ = ide.write(At { window: CONTROL, offset: 0 }, &[4]);
    let _ = ide.write(At { window: CONTROL, offset: 0 }, &[0]);
    ide.read(at(7), &mut status);
    assert_eq!(status[0] & 0x80, 0x80);
    drop(ide);
    bench.settle();
    assert_eq!((bench.status(), bench.ide.in8(COMMANDS, 1), bench.ide.in8(COMMANDS, 3)), (0x50, 1, 1));
}

#[test]
fn sectors_move_by_the_bus_master() {
    let bench = Bench::new("ide-master");
    let go = |command: u8, direction: u8| {
        bench.command(0xe0, [0, 3, 10, 0, 0], command);
        bench.master(direction)
    };
    // Two regions: 1000 bytes and the rest.
    let table = |second: u32| bench.table(&[(0x1000, 1000), (second, LAST | 536)]);
    table(0x8000);
    assert_eq!((go(0xc8, 8), bench.probe.is_high()), (4, true));
    let seen = [0x1000, 0x11ff, 0x1200, 0x13e7, 0x13e8, 0x8000, 0x8217, 0x8218].map(|at| bench.byte(at));
    assert_eq!(seen, [10, 10, 11, 11, 0, 11, 12, 0]);
    bench.memory.write(Gpa(0x1000), &[99; 1000]).unwrap();
    assert_eq!(go(0xca, 0), 4);
    assert_eq!((go(0xc8, 8), bench.byte(0x1100)), (4, 99));
    // Where there is no memory, with the wrong direction, and with too little room.
    table(0xffff_0000);
    assert_eq!(go(0xc8, 8) & 7, 6);
    assert_eq!(go(0xc8, 0) & 7, 6);
    bench.table(&[(0x1000, LAST | 1000)]);
    assert_eq!(go(0xc8, 8) & 7, 6);
    assert_eq!(bench.status() & 0x81, 1);
    // A table where no memory is, that has no end.
    bench.command(0xe0, [0, 3, 10, 0, 0], 0xc8);
    let _ = bench.ide.out32(MASTER, 4, 0xffff_fff8);
    let _ = bench.ide.out8(MASTER, 0, 9);
    bench.settle();
    assert_eq!(bench.ide.in8(MASTER, 2) & 3, 2);
    // Nothing moves before the function may.
    let _ = bench.ide.lock().unwrap().config_write(4, &[1, 0]);
    table(0x8000);
    bench.memory.write(Gpa(0x8000), &[0; 16]).unwrap();
    assert_eq!((go(0xc8, 8) & 1, bench.byte(0x8000)), (1, 0));
}

#[test]
fn nothing_moves_after_a_reset() {
    let bench = Bench::new("ide-reset");
    bench.table(&[(0x1000, LAST | 512)]);
    bench.command(0xe0, [0, 1, 10, 0, 0], 0xc8);
    {
        let mut ide = bench.ide.lock().unwrap();
        let _ = ide.write(At { window: MASTER, offset: 4 }, &0x100u32.to_le_bytes());
        let _ = ide.write(At { window: MASTER, offset: 0 }, &[9]);
        ide.reset();
        // What was under way has landed before the reset is done.
        bench.memory.write(Gpa(0x1000), &[0xee; 512]).unwrap();
    }
    bench.settle();
    assert_eq!((bench.byte(0x1000), bench.status(), bench.ide.in8(MASTER, 2)), (0xee, 0x50, 0));
}

#[test]
fn a_state_holds_the_data_at_the_port() {
    let bench = Bench::new("ide-state");
    bench.command(0xe0, [0, 2, 30, 0, 0], 0x20);
    assert_eq!(bench.data(), [30; 100]);
    let state = bench.ide.lock().unwrap().save().unwrap();
    assert_eq!(bench.data(), [30; 412]);
    bench.command(0xe0, [0; 5], 0xec);
    bench.ide.lock().unwrap().load(2, state).unwrap();
    assert_eq!((bench.data(), bench.data()), ([30; 412], [31; 512]));
    assert_eq!(bench.status(), 0x50);
}

#[test]
fn a_cd_is_read_by_packets() {
    let bench = Bench::new("ide-cd");
    bench.command(0xb0, [0; 5], 0xec);
    let signature = [2, 3, 4, 5].map(|register| bench.ide.in8(COMMANDS, register));
    assert_eq!((bench.status() & 1, signature), (1, [1, 1, 0x14, 0xeb]), "no disk");
    bench.command(0xb0, [0; 5], 0xa1);
    assert_eq!(bench.data::<512>()[..2], [0xc0, 0x85]);
    assert_eq!((bench.packet(0, 0, &[0]), bench.ide.in8(COMMANDS, 1)), (0x51, 0x60), "it was reset");
    assert_eq!((bench.packet(0, 0, &[0]), bench.ide.in8(COMMANDS, 2)), (0x50, 3));
    assert_eq!(bench.packet(0, 8, &[0x25]), 0x58);
    assert_eq!([2, 4, 5].map(|register| bench.ide.in8(COMMANDS, register)), [2, 8, 0]);
    assert_eq!(bench.data(), [0, 0, 0, 15, 0, 0, 8, 0]);
    assert_eq!(bench.status(), 0x50);
    // Three blocks in stretches of 1000 bytes, each with its interrupt.
    let _ = bench.probe.rises();
    assert_eq!(bench.packet(0, 1000, &[0x28, 0, 0, 0, 0, 2, 0, 0, 3]), 0x58);
    let mut read = Vec::new();
    while bench.status() == 0x58 {
        let len = u16::from_le_bytes([4, 5].map(|register| bench.ide.in8(COMMANDS, register)));
        assert!(len == 1000 || read.len() == 6000 && len == 144, "{len} behind {}", read.len());
        for _ in 0..len / 2 {
            read.extend(bench.data::<2>());
        }
    }
    assert_eq!((bench.status(), bench.ide.in8(COMMANDS, 2), bench.probe.rises()), (0x50, 3, 8));
    assert_eq!(read, (8..20u8).flat_map(|n| [n; 512]).collect::<Vec<u8>>());
    // By the bus master, blocks and an answer, into more room than there is data.
    bench.table(&[(0x1000, 2048), (0x4000, LAST | 0x8000)]);
    assert_eq!(bench.packet(1, 0, &[0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 2]), 0x58);
    assert_eq!((bench.master(8) & 7, bench.status()), (4, 0x50));
    assert_eq!([0x1000, 0x17ff, 0x4000, 0x47ff, 0x4800].map(|at| bench.byte(at)), [4, 7, 8, 11, 0]);
    assert_eq!(bench.packet(1, 0, &[0x12, 0, 0, 0, 36]), 0x58);
    assert_eq!((bench.master(8) & 7, bench.byte(0x1000), bench.byte(0x1008)), (4, 5, b'H'));
    // Without room.
    bench.table(&[(0x1000, LAST | 2048)]);
    bench.packet(1, 0, &[0xa8, 0, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!((bench.master(8) & 7, bench.status()), (6, 0x51));
}

#[test]
fn a_disc_is_changed_while_it_is_read() {
    let bench = Bench::new("ide-change");
    let _ = bench.packet(0, 0, &[0]);
    assert_eq!(bench.packet(0, 2048, &[0x28, 0, 0, 0, 0, 2, 0, 0, 3]), 0x58);
    bench.tray.eject(false).unwrap();
    assert_eq!(bench.data(), [8; 512]);
    assert_eq!((bench.packet(0, 0, &[0]), bench.ide.in8(COMMANDS, 1)), (0x51, 0x20), "nothing is there");
    let other = bench._folder.join("other");
    std::fs::write(&other, [7; 4096]).unwrap();
    bench.tray.insert(backend(&other, &bench.memory)).unwrap();
    assert_eq!((bench.packet(0, 0, &[0]), bench.ide.in8(COMMANDS, 1)), (0x51, 0x60), "it is another one");
    assert_eq!(bench.packet(0, 2048, &[0x28, 0, 0, 0, 0, 1, 0, 0, 1]), 0x58);
    assert_eq!(bench.data(), [7; 2048]);
    assert_eq!(bench.status(), 0x50);
}

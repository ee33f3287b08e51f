//! Every device goes through the battery of the Rig.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use devices::CharOut;
use devices::chipset::*;
use devices::ide::{IdeDisk, Piix3Ide};
use devices::input::I8042;
use devices::misc::{DebugExit, DebugPort, FwCfg, Pvpanic};
use devices::serial::Uart16550;
use machine::firmware::{FirmwareRom, Items, ShadowRam};
use machine::pci::PciFunction;
use machine::{At, Board, Device, Drained, Effect, Line, LineSink, Schema, Snapshot, State, StateError};
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::rig::{Battery, Messages, Probe, Rig, battery};

fn bytes() -> Box<dyn CharOut> {
    Box::new(|_: &[u8]| {})
}

#[test]
fn i8259() {
    battery(|| I8259Pair::build(IntrPin::new(|_| {})), &[(0, 2), (1, 2), (2, 2)]);
}

#[test]
fn i8259_with_busy_inputs() {
    let make = || {
        let pair = I8259Pair::build(IntrPin::new(|_| {}));
        let inputs = PicInputs::new(&pair);
        for input in (0..16).step_by(3) {
            inputs.set_input(input, true);
        }
        pair as Arc<Mutex<dyn Device>>
    };
    // Latched edges are forgotten by a reset, levels are not: it is no fresh device afterwards.
    Battery { windows: &[(0, 2), (1, 2), (2, 2)], clock: None, forgets: false, seed: 2 }.run(make);
}

#[test]
fn ioapic() {
    let messages = Messages::new();
    battery(|| Ioapic::build(3, messages.port()), &[(0, 0x48)]);
}

#[test]
fn i8254() {
    let rig = Rig::new();
    let windows = &[(0, 4), (1, 1)];
    Battery { windows, clock: Some(rig.clock()), forgets: true, seed: 3 }
        .run(|| I8254::build(rig.clock(), Probe::new().line()));
}

#[test]
fn hpet() {
    let rig = Rig::new();
    let messages = Messages::new();
    Battery { windows: &[(0, 0x400), (0, 0x160)], clock: Some(rig.clock()), forgets: true, seed: 4 }.run(|| {
        let legacy = LegacyRoute::new(Probe::new().line(), Probe::new().line());
        Hpet::build(rig.clock(), legacy, vec![(2, Probe::new().line()), (20, Probe::new().line())], messages.port())
    });
}

#[test]
fn mc146818() {
    let rig = Rig::new();
    let config = RtcConfig::at(1_700_000_000).with_memory(1 << 30, 1 << 30);
    // The battery keeps time and cells.
    Battery { windows: &[(0, 4)], clock: Some(rig.clock()), forgets: false, seed: 5 }
        .run(|| Mc146818::build(rig.clock(), config.clone(), Probe::new().line()));
}

#[test]
fn acpi_pm() {
    let rig = Rig::new();
    Battery { windows: &[(0, 0x80), (0, 0x10), (1, 2)], clock: Some(rig.clock()), forgets: true, seed: 6 }
        .run(|| AcpiPm::build(rig.clock(), AcpiPmConfig::default(), Probe::new().line()));
}

#[test]
fn i8042() {
    battery(|| I8042::build(Probe::new().line(), Probe::new().line()), &[(0, 1), (1, 1)]);
}

#[test]
fn uart16550() {
    let rig = Rig::new();
    Battery { windows: &[(0, 8)], clock: Some(rig.clock()), forgets: true, seed: 7 }
        .run(|| Uart16550::build(rig.clock(), Probe::new().line(), bytes()));
}

#[test]
fn small_ports() {
    battery(|| Port92::new(), &[(0, 1)]);
    battery(|| PostPort::new(), &[(0, 1)]);
    battery(|| DebugPort::new(bytes()), &[(0, 1)]);
    battery(|| DebugExit::new(), &[(0, 4)]);
    battery(|| Pvpanic::new(|_| {}), &[(0, 1)]);
}

/// Configuration space as a window of 256 bytes, so that it takes part in the traffic.
struct Config<F>(Arc<Mutex<F>>);

impl<F: PciFunction> Config<F> {
    fn pieces(at: At, len: usize) -> impl Iterator<Item = (u16, usize)> {
        (0..len).filter_map(move |i| u16::try_from(at.offset + i as u64).ok().map(|offset| (offset, i)))
    }
}

impl<F: PciFunction> Device for Config<F> {
    fn read(&mut self, at: At, data: &mut [u8]) {
        for (offset, i) in Self::pieces(at, data.len()) {
            self.0.lock().unwrap().config_read(offset, &mut data[i..=i]);
        }
    }
    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        for (offset, i) in Self::pieces(at, data.len()) {
            let _ = self.0.lock().unwrap().config_write(offset, &data[i..=i]);
        }
        Effect::None
    }
    fn reset(&mut self) {
        self.0.lock().unwrap().reset();
    }
    fn pause(&mut self) -> Drained {
        self.0.lock().unwrap().pause()
    }
    fn resume(&mut self) {
        self.0.lock().unwrap().resume();
    }
}

impl<F: PciFunction> Snapshot for Config<F> {
    fn schema(&self) -> Schema {
        self.0.lock().unwrap().schema()
    }
    fn save(&mut self) -> Result<State, StateError> {
        self.0.lock().unwrap().save()
    }
    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        self.0.lock().unwrap().load(version, state)
    }
}

#[test]
fn bridges() {
    battery(|| Arc::new(Mutex::new(Config(Q35Mch::new(0xb000_0000..0xc000_0000, None)))), &[(0, 0x100)]);
    let make = || {
        let isa = (0..16).map(|_| Line::unconnected()).collect();
        Arc::new(Mutex::new(Config(Ich9Lpc::new(0x600, isa)))) as Arc<Mutex<dyn Device>>
    };
    battery(make, &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(I440fx::new(Some(shadow()))))), &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(Q35Mch::new(0..0, Some(shadow()))))), &[(0, 0x100)]);
    let isa = || (0..16).map(|_| Line::unconnected()).collect();
    battery(|| Arc::new(Mutex::new(Config(Piix3Isa::new(isa())))), &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(Piix4Pm::new(0x600, 9)))), &[(0, 0x100)]);
}

/// A small disk, whose sectors hold their numbers.
fn disk() -> (testkit::folder::Folder, IdeDisk) {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let folder = testkit::folder::Folder::new(&format!("ide-{}", COUNT.fetch_add(1, Ordering::Relaxed)));
    let path = folder.join("disk");
    let sectors = (0..64u8).flat_map(|n| [n; 512]).collect::<Vec<u8>>();
    std::fs::write(&path, sectors).unwrap();
    let options = disk::OpenOptions { format: Some(disk::Format::Raw), ..disk::OpenOptions::new(path) };
    let image = disk::block_on(disk::open(options)).unwrap();
    (folder, IdeDisk { image, serial: "1".into() })
}

fn ide(disk: &IdeDisk) -> Arc<Mutex<Piix3Ide>> {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram }]).unwrap();
    let lines = [Line::unconnected(), Line::unconnected()];
    Piix3Ide::new([Some(disk.clone()), None, None, Some(disk.clone())], lines, memory).unwrap()
}

#[test]
fn ide_drives() {
    let (_folder, disk) = disk();
    let windows = &[(4, 16), (8, 8), (9, 1), (10, 8), (11, 1)];
    Battery { windows, clock: None, forgets: true, seed: 11 }.run(|| ide(&disk));
}

#[test]
fn ide_moves_sectors_by_the_data_port() {
    let (_folder, disk) = disk();
    let ide = ide(&disk);
    let mut ide = ide.lock().unwrap();
    let at = |offset| At { window: 8, offset };
    let command = |ide: &mut Piix3Ide, first: u8, count: u8, command: u8| {
        for (register, value) in [(2, count), (3, first), (4, 0), (5, 0), (6, 0xe0), (7, command)] {
            let _ = ide.write(at(register), &[value]);
        }
    };
    let status = |ide: &mut Piix3Ide| {
        let mut byte = [0];
        ide.read(at(7), &mut byte);
        byte[0]
    };
    let sector = |ide: &mut Piix3Ide| {
        let mut data = [0; 512];
        data.chunks_mut(2).for_each(|word| ide.read(at(0), word));
        data
    };
    command(&mut ide, 5, 2, 0x20);
    assert_eq!(status(&mut ide), 0x58);
    assert_eq!((sector(&mut ide), sector(&mut ide)), ([5; 512], [6; 512]));
    assert_eq!(status(&mut ide), 0x50);
    command(&mut ide, 9, 1, 0x30);
    for word in [[0xab, 0xcd]; 256] {
        let _ = ide.write(at(0), &word);
    }
    assert_eq!(status(&mut ide), 0x50);
    command(&mut ide, 9, 1, 0x20);
    assert_eq!(sector(&mut ide)[..4], [0xab, 0xcd, 0xab, 0xcd]);
    // The last sector, and one more than there is.
    command(&mut ide, 63, 1, 0x20);
    assert_eq!(sector(&mut ide), [63; 512]);
    command(&mut ide, 63, 2, 0x20);
    assert_eq!(status(&mut ide), 0x51);
    command(&mut ide, 0, 0, 0xec);
    let answer = sector(&mut ide);
    assert_eq!(answer[120..124], 64u32.to_le_bytes());
    assert_eq!(&answer[54..64], b"uHksd si k");
    // The other place is empty.
    let _ = ide.write(at(6), &[0xf0]);
    assert_eq!(status(&mut ide), 0);
}

#[test]
fn ide_moves_sectors_by_itself() {
    let (_folder, disk) = disk();
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram }]).unwrap();
    let probe = Probe::new();
    let ide =
        Piix3Ide::new([Some(disk), None, None, None], [probe.line(), Line::unconnected()], memory.clone()).unwrap();
    let mut ide = ide.lock().unwrap();
    let _ = ide.config_write(4, &[5, 0]);
    let go = |ide: &mut Piix3Ide, command: u8, direction: u8| {
        for (register, value) in [(2, 3), (3, 10), (4, 0), (5, 0), (6, 0xe0), (7, command)] {
            let _ = ide.write(At { window: 8, offset: register }, &[value]);
        }
        let master = |offset| At { window: 4, offset };
        let _ = ide.write(master(4), &0x100u32.to_le_bytes());
        let _ = ide.write(master(2), &[6]);
        let _ = ide.write(master(0), &[direction]);
        let _ = ide.write(master(0), &[direction | 1]);
        let mut status = [0];
        ide.read(master(2), &mut status);
        let _ = ide.write(master(0), &[direction]);
        status[0]
    };
    // Two regions: 1000 bytes and the rest.
    let table = |second: u32| [0x1000u32, 1000, second, 1 << 31 | 536].map(u32::to_le_bytes).concat();
    memory.write(Gpa(0x100), &table(0x8000)).unwrap();
    assert_eq!((go(&mut ide, 0xc8, 8), probe.is_high()), (4, true));
    let byte = |at| memory.read_array::<1>(Gpa(at)).unwrap()[0];
    assert_eq!(
        [0x1000, 0x11ff, 0x1200, 0x13e7, 0x13e8, 0x8000, 0x8217, 0x8218].map(byte),
        [10, 10, 11, 11, 0, 11, 12, 0]
    );
    memory.write(Gpa(0x1000), &[99; 1000]).unwrap();
    assert_eq!(go(&mut ide, 0xca, 0), 4);
    assert_eq!((go(&mut ide, 0xc8, 8), byte(0x1100)), (4, 99));
    // Where there is no memory, and with the wrong direction.
    memory.write(Gpa(0x100), &table(0xffff_0000)).unwrap();
    assert_eq!(go(&mut ide, 0xc8, 8) & 7, 6);
    assert_eq!(go(&mut ide, 0xc8, 0) & 7, 6);
}

fn shadow() -> Arc<ShadowRam> {
    let rom = FirmwareRom::new(&[0x90; 0x4_0000]).unwrap();
    ShadowRam::new(rom.memory(Board::named("pc-1").unwrap(), 4 << 20).unwrap(), || {})
}

#[test]
fn fw_cfg() {
    let memory = || {
        let ram = Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram };
        GuestMemory::new(&[ram]).unwrap()
    };
    let mut items = Items::default();
    items.file("opt/a", &[1; 100]);
    items.number(5, &[2, 0]);
    battery(|| FwCfg::new(&items, memory()), &[(0, 2), (1, 8)]);
}

//! Every device goes through the battery of the Rig.

use std::sync::{Arc, Mutex};

use devices::CharOut;
use devices::chipset::*;
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
    battery(|| Arc::new(Mutex::new(Config(HostBridge::q35(0xb000_0000..0xc000_0000, None)))), &[(0, 0x100)]);
    let make = || {
        let isa = (0..16).map(|_| Line::unconnected()).collect();
        Arc::new(Mutex::new(Config(IsaBridge::ich9(0x600, isa)))) as Arc<Mutex<dyn Device>>
    };
    battery(make, &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(HostBridge::i440fx(Some(shadow()))))), &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(HostBridge::q35(0..0, Some(shadow()))))), &[(0, 0x100)]);
    let isa = || (0..16).map(|_| Line::unconnected()).collect();
    battery(|| Arc::new(Mutex::new(Config(IsaBridge::piix3(isa())))), &[(0, 0x100)]);
    battery(|| Arc::new(Mutex::new(Config(Piix4Pm::new(0x600, 9)))), &[(0, 0x100)]);
}

fn shadow() -> Arc<ShadowRam> {
    let rom = FirmwareRom::new(&[0x90; 0x4_0000]).unwrap();
    ShadowRam::new(&rom.memory(Board::named("pc-1").unwrap(), 4 << 20, &[]).unwrap(), || {})
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

#[test]
fn flash() {
    use devices::flash::CfiFlash;
    use memory::StoreConfig;
    let range = 0xffff_c000..0x1_0000_0000;
    let make = || {
        let config = StoreConfig::switched("variables", range.clone(), 0x4000);
        let memory = GuestMemory::with_stores(&[], &[config]).unwrap();
        let store = memory.store("variables").unwrap();
        CfiFlash::build(store, range.clone(), &[0xff; 0x4000], None, || {}).unwrap() as Arc<Mutex<dyn Device>>
    };
    // What is in it outlives a reset.
    Battery { windows: &[(0, 0x4000), (0, 0x10)], clock: None, forgets: false, seed: 17 }.run(make);
}

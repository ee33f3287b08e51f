use std::sync::{Arc, Mutex};

use super::*;
use crate::{At, Bus, Drained, Schema, Snapshot, State, StateError};

const ID: Identity = Identity {
    vendor: 0x1234,
    device: 0x5678,
    revision: 1,
    class: 0x01_0203,
    subsystem_vendor: 0xaaaa,
    subsystem: 0xbbbb,
};

/// A function whose windows answer with their own number.
struct Probe(ConfigSpace);

impl PciFunction for Probe {
    fn config(&self) -> &ConfigSpace {
        &self.0
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.0
    }
}

impl Device for Probe {
    fn read(&mut self, at: At, data: &mut [u8]) {
        data.fill(at.window << 4 | at.offset as u8 & 15);
    }

    fn write(&mut self, _: At, _: &[u8]) -> Effect {
        Effect::None
    }

    fn reset(&mut self) {
        self.0.reset();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Probe {
    fn schema(&self) -> Schema {
        Schema { name: "probe", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        State::of(&self.0.state())
    }

    fn load(&mut self, _: u16, state: State) -> Result<(), StateError> {
        self.0.restore(&state.to()?).map_err(|e| StateError::Invalid { name: "probe", reason: e.to_string() })
    }
}

struct Rig {
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    pci: Arc<PciBus>,
    function: Arc<Mutex<Probe>>,
}

const AT: Bdf = Bdf::root(3, 0);

fn rig() -> Rig {
    let config = ConfigSpace::express(ID)
        .with_bar(0, Bar { kind: BarKind::Port, size: 0x20 })
        .and_then(|c| c.with_bar(1, Bar { kind: BarKind::Memory32, size: 0x1000 }))
        .and_then(|c| c.with_bar(2, Bar { kind: BarKind::Prefetchable64, size: 1 << 33 }))
        .and_then(|c| c.with_bar(6, Bar { kind: BarKind::Rom, size: 0x800 }))
        .unwrap()
        .interrupt_pin(Pin::A);
    let (ports, memory) = (Arc::new(Bus::default()), Arc::new(Bus::default()));
    let pci = PciBus::new(Arc::clone(&ports), Arc::clone(&memory));
    let function = Arc::new(Mutex::new(Probe(config)));
    pci.add(AT, Arc::clone(&function)).unwrap();
    ports.map(0xcf8..0xd00, Arc::new(Mutex::new(ConfigPorts::new(Arc::clone(&pci)))), 0).unwrap();
    memory.map(0xb000_0000..0xc000_0000, Arc::new(Mutex::new(Ecam::new(Arc::clone(&pci)))), 0).unwrap();
    Rig { ports, memory, pci, function }
}

impl Rig {
    fn select(&self, bdf: Bdf, register: u8) {
        let address = 1 << 31 | u32::from(bdf.device) << 11 | u32::from(bdf.function) << 8 | u32::from(register & 0xfc);
        assert_eq!(self.ports.write(0xcf8, &address.to_le_bytes()), Effect::None);
    }

    fn read32(&self, bdf: Bdf, register: u8) -> u32 {
        self.select(bdf, register);
        let mut data = [0; 4];
        self.ports.read(0xcfc, &mut data);
        u32::from_le_bytes(data)
    }

    fn write32(&self, bdf: Bdf, register: u8, value: u32) {
        self.select(bdf, register);
        assert_eq!(self.ports.write(0xcfc, &value.to_le_bytes()), Effect::None);
    }

    fn peek(bus: &Bus, at: u64) -> u8 {
        let mut data = [0];
        bus.read(at, &mut data);
        data[0]
    }
}

#[test]
fn mechanism_1_reads_by_double_words_words_and_bytes() {
    let rig = rig();
    assert_eq!(rig.read32(AT, 0), 0x5678_1234);
    assert_eq!(rig.read32(AT, 8), 0x0102_0301);
    let mut word = [0; 2];
    rig.select(AT, 0);
    rig.ports.read(0xcfe, &mut word);
    assert_eq!(u16::from_le_bytes(word), 0x5678);
    assert_eq!(Rig::peek(&rig.ports, 0xcfd), 0x12);
    // Nobody there, and nothing enabled.
    assert_eq!(rig.read32(Bdf::root(4, 0), 0), u32::MAX);
    assert_eq!(rig.read32(Bdf::root(3, 1), 0), u32::MAX);
    assert_eq!(rig.ports.write(0xcf8, &(3u32 << 11).to_le_bytes()), Effect::None);
    let mut data = [0; 4];
    rig.ports.read(0xcfc, &mut data);
    assert_eq!(data, [0xff; 4]);
    rig.ports.read(0xcf8, &mut data);
    assert_eq!(u32::from_le_bytes(data), 3 << 11);
}

#[test]
fn the_reset_control_register_shares_the_ports() {
    let rig = rig();
    assert_eq!(rig.ports.write(0xcf9, &[2]), Effect::None);
    assert_eq!(Rig::peek(&rig.ports, 0xcf9), 2);
    assert_eq!(rig.ports.write(0xcf9, &[6]), Effect::Reset);
    assert_eq!(rig.read32(AT, 0), 0x5678_1234);
}

#[test]
fn ecam_reaches_the_same_registers_and_the_extended_ones() {
    let rig = rig();
    let base = 0xb000_0000 + (3 << 15);
    let mut data = [0; 8];
    rig.memory.read(base, &mut data);
    assert_eq!(u64::from_le_bytes(data) & 0xffff_ffff, 0x5678_1234);
    rig.function.lock().unwrap().0.set_u32(0x100, 0x1122_3344);
    rig.memory.read(base + 0x100, &mut data[..4]);
    assert_eq!(data[..4], 0x1122_3344u32.to_le_bytes());
    rig.memory.read(base + (1 << 20), &mut data);
    assert_eq!(data, [0xff; 8]);
    assert_eq!(rig.memory.write(base + 0x3c, &[11]), Effect::None);
    assert_eq!(rig.read32(AT, 0x3c) & 0xffff, 0x010b);
}

#[test]
fn bars_tell_their_size_and_move() {
    let rig = rig();
    for (register, size) in
        [(0x10, 0xffff_ffe1), (0x14, 0xffff_f000), (0x18, 12), (0x1c, 0xffff_fffe), (0x20, 0), (0x30, 0xffff_f801)]
    {
        rig.write32(AT, register, u32::MAX);
        assert_eq!(rig.read32(AT, register), size, "register {register:#x}");
    }
    rig.write32(AT, 0x10, 0xc001);
    rig.write32(AT, 0x14, 0xe000_0000);
    rig.write32(AT, 0x18, 0);
    rig.write32(AT, 0x1c, 0x10);
    rig.write32(AT, 0x30, 0);
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0xff);
    rig.write32(AT, 4, 3);
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0x03);
    assert_eq!(Rig::peek(&rig.memory, 0xe000_0005), 0x15);
    assert_eq!(Rig::peek(&rig.memory, 0x10_0000_0001), 0x21);
    rig.write32(AT, 0x14, 0xe010_0000);
    assert_eq!(Rig::peek(&rig.memory, 0xe000_0005), 0xff);
    assert_eq!(Rig::peek(&rig.memory, 0xe010_0005), 0x15);
    rig.write32(AT, 0x30, 0xe020_0001);
    assert_eq!(Rig::peek(&rig.memory, 0xe020_0002), 0x62);
    rig.write32(AT, 4, 1);
    assert_eq!(Rig::peek(&rig.memory, 0xe010_0005), 0xff);
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0x03);
    rig.function.lock().unwrap().reset();
    rig.pci.sync_all();
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0xff);
}

#[test]
fn a_window_over_another_one_is_not_mapped_and_does_no_harm() {
    let rig = rig();
    rig.write32(AT, 0x14, 0xb000_0000);
    rig.write32(AT, 4, 2);
    assert_eq!(Rig::peek(&rig.memory, 0xb001_8000), 0x34);
    rig.write32(AT, 0x14, 0xe000_0000);
    assert_eq!(Rig::peek(&rig.memory, 0xe000_0000), 0x10);
    assert_eq!(Rig::peek(&rig.memory, 0xb001_8000), 0x34);
}

#[test]
fn a_window_appears_when_the_one_over_it_goes() {
    let rig = rig();
    let second = Bdf::root(4, 0);
    let config = ConfigSpace::new(ID).with_bar(1, Bar { kind: BarKind::Memory32, size: 0x1000 }).unwrap();
    rig.pci.add(second, Arc::new(Mutex::new(Probe(config)))).unwrap();
    for at in [AT, second] {
        rig.write32(at, 0x14, 0xe000_0000);
        rig.write32(at, 4, 2);
    }
    rig.write32(AT, 0x14, 0xe100_0000);
    assert_eq!(Rig::peek(&rig.memory, 0xe000_0002), 0x12);
    assert_eq!(Rig::peek(&rig.memory, 0xe100_0002), 0x12);
}

#[test]
fn a_removed_function_takes_its_windows_along() {
    let rig = rig();
    rig.write32(AT, 0x10, 0xc000);
    rig.write32(AT, 4, 1);
    assert!(rig.pci.remove(AT));
    assert!(!rig.pci.remove(AT));
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0xff);
    assert_eq!(rig.read32(AT, 0), u32::MAX);
    assert!(matches!(rig.pci.add(Bdf::root(32, 0), Arc::clone(&rig.function)), Err(PciError::Range(_))));
    rig.pci.add(AT, Arc::clone(&rig.function)).unwrap();
    assert!(matches!(rig.pci.add(AT, rig.function), Err(PciError::Taken(AT))));
}

#[test]
fn registers_obey_their_masks() {
    let mut space = ConfigSpace::new(ID);
    space.write(0, &[0; 4]);
    assert_eq!(space.u32(0), 0x5678_1234);
    space.write(4, &[0xff; 2]);
    // No BARs: no decoding to turn on.
    assert_eq!(space.command(), 0x0544);
    space.set_u16(6, 0xf900);
    space.write(6, &[0, 0x08]);
    assert_eq!(space.u16(6), 0xf100);
    assert!(space.intx(true) == (space.command() & command::INTERRUPT_DISABLE == 0));
    assert_eq!(space.u16(6) & status::INTERRUPT, status::INTERRUPT);
    assert!(!space.intx(false));
    // Beyond the end.
    let mut data = [0; 4];
    space.read(254, &mut data);
    assert_eq!(data, [0, 0, 0xff, 0xff]);
    space.write(254, &[1; 4]);
}

#[test]
fn capabilities_are_linked() {
    let mut space = ConfigSpace::new(ID);
    let first = space.add_capability(5, &[0, 0, 1, 2, 3, 4], &[0xff]).unwrap();
    let second = space.add_capability(9, &[8, 7], &[]).unwrap();
    assert_eq!(
        (space.u8(0x34), space.u8(usize::from(first) + 1), space.u8(usize::from(second) + 1)),
        (first, second, 0)
    );
    assert_ne!(space.u16(6) & status::CAPABILITIES, 0);
    space.write(u16::from(first) + 2, &[0x55, 0x55]);
    assert_eq!(space.u16(usize::from(first) + 2), 0x55);
    space.reset();
    assert_eq!(space.u16(usize::from(first) + 2), 0);
    assert_eq!(space.add_capability(1, &[0; 200], &[]), Err(ConfigError::Full(1)));
}

#[test]
fn bad_bars_are_refused() {
    let wide = Bar { kind: BarKind::Memory64, size: 0x1000 };
    let narrow = Bar { kind: BarKind::Memory32, size: 0x1000 };
    let space = || ConfigSpace::new(ID);
    assert!(space().with_bar(5, wide).is_err());
    assert!(space().with_bar(7, narrow).is_err());
    assert!(space().with_bar(6, narrow).is_err());
    assert!(space().with_bar(0, Bar { size: 0x1001, ..narrow }).is_err());
    assert!(space().with_bar(0, Bar { size: 8, ..narrow }).is_err());
    assert!(space().with_bar(0, wide).unwrap().with_bar(1, narrow).is_err());
    assert!(space().with_bar(1, narrow).unwrap().with_bar(0, wide).is_err());
}

#[test]
fn states_go_to_the_same_function_only() {
    let rig = rig();
    rig.write32(AT, 0x10, 0xc001);
    rig.write32(AT, 4, 1);
    let state = rig.function.lock().unwrap().save().unwrap();
    rig.function.lock().unwrap().reset();
    rig.pci.sync_all();
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 0xff);
    rig.function.lock().unwrap().load(1, state).unwrap();
    rig.pci.sync_all();
    assert_eq!(Rig::peek(&rig.ports, 0xc003), 3);
    let other = ConfigSpace::new(ID).state();
    assert!(rig.function.lock().unwrap().0.restore(&other).is_err());
}

//! The keyboard controller, its keyboard and its mouse.

use std::sync::{Arc, Mutex};

use devices::input::I8042;
use machine::Effect;
use testkit::rig::{Access, Probe};

struct Kbc {
    kbc: Arc<Mutex<I8042>>,
    irq1: Probe,
    irq12: Probe,
}

impl Kbc {
    fn new() -> Self {
        let (irq1, irq12) = (Probe::new(), Probe::new());
        Self { kbc: I8042::build(irq1.line(), irq12.line()), irq1, irq12 }
    }

    fn command(&self, command: u8) {
        assert_eq!(self.kbc.out8(1, 0, command), Effect::None);
    }

    fn data(&self, byte: u8) {
        assert_eq!(self.kbc.out8(0, 0, byte), Effect::None);
    }

    fn status(&self) -> u8 {
        self.kbc.in8(1, 0)
    }

    /// All that waits in the output buffer, with whether it came from the mouse.
    fn drain(&self) -> Vec<(u8, bool)> {
        let mut bytes = Vec::new();
        while self.status() & 1 != 0 && bytes.len() < 100 {
            let aux = self.status() & 0x20 != 0;
            bytes.push((self.kbc.in8(0, 0), aux));
        }
        bytes
    }

    fn bytes(&self) -> Vec<u8> {
        self.drain().into_iter().map(|(byte, _)| byte).collect()
    }
}

#[test]
fn tests_and_the_command_byte() {
    let kbc = Kbc::new();
    kbc.command(0xaa);
    assert_eq!(kbc.bytes(), [0x55]);
    kbc.command(0xab);
    assert_eq!(kbc.bytes(), [0x00]);
    kbc.command(0x20);
    assert_eq!(kbc.bytes(), [0x65]);
    kbc.command(0x60);
    assert_eq!(kbc.status() & 8, 8);
    kbc.data(0x47);
    assert_eq!(kbc.status() & 8, 0);
    kbc.command(0x20);
    assert_eq!(kbc.bytes(), [0x47]);
    kbc.command(0xa7);
    kbc.command(0xad);
    kbc.command(0x20);
    assert_eq!(kbc.bytes(), [0x77]);
    kbc.command(0xa8);
    kbc.command(0xae);
    kbc.command(0x20);
    assert_eq!(kbc.bytes(), [0x47]);
}

#[test]
fn keys_are_translated_and_each_byte_is_an_edge() {
    let kbc = Kbc::new();
    assert!(kbc.kbc.lock().unwrap().key(&[0x1e]));
    assert!(kbc.kbc.lock().unwrap().key(&[0xe0, 0xc8]));
    assert_eq!(kbc.bytes(), [0x1e, 0xe0, 0xc8]);
    assert_eq!(kbc.irq1.rises(), 3);
    assert!(!kbc.irq1.is_high());
    kbc.command(0x60);
    kbc.data(0x05);
    kbc.kbc.lock().unwrap().key(&[0x1e]);
    kbc.kbc.lock().unwrap().key(&[0x9e]);
    assert_eq!(kbc.bytes(), [0x1c, 0xf0, 0x1c], "scan code set 2");
}

#[test]
fn all_keys_survive_the_way_there_and_back() {
    let kbc = Kbc::new();
    // 55h and beyond 58h are no keys of set 1 but for those of Japanese and Korean keyboards.
    for key in (1..=0x58).filter(|key| *key != 0x55) {
        kbc.kbc.lock().unwrap().key(&[key]);
        kbc.kbc.lock().unwrap().key(&[key | 0x80]);
        assert_eq!(kbc.bytes(), [key, key | 0x80]);
    }
}

#[test]
fn keyboard_commands() {
    let kbc = Kbc::new();
    let answers = |bytes: &[u8]| {
        bytes.iter().for_each(|byte| kbc.data(*byte));
        kbc.bytes()
    };
    assert_eq!(answers(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(answers(&[0xf2]), [0xfa, 0xab, 0x41], "the identification, translated");
    assert_eq!(answers(&[0xee]), [0xee]);
    assert_eq!(answers(&[0xed]), [0xfa]);
    assert_eq!(answers(&[0x06]), [0xfa]);
    assert_eq!(kbc.kbc.lock().unwrap().leds(), 6);
    assert_eq!(answers(&[0xf3]), [0xfa]);
    assert_eq!(answers(&[0x00]), [0xfa]);
    assert_eq!(answers(&[0xf0]), [0xfa]);
    assert_eq!(answers(&[0x00]), [0xfa, 0x41]);
    assert_eq!(answers(&[0x01]), [0xfe], "no such command");
    assert_eq!(answers(&[0xf5]), [0xfa]);
    kbc.kbc.lock().unwrap().key(&[0x1e]);
    assert_eq!(answers(&[0xf4]), [0xfa], "not scanning");
    kbc.kbc.lock().unwrap().key(&[0x1e]);
    assert_eq!(kbc.bytes(), [0x1e]);
}

#[test]
fn a_full_keyboard_drops_whole_keys() {
    let kbc = Kbc::new();
    let taken = (0..40).filter(|_| kbc.kbc.lock().unwrap().key(&[0xe0, 0x48])).count();
    assert!((8..=9).contains(&taken));
    assert!(kbc.bytes().chunks(2).all(|key| key == [0xe0, 0x48]));
}

#[test]
fn the_mouse_as_linux_probes_it() {
    let kbc = Kbc::new();
    kbc.command(0xd3);
    kbc.data(0x5a);
    assert_eq!(kbc.drain(), [(0x5a, true)], "the loop test");
    let to_mouse = |byte: u8| {
        kbc.command(0xd4);
        kbc.data(byte);
        kbc.drain()
    };
    assert_eq!(to_mouse(0xff), [(0xfa, true), (0xaa, true), (0x00, true)]);
    assert_eq!(to_mouse(0xf2), [(0xfa, true), (0x00, true)]);
    assert_eq!(to_mouse(0xe9), [(0xfa, true), (0x00, true), (0x02, true), (100, true)]);
    assert_eq!(to_mouse(0xf3), [(0xfa, true)]);
    assert_eq!(to_mouse(40), [(0xfa, true)]);
    assert_eq!(to_mouse(0xf4), [(0xfa, true)]);
    assert_eq!(to_mouse(0xe1), [(0xfe, true)]);
    kbc.command(0x60);
    kbc.data(0x47);
    kbc.kbc.lock().unwrap().pointer(3, -2, 1);
    assert!(kbc.irq12.is_high());
    assert_eq!(kbc.drain(), [(0x29, true), (3, true), (0xfe, true)]);
    assert_eq!((kbc.irq12.rises(), kbc.irq1.is_high()), (3, false));
}

#[test]
fn resets() {
    let kbc = Kbc::new();
    assert_eq!(kbc.kbc.out8(1, 0, 0xfe), Effect::Reset);
    kbc.command(0xff);
    kbc.command(0xd1);
    assert_eq!(kbc.kbc.out8(0, 0, 0x03), Effect::None);
    kbc.command(0xd1);
    assert_eq!(kbc.kbc.out8(0, 0, 0x02), Effect::Reset);
}

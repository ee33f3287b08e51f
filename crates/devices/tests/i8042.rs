//! The keyboard controller, its keyboard and its mouse.

use std::sync::{Arc, Mutex};

use devices::input::{I8042, MouseEvent};
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

    fn press(&self, set1: &[u8]) -> bool {
        self.kbc.lock().unwrap().press(set1)
    }

    fn release(&self, set1: &[u8]) {
        self.kbc.lock().unwrap().release(set1);
    }

    fn mouse(&self, dx: i16, dy: i16, wheel: i16, buttons: u8) {
        self.kbc.lock().unwrap().mouse(MouseEvent { dx, dy, wheel, buttons });
    }

    /// Sends bytes to the mouse; returns all that it has answered.
    fn to_mouse(&self, bytes: &[u8]) -> Vec<u8> {
        for byte in bytes {
            self.command(0xd4);
            self.data(*byte);
        }
        self.bytes()
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
    assert!(kbc.press(&[0x1e]));
    kbc.release(&[0xe0, 0xc8]);
    assert_eq!(kbc.bytes(), [0x1e, 0xe0, 0xc8]);
    assert_eq!(kbc.irq1.rises(), 3);
    assert!(!kbc.irq1.is_high());
    kbc.command(0x60);
    kbc.data(0x05);
    kbc.press(&[0x1e]);
    kbc.release(&[0x9e]);
    assert_eq!(kbc.bytes(), [0x1c, 0xf0, 0x1c], "scan code set 2");
}

#[test]
fn all_keys_survive_the_way_there_and_back() {
    let kbc = Kbc::new();
    // 55h and beyond 58h are no keys of set 1 but for those of Japanese and Korean keyboards.
    for key in (1..=0x58).filter(|key| *key != 0x55) {
        kbc.press(&[key]);
        kbc.release(&[key | 0x80]);
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
    kbc.press(&[0x1e]);
    assert_eq!(answers(&[0xf4]), [0xfa], "not scanning");
    kbc.press(&[0x1e]);
    assert_eq!(kbc.bytes(), [0x1e]);
}

#[test]
fn a_full_keyboard_drops_whole_keys_and_has_room_again() {
    let kbc = Kbc::new();
    let rung = Arc::new(Mutex::new(0));
    let count = Arc::clone(&rung);
    kbc.kbc.lock().unwrap().on_all_keys_read(move || *count.lock().unwrap() += 1);
    let taken = (0..400).filter(|_| kbc.press(&[0xe0, 0x48])).count();
    assert!((16..100).contains(&taken), "{taken}");
    (0..taken).for_each(|_| kbc.release(&[0xe0, 0xc8]));
    assert!(!kbc.kbc.lock().unwrap().all_keys_read());
    let mut read = Vec::new();
    while kbc.status() & 1 != 0 {
        assert_eq!(*rung.lock().unwrap(), 0);
        read.push(kbc.kbc.in8(0, 0));
    }
    assert_eq!(read, [[0xe0, 0x48].repeat(taken), [0xe0, 0xc8].repeat(taken)].concat());
    assert!(kbc.kbc.lock().unwrap().all_keys_read());
    assert_eq!(*rung.lock().unwrap(), 1);
    assert!(kbc.press(&[0x1e]));
    assert_eq!(kbc.bytes(), [0x1e]);
}

#[test]
fn commands_in_between_cost_no_key() {
    let kbc = Kbc::new();
    for key in [0x10, 0x11, 0x12] {
        kbc.press(&[key]);
        kbc.release(&[key | 0x80]);
    }
    assert_eq!(kbc.kbc.in8(0, 0), 0x10);
    // Lights and rate, as a kernel sets them when it likes.
    kbc.data(0xed);
    kbc.data(0x02);
    kbc.data(0xf3);
    kbc.data(0x00);
    let keys: Vec<_> = kbc.bytes().into_iter().filter(|byte| *byte != 0xfa).collect();
    assert_eq!(keys, [0x90, 0x11, 0x91, 0x12, 0x92]);
    // While the clock line is held, keys wait.
    kbc.command(0xad);
    kbc.press(&[0x1e]);
    assert!(kbc.bytes().is_empty());
    kbc.command(0xae);
    assert_eq!(kbc.bytes(), [0x1e]);
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
    kbc.mouse(3, -2, 5, 1);
    assert!(kbc.irq12.is_high());
    assert_eq!(kbc.drain(), [(0x29, true), (3, true), (0xfe, true)]);
    assert_eq!((kbc.irq12.rises(), kbc.irq1.is_high()), (3, false));
}

#[test]
fn a_mouse_becomes_one_with_a_wheel_and_one_with_five_buttons() {
    let kbc = Kbc::new();
    let identity = |kbc: &Kbc| kbc.to_mouse(&[0xf2])[1];
    assert_eq!(identity(&kbc), 0);
    kbc.to_mouse(&[0xf3, 200, 0xf3, 100, 0xf3, 80]);
    assert_eq!(identity(&kbc), 3);
    kbc.to_mouse(&[0xf6, 0xf4]);
    kbc.mouse(1, 1, -1, 0);
    assert_eq!(kbc.bytes(), [0x08, 1, 1, 0xff]);
    kbc.mouse(0, 0, 20, 0);
    assert_eq!(kbc.bytes(), [0x08, 0, 0, 7, 0x08, 0, 0, 7, 0x08, 0, 0, 6], "a large step comes in parts");
    kbc.mouse(0, 0, 0, 0x10);
    assert!(kbc.bytes().is_empty(), "it knows of three buttons");
    kbc.to_mouse(&[0xf3, 200, 0xf3, 200, 0xf3, 80]);
    assert_eq!(identity(&kbc), 4);
    kbc.mouse(0, 0, -1, 0x09);
    assert_eq!(kbc.bytes(), [0x09, 0, 0, 0x1f]);
    kbc.to_mouse(&[0xff]);
    assert_eq!(identity(&kbc), 0);
}

#[test]
fn clicks_wait_and_motions_add_up() {
    let kbc = Kbc::new();
    kbc.to_mouse(&[0xf4]);
    kbc.mouse(1, 0, 0, 0);
    for _ in 0..3 {
        kbc.mouse(10, -10, 0, 0);
    }
    kbc.mouse(0, 0, 0, 1);
    kbc.mouse(0, 0, 0, 0);
    kbc.mouse(300, 0, 0, 0);
    let expected: [[u8; 3]; 5] = [[0x08, 1, 0], [0x28, 30, 0xe2], [0x09, 0, 0], [0x08, 255, 0], [0x08, 45, 0]];
    assert_eq!(kbc.bytes(), expected.concat());
    // However much is done with it, it is not more than can be told.
    for n in 0..10_000u32 {
        kbc.mouse(1, 1, 0, u8::from(n % 2 == 1));
    }
    let mut parts = 0;
    while !kbc.drain().is_empty() {
        parts += 1;
        assert!(parts < 10, "a part is 100 bytes");
    }
    // Who does not report forgets.
    kbc.to_mouse(&[0xf5]);
    kbc.mouse(9, 9, 0, 0);
    kbc.to_mouse(&[0xf4]);
    assert!(kbc.bytes().is_empty());
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

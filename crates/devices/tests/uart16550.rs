//! The serial port against its data sheet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::serial::Uart16550;
use testkit::rig::{Access, Bytes, Probe, Rig};

struct Uart {
    rig: Rig,
    uart: Arc<Mutex<Uart16550>>,
    irq: Probe,
    out: Bytes,
}

impl Uart {
    fn new() -> Self {
        let (rig, irq, out) = (Rig::new(), Probe::new(), Bytes::new());
        Self { uart: Uart16550::build(rig.clock(), irq.line(), Box::new(out.sink())), rig, irq, out }
    }

    /// With FIFOs of this trigger code, interrupts let through.
    fn ready(trigger: u8, ier: u8) -> Self {
        let uart = Self::new();
        uart.write(2, trigger << 6 | 7);
        uart.write(4, 0x0b);
        uart.write(1, ier);
        uart
    }

    fn read(&self, register: u64) -> u8 {
        self.uart.in8(0, register)
    }

    fn write(&self, register: u64, value: u8) {
        let _ = self.uart.out8(0, register, value);
    }

    fn receive(&self, bytes: &[u8]) -> usize {
        self.uart.lock().unwrap().receive(bytes)
    }

    /// Reads while there is data.
    fn drain(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read(5) & 1 != 0 && bytes.len() < 1 << 20 {
            bytes.push(self.read(0));
        }
        bytes
    }
}

#[test]
fn registers_and_the_divisor() {
    let uart = Uart::new();
    assert_eq!(uart.read(5), 0x60);
    assert_eq!(uart.read(2), 0x01);
    uart.write(7, 0x5a);
    uart.write(3, 0x83);
    uart.write(0, 0x0c);
    uart.write(1, 0x01);
    assert_eq!((uart.read(0), uart.read(1)), (0x0c, 0x01));
    uart.write(3, 0x03);
    uart.write(1, 0xff);
    assert_eq!((uart.read(1), uart.read(3), uart.read(7)), (0x0f, 0x03, 0x5a));
    uart.write(2, 0x01);
    assert_eq!(uart.read(2) & 0xc0, 0xc0, "a 16550A");
    assert_eq!(uart.read(6), 0xb0);
}

#[test]
fn what_is_sent_goes_out_and_each_character_asks_for_the_next() {
    let uart = Uart::ready(0, 0x02);
    assert!(uart.irq.is_high(), "enabling the interrupt asks at once");
    let _ = uart.irq.rises();
    for byte in *b"husk" {
        assert_eq!(uart.read(2), 0xc2);
        assert_eq!(uart.read(2), 0xc1, "reading the identification took it back");
        assert!(!uart.irq.is_high());
        uart.write(0, byte);
        assert!(uart.irq.is_high());
    }
    assert_eq!(uart.out.take(), b"husk");
    assert_eq!(uart.irq.rises(), 4);
    // Off and on again asks again, though it was pending or not.
    let _ = uart.read(2);
    uart.write(1, 0x00);
    uart.write(1, 0x02);
    assert_eq!(uart.read(2), 0xc2);
    // Each character written is an edge of its own, even if the identification is never read.
    let _ = (uart.write(0, b'a'), uart.irq.rises());
    uart.write(0, b'b');
    assert_eq!(uart.irq.rises(), 1);
}

#[test]
fn trigger_levels_and_the_timeout() {
    let uart = Uart::ready(2, 0x01);
    assert_eq!(uart.receive(b"1234567"), 7);
    assert_eq!(uart.read(2), 0xcc, "below the trigger level: timed out");
    uart.rig.advance(Duration::from_millis(10));
    uart.receive(b"8");
    assert_eq!(uart.read(2), 0xc4);
    assert_eq!(uart.read(0), b'1');
    assert_eq!(uart.read(2), 0xcc);
    assert_eq!(uart.drain(), b"2345678");
    assert_eq!((uart.read(2), uart.irq.is_high()), (0xc1, false));
}

#[test]
fn received_data_comes_before_the_empty_transmitter() {
    let uart = Uart::ready(0, 0x03);
    uart.receive(b"x");
    assert_eq!(uart.read(2), 0xc4);
    assert_eq!(uart.read(0), b'x');
    assert_eq!(uart.read(2), 0xc2, "still pending");
    assert_eq!(uart.read(2), 0xc1);
}

#[test]
fn pasted_text_is_not_lost_and_comes_at_the_pace_of_the_line() {
    let uart = Uart::ready(3, 0x01);
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    uart.uart.lock().unwrap().on_drained(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let text: Vec<u8> = (0..100_000u32).map(|n| (n % 251) as u8).collect();
    let mut given = uart.receive(&text);
    assert_eq!(given, 64 * 1024);
    // The FIFO has room, but the host's queue was full.
    let mut seen = Vec::new();
    while seen.len() < text.len() && uart.rig.now().0 < 60_000_000_000 {
        let at_once = uart.drain();
        assert!(at_once.len() <= 16);
        seen.extend(at_once);
        if calls.swap(0, Ordering::SeqCst) != 0 {
            given += uart.receive(&text[given..]);
        }
        uart.rig.advance(Duration::from_millis(1));
    }
    assert!(seen == text);
    assert_eq!(uart.uart.lock().unwrap().room(), 64 * 1024);
    assert!(uart.rig.now().0 > 8_000_000_000, "not faster than 115200 baud");
}

#[test]
fn an_idle_guest_is_told_of_more_by_time_alone() {
    let uart = Uart::ready(3, 0x01);
    uart.receive(&[b'a'; 40]);
    let mut seen = 0;
    for _ in 0..3 {
        assert!(uart.irq.is_high());
        seen += uart.drain().len();
        assert!(!uart.irq.is_high());
        uart.rig.advance(Duration::from_millis(2));
    }
    assert_eq!(seen, 40);
}

#[test]
fn a_guest_that_drops_rts_gets_nothing() {
    let uart = Uart::ready(0, 0x01);
    uart.write(4, 0x09);
    uart.receive(b"wait");
    assert_eq!(uart.read(5) & 1, 0);
    uart.write(4, 0x0b);
    assert_eq!(uart.drain(), b"wait");
}

#[test]
fn a_guest_without_rts_gets_it_when_it_looks_again_and_again() {
    let uart = Uart::new();
    uart.receive(b"ab");
    // Looks between which it sends something are about the transmitter.
    for _ in 0..40 {
        assert_eq!(uart.read(5), 0x60);
        uart.write(0, b'.');
    }
    let looks = (0..40).take_while(|_| uart.read(5) == 0x60).count();
    assert_eq!((looks, uart.read(0)), (15, b'a'));
    // What is echoed makes no difference.
    uart.write(0, b'a');
    uart.rig.advance(Duration::from_millis(1));
    assert_eq!((uart.read(5), uart.read(0)), (0x61, b'b'));
    // It starts the port anew: it waits once more.
    uart.write(3, 3);
    uart.receive(b"c");
    uart.rig.advance(Duration::from_millis(1));
    assert_eq!(uart.read(5), 0x60);
}

#[test]
fn out2_lets_the_interrupt_through() {
    let uart = Uart::ready(0, 0x01);
    uart.write(4, 0x03);
    uart.receive(b"x");
    assert!(!uart.irq.is_high());
    uart.write(4, 0x0b);
    assert!(uart.irq.is_high());
}

#[test]
fn loopback() {
    let uart = Uart::ready(0, 0x00);
    uart.write(4, 0x1a);
    assert_eq!(uart.read(6) & 0xf0, 0x90, "RTS and OUT2 come back");
    uart.write(4, 0x15);
    assert_eq!(uart.read(6), 0x6b, "all changed but for the rising ring");
    uart.write(4, 0x10);
    assert_eq!(uart.read(6), 0x06, "the ring has ended");
    for byte in 0..17 {
        uart.write(0, byte);
    }
    assert_eq!(uart.read(5) & 0x03, 0x03, "one too many");
    assert_eq!(uart.read(5) & 0x02, 0);
    assert_eq!(uart.drain(), (0..16).collect::<Vec<u8>>());
    assert_eq!(uart.out.take(), b"");
    uart.receive(b"outside");
    assert_eq!(uart.drain(), b"", "not while looped back");
    uart.write(4, 0x0b);
    assert_eq!(uart.drain(), b"outside");
}

#[test]
fn modem_and_line_interrupts() {
    let uart = Uart::ready(0, 0x0c);
    uart.write(4, 0x10);
    assert_eq!(uart.read(2), 0xc0, "the modem's lines have fallen");
    let _ = uart.read(6);
    assert_eq!(uart.read(2), 0xc1);
    for byte in 0..17 {
        uart.write(0, byte);
    }
    assert_eq!(uart.read(2), 0xc6);
    let _ = uart.read(5);
    assert_eq!(uart.read(2), 0xc1);
}

#[test]
fn without_fifo_one_character_at_a_time() {
    let uart = Uart::new();
    uart.write(4, 0x0b);
    uart.write(1, 0x01);
    uart.receive(b"ab");
    assert_eq!(uart.read(2), 0x04);
    assert_eq!(uart.drain(), b"a");
    uart.rig.advance(Duration::from_millis(1));
    assert_eq!(uart.drain(), b"b");
}

#[test]
fn a_break_comes_in_its_place() {
    let uart = Uart::ready(0, 0x05);
    uart.receive(b"a");
    uart.uart.lock().unwrap().receive_break();
    uart.rig.advance(Duration::from_millis(1));
    assert_eq!(uart.read(5), 0xe1, "in the FIFO, not yet in front");
    assert_eq!(uart.read(0), b'a');
    assert_eq!(uart.read(2), 0xc6);
    assert_eq!(uart.read(5), 0xf1);
    assert_eq!((uart.read(2), uart.read(5)), (0xc4, 0x61));
    assert_eq!((uart.read(0), uart.read(5)), (0, 0x60));
}

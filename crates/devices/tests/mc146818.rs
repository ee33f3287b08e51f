//! The real-time clock against its data sheet.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::chipset::{Mc146818, RtcConfig};
use machine::Device;
use testkit::rig::{Access, Probe, Rig};

struct Rtc {
    rig: Rig,
    rtc: Arc<Mutex<Mc146818>>,
    irq8: Probe,
}

/// 2023-12-31 23:59:50, a Sunday.
const START: u64 = 1_704_067_190;

impl Rtc {
    fn new() -> Self {
        let (rig, irq8) = (Rig::new(), Probe::new());
        let config = RtcConfig::at(START).with_memory(0xb000_0000, 5 << 30);
        Self { rtc: Mc146818::build(rig.clock(), config, irq8.line()), rig, irq8 }
    }

    fn read(&self, cell: u8) -> u8 {
        let _ = self.rtc.out8(0, 0, cell);
        self.rtc.in8(0, 1)
    }

    fn write(&self, cell: u8, value: u8) {
        let _ = self.rtc.out8(0, 0, cell);
        let _ = self.rtc.out8(0, 1, value);
    }

    /// Century, year, month, day, hour, minute, second, day of the week.
    fn time(&self) -> [u8; 8] {
        [0x32, 9, 8, 7, 4, 2, 0, 6].map(|cell| self.read(cell))
    }

    fn ms(&self, ms: u64) {
        self.rig.advance(Duration::from_millis(ms));
    }
}

#[test]
fn bcd_and_binary_and_the_turn_of_the_year() {
    let rtc = Rtc::new();
    assert_eq!(rtc.time(), [0x20, 0x23, 0x12, 0x31, 0x23, 0x59, 0x50, 1]);
    rtc.ms(10_000);
    assert_eq!(rtc.time(), [0x20, 0x24, 0x01, 0x01, 0x00, 0x00, 0x00, 2]);
    assert_eq!(rtc.read(0x0d), 0x80);
}

#[test]
fn setting_the_time_as_linux_does() {
    let rtc = Rtc::new();
    rtc.write(0x0b, 0x82);
    rtc.write(0x0a, 0x76);
    for (cell, value) in [(9, 0x00), (8, 0x02), (7, 0x28), (4, 0x23), (2, 0x59), (0, 0x59), (6, 2), (0x32, 0x20)] {
        rtc.write(cell, value);
    }
    rtc.ms(5000);
    assert_eq!(rtc.time(), [0x20, 0x00, 0x02, 0x28, 0x23, 0x59, 0x59, 2], "stopped");
    rtc.write(0x0b, 0x02);
    rtc.write(0x0a, 0x26);
    rtc.ms(499);
    assert_eq!(rtc.read(0), 0x59);
    rtc.ms(1);
    assert_eq!(rtc.time(), [0x20, 0x00, 0x02, 0x29, 0x00, 0x00, 0x00, 3], "half a second after the divider was let go");
}

#[test]
fn binary_mode_and_twelve_hours() {
    let rtc = Rtc::new();
    rtc.write(0x0b, 0x84);
    for (cell, value) in [(9, 24), (8, 7), (7, 15), (4, 0x80 | 12), (2, 34), (0, 56)] {
        rtc.write(cell, value);
    }
    rtc.write(0x0b, 0x04);
    assert_eq!(rtc.time()[1..7], [24, 7, 15, 0x8c, 34, 56]);
    rtc.ms(12 * 3_600_000);
    assert_eq!(rtc.time()[1..7], [24, 7, 16, 12, 34, 56], "midnight is twelve");
}

#[test]
fn update_in_progress_is_shown_before_the_update() {
    let rtc = Rtc::new();
    assert_eq!(rtc.read(0x0a), 0x26);
    rtc.ms(997);
    assert_eq!(rtc.read(0x0a), 0x26);
    rtc.ms(2);
    assert_eq!(rtc.read(0x0a), 0xa6);
    rtc.ms(1);
    assert_eq!((rtc.read(0x0a), rtc.read(0)), (0x26, 0x51));
}

#[test]
fn update_ended_interrupts_once_a_second() {
    let rtc = Rtc::new();
    rtc.write(0x0b, 0x12);
    let _ = rtc.read(0x0c);
    rtc.ms(1000);
    assert!(rtc.irq8.is_high());
    assert_eq!(rtc.read(0x0c) & 0x90, 0x90);
    assert!(!rtc.irq8.is_high());
    assert_eq!(rtc.read(0x0c), 0);
    rtc.ms(999);
    assert!(!rtc.irq8.is_high());
    rtc.ms(1);
    assert!(rtc.irq8.is_high());
}

#[test]
fn periodic_interrupts_keep_their_rate() {
    let rtc = Rtc::new();
    rtc.write(0x0b, 0x42);
    let _ = rtc.read(0x0c);
    let _ = rtc.irq8.rises();
    // 1024 Hz, each one acknowledged as it comes.
    for _ in 0..1024 {
        rtc.rig.advance(Duration::from_nanos(976_563));
        assert_eq!(rtc.read(0x0c) & 0xc0, 0xc0);
    }
    assert_eq!(rtc.irq8.rises(), 1024);
    rtc.ms(5000);
    assert_eq!(rtc.irq8.rises(), 1, "the next ones wait for register C to be read");
}

#[test]
fn the_alarm_matches_with_wildcards() {
    let rtc = Rtc::new();
    rtc.write(1, 0x05);
    rtc.write(3, 0xc0);
    rtc.write(5, 0xff);
    rtc.write(0x0b, 0x22);
    let _ = rtc.read(0x0c);
    rtc.ms(14_999);
    assert!(!rtc.irq8.is_high());
    rtc.ms(1);
    assert!(rtc.irq8.is_high());
    assert_eq!(rtc.read(0x0c) & 0xa0, 0xa0);
    rtc.ms(60_000);
    assert_eq!(rtc.read(0x0c) & 0xa0, 0xa0);
    // Every day at noon.
    for (cell, value) in [(1, 0), (3, 0), (5, 0x12)] {
        rtc.write(cell, value);
    }
    rtc.ms(11 * 3_600_000);
    assert!(!rtc.irq8.is_high());
    rtc.ms(3_600_000);
    assert!(rtc.irq8.is_high());
}

#[test]
fn memory_sizes_nmi_mask_and_the_second_bank() {
    let rtc = Rtc::new();
    assert_eq!([0x15, 0x16, 0x17, 0x18].map(|cell| rtc.read(cell)), [0x80, 0x02, 0xff, 0xff]);
    let above_16m = u16::from_le_bytes([rtc.read(0x34), rtc.read(0x35)]);
    assert_eq!(u64::from(above_16m) * 0x10000, 0xb000_0000 - (16 << 20));
    let high = [0x5b, 0x5c, 0x5d].map(|cell| rtc.read(cell));
    assert_eq!(u64::from(u32::from_le_bytes([high[0], high[1], high[2], 0])) * 0x10000, 5 << 30);
    let _ = rtc.rtc.out8(0, 0, 0x8f);
    assert!(rtc.rtc.lock().unwrap().nmi_masked());
    let _ = rtc.rtc.out8(0, 1, 0x5a);
    let _ = rtc.rtc.out8(0, 2, 0x0f);
    assert_eq!(rtc.rtc.in8(0, 3), 0);
    let _ = rtc.rtc.out8(0, 3, 0xa5);
    rtc.rtc.lock().unwrap().reset();
    assert_eq!((rtc.read(0x0f), rtc.rtc.in8(0, 3)), (0x5a, 0), "the index is reset, the cells are kept");
    let _ = rtc.rtc.out8(0, 2, 0x0f);
    assert_eq!(rtc.rtc.in8(0, 3), 0xa5);
}

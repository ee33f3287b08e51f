//! The high precision event timer against its specification.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::chipset::{HPET_HARDWARE_ID, HPET_PERIOD, Hpet, LegacyRoute};
use machine::{Line, MsiMessage, Snapshot};
use testkit::rig::{Access, Messages, Probe, Rig};

const ENABLE: u64 = 1;
const LEGACY: u64 = 2;
const LEVEL: u64 = 1 << 1;
const INTERRUPT: u64 = 1 << 2;
const PERIODIC: u64 = 1 << 3;
const VALUE_SET: u64 = 1 << 6;
const MODE_32: u64 = 1 << 8;
const FSB: u64 = 1 << 14;

struct Block {
    rig: Rig,
    hpet: Arc<Mutex<Hpet>>,
    legacy: Arc<LegacyRoute>,
    irq0: Probe,
    irq8: Probe,
    gsi20: Probe,
    messages: Messages,
}

impl Block {
    fn new() -> Self {
        let (rig, messages) = (Rig::new(), Messages::new());
        let (irq0, irq8, gsi20) = (Probe::new(), Probe::new(), Probe::new());
        let legacy = LegacyRoute::new(irq0.line(), irq8.line());
        let inputs = vec![(20, gsi20.line()), (21, Line::unconnected())];
        let hpet = Hpet::build(rig.clock(), Arc::clone(&legacy), inputs, messages.port());
        Self { rig, hpet, legacy, irq0, irq8, gsi20, messages }
    }

    fn write(&self, register: u64, value: u64) {
        let _ = self.hpet.out64(0, register, value);
    }

    fn write_low(&self, register: u64, value: u32) {
        let _ = self.hpet.out32(0, register, value);
    }

    fn ticks(&self, ticks: u64) {
        self.rig.advance(Duration::from_nanos(ticks * 10));
    }
}

#[test]
fn capabilities_and_the_counter() {
    let block = Block::new();
    assert_eq!(block.hpet.in64(0, 0), u64::from(HPET_PERIOD) << 32 | u64::from(HPET_HARDWARE_ID));
    assert_eq!(HPET_PERIOD, 10_000_000);
    assert_eq!(block.hpet.in64(0, 0x100) >> 32, 3 << 20, "the inputs that it can be routed to");
    block.ticks(100);
    assert_eq!(block.hpet.in64(0, 0xf0), 0, "halted");
    block.write(0xf0, 0xffff_fff0);
    block.write(0x10, ENABLE);
    block.ticks(0x20);
    assert_eq!(block.hpet.in64(0, 0xf0), 0x1_0000_0010);
    assert_eq!((block.hpet.in32(0, 0xf0), block.hpet.in32(0, 0xf4)), (0x10, 1));
    block.write(0x10, 0);
    block.ticks(100);
    assert_eq!(block.hpet.in64(0, 0xf0), 0x1_0000_0010);
}

#[test]
fn one_shot_fires_once_at_the_match() {
    let block = Block::new();
    block.write(0x140, INTERRUPT | 20 << 9);
    block.write(0x148, 1000);
    block.write(0x10, ENABLE);
    block.ticks(999);
    assert_eq!(block.gsi20.rises(), 0);
    block.ticks(1);
    assert_eq!(block.gsi20.rises(), 1);
    block.ticks(10_000_000);
    assert_eq!(block.gsi20.rises(), 0);
}

#[test]
fn periodic_as_linux_sets_it_up_has_no_drift() {
    let block = Block::new();
    block.write_low(0x10, (ENABLE | LEGACY) as u32);
    block.ticks(5000);
    block.write_low(0x100, (INTERRUPT | PERIODIC | VALUE_SET | MODE_32) as u32);
    block.write_low(0x108, 5000 + 400_000);
    block.write_low(0x108, 400_000);
    assert_eq!(block.hpet.in64(0, 0x100) & VALUE_SET, 0);
    block.ticks(399_999);
    assert_eq!(block.irq0.rises(), 0);
    block.ticks(1);
    assert_eq!(block.irq0.rises(), 1);
    block.ticks(400_000 * 250 * 60);
    assert_eq!(block.irq0.rises(), 250 * 60);
    assert_eq!(block.hpet.in32(0, 0x108), (5000 + 400_000u64 * (250 * 60 + 2)) as u32);
}

#[test]
fn level_interrupts_stay_until_cleared() {
    let block = Block::new();
    block.write(0x120, INTERRUPT | LEVEL | 20 << 9);
    block.write(0x128, 10);
    block.write(0x10, ENABLE);
    block.ticks(10);
    assert!(block.gsi20.is_high());
    assert_eq!(block.hpet.in32(0, 0x20), 2);
    block.write(0x20, 1);
    assert!(block.gsi20.is_high());
    block.write(0x20, 2);
    assert!(!block.gsi20.is_high());
}

#[test]
fn messages_carry_what_the_guest_wrote() {
    let block = Block::new();
    block.write(0x110, 0xfee0_1000_0000_4033);
    block.write(0x100, INTERRUPT | FSB);
    block.write(0x108, 7);
    block.write(0x10, ENABLE);
    block.ticks(7);
    assert_eq!(block.messages.take(), [MsiMessage { address: 0xfee0_1000, data: 0x4033 }]);
}

#[test]
fn legacy_replacement_takes_the_lines_from_pit_and_rtc() {
    let block = Block::new();
    let (pit, rtc) = (block.legacy.pit_line(), block.legacy.rtc_line());
    pit.pulse();
    assert_eq!(block.irq0.rises(), 1);
    block.write(0x10, ENABLE | LEGACY);
    pit.pulse();
    rtc.set(true);
    assert_eq!((block.irq0.rises(), block.irq8.rises()), (0, 0));
    block.write(0x120, INTERRUPT);
    block.write(0x128, block.hpet.in64(0, 0xf0) + 50);
    block.ticks(50);
    assert_eq!((block.irq0.rises(), block.irq8.rises()), (0, 1));
    block.write(0x10, ENABLE);
    assert!(block.irq8.is_high(), "the RTC has its line back");
}

#[test]
fn a_loaded_block_fires_when_the_saved_one_would_have() {
    let block = Block::new();
    block.write(0x100, INTERRUPT | PERIODIC | VALUE_SET | 20 << 9);
    block.write(0x108, 10_000);
    block.write(0x10, ENABLE);
    block.ticks(25_000);
    let state = block.hpet.lock().unwrap().save().unwrap();
    let other = Block::new();
    other.rig.clock().set(block.rig.now());
    other.hpet.lock().unwrap().load(1, state).unwrap();
    other.ticks(4_999);
    assert_eq!(other.gsi20.rises(), 0);
    other.ticks(1);
    assert_eq!(other.gsi20.rises(), 1);
}

//! The interval timer against its datasheet.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::chipset::{I8254, PIT_FREQUENCY};
use machine::VmTime;
use testkit::rig::{Access, Probe, Rig};

struct Pit {
    rig: Rig,
    pit: Arc<Mutex<I8254>>,
    irq0: Probe,
}

/// The first nanosecond of a clock.
fn time(clock: u64) -> VmTime {
    VmTime(u64::try_from((u128::from(clock) * 1_000_000_000).div_ceil(u128::from(PIT_FREQUENCY))).unwrap())
}

impl Pit {
    fn new() -> Self {
        let (rig, irq0) = (Rig::new(), Probe::new());
        Self { pit: I8254::build(rig.clock(), irq0.line()), rig, irq0 }
    }

    fn out(&self, port: u64, value: u8) {
        let _ = self.pit.out8(0, port, value);
    }

    /// Loads counter `n` with low and high byte in a mode.
    fn load(&self, n: u8, mode: u8, count: u16) {
        self.out(3, n << 6 | 0x30 | mode << 1);
        let [low, high] = count.to_le_bytes();
        self.out(n.into(), low);
        self.out(n.into(), high);
    }

    fn latch(&self, n: u8) -> u16 {
        self.out(3, n << 6);
        u16::from_le_bytes([self.pit.in8(0, n.into()), self.pit.in8(0, n.into())])
    }

    fn status(&self, n: u8) -> u8 {
        self.out(3, 0xe0 | 2 << n);
        self.pit.in8(0, n.into())
    }

    fn to(&self, clock: u64) {
        self.rig.advance_to(time(clock));
    }

    fn out2(&self) -> bool {
        self.pit.in8(1, 0) & 0x20 != 0
    }

    fn gate2(&self, open: bool) {
        let _ = self.pit.out8(1, 0, open.into());
    }
}

#[test]
fn mode_0_rises_once_after_n_plus_1_clocks() {
    let pit = Pit::new();
    pit.load(0, 0, 1000);
    assert!(!pit.irq0.is_high());
    pit.to(501);
    assert_eq!(pit.latch(0), 500);
    pit.to(1000);
    assert_eq!(pit.irq0.rises(), 0);
    pit.to(1001);
    assert_eq!(pit.irq0.rises(), 1);
    pit.to(1011);
    assert_eq!(pit.latch(0), 0x10000u32.wrapping_sub(10) as u16, "it counts on");
    pit.to(200_000);
    assert_eq!((pit.irq0.rises(), pit.irq0.is_high()), (0, true), "still high, no edge more");
}

#[test]
fn mode_2_has_no_drift_over_an_hour() {
    let pit = Pit::new();
    pit.load(0, 2, 11932);
    let _ = pit.irq0.rises();
    let clocks = 3600 * PIT_FREQUENCY;
    pit.to(clocks + 1);
    assert_eq!(pit.irq0.rises() as u64, clocks / 11932);
    assert_eq!(u64::from(pit.latch(0)), 11932 - clocks % 11932);
}

#[test]
fn mode_2_takes_a_new_count_at_the_end_of_the_period() {
    let pit = Pit::new();
    pit.load(0, 2, 1000);
    pit.to(601);
    pit.load_again(0, 100);
    assert_eq!(pit.latch(0), 400);
    pit.to(1001 + 30);
    assert_eq!(pit.latch(0), 70);
}

impl Pit {
    fn load_again(&self, n: u8, count: u16) {
        let [low, high] = count.to_le_bytes();
        self.out(n.into(), low);
        self.out(n.into(), high);
    }
}

#[test]
fn mode_3_is_a_square_and_counts_by_two() {
    let pit = Pit::new();
    pit.gate2(true);
    pit.load(2, 3, 100);
    pit.to(1 + 10);
    assert_eq!((pit.latch(2), pit.out2()), (80, true));
    pit.to(1 + 60);
    assert_eq!((pit.latch(2), pit.out2()), (80, false));
    pit.to(1 + 110);
    assert!(pit.out2());
    // An odd count is high for one clock more.
    pit.to(1000);
    pit.load(2, 3, 5);
    let levels: Vec<bool> = (1..=10).map(|n| (pit.to(1000 + n), pit.out2()).1).collect();
    assert_eq!(levels, [true, true, true, false, false, true, true, true, false, false]);
}

#[test]
fn mode_3_counter_0_ticks_once_a_period() {
    let pit = Pit::new();
    pit.load(0, 3, 0);
    pit.to(1);
    let _ = pit.irq0.rises();
    pit.to(1 + 0x10000 * 10);
    assert_eq!(pit.irq0.rises(), 10);
}

#[test]
fn the_gate_holds_and_triggers() {
    let pit = Pit::new();
    pit.gate2(true);
    pit.load(2, 0, 1000);
    pit.to(401);
    pit.gate2(false);
    pit.to(5000);
    assert_eq!((pit.latch(2), pit.out2()), (600, false));
    pit.gate2(true);
    pit.to(5599);
    assert!(!pit.out2());
    pit.to(5600);
    assert!(pit.out2());
    // One-shot: high until the gate rises, low for the count.
    pit.gate2(false);
    pit.load(2, 1, 50);
    assert!(pit.out2());
    pit.gate2(true);
    pit.to(5610);
    assert!(!pit.out2());
    pit.to(5651);
    assert!(pit.out2());
}

#[test]
fn strobes_are_one_clock_long() {
    let pit = Pit::new();
    pit.gate2(true);
    pit.load(2, 4, 10);
    for (clock, high) in [(10, true), (11, false), (12, true), (40, true)] {
        pit.to(clock);
        assert_eq!(pit.out2(), high, "software strobe at {clock}");
    }
    pit.gate2(false);
    pit.load(2, 5, 10);
    pit.to(60);
    assert!(pit.out2());
    pit.gate2(true);
    for (clock, high) in [(70, true), (71, false), (72, true)] {
        pit.to(clock);
        assert_eq!(pit.out2(), high, "hardware strobe at {clock}");
    }
}

#[test]
fn mode_4_strobes_are_edges_on_irq0() {
    let pit = Pit::new();
    pit.load(0, 4, 100);
    let _ = pit.irq0.rises();
    pit.to(500);
    assert_eq!(pit.irq0.rises(), 1);
    pit.to(100_000);
    assert_eq!(pit.irq0.rises(), 0);
}

#[test]
fn bcd_counts_in_decimal() {
    let pit = Pit::new();
    pit.out(3, 0x30 | 2 << 1 | 1);
    pit.out(0, 0x00);
    pit.out(0, 0x10);
    pit.to(1 + 1);
    assert_eq!(pit.latch(0), 0x0999);
    pit.to(1 + 1000);
    assert_eq!(pit.latch(0), 0x1000);
}

#[test]
fn latches_and_the_status_byte() {
    let pit = Pit::new();
    pit.load(0, 2, 5000);
    assert_eq!(pit.status(0) & 0x40, 0x40, "the count is not in yet");
    pit.to(101);
    assert_eq!(pit.status(0), 0x80 | 0x34);
    pit.out(3, 0x00);
    pit.to(201);
    pit.out(3, 0x00);
    assert_eq!(pit.pit.in8(0, 0), (4900u16 & 0xff) as u8);
    assert_eq!(pit.pit.in8(0, 0), (4900u16 >> 8) as u8, "the first latch stands until it is read");
    assert_eq!(pit.latch(0), 4800);
    // Status and count at once: the status comes first.
    pit.out(3, 0xc2);
    assert_eq!(pit.pit.in8(0, 0), 0xb4);
    assert_eq!(u16::from_le_bytes([pit.pit.in8(0, 0), pit.pit.in8(0, 0)]), 4800);
}

#[test]
fn a_load_of_a_state_goes_on_counting() {
    let pit = Pit::new();
    pit.load(0, 2, 1000);
    pit.to(2501);
    let before = 1 + 2;
    let state = machine::Snapshot::save(&mut *pit.pit.lock().unwrap()).unwrap();
    let irq0 = Probe::new();
    let other = I8254::build(pit.rig.clock(), irq0.line());
    machine::Snapshot::load(&mut *other.lock().unwrap(), 1, state).unwrap();
    let _ = irq0.rises();
    pit.rig.advance(Duration::from_millis(10));
    assert_eq!(irq0.rises(), pit.irq0.rises() - before);
}

#[test]
fn a_tiny_period_does_not_ring_for_each_clock() {
    let pit = Pit::new();
    pit.load(0, 2, 2);
    pit.rig.advance(Duration::from_millis(100));
    assert!(pit.irq0.rises() <= 5001);
}

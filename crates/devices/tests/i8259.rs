//! The interrupt controllers against their datasheet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use devices::chipset::{I8259Pair, IntrPin, PicInputs};
use machine::LineSink;
use testkit::rig::Access;

struct Pic {
    pair: Arc<Mutex<I8259Pair>>,
    inputs: Arc<PicInputs>,
    intr: Arc<AtomicBool>,
}

impl Pic {
    /// A pair as PC systems initialise it, vectors from 30h and 38h.
    fn new(icw4: u8) -> Self {
        let intr = Arc::new(AtomicBool::new(false));
        let pin = Arc::clone(&intr);
        let pair = I8259Pair::build(IntrPin::new(move |high| pin.store(high, Ordering::SeqCst)));
        let pic = Self { inputs: PicInputs::new(&pair), pair, intr };
        for (window, base, icw3) in [(0, 0x30, 0x04), (1, 0x38, 0x02)] {
            pic.out(window, 0, 0x11);
            pic.out(window, 1, base);
            pic.out(window, 1, icw3);
            pic.out(window, 1, icw4);
        }
        pic
    }

    fn out(&self, window: u8, offset: u64, value: u8) {
        let _ = self.pair.out8(window, offset, value);
    }

    fn edge(&self, input: u32) {
        self.inputs.set_input(input, true);
        self.inputs.set_input(input, false);
    }

    fn ack(&self) -> Option<u8> {
        self.pair.lock().unwrap().ack()
    }

    fn asks(&self) -> bool {
        self.intr.load(Ordering::SeqCst)
    }

    /// The in-service registers of master and slave.
    fn in_service(&self) -> (u8, u8) {
        self.out(0, 0, 0x0b);
        self.out(1, 0, 0x0b);
        (self.pair.in8(0, 0), self.pair.in8(1, 0))
    }
}

#[test]
fn initialisation_clears_the_mask_and_sets_the_vectors() {
    let pic = Pic::new(0x01);
    assert_eq!((pic.pair.in8(0, 1), pic.pair.in8(1, 1)), (0, 0));
    pic.edge(4);
    assert!(pic.asks());
    assert_eq!(pic.ack(), Some(0x34));
    assert!(!pic.asks());
    pic.out(0, 0, 0x20);
    pic.edge(12);
    assert_eq!(pic.ack(), Some(0x3c));
    assert_eq!(pic.in_service(), (0x04, 0x10));
    assert_eq!(pic.ack(), None);
}

#[test]
fn a_lower_number_has_priority_and_interrupts_a_higher_one() {
    let pic = Pic::new(0x01);
    pic.edge(5);
    pic.edge(3);
    assert_eq!(pic.ack(), Some(0x33));
    assert!(!pic.asks(), "5 waits for the end of 3");
    pic.edge(1);
    assert_eq!(pic.ack(), Some(0x31));
    pic.out(0, 0, 0x20);
    assert_eq!(pic.in_service().0, 0x08, "a non-specific end ends the highest one");
    assert!(!pic.asks());
    pic.out(0, 0, 0x63);
    assert_eq!(pic.ack(), Some(0x35));
}

#[test]
fn the_mask_holds_requests_back_and_does_not_lose_them() {
    let pic = Pic::new(0x01);
    pic.out(0, 1, 0x10);
    pic.edge(4);
    assert!(!pic.asks());
    pic.out(0, 1, 0x00);
    assert_eq!(pic.ack(), Some(0x34));
}

#[test]
fn slave_requests_wait_for_both_ends_of_interrupt() {
    let pic = Pic::new(0x01);
    pic.edge(8);
    pic.edge(14);
    assert_eq!(pic.ack(), Some(0x38));
    pic.out(1, 0, 0x20);
    assert!(!pic.asks());
    pic.out(0, 0, 0x62);
    assert_eq!(pic.ack(), Some(0x3e));
}

#[test]
fn automatic_end_of_interrupt_leaves_nothing_in_service() {
    let pic = Pic::new(0x03);
    pic.edge(9);
    pic.edge(10);
    assert_eq!(pic.ack(), Some(0x39));
    assert_eq!(pic.in_service(), (0, 0));
    assert!(pic.asks(), "the second request of the slave is an edge of its own");
    assert_eq!(pic.ack(), Some(0x3a));
    assert!(!pic.asks());
}

#[test]
fn level_inputs_ask_as_long_as_they_are_high() {
    let pic = Pic::new(0x01);
    pic.out(2, 0, 0xff);
    pic.out(2, 1, 0xff);
    assert_eq!((pic.pair.in8(2, 0), pic.pair.in8(2, 1)), (0xf8, 0xde), "some are always edges");
    pic.inputs.set_input(5, true);
    assert_eq!(pic.ack(), Some(0x35));
    pic.out(0, 0, 0x20);
    assert!(pic.asks());
    pic.inputs.set_input(5, false);
    assert!(!pic.asks());
    assert_eq!(pic.ack(), None);
}

#[test]
fn a_vanished_slave_request_is_spurious_irq15() {
    let pic = Pic::new(0x01);
    pic.edge(11);
    pic.out(1, 1, 0x08);
    assert!(pic.asks(), "the master has latched the cascade");
    assert_eq!(pic.ack(), Some(0x3f));
    assert_eq!(pic.in_service(), (0x04, 0x00));
}

#[test]
fn special_mask_lets_lower_priorities_through() {
    let pic = Pic::new(0x01);
    pic.edge(3);
    assert_eq!(pic.ack(), Some(0x33));
    pic.edge(6);
    assert!(!pic.asks());
    pic.out(0, 1, 0x08);
    pic.out(0, 0, 0x68);
    assert_eq!(pic.ack(), Some(0x36));
    pic.out(0, 0, 0x20);
    assert_eq!(pic.in_service().0, 0x08, "what is masked is not ended unnamed");
    pic.out(0, 0, 0x48);
    pic.edge(7);
    assert!(!pic.asks());
}

#[test]
fn rotation_makes_the_last_one_served_the_lowest() {
    let pic = Pic::new(0x01);
    pic.edge(4);
    assert_eq!(pic.ack(), Some(0x34));
    pic.out(0, 0, 0xa0);
    pic.edge(4);
    pic.edge(6);
    pic.edge(1);
    assert_eq!(pic.ack(), Some(0x36));
    pic.out(0, 0, 0x20);
    assert_eq!(pic.ack(), Some(0x31));
    pic.out(0, 0, 0x20);
    assert_eq!(pic.ack(), Some(0x34));
    pic.out(0, 0, 0x20);
    // Set priority: 2 is the lowest, so 3 is the highest.
    pic.out(0, 0, 0xc2);
    pic.edge(1);
    pic.edge(3);
    assert_eq!(pic.ack(), Some(0x33));
}

#[test]
fn a_poll_acknowledges() {
    let pic = Pic::new(0x01);
    pic.out(0, 0, 0x0c);
    assert_eq!(pic.pair.in8(0, 0) & 0x80, 0);
    pic.edge(6);
    pic.out(0, 0, 0x0c);
    assert_eq!(pic.pair.in8(0, 0), 0x86);
    assert!(!pic.asks());
    assert_eq!(pic.in_service().0, 0x40);
}

#[test]
fn special_fully_nested_lets_the_slave_interrupt_itself() {
    let pic = Pic::new(0x11);
    pic.edge(12);
    assert_eq!(pic.ack(), Some(0x3c));
    pic.edge(9);
    assert_eq!(pic.ack(), Some(0x39));
}

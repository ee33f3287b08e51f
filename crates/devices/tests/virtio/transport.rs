//! The PCI transport (virtio 1.2, 4.1).

use machine::{Device, Snapshot};
use memory::Gpa;
use testkit::rig::Access;

use super::blk::disk;
use super::driver::{Driver, EVENT_IDX, INDIRECT, ISR, NOTIFY, PACKED, SIZE, VERSION_1};

const FLUSH_REQUEST: [u8; 16] = [4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn flush(driver: &mut Driver) {
    assert_eq!(driver.request(0, &[&FLUSH_REQUEST], &[1]).1, [[0]]);
}

#[test]
fn the_function_says_what_it_is() {
    let driver = disk("identity", 1);
    assert_eq!(driver.config_read(0), 0x1042_1af4);
    assert_eq!(driver.config_read(8) & 0xff, 1, "the revision of a modern device");
    for kind in 1..=5 {
        let at = driver.capability(9, Some(kind));
        let (offset, len) = (driver.config_read(at + 8), driver.config_read(at + 12));
        assert_eq!(driver.config_read(at + 4) & 0xff, 0, "BAR 0");
        assert!(offset + len <= 0x8000);
    }
    assert_eq!(driver.config_read(driver.capability(9, Some(2)) + 16), 4, "the multiplier of notifications");
    assert_eq!(driver.config_read(driver.capability(0x11, None)) >> 16, 1, "two messages");
}

#[test]
fn features_are_agreed_on_or_not() {
    let mut driver = disk("features", 1);
    let offered = driver.offered();
    for feature in [VERSION_1, PACKED, EVENT_IDX, INDIRECT, 1 << 40, 1 << 9] {
        assert_ne!(offered & feature, 0, "{feature:#x}");
    }
    assert!(!driver.agree(EVENT_IDX), "a driver for old devices");
    assert!(!driver.agree(VERSION_1 | 1 << 33), "not on offer");
    assert!(driver.agree(VERSION_1 | EVENT_IDX));
    // Too late.
    let _ = driver.function.out32(0, 8, 0);
    let _ = driver.function.out32(0, 12, 0);
    assert_eq!(driver.function.in32(0, 12), EVENT_IDX as u32);
    driver.enable(0);
    driver.go();
    // A bit cannot be taken back, but all can.
    let _ = driver.function.out8(0, 20, 3);
    assert_eq!(driver.status(), 15);
    let _ = driver.function.out8(0, 20, 0);
    assert_eq!((driver.status(), driver.in16(28)), (0, 0));
}

#[test]
fn queues_are_set_up_one_at_a_time() {
    let mut driver = disk("queues", 2);
    assert!(driver.agree(VERSION_1));
    assert_eq!((driver.in16(18), driver.in16(24), driver.in16(26)), (2, 256, 0xffff));
    driver.out16(24, 512);
    assert_eq!(driver.in16(24), 256, "larger than the most");
    driver.out16(24, 0);
    assert_eq!(driver.in16(24), 256);
    driver.out16(24, 3);
    driver.out16(28, 1);
    assert_eq!(driver.in16(28), 0, "a split ring has a power of two");
    driver.out16(24, 8);
    driver.out16(26, 9);
    assert_eq!(driver.in16(26), 0xffff, "there is no message 9");
    driver.out16(26, 2);
    let _ = driver.function.out32(0, 32, 0x1000);
    let _ = driver.function.out32(0, 36, 0x2);
    assert_eq!(driver.function.in64(0, 32), 0x2_0000_1000);
    driver.out16(28, 1);
    driver.out16(24, 16);
    let _ = driver.function.out64(0, 32, 0);
    assert_eq!((driver.in16(24), driver.function.in64(0, 32)), (8, 0x2_0000_1000), "fixed while it is enabled");
    driver.out16(22, 1);
    assert_eq!((driver.in16(24), driver.in16(28), driver.in16(30)), (256, 0, 1));
    driver.out16(22, 2);
    assert_eq!((driver.in16(24), driver.in16(26)), (0, 0xffff), "there is no third queue");
}

#[test]
fn messages_and_the_pin_tell_of_what_is_used() {
    let mut driver = disk("interrupts", 2);
    driver.start(0);
    flush(&mut driver);
    assert_eq!(driver.told(), [1]);
    assert_eq!(driver.request(1, &[&FLUSH_REQUEST], &[1]).1, [[0]]);
    assert_eq!(driver.told(), [2]);
    assert_eq!(driver.line.rises(), 0);
    // Without MSI-X.
    driver.config_write(driver.capability(0x11, None) + 2, &[0, 0]);
    flush(&mut driver);
    assert!(driver.line.is_high() && driver.told().is_empty());
    assert_eq!(driver.function.in8(0, ISR), 1);
    assert!(!driver.line.is_high());
    assert_eq!(driver.function.in8(0, ISR), 0, "the read has acknowledged it");
    // With the pin disabled.
    driver.config_write(4, &0x406u16.to_le_bytes());
    flush(&mut driver);
    assert!(!driver.line.is_high());
    driver.config_write(4, &6u16.to_le_bytes());
    assert!(driver.line.is_high());
}

#[test]
fn the_event_index_saves_interrupts() {
    for features in [EVENT_IDX, EVENT_IDX | PACKED] {
        let mut driver = disk(&format!("events-{features:x}"), 1);
        driver.start(features);
        flush(&mut driver);
        driver.told();
        let [_, area, _] = driver.rings[0].areas();
        if features & PACKED != 0 {
            // A flush takes two places: the third one starts at place 4.
            driver.memory.write(Gpa(area), &[4, 0x80, 2, 0]).unwrap();
        } else {
            driver.memory.write(Gpa(area + 4 + 2 * u64::from(SIZE)), &2u16.to_le_bytes()).unwrap();
        }
        flush(&mut driver);
        assert!(driver.told().is_empty());
        flush(&mut driver);
        assert_eq!(driver.told(), [1]);
        flush(&mut driver);
        assert!(driver.told().is_empty());
    }
}

#[test]
fn a_driver_that_breaks_the_rules_has_to_reset() {
    for features in [0, PACKED, INDIRECT] {
        let mut driver = disk(&format!("broken-{features:x}"), 1);
        driver.start(features);
        // A request without a status.
        let submitted = driver.submit(0, &[&FLUSH_REQUEST], &[]);
        driver.notify(0);
        assert_eq!(driver.status(), 15 | 64);
        assert_eq!(driver.told(), [0], "the message of the configuration");
        assert!(driver.take(&submitted).is_none());
        let _ = driver.submit(0, &[&FLUSH_REQUEST], &[1]);
        driver.notify(0);
        driver.settle();
        assert!(driver.told().is_empty(), "nothing happens any more");
        driver.start(features);
        flush(&mut driver);
    }
}

#[test]
fn a_queue_is_reset_by_itself() {
    let mut driver = disk("queue-reset", 2);
    driver.start(1 << 40);
    flush(&mut driver);
    assert_eq!(driver.request(1, &[&FLUSH_REQUEST], &[1]).1, [[0]]);
    driver.out16(22, 0);
    driver.out16(58, 1);
    assert_eq!((driver.in16(58), driver.in16(28), driver.in16(24)), (0, 0, 256));
    driver.notify(0);
    assert_eq!(driver.request(1, &[&FLUSH_REQUEST], &[1]).1, [[0]], "the other one goes on");
    let other = driver.rings.pop().unwrap();
    driver.enable(0);
    driver.rings.push(other);
    flush(&mut driver);
    assert_eq!(driver.status(), 15);
}

#[test]
fn configuration_space_reaches_the_bar() {
    let driver = disk("access", 1);
    let at = driver.capability(9, Some(5));
    driver.config_write(at + 8, &22u32.to_le_bytes());
    driver.config_write(at + 12, &2u32.to_le_bytes());
    driver.config_write(at + 16, &7u32.to_le_bytes());
    assert_eq!(driver.in16(22), 7);
    driver.out16(22, 0x1234);
    assert_eq!(driver.config_read(at + 16), 0x1234);
    // Nothing happens for lengths and offsets that cannot be.
    for (offset, len) in [(22u32, 3u32), (23, 2), (0x8000, 4), (22, 0), (u32::MAX, 1)] {
        driver.config_write(at + 8, &offset.to_le_bytes());
        driver.config_write(at + 12, &len.to_le_bytes());
        driver.config_write(at + 16, &9u32.to_le_bytes());
        let _ = driver.config_read(at + 16);
        assert_eq!(driver.in16(22), 0x1234);
    }
}

#[test]
fn a_saved_device_goes_on_in_another_one() {
    for features in [EVENT_IDX, EVENT_IDX | PACKED] {
        let mut driver = disk(&format!("saved-{features:x}"), 1);
        driver.start(features);
        for _ in 0..20 {
            flush(&mut driver);
        }
        // Available, not told, and saved.
        let submitted = driver.submit(0, &[&FLUSH_REQUEST], &[1]);
        let state = driver.function.lock().unwrap().save().unwrap();
        let mut other = disk(&format!("loaded-{features:x}"), 1);
        let mut all = vec![0; super::driver::RAM as usize];
        driver.memory.read(Gpa(0), &mut all).unwrap();
        other.memory.write(Gpa(0), &all).unwrap();
        other.function.lock().unwrap().load(1, state.clone()).unwrap();
        assert_eq!(other.function.lock().unwrap().save().unwrap(), state);
        std::mem::swap(&mut other.rings, &mut driver.rings);
        other.function.lock().unwrap().resume();
        other.settle();
        assert_eq!(other.take(&submitted).unwrap().1, [[0]]);
        // A state of another device is refused, and changes nothing.
        let mut strange = disk(&format!("strange-{features:x}"), 2);
        let before = strange.function.lock().unwrap().save().unwrap();
        assert!(strange.function.lock().unwrap().load(1, state).is_err());
        assert_eq!(strange.function.lock().unwrap().save().unwrap(), before);
        strange.start(features);
        flush(&mut strange);
    }
}

#[test]
fn notifications_of_what_is_not_there_do_nothing() {
    let mut driver = disk("stray", 1);
    driver.notify(0);
    driver.start(0);
    for queue in [1u64, 2, 500, 1023] {
        driver.out16(NOTIFY + 4 * queue, 0);
    }
    flush(&mut driver);
}

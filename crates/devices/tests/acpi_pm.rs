//! ACPI's fixed hardware against the specification.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use devices::chipset::{AcpiPm, AcpiPmConfig, PM_TIMER_FREQUENCY};
use machine::{At, Device, Effect};
use testkit::rig::{Access, Probe, Rig};

struct Pm {
    rig: Rig,
    pm: Arc<Mutex<AcpiPm>>,
    sci: Probe,
}

impl Pm {
    fn new() -> Self {
        let (rig, sci) = (Rig::new(), Probe::new());
        Self { pm: AcpiPm::build(rig.clock(), AcpiPmConfig::default(), sci.line()), rig, sci }
    }

    fn out16(&self, offset: u64, value: u16) -> Effect {
        self.pm.lock().unwrap().write(At { window: 0, offset }, &value.to_le_bytes())
    }

    fn in16(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.pm.lock().unwrap().read(At { window: 0, offset }, &mut data);
        u16::from_le_bytes(data)
    }

    fn enable_acpi(&self) {
        let _ = self.pm.out8(1, 0, 2);
        assert_eq!(self.in16(4) & 1, 1);
    }
}

#[test]
fn the_timer_counts_24_bits_of_3_58_mhz() {
    let pm = Pm::new();
    pm.rig.advance(Duration::from_secs(1));
    assert_eq!(u64::from(pm.pm.in32(0, 8)), PM_TIMER_FREQUENCY);
    pm.rig.advance(Duration::from_secs(4));
    assert_eq!(u64::from(pm.pm.in32(0, 8)), (5 * PM_TIMER_FREQUENCY) & 0xff_ffff);
}

#[test]
fn a_carry_of_the_timer_is_an_sci() {
    let pm = Pm::new();
    pm.enable_acpi();
    let _ = pm.out16(2, 1);
    // Bit 23 changes each 2.34 seconds.
    pm.rig.advance(Duration::from_millis(2343));
    assert!(!pm.sci.is_high());
    pm.rig.advance(Duration::from_millis(1));
    assert!(pm.sci.is_high());
    assert_eq!(pm.in16(0), 1);
    let _ = pm.out16(0, 1);
    assert!(!pm.sci.is_high());
    pm.rig.advance(Duration::from_millis(2344));
    assert!(pm.sci.is_high());
}

#[test]
fn the_power_button_is_seen_when_enabled() {
    let pm = Pm::new();
    pm.pm.lock().unwrap().press_power_button();
    assert!(!pm.sci.is_high());
    assert_eq!(pm.in16(0), 0x100);
    pm.enable_acpi();
    let _ = pm.out16(2, 0x100);
    assert!(pm.sci.is_high());
    let _ = pm.pm.out8(0, 1, 0x01);
    assert!(!pm.sci.is_high());
    let _ = pm.pm.out8(1, 0, 3);
    assert_eq!(pm.in16(4) & 1, 0, "ACPI is off again");
}

#[test]
fn sleep_types() {
    let pm = Pm::new();
    assert_eq!(pm.out16(4, 0x0000), Effect::None);
    assert_eq!(pm.out16(4, 0x2000), Effect::PowerOff, "type 0 is S5");
    assert_eq!(pm.out16(4, 0x2000 | 1 << 10), Effect::Sleep(1));
    assert_eq!(pm.out16(4, 0x2000 | 5 << 10), Effect::Sleep(3));
    assert_eq!(pm.in16(4), 5 << 10, "SLP_EN reads as zero");
    assert_eq!(pm.pm.out32(0, 4, 0x2000), Effect::PowerOff, "by a wider access too");
}

#[test]
fn general_purpose_events() {
    let pm = Pm::new();
    pm.enable_acpi();
    pm.pm.lock().unwrap().raise_gpe(34);
    assert!(!pm.sci.is_high());
    let _ = pm.pm.out8(0, 0x28 + 4, 4);
    assert!(pm.sci.is_high());
    assert_eq!(pm.pm.in8(0, 0x20 + 4), 4);
    let _ = pm.pm.out8(0, 0x20 + 4, 4);
    assert!(!pm.sci.is_high());
}

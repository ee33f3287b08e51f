//! What the chipset of a PC brings along: interrupt controllers, timers, clock, power management, bridges.

mod acpi_pm;
mod civil;
mod host_bridge;
mod hpet;
mod i440fx;
mod i8254;
mod i8254_counter;
mod i8259;
mod ich9_lpc;
mod ioapic;
mod isa_bridge;
mod legacy_route;
mod mc146818;
mod mch;
mod pam;
mod piix3;
mod piix4_pm;
mod pirq;
mod port92;
mod post_port;

pub use acpi_pm::{AcpiPm, AcpiPmConfig, PM_TIMER_FREQUENCY};
pub use host_bridge::HostBridge;
pub use hpet::{HARDWARE_ID as HPET_HARDWARE_ID, Hpet, PERIOD as HPET_PERIOD};
pub use i8254::{FREQUENCY as PIT_FREQUENCY, I8254};
pub use i8259::{I8259Pair, IntrPin, PicInputs};
pub use ioapic::{Ioapic, IoapicInputs, PINS as IOAPIC_PINS};
pub use isa_bridge::{IsaBridge, PirqInputs};
pub use legacy_route::LegacyRoute;
pub use mc146818::{Mc146818, RtcConfig};
pub use piix4_pm::Piix4Pm;
pub use port92::Port92;
pub use post_port::PostPort;

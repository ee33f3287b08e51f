//! The machine around the CPU: what a device is, how devices are wired, which boards there are, and how a guest is
//! loaded into them. Devices themselves are in `devices`; they and this crate know nothing of engines beyond the
//! joints in `engine`.
#![forbid(unsafe_code)]

pub mod acpi;
pub mod board;
mod bus;
mod device;
pub mod firmware;
mod line;
pub mod loader;
pub mod pci;
pub mod smbios;
mod timer;

pub use board::Board;
pub use bus::{Bus, Overlap};
pub use device::{At, Device, Drained, Effect, Schema, Snapshot, State, StateError};
pub use engine::{Clock, MsiMessage, VmTime};
pub use line::{Line, LineSink, MsiPort, Wire};
pub use timer::{Shared, Timer};

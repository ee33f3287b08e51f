//! One virtual machine: its configuration, the wiring of its parts, and running it.
//!
//! [`Vm::build`] makes a machine out of a [`Config`] and what the caller has opened for it ([`Supplies`]): the VM itself opens
//! nothing. [`Vm::start`] runs it, one thread per virtual CPU, and [`Vm::wait`] tells what became of it.
#![forbid(unsafe_code)]

mod boot;
mod config;
mod control;
mod cpu;
mod disks;
mod error;
mod guest_panic;
mod hardware;
mod input;
mod media;
mod model;
mod outcome;
mod payload;
mod pins;
mod serial;
mod socket;
mod variables;
mod vm;

pub use config::{Config, Cpus, EntryMode, OnGuestPanic, OnReset, OnTripleFault, Video, boards, cpu_models};
pub use config::{DEFAULT_CPU_MODEL, MAX_SERIAL_PORTS};
pub use control::CpuStats;
pub use devices::CharOut;
pub use disks::{Disk, DiskBus, Drive};
pub use display::{Frame, Picture};
pub use engine::{Amount, Stat};
pub use error::Error;
pub use machine::firmware::check_file_name as check_firmware_file_name;
pub use model::model_lacks;
pub use outcome::Outcome;
pub use payload::Payload;
pub use serial::SerialPort;
pub use variables::Variables;
pub use vm::{Supplies, Vm};

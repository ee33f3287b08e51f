//! The x86-64 architecture as data: registers, CPU models, control bits, the local APIC. No I/O, no engine.
//!
//! The source for everything here is the *Intel 64 and IA-32 Architectures Software Developer's Manual* ("SDM");
//! where the two vendors differ, the *AMD64 Architecture Programmer's Manual* is named.
#![forbid(unsafe_code)]

pub mod bits;
pub mod lapic;
mod legal;
mod model;
pub mod msr;
mod state;
mod tsc;

pub use model::{CpuModel, CpuidQuery, Feature, FeatureSet, ModelError, Place, Register};
pub use state::{Activity, CpuState, DescriptorTable, Event, Events, Msrs, Segment, XsaveArea};
pub use tsc::Tsc;

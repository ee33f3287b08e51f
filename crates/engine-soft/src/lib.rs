//! Husk's own CPU: x86-64 on any x86-64 host, without hardware virtualization.
//!
//! An interpreter over decoded blocks. The state is one `cpu::Cpu` per vCPU thread; `decode` turns bytes into
//! `op::Op`s, grouped into blocks that `block` finds again; `run` executes them and attends to interrupts in between;
//! `mmu` and `mem` are the way to memory; `ops`, `system` and `fpu` hold the instructions. Floating point and vectors
//! run on the host's own unit, so they are exact by construction.

mod bench;
mod block;
mod cpu;
mod debug;
mod decode;
mod features;
mod flags;
mod fpu;
mod lapic;
mod mem;
mod mmu;
mod op;
mod ops;
mod partition;
mod pending;
mod run;
mod shootdown;
mod soft;
mod system;
mod vcpu;

pub use bench::{Bench, UserExit};
pub use soft::SoftEngine;

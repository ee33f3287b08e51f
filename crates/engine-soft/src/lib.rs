//! Husk's own CPU: x86-64 on any x86-64 host, without hardware virtualization.
//!
//! An interpreter over decoded blocks, and a translator (`jit`) that is several times faster. The state is one
//! `cpu::Cpu` per vCPU thread; `decode` turns bytes into `op::Op`s, grouped into blocks that `block` finds again; `run`
//! executes them and attends to interrupts in between; `mmu` and `mem` are the way to memory; `ops`, `system` and `fpu`
//! hold the instructions. Floating point and vectors run on the host's own unit, so they are exact by construction.
//! `lockstep` compares the two.

mod bench;
mod block;
mod code_mail;
mod cpu;
mod debug;
mod decode;
mod exec_memory;
mod features;
mod flags;
mod fpu;
mod jit;
mod kvmclock;
mod lane;
mod lapic;
mod lockstep;
mod mem;
mod mmu;
mod op;
mod ops;
mod options;
mod partition;
mod pending;
mod run;
mod shootdown;
#[cfg(test)]
mod shootdown_tests;
mod soft;
mod stats;
mod system;
mod vcpu;

pub use bench::{Bench, UserExit};
pub use options::{SoftOptions, Translator};
pub use soft::SoftEngine;

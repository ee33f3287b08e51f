//! A vCPU's memory in one piece: its state and the tables that translated code looks into.

use std::ops::{Deref, DerefMut};

use crate::cpu::Cpu;
use crate::jit::{CELLS, Cell, JUMP_SLOTS};
use crate::mmu::Tables;

/// What the GS segment points to while translated code runs: everything in it has a fixed distance.
#[repr(C)]
pub(crate) struct Lane {
    pub(crate) cpu: Cpu,
    /// The software TLB's. Reached through `cpu.mmu` only.
    pub(crate) tlb: Tables,
    /// Where indirect jumps lead: a RIP with the tag of its space added, and the address of the code.
    pub(crate) jumps: [[u64; 2]; JUMP_SLOTS],
    /// The page that each access of user code has last been to.
    pub(crate) cells: [Cell; CELLS],
    /// The offsets of those that are filled.
    pub(crate) filled: [u32; CELLS],
}

impl Deref for Lane {
    type Target = Cpu;

    fn deref(&self) -> &Cpu {
        &self.cpu
    }
}

impl DerefMut for Lane {
    fn deref_mut(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
}

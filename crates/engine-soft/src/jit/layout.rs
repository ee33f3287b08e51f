//! Where translated code finds things, relative to the lane that GS points to.

use std::mem::offset_of;

use x86::{Msrs, Segment};

use super::context::Context;
use crate::cpu::{Cpu, sreg};
use crate::fpu::Fpu;
use crate::lane::Lane;
use crate::mmu::SLOTS;
use crate::stats::{JitStats, Stats};

const fn in_cpu(offset: usize) -> i32 {
    (offset_of!(Lane, cpu) + offset) as i32
}

const fn in_context(offset: usize) -> i32 {
    in_cpu(offset_of!(Cpu, jit) + offset)
}

/// A general-purpose register.
pub(super) const fn reg(number: u8) -> i32 {
    in_cpu(offset_of!(Cpu, regs)) + number as i32 * 8
}

pub(super) const RIP: i32 = in_cpu(offset_of!(Cpu, rip));
pub(super) const FS_BASE: i32 = seg_base(sreg::FS);
pub(super) const GS_BASE: i32 = seg_base(sreg::GS);
pub(super) const KERNEL_GS_BASE: i32 = in_cpu(offset_of!(Cpu, msrs) + offset_of!(Msrs, kernel_gs_base));
pub(super) const EFER: i32 = msr(offset_of!(Msrs, efer));
pub(super) const STAR: i32 = msr(offset_of!(Msrs, star));
pub(super) const LSTAR: i32 = msr(offset_of!(Msrs, lstar));
pub(super) const SFMASK: i32 = msr(offset_of!(Msrs, sfmask));
pub(super) const CPL: i32 = in_cpu(offset_of!(Cpu, cpl));
pub(super) const CS: i32 = segment(sreg::CS);
pub(super) const SS: i32 = segment(sreg::SS);
/// From a segment to its parts; the access rights come behind the selector.
pub(super) const SEGMENT_BASE: i32 = offset_of!(Segment, base) as i32;
pub(super) const SEGMENT_LIMIT: i32 = offset_of!(Segment, limit) as i32;
pub(super) const SEGMENT_SELECTOR: i32 = offset_of!(Segment, selector) as i32;
const _: () = assert!(offset_of!(Segment, attr) == offset_of!(Segment, selector) + 2);
/// The numbers of the supervisor's and the user's space, and whether numbers have started over.
pub(super) const SPACES_NOW: i32 = in_cpu(offset_of!(Cpu, mmu.spaces.now));
pub(super) const SPACES_WRAPPED: i32 = in_cpu(offset_of!(Cpu, mmu.spaces.wrapped));
pub(super) const SYSTEM_FLAGS: i32 = in_cpu(offset_of!(Cpu, system_flags));
pub(super) const INTEREST: i32 = in_cpu(offset_of!(Cpu, interest));
pub(super) const DATA_TABLE: i32 = in_cpu(offset_of!(Cpu, data_table));
pub(super) const CR0: i32 = in_cpu(offset_of!(Cpu, cr0));
pub(super) const CR2: i32 = in_cpu(offset_of!(Cpu, cr2));
pub(super) const CR3: i32 = in_cpu(offset_of!(Cpu, cr3));
pub(super) const CR4: i32 = in_cpu(offset_of!(Cpu, cr4));
/// What other threads tell the vCPU.
pub(super) const PENDING: i32 = crate::lane::PENDING;
pub(super) const ATTENTION: i32 = crate::lane::ATTENTION;
/// What of the floating-point state is in the host's registers: bits of [`super::stubs::unit`].
pub(super) const UNITS: i32 = in_context(offset_of!(Context, units));
pub(super) const YMM: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, ymm));
pub(super) const X87: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, x87));
pub(super) const X87_RESIDENT: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, resident));
pub(super) const MXCSR: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, mxcsr));
pub(super) const HOST_MXCSR: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, host_mxcsr));
pub(super) const FSW: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, fsw));
pub(super) const FIP: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, fip));
pub(super) const FDP: i32 = in_cpu(offset_of!(Cpu, fpu) + offset_of!(Fpu, fdp));
pub(super) const SELF: i32 = in_context(offset_of!(Context, cpu));
pub(super) const HOST_RSP: i32 = in_context(offset_of!(Context, host_rsp));
pub(super) const TARGET: i32 = in_context(offset_of!(Context, target));
pub(super) const FLAGS: i32 = in_context(offset_of!(Context, flags));
pub(super) const SITE: i32 = in_context(offset_of!(Context, site));
pub(super) const LINEAR: i32 = in_context(offset_of!(Context, linear));
pub(super) const BEHIND: i32 = in_context(offset_of!(Context, behind));
pub(super) const ACCESS: i32 = in_context(offset_of!(Context, access));
pub(super) const CELL: i32 = in_context(offset_of!(Context, cell));
pub(super) const NEXT_FILLED: i32 = in_context(offset_of!(Context, next_filled));
pub(super) const CODE_BASE: i32 = in_context(offset_of!(Context, code_base));
pub(super) const AFTER: i32 = in_context(offset_of!(Context, after));
pub(super) const SCRATCH: i32 = in_context(offset_of!(Context, scratch));
pub(super) const JUMP_MIX: i32 = in_context(offset_of!(Context, jump_mix));
pub(super) const SPACE_TAG: i32 = in_context(offset_of!(Context, space_tag));
/// The upper two bytes of the tag are the space: compared as a double word with zeros below.
pub(super) const SPACE: i32 = SPACE_TAG + 4;
pub(super) const WINDOW_READ: i32 = in_context(offset_of!(Context, window_read));
pub(super) const WINDOW_WRITE: i32 = in_context(offset_of!(Context, window_write));
pub(super) const WINDOW_DELTA: i32 = in_context(offset_of!(Context, window_delta));

const fn segment(number: usize) -> i32 {
    in_cpu(offset_of!(Cpu, seg) + number * size_of::<Segment>())
}

/// The selector of segment register `number`.
pub(super) const fn selector(number: usize) -> i32 {
    segment(number) + offset_of!(Segment, selector) as i32
}

const fn seg_base(number: usize) -> i32 {
    segment(number) + SEGMENT_BASE
}

const fn msr(offset: usize) -> i32 {
    in_cpu(offset_of!(Cpu, msrs) + offset)
}

/// The read tag, the write tag and the host's page of the first entry of a table of the TLB.
pub(super) const fn tlb(table: u8) -> (i32, i32, i32) {
    let start = (offset_of!(Lane, tlb) + table as usize * SLOTS * 32) as i32;
    (start, start + 8, start + 16)
}

/// The table of jump targets: for each the tag and the code's address.
pub(super) const JUMPS: i32 = offset_of!(Lane, jumps) as i32;

/// The cells of accesses, and the list of those that are filled.
pub(super) const CELLS: i32 = offset_of!(Lane, cells) as i32;
pub(super) const FILLED: i32 = offset_of!(Lane, filled) as i32;

const STATS: usize = offset_of!(Cpu, stats);
pub(super) const INSTRUCTIONS: i32 = in_cpu(STATS + offset_of!(Stats, instructions));
pub(super) const BLOCKS_RUN: i32 = in_cpu(STATS + offset_of!(Stats, jit) + offset_of!(JitStats, blocks_run));

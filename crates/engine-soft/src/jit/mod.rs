//! The translator: blocks of the guest's code become blocks of host code, without a language in between.
//!
//! Guest and host speak the same language, so most instructions are copied. What is not: memory operands, which go
//! through the software TLB ([`emit`]); jumps, which lead to other translated blocks ([`cache`]); and what the
//! interpreter's handlers are called for ([`calls`]). [`scan`] decodes a block and follows its flags, [`translate`] makes
//! the code, [`run`] enters it and sees to what it comes back for.
//!
//! While translated code runs, the guest's registers are the host's; R10, R11 and R15 are kept in memory, their places
//! in the host are the translator's own. GS leads to the vCPU's [`crate::lane::Lane`]. At the ends of blocks the status
//! flags are in memory, in the form of LAHF, or nobody needs them.

mod asm;
mod cache;
mod calls;
mod cells;
mod context;
mod emit;
mod encoding;
mod layout;
mod run;
mod scan;
mod single;
mod stubs;
#[cfg(test)]
mod system_tests;
mod translate;
mod units;

pub(crate) use cache::Jit;
pub(crate) use cells::{CELLS, Cell};
pub(crate) use context::Context;

/// The slots of the table of jump targets.
pub(crate) const JUMP_SLOTS: usize = 16384;

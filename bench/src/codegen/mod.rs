//! Code that is written when it runs.

mod assembler;
mod compiler;
mod rewritten;

use crate::workload::Workload;

/// The workloads of the group.
pub(crate) const PARTS: &[&[Workload]] = &[compiler::ALL, rewritten::ALL];

//! Integer code in user mode.

mod automaton;
mod bigint;
mod bits;
mod compress;
mod dispatch;
mod division;
mod dynamic;
mod graph;
mod hash;
mod heap;
mod interpreter;
mod json;
mod matrix;
mod packaged;
mod recursion;
mod search;
mod sieve;
mod sort;
mod tables;
mod text;

use crate::workload::Workload;

/// The workloads of the group.
pub(crate) const PARTS: &[&[Workload]] = &[
    sort::ALL,
    hash::ALL,
    compress::ALL,
    interpreter::ALL,
    dispatch::ALL,
    recursion::ALL,
    tables::ALL,
    heap::ALL,
    graph::ALL,
    sieve::ALL,
    matrix::ALL,
    json::ALL,
    text::ALL,
    search::ALL,
    automaton::ALL,
    dynamic::ALL,
    bigint::ALL,
    division::ALL,
    bits::ALL,
    packaged::ALL,
];

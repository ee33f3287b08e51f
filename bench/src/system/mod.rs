//! What the kernel does for programs.

pub(crate) mod call;
mod faults;
mod files;
mod network;
pub(crate) mod place;
mod processes;
mod shell;
mod signals;
mod switches;
mod syscalls;
mod threads;

use crate::workload::Workload;

/// The workloads of the group.
pub(crate) const PARTS: &[&[Workload]] = &[
    syscalls::ALL,
    signals::ALL,
    switches::ALL,
    network::ALL,
    threads::ALL,
    processes::ALL,
    shell::ALL,
    faults::ALL,
    files::ALL,
];

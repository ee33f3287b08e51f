//! Breakpoints of a debugger outside of the guest.

/// The breakpoints of one vCPU.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Breakpoints {
    /// Stop after each instruction.
    pub single_step: bool,
    /// The addresses watched.
    pub list: Vec<Breakpoint>,
}

/// One watched linear address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breakpoint {
    /// The linear address.
    pub addr: u64,
    /// What is watched there.
    pub kind: BreakpointKind,
}

/// What a breakpoint watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakpointKind {
    /// The execution of the instruction at the address.
    Execute,
}

/// Why the debugger has the CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebugEvent {
    /// One instruction has run.
    Step,
    /// The instruction at this linear address is about to run.
    Breakpoint(u64),
}

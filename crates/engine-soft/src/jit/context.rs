//! What a vCPU and its translated code tell each other.

use crate::cpu::{Cpu, Fault};

/// A tag that no canonical address matches. For one that does, the host's address comes out as none either, and the host
/// raises the exception that the interpreter then raises for the guest.
pub(crate) const NO_WINDOW: u64 = 0xa5a5_9696_c3c3_f000;

/// The part of a vCPU's state that only translated code and its callers use.
#[repr(C)]
pub(crate) struct Context {
    /// The CPU itself, for what is called from translated code.
    pub(crate) cpu: *mut Cpu,
    /// The host's stack pointer while RSP is the guest's.
    pub(crate) host_rsp: u64,
    /// Where a stub is to go.
    pub(crate) target: u64,
    /// The status flags as LAHF and SETO give them: AH and AL.
    pub(crate) flags: u64,
    /// Which piece of code has left: an offset in the code memory, or the number of an exit.
    pub(crate) site: u32,
    /// Where the code goes on behind the check of that access, and its size with, in the upper bits, which of `scratch`
    /// the operand's address is then expected in.
    pub(crate) behind: u32,
    pub(crate) access: u32,
    /// What an access across two pages reads.
    pub(crate) across: Across,
    /// The cell that an access has missed, as an offset from the lane.
    pub(crate) cell: u32,
    /// Where the number of the next filled cell goes, as an offset from the lane.
    pub(crate) next_filled: u64,
    /// The address of the code memory.
    pub(crate) code_base: u64,
    /// The linear address of an access that the TLB did not know.
    pub(crate) linear: u64,
    /// The code to go on at with the flags taken from memory.
    pub(crate) after: u64,
    /// The block at RIP has to run in its plain form.
    pub(crate) wants_plain: bool,
    /// All translations are out of date, and are forgotten where none of them is running.
    pub(crate) outdated: bool,
    /// Translated code runs, or waits for what it has called.
    pub(crate) inside: bool,
    /// What of the floating-point state is the host's registers' while translated code runs.
    pub(crate) units: u8,
    /// RFLAGS of the host where it has raised an exception.
    pub(crate) fault_flags: u64,
    /// R10, R11 and R15 of the host while a stub calls out.
    pub(crate) scratch: [u64; 3],
    /// The number of the address space and mode, in the upper 16 bits.
    pub(crate) space_tag: u64,
    /// What the slots of the table of jumps are mixed with, from the number of the space.
    pub(crate) jump_mix: u64,
    /// The page that the stack is in: its linear address if it may be read, and if it may be written.
    pub(crate) window_read: u64,
    pub(crate) window_write: u64,
    /// What to add to a linear address in that page to get the host's.
    pub(crate) window_delta: u64,
    /// Exceptions are not to be delivered but kept in `held`: in lock-step.
    pub(crate) hold: bool,
    pub(crate) held: Option<Fault>,
    /// The RIP of the instruction that a call out has ended the run with, and whether it is through.
    pub(crate) ended: (u64, bool),
    /// The thread has been prepared for translated code.
    pub(crate) ready: bool,
    /// The signals that were blocked before.
    pub(crate) signals: libc::sigset_t,
}

/// A place for an operand, aligned like one.
#[repr(align(64))]
pub(crate) struct Across(pub(crate) [u8; 64]);

impl Context {
    pub(crate) fn new() -> Self {
        Self {
            cpu: std::ptr::null_mut(),
            host_rsp: 0,
            target: 0,
            flags: 0,
            site: 0,
            cell: 0,
            behind: 0,
            access: 0,
            across: Across([0; 64]),
            next_filled: 0,
            code_base: 0,
            linear: 0,
            after: 0,
            wants_plain: false,
            outdated: false,
            inside: false,
            units: 0,
            fault_flags: 0,
            scratch: [0; 3],
            space_tag: 0,
            jump_mix: 0,
            window_read: NO_WINDOW,
            window_write: NO_WINDOW,
            window_delta: 0,
            hold: false,
            held: None,
            ended: (0, false),
            ready: false,
            // SAFETY: the empty set.
            signals: unsafe { std::mem::zeroed() },
        }
    }

    /// Forgets the stack's page.
    pub(crate) fn close_window(&mut self) {
        self.window_read = NO_WINDOW;
        self.window_write = NO_WINDOW;
    }
}

/// The status flags of RFLAGS as LAHF and SETO give them.
pub(crate) fn image_of(rflags: u64) -> u64 {
    (rflags & 0xd5 | 2) << 8 | rflags >> 11 & 1
}

/// The other way round.
pub(crate) fn rflags_of(image: u64) -> u64 {
    image >> 8 & 0xd5 | (image & 1) << 11
}

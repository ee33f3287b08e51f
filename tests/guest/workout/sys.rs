//! The few calls of the C library that the standard library does not offer.

use std::ffi::{c_int, c_long, c_void};

pub const SIGILL: c_int = 4;
pub const SIGTRAP: c_int = 5;
pub const SIGFPE: c_int = 8;
pub const SIGUSR1: c_int = 10;
pub const SIGSEGV: c_int = 11;
pub const SIGUSR2: c_int = 12;
pub const SIGALRM: c_int = 14;
pub const SA_SIGINFO: c_int = 4;
pub const SA_ONSTACK: c_int = 0x0800_0000;
pub const PROT_NONE: c_int = 0;
pub const PROT_RW: c_int = 3;
pub const PROT_RX: c_int = 5;
pub const PROT_RWX: c_int = 7;
const MAP_PRIVATE: c_int = 2;
const MAP_FIXED: c_int = 0x10;
const MAP_ANONYMOUS: c_int = 0x20;

/// `struct sigaction` of glibc on x86-64.
#[repr(C)]
struct SigAction {
    handler: usize,
    mask: [u64; 16],
    flags: c_int,
    restorer: usize,
}

/// `siginfo_t`, as far as it is read here.
#[repr(C)]
pub struct SigInfo {
    pub signo: c_int,
    pub errno: c_int,
    pub code: c_int,
    pad: c_int,
    /// The faulting address, for signals that faults raise.
    pub addr: usize,
    rest: [u64; 13],
}

/// `stack_t`.
#[repr(C)]
struct Stack {
    base: *mut c_void,
    flags: c_int,
    size: usize,
}

/// `struct itimerval`.
#[repr(C)]
struct Interval {
    every: [c_long; 2],
    first: [c_long; 2],
}

unsafe extern "C" {
    fn sigaction(signal: c_int, new: *const SigAction, old: *mut SigAction) -> c_int;
    fn sigaltstack(new: *const Stack, old: *mut Stack) -> c_int;
    fn setitimer(which: c_int, new: *const Interval, old: *mut Interval) -> c_int;
    fn sigprocmask(how: c_int, set: *const [u64; 16], old: *mut [u64; 16]) -> c_int;
    fn sigsuspend(mask: *const [u64; 16]) -> c_int;
    fn mmap(addr: *mut c_void, len: usize, prot: c_int, flags: c_int, fd: c_int, offset: i64) -> *mut c_void;
    fn mprotect(addr: *mut c_void, len: usize, prot: c_int) -> c_int;
    fn raise(signal: c_int) -> c_int;
    fn fork() -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
    fn _exit(code: c_int) -> !;
}

pub type Handler = extern "C" fn(c_int, *mut SigInfo, *mut c_void);

/// Installs a signal handler.
pub fn handle(signal: c_int, handler: Handler, flags: c_int) {
    let action = SigAction { handler: handler as usize, mask: [0; 16], flags: SA_SIGINFO | flags, restorer: 0 };
    // SAFETY: the structure is glibc's; the handlers here only touch atomics and make system calls.
    assert_eq!(unsafe { sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

/// Puts the default action of a signal back.
pub fn unhandle(signal: c_int) {
    let action = SigAction { handler: 0, mask: [0; 16], flags: 0, restorer: 0 };
    // SAFETY: the structure is glibc's; 0 is SIG_DFL.
    assert_eq!(unsafe { sigaction(signal, &raw const action, std::ptr::null_mut()) }, 0);
}

/// Gives the handlers that ask for it a stack of their own; returns its range.
pub fn alternate_stack() -> std::ops::Range<usize> {
    let len = 64 << 10;
    let base = map(None, len, PROT_RW);
    let stack = Stack { base: base.cast(), flags: 0, size: len };
    // SAFETY: the mapping is never given back.
    assert_eq!(unsafe { sigaltstack(&raw const stack, std::ptr::null_mut()) }, 0);
    base as usize..base as usize + len
}

/// Rings SIGALRM every `micros` microseconds; zero stops it.
pub fn ring_every(micros: c_long) {
    let timer = Interval { every: [0, micros], first: [0, micros] };
    // SAFETY: the structure is glibc's; 0 is ITIMER_REAL.
    assert_eq!(unsafe { setitimer(0, &raw const timer, std::ptr::null_mut()) }, 0);
}

fn mask_of(signal: c_int) -> [u64; 16] {
    let mut mask = [0; 16];
    mask[0] = 1 << (signal - 1);
    mask
}

/// Holds `signal` back (or lets it through again).
pub fn block(signal: c_int, blocked: bool) {
    let how = if blocked { 0 } else { 1 };
    // SAFETY: the set is as large as glibc's.
    assert_eq!(unsafe { sigprocmask(how, &mask_of(signal), std::ptr::null_mut()) }, 0);
}

/// Waits for a signal while none is held back.
pub fn suspend() {
    // SAFETY: the set is as large as glibc's.
    unsafe { sigsuspend(&[0; 16]) };
}

pub fn raise_signal(signal: c_int) {
    // SAFETY: no preconditions.
    assert_eq!(unsafe { raise(signal) }, 0);
}

/// Maps zeroed memory, at a fixed place where `at` says so.
pub fn map(at: Option<*mut u8>, len: usize, prot: c_int) -> *mut u8 {
    let fixed = if at.is_some() { MAP_FIXED } else { 0 };
    let at = at.unwrap_or(std::ptr::null_mut());
    // SAFETY: fixed addresses are only those of an earlier mapping that nothing else uses.
    let p = unsafe { mmap(at.cast(), len, prot, MAP_PRIVATE | MAP_ANONYMOUS | fixed, -1, 0) };
    assert_ne!(p as isize, -1, "mmap failed");
    p.cast()
}

pub fn protect(at: *mut u8, len: usize, prot: c_int) {
    // SAFETY: only called on mappings of this program's own.
    assert_eq!(unsafe { mprotect(at.cast(), len, prot) }, 0);
}

/// Runs `f` in a child process; returns the wait status.
pub fn in_child(f: impl FnOnce() -> c_int) -> c_int {
    use std::io::Write;
    std::io::stdout().flush().expect("stdout");
    let mut status = 0;
    // SAFETY: called where there is one thread only; the child ends without unwinding.
    unsafe {
        match fork() {
            0 => _exit(f()),
            pid => {
                assert!(pid > 0, "fork failed");
                assert_eq!(waitpid(pid, &raw mut status, 0), pid);
            }
        }
    }
    status
}

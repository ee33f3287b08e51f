//! Exceptions that the host raises in code that was made for the guest: unmasked floating-point exceptions, divisions,
//! addresses that are not canonical or not aligned.
//!
//! They come as signals. In a thunk of the interpreter one leads to the thunk's early end; in translated code, to the
//! stub that leaves it.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What is called at a signal: its number, what is known of it, the registers.
type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);

static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static EXIT: AtomicUsize = AtomicUsize::new(0);

/// The translated code that a thread runs.
#[derive(Clone, Copy)]
struct Translated {
    start: usize,
    end: usize,
    exit: usize,
    /// Where the address of the faulting instruction is put.
    place: *mut u64,
    /// Where RFLAGS are put.
    flags: *mut u64,
}

thread_local! {
    static TRANSLATED: Cell<Translated> =
        const { Cell::new(Translated { start: 0, end: 0, exit: 0, place: ptr::null_mut(), flags: ptr::null_mut() }) };
}

/// What was done before at the signals of #GP and #SS.
static FORMER: OnceLock<Vec<(libc::c_int, libc::sigaction)>> = OnceLock::new();

/// In `si_code`: the kernel knows no address, as for #GP and #SS.
const SI_KERNEL: libc::c_int = 0x80;

/// From now on exceptions of the calling thread in `code` lead to `exit`, with their address at `place` and RFLAGS at
/// `flags`.
pub(crate) fn watch_thread(code: Range<usize>, exit: usize, place: *mut u64, flags: *mut u64) {
    FORMER.get_or_init(|| {
        let catch = |signal| handle(signal, on_protection).ok().map(|former| (signal, former));
        [libc::SIGSEGV, libc::SIGBUS].into_iter().filter_map(catch).collect()
    });
    TRANSLATED.set(Translated { start: code.start, end: code.end, exit, place, flags });
}

/// Has `handler` called at `signal`, on the thread's stack for signals; gives what was done at it before.
fn handle(signal: libc::c_int, handler: Handler) -> io::Result<libc::sigaction> {
    // SAFETY: zeroed structures are valid; the handlers keep to what signal handlers may do.
    unsafe {
        let mut former: libc::sigaction = std::mem::zeroed();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        if libc::sigaction(signal, &raw const action, &raw mut former) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(former)
    }
}

/// Where the signal with this `context` has come from.
///
/// # Safety
/// The kernel has given `context` to a handler with SA_SIGINFO, which has no other reference to it.
unsafe fn place(context: &mut *mut libc::c_void) -> (&mut i64, u64) {
    // SAFETY: the caller's promise: it is a ucontext.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let flags = registers[libc::REG_EFL as usize] as u64;
    (&mut registers[libc::REG_RIP as usize], flags)
}

/// If the thread's translated code is at `rip`: leads it to its exit.
///
/// # Safety
/// The places that the thread has named in [`watch_thread`] are still there if its code runs.
unsafe fn leave_translated(rip: &mut i64, flags: u64) -> bool {
    let translated = TRANSLATED.get();
    let inside = (translated.start..translated.end).contains(&(*rip as usize));
    if inside {
        // SAFETY: the caller's promise.
        unsafe {
            *translated.place = *rip as u64;
            *translated.flags = flags;
        }
        *rip = translated.exit as i64;
    }
    inside
}

extern "C" fn on_protection(signal: libc::c_int, info: *mut libc::siginfo_t, mut context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a siginfo and a ucontext; only plain loads and stores here, and calls that
    // are safe in handlers. The thread-local needs no initialization.
    unsafe {
        let (rip, flags) = place(&mut context);
        if (*info).si_code == SI_KERNEL && leave_translated(rip, flags) {
            return;
        }
        // Not ours: it comes again, to whom it came before.
        match FORMER.get().and_then(|all| all.iter().find(|(s, _)| *s == signal)) {
            Some((_, former)) => libc::sigaction(signal, former, ptr::null_mut()),
            None => libc::signal(signal, libc::SIG_DFL) as libc::c_int,
        };
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

/// Sends a SIGFPE that comes from `code` on to `exit`, with all registers as they are.
pub(crate) fn catch_fpe(code: Range<usize>, exit: usize) -> io::Result<()> {
    EXIT.store(exit, Ordering::SeqCst);
    START.store(code.start, Ordering::SeqCst);
    END.store(code.end, Ordering::SeqCst);
    handle(libc::SIGFPE, on_fpe).map(drop)
}

extern "C" fn on_fpe(_: libc::c_int, _: *mut libc::siginfo_t, mut context: *mut libc::c_void) {
    // SAFETY: as above.
    unsafe {
        let (rip, flags) = place(&mut context);
        if (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&(*rip as usize)) {
            *rip = EXIT.load(Ordering::Relaxed) as i64;
        } else if !leave_translated(rip, flags) {
            // Not ours: let it end the process as it would have.
            libc::signal(libc::SIGFPE, libc::SIG_DFL);
        }
    }
}

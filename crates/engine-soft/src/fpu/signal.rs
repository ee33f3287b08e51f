//! Exceptions that the host raises in code that was made for the guest: unmasked floating-point exceptions, divisions.
//!
//! They come as signals. In a thunk of the interpreter one leads to the thunk's early end; in translated code, to the
//! stub that leaves it.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

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
}

thread_local! {
    static TRANSLATED: Cell<Translated> =
        const { Cell::new(Translated { start: 0, end: 0, exit: 0, place: ptr::null_mut() }) };
}

/// From now on exceptions of the calling thread in `code` lead to `exit`, with their address at `place`.
pub(crate) fn watch_thread(code: Range<usize>, exit: usize, place: *mut u64) {
    TRANSLATED.set(Translated { start: code.start, end: code.end, exit, place });
}

/// Sends a SIGFPE that comes from `code` on to `exit`, with all registers as they are.
pub(crate) fn catch_fpe(code: Range<usize>, exit: usize) -> io::Result<()> {
    EXIT.store(exit, Ordering::SeqCst);
    START.store(code.start, Ordering::SeqCst);
    END.store(code.end, Ordering::SeqCst);
    // SAFETY: a zeroed sigaction is a valid one; the handler keeps to what signal handlers may do.
    let done = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_fpe as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGFPE, &raw const action, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

extern "C" fn on_fpe(_: libc::c_int, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a ucontext; only plain loads and stores here, and a call that is safe
    // in handlers. The thread-local needs no initialization.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let at = *rip as usize;
        let translated = TRANSLATED.get();
        if (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at) {
            *rip = EXIT.load(Ordering::Relaxed) as i64;
        } else if (translated.start..translated.end).contains(&at) {
            *translated.place = at as u64;
            *rip = translated.exit as i64;
        } else {
            // Not ours: let it end the process as it would have.
            libc::signal(libc::SIGFPE, libc::SIG_DFL);
        }
    }
}

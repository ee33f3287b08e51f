//! Unmasked SIMD floating-point exceptions: the host raises SIGFPE at the instruction, and the thunk returns early.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

static START: AtomicUsize = AtomicUsize::new(0);
static END: AtomicUsize = AtomicUsize::new(0);
static EXIT: AtomicUsize = AtomicUsize::new(0);

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
    // in handlers.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let at = *rip as usize;
        if (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at) {
            *rip = EXIT.load(Ordering::Relaxed) as i64;
        } else {
            // Not ours: let it end the process as it would have.
            libc::signal(libc::SIGFPE, libc::SIG_DFL);
        }
    }
}

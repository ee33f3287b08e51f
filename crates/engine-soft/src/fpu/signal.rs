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
static FORMER: OnceLock<[(libc::c_int, libc::sigaction); 2]> = OnceLock::new();

/// In `si_code`: the kernel knows no address, as for #GP and #SS.
const SI_KERNEL: libc::c_int = 0x80;

/// From now on exceptions of the calling thread in `code` lead to `exit`, with their address at `place` and RFLAGS at
/// `flags`.
pub(crate) fn watch_thread(code: Range<usize>, exit: usize, place: *mut u64, flags: *mut u64) {
    FORMER.get_or_init(|| [libc::SIGSEGV, libc::SIGBUS].map(|signal| (signal, catch_protection(signal))));
    TRANSLATED.set(Translated { start: code.start, end: code.end, exit, place, flags });
}

/// Has `signal` lead to the exit of translated code; gives what was done at it before.
fn catch_protection(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: zeroed structures are valid; the handler keeps to what signal handlers may do.
    unsafe {
        let mut former: libc::sigaction = std::mem::zeroed();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_protection as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, &raw mut former);
        former
    }
}

extern "C" fn on_protection(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a siginfo and a ucontext; only plain loads and stores here, and calls that
    // are safe in handlers. The thread-local needs no initialization.
    unsafe {
        let context = &mut *context.cast::<libc::ucontext_t>();
        let flags = context.uc_mcontext.gregs[libc::REG_EFL as usize] as u64;
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let at = *rip as usize;
        let translated = TRANSLATED.get();
        if (*info).si_code == SI_KERNEL && (translated.start..translated.end).contains(&at) {
            *translated.place = at as u64;
            *translated.flags = flags;
            *rip = translated.exit as i64;
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
        let flags = context.uc_mcontext.gregs[libc::REG_EFL as usize] as u64;
        let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
        let at = *rip as usize;
        let translated = TRANSLATED.get();
        if (START.load(Ordering::Relaxed)..END.load(Ordering::Relaxed)).contains(&at) {
            *rip = EXIT.load(Ordering::Relaxed) as i64;
        } else if (translated.start..translated.end).contains(&at) {
            *translated.place = at as u64;
            *translated.flags = flags;
            *rip = translated.exit as i64;
        } else {
            // Not ours: let it end the process as it would have.
            libc::signal(libc::SIGFPE, libc::SIG_DFL);
        }
    }
}

//! The terminal comes back even when the process dies of a fault: nothing runs then but a signal handler.

use std::os::fd::RawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// What a handler needs to give the terminal back.
struct Saved {
    terminal: RawFd,
    before: libc::termios,
}

static SAVED: AtomicPtr<Saved> = AtomicPtr::new(std::ptr::null_mut());

/// The signals of a process that is beyond help, with what was done at them before.
static FORMER: OnceLock<[(libc::c_int, libc::sigaction); 4]> = OnceLock::new();

/// From now on, dying gives `terminal` its mode `before` back.
pub(crate) fn arm(terminal: RawFd, before: libc::termios) {
    FORMER.get_or_init(|| [libc::SIGABRT, libc::SIGSEGV, libc::SIGBUS, libc::SIGILL].map(|s| (s, catch(s))));
    disarm();
    SAVED.store(Box::into_raw(Box::new(Saved { terminal, before })), Ordering::SeqCst);
}

/// The terminal has its mode back.
pub(crate) fn disarm() {
    let saved = SAVED.swap(std::ptr::null_mut(), Ordering::SeqCst);
    if !saved.is_null() {
        // SAFETY: it comes from `Box::into_raw`, and the swap has made it ours alone.
        drop(unsafe { Box::from_raw(saved) });
    }
}

/// Has `signal` caught; gives what was done at it before.
fn catch(signal: libc::c_int) -> libc::sigaction {
    // SAFETY: zeroed structures are valid; the handler keeps to what handlers may do.
    unsafe {
        let mut former: libc::sigaction = std::mem::zeroed();
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, &raw mut former);
        former
    }
}

extern "C" fn on_signal(signal: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let saved = SAVED.swap(std::ptr::null_mut(), Ordering::SeqCst);
    // SAFETY: whoever swaps the pointer out owns it, and it is leaked here, for freeing is not for handlers; the calls are
    // on POSIX's list of those that are (XSH 2.4.3).
    unsafe {
        if !saved.is_null() {
            libc::tcsetattr((*saved).terminal, libc::TCSANOW, &raw const (*saved).before);
        }
        if let Some((_, former)) = FORMER.get().and_then(|all| all.iter().find(|(s, _)| *s == signal)) {
            libc::sigaction(signal, former, std::ptr::null_mut());
        }
        // A fault comes again by itself when this returns; what somebody has sent does not.
        if (*info).si_code <= 0 {
            libc::raise(signal);
        }
    }
}

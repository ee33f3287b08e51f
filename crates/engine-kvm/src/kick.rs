//! Getting a vCPU's thread out of the kernel, without lost wake-ups.
//!
//! Who wants attention says why ([`Seat`]'s flags), sets `immediate_exit` in the run page, and, if the thread is about
//! to enter the guest or in it, sends it a signal. The thread clears `immediate_exit` *before* it looks at the flags: a
//! flag raised later leaves `immediate_exit` set, so the next entry returns at once.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use crate::run_page::RunPage;

/// What other threads know of a vCPU.
pub(crate) struct Seat {
    page: RunPage,
    /// Somebody wants the run to end.
    kicked: AtomicBool,
    /// The level of the PIC's INTR.
    extint: Arc<AtomicBool>,
    /// The kernel's number of the thread that is in the guest or about to be, else zero.
    inside: AtomicI32,
}

impl Seat {
    pub(crate) fn new(page: RunPage) -> Self {
        Self { page, kicked: AtomicBool::new(false), extint: Arc::default(), inside: AtomicI32::new(0) }
    }

    pub(crate) fn page(&self) -> &RunPage {
        &self.page
    }

    /// Ends the run that is under way, or else the next one.
    pub(crate) fn kick(&self) {
        self.kicked.store(true, Ordering::SeqCst);
        self.attend();
    }

    /// Drives INTR.
    pub(crate) fn set_extint(&self, high: bool) {
        // Of a falling level nobody has to be told: the PIC is asked before it is believed.
        if !self.extint.swap(high, Ordering::SeqCst) && high {
            self.attend();
        }
    }

    /// The level of INTR.
    pub(crate) fn extint(&self) -> bool {
        self.extint.load(Ordering::SeqCst)
    }

    /// Where the level of INTR is kept.
    pub(crate) fn extint_cell(&self) -> &Arc<AtomicBool> {
        &self.extint
    }

    /// Has the thread leave the guest and look at its flags.
    fn attend(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
        let thread = self.inside.load(Ordering::SeqCst);
        if thread != 0 {
            // SAFETY: the call touches no memory. A thread that has ended meanwhile gives an error, of no interest; one
            // of this process that has got its number runs an empty handler.
            unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
        }
    }

    /// Begins an entry: takes the kick if there is one. To be called before all other flags are looked at.
    pub(crate) fn take_kick(&self) -> bool {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
        self.kicked.swap(false, Ordering::SeqCst)
    }

    /// Has the next entry end what is unfinished and run nothing else.
    pub(crate) fn stay_out(&self) {
        self.page.immediate_exit().store(1, Ordering::SeqCst);
    }

    /// Has the next entry go as far as it can; what others want is found at the next [`Seat::take_kick`].
    pub(crate) fn let_in(&self) {
        self.page.immediate_exit().store(0, Ordering::SeqCst);
    }

    /// Whether an entry after [`Seat::let_in`] may have been kept out all the same.
    pub(crate) fn was_kept_out(&self) -> bool {
        self.page.immediate_exit().load(Ordering::SeqCst) != 0
    }

    /// From here on `thread` gets signals.
    pub(crate) fn enter(&self, thread: i32) {
        self.inside.store(thread, Ordering::SeqCst);
    }

    /// From here on the thread gets no more signals.
    pub(crate) fn leave(&self) {
        self.inside.store(0, Ordering::Release);
    }
}

/// The signal that takes a thread out of the guest.
fn signal() -> libc::c_int {
    // The first few belong to libraries and debuggers by habit.
    libc::SIGRTMIN() + 4
}

extern "C" fn nothing(_: libc::c_int) {}

/// Makes the signal harmless for the process and lets it through to this thread. Gives the thread's number.
pub(crate) fn prepare_thread() -> io::Result<i32> {
    static INSTALLED: OnceLock<Option<i32>> = OnceLock::new();
    let error = INSTALLED.get_or_init(|| {
        // SAFETY: zeroes are a valid value of that plain type.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as *const () as libc::sighandler_t;
        // KVM_RUN never restarts; other calls of the thread are not to suffer.
        action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
        // SAFETY: the handler does nothing, so it may run at any time on any thread.
        let failed = unsafe { libc::sigaction(signal(), &raw const action, std::ptr::null_mut()) } != 0;
        failed.then(|| io::Error::last_os_error().raw_os_error().unwrap_or(libc::EINVAL))
    });
    if let Some(error) = error {
        return Err(io::Error::from_raw_os_error(*error));
    }
    // SAFETY: the set is written by `sigemptyset` before it is read.
    let error = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut())
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the call has no conditions.
    Ok(unsafe { libc::gettid() })
}

/// Calls `enter` while the signal is pending for this thread, which is `thread`, and blocked; with the mask of the signals that
/// are otherwise blocked (number `n` is bit `n - 1`).
pub(crate) fn with_signal_pending<T>(thread: i32, enter: impl FnOnce(u64) -> T) -> io::Result<T> {
    // SAFETY: the sets are written before they are read; the first word of a set is the kernel's part of it.
    let (error, old, mask) = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        let mut old: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal());
        let error = libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, &raw mut old);
        (error, old, (&raw const old).cast::<u64>().read())
    };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    // SAFETY: the call touches no memory; the signal waits until it is let through.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
    let result = enter(mask & !(1 << (signal() - 1)));
    // SAFETY: a set as it was before; the signal comes now, and its handler does nothing.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const old, std::ptr::null_mut()) };
    Ok(result)
}

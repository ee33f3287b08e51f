//! Signals: raised, sent, and raised by faults.

use std::ffi::{c_int, c_void};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::call;
use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("signal-raise", "6,000 signals raised, handled, returned from", raise),
    Workload::new("signal-fault", "4,000 writes to protected pages, handled by mprotect", fault),
    Workload::new("signal-processes", "1,000 signals back and forth between two processes", between),
    Workload::new("trap", "5,000 breakpoints and divisions by zero, handled", trap),
];

static COUNT: AtomicU64 = AtomicU64::new(0);

fn handle(signal: c_int, handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)) {
    // SAFETY: a structure of plain data, filled before it is used; the handlers touch atomics and make system calls.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        call::checked("sigaction", libc::sigaction(signal, &raw const action, std::ptr::null_mut()));
    }
}

extern "C" fn count(_: c_int, _: *mut libc::siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, Relaxed);
}

fn raise() -> Unit {
    handle(libc::SIGUSR1, count);
    Box::new(|| {
        COUNT.store(0, Relaxed);
        for _ in 0..6_000 {
            // SAFETY: the signal has a handler.
            unsafe { libc::raise(libc::SIGUSR1) };
        }
        COUNT.load(Relaxed)
    })
}

extern "C" fn open_page(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    COUNT.fetch_add(1, Relaxed);
    // SAFETY: the kernel hands the information over; the only protected pages are those of the workload.
    let page = unsafe { (*info).si_addr() } as usize & !0xfff;
    call::protect(page as *mut u8, 4096, libc::PROT_READ | libc::PROT_WRITE);
}

fn fault() -> Unit {
    const PAGES: usize = 100;
    let pages = call::map(PAGES * 4096, libc::PROT_READ | libc::PROT_WRITE);
    handle(libc::SIGSEGV, open_page);
    Box::new(move || {
        COUNT.store(0, Relaxed);
        for round in 0..40 {
            call::protect(pages, PAGES * 4096, libc::PROT_READ);
            for page in 0..PAGES {
                // SAFETY: inside of the mapping; the handler makes it writable.
                unsafe { pages.add(page * 4096 + round).write_volatile(1) };
            }
        }
        COUNT.load(Relaxed)
    })
}

fn between() -> Unit {
    Box::new(|| {
        // Both hold the signal back and take it by sigwait, so that none is lost.
        // SAFETY: a set of plain data, filled before it is used.
        let set = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGUSR2);
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            set
        };
        let wait = move || {
            let mut got = 0;
            // SAFETY: a set and room for the signal.
            unsafe { libc::sigwait(&raw const set, &raw mut got) };
            u64::from(got == libc::SIGUSR2)
        };
        let send = |to: c_int| {
            // SAFETY: no preconditions.
            call::checked("kill", unsafe { libc::kill(to, libc::SIGUSR2) });
        };
        let parent = std::process::id() as c_int;
        let child = call::child(|| {
            for _ in 0..500 {
                wait();
                send(parent);
            }
            0
        });
        let count = (0..500).map(|_| {
            send(child);
            wait()
        });
        let count = count.sum();
        call::wait_well(child);
        count
    })
}

extern "C" fn skip(signal: c_int, _: *mut libc::siginfo_t, context: *mut c_void) {
    COUNT.fetch_add(if signal == libc::SIGTRAP { 1 } else { 1000 }, Relaxed);
    if signal == libc::SIGFPE {
        // SAFETY: the kernel hands the context over; DIV ECX, two bytes long, is the only faulting instruction.
        unsafe { (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs[libc::REG_RIP as usize] += 2 };
    }
}

fn trap() -> Unit {
    handle(libc::SIGTRAP, skip);
    handle(libc::SIGFPE, skip);
    Box::new(|| {
        COUNT.store(0, Relaxed);
        for _ in 0..2_500 {
            // SAFETY: both instructions end in the handler, which goes on behind them.
            unsafe {
                std::arch::asm!("int3", "xor edx, edx", "div ecx", in("ecx") 0, inout("eax") 7 => _, out("edx") _);
            }
        }
        COUNT.load(Relaxed)
    })
}

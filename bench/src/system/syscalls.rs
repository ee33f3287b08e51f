//! System calls that do little.

use std::hint::black_box;
use std::time::Instant;

use super::call;
use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("getppid", "40,000 calls of getppid", || {
        repeat(40_000, || {
            // SAFETY: no preconditions.
            u64::from(unsafe { libc::getppid() } >= 0)
        })
    }),
    Workload::new("clock", "60,000 times the time of day, by the vDSO where the kernel offers it", || {
        let start = Instant::now();
        repeat(60_000, move || u64::from(black_box(Instant::now()) >= start))
    }),
    Workload::new("read-write", "10,000 times one byte from /dev/zero to /dev/null", || {
        let [zero, null] = [(c"/dev/zero", libc::O_RDONLY), (c"/dev/null", libc::O_WRONLY)].map(|(path, how)| {
            // SAFETY: the path ends in a zero.
            call::checked("open", unsafe { libc::open(path.as_ptr(), how) })
        });
        repeat(10_000, move || {
            let mut byte = [1];
            call::read(zero, &mut byte);
            call::write(null, &byte);
            u64::from(byte[0])
        })
    }),
    Workload::new("mixed-calls", "getpid, getuid, umask, sigprocmask, fcntl, lseek in turn", || {
        repeat(4_000, || {
            // SAFETY: calls without or with valid arguments.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigprocmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut set);
                let mask = libc::umask(0o22);
                libc::umask(mask);
                let flags = libc::fcntl(1, libc::F_GETFD);
                libc::lseek(0, 0, libc::SEEK_CUR);
                u64::from(libc::getuid() == libc::geteuid()) + u64::from(flags >= 0)
            }
        })
    }),
    Workload::new("yield", "20,000 times sched_yield with nobody to yield to", || {
        repeat(20_000, || {
            // SAFETY: no preconditions.
            u64::from(unsafe { libc::sched_yield() } == 0)
        })
    }),
];

fn repeat(count: u64, mut f: impl FnMut() -> u64 + 'static) -> Unit {
    Box::new(move || (0..count).map(|_| f()).sum())
}

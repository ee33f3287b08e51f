//! This process and the host that it runs on.

use std::ffi::CString;
use std::time::Duration;

/// Names the calling thread; the main thread's name is what `top` and `pgrep` show for the process. The host keeps 15 bytes
/// of it; anything from a NUL on is left out.
pub fn name_thread(name: &str) {
    let bytes: Vec<u8> = name.bytes().take_while(|b| *b != 0).take(15).collect();
    let Ok(name) = CString::new(bytes) else { return };
    // SAFETY: PR_SET_NAME reads a NUL-terminated string and nothing else.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// The host's memory in bytes, `None` when it does not tell.
#[must_use]
pub fn memory_bytes() -> Option<u64> {
    let pages = sysconf(libc::_SC_PHYS_PAGES)?;
    pages.checked_mul(sysconf(libc::_SC_PAGESIZE)?)
}

/// The host's CPUs that are online, `None` when it does not tell.
#[must_use]
pub fn online_cpus() -> Option<u64> {
    sysconf(libc::_SC_NPROCESSORS_ONLN)
}

/// The CPU time that the calling thread has used, in user and system mode.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes one timespec.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn sysconf(name: libc::c_int) -> Option<u64> {
    // SAFETY: sysconf takes a number and touches no memory of ours.
    u64::try_from(unsafe { libc::sysconf(name) }).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_bears_its_name() {
        std::thread::spawn(|| {
            super::name_thread("a-very-long-name-of-a-vm");
            let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_eq!(comm.trim_end(), "a-very-long-nam");
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_thread_knows_its_own_time() {
        while super::thread_cpu_time() < std::time::Duration::from_millis(50) {}
        let of_a_new_one = std::thread::spawn(super::thread_cpu_time).join().unwrap();
        assert!(of_a_new_one < super::thread_cpu_time());
    }

    #[test]
    fn the_host_tells_its_size() {
        assert!(super::memory_bytes().unwrap() > 1 << 20);
        assert!(super::online_cpus().unwrap() >= 1);
    }
}

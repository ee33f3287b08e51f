//! Calls of the C library that the standard library does not offer, each checked.

use std::ffi::c_int;
use std::io;

/// The result of a call, or the end of the program with the reason.
pub(crate) fn checked(what: &str, result: c_int) -> c_int {
    assert!(result >= 0, "{what}: {}", io::Error::last_os_error());
    result
}

/// Runs `f` in a child process; returns the wait status.
pub(crate) fn in_child(f: impl FnOnce() -> c_int) -> c_int {
    wait(child(f))
}

/// Starts a child process that runs `f` and ends without unwinding.
pub(crate) fn child(f: impl FnOnce() -> c_int) -> c_int {
    // SAFETY: called where there is one thread only.
    match unsafe { libc::fork() } {
        // SAFETY: no preconditions.
        0 => unsafe { libc::_exit(f()) },
        pid => checked("fork", pid),
    }
}

/// Waits for a child process; returns the wait status.
pub(crate) fn wait(pid: c_int) -> c_int {
    let mut status = 0;
    // SAFETY: room for the status.
    checked("waitpid", unsafe { libc::waitpid(pid, &raw mut status, 0) });
    status
}

/// Waits for a child process that must end well.
pub(crate) fn wait_well(pid: c_int) {
    assert_eq!(wait(pid), 0, "a child has failed");
}

/// The two ends of a pipe: to read, to write.
pub(crate) fn pipe() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for both.
    checked("pipe", unsafe { libc::pipe(ends.as_mut_ptr()) });
    ends
}

/// A pair of connected sockets.
pub(crate) fn sockets() -> [c_int; 2] {
    let mut ends = [0; 2];
    // SAFETY: room for both.
    checked("socketpair", unsafe { libc::socketpair(libc::AF_UNIX, libc::SOCK_STREAM, 0, ends.as_mut_ptr()) });
    ends
}

/// Closes descriptors.
pub(crate) fn close(descriptors: &[c_int]) {
    for descriptor in descriptors {
        // SAFETY: descriptors that their owner gives up.
        checked("close", unsafe { libc::close(*descriptor) });
    }
}

/// Writes all bytes at once.
pub(crate) fn write(to: c_int, bytes: &[u8]) {
    // SAFETY: so many bytes are there.
    let written = unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
    assert_eq!(written, bytes.len() as isize, "write: {}", io::Error::last_os_error());
}

/// Reads what comes, at most as much as there is room; returns how much.
pub(crate) fn read(from: c_int, bytes: &mut [u8]) -> usize {
    // SAFETY: so much room is there.
    let got = unsafe { libc::read(from, bytes.as_mut_ptr().cast(), bytes.len()) };
    assert!(got >= 0, "read: {}", io::Error::last_os_error());
    got as usize
}

/// Maps zeroed private memory.
pub(crate) fn map(len: usize, rights: c_int) -> *mut u8 {
    map_as(len, rights, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1)
}

/// Maps memory or a file.
pub(crate) fn map_as(len: usize, rights: c_int, flags: c_int, file: c_int) -> *mut u8 {
    // SAFETY: the kernel chooses a free place.
    let place = unsafe { libc::mmap(std::ptr::null_mut(), len, rights, flags, file, 0) };
    assert!(place != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    place.cast()
}

/// Gives a mapping back.
pub(crate) fn unmap(place: *mut u8, len: usize) {
    // SAFETY: callers give back mappings of their own that nothing uses any longer.
    checked("munmap", unsafe { libc::munmap(place.cast(), len) });
}

/// Changes the rights of a mapping.
pub(crate) fn protect(place: *mut u8, len: usize, rights: c_int) {
    // SAFETY: callers change mappings of their own.
    checked("mprotect", unsafe { libc::mprotect(place.cast(), len, rights) });
}

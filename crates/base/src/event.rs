//! A counter of the kernel that wakes who waits for it: one side signals, the other takes.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd};

/// An eventfd (eventfd(2)). Signals that nobody has taken yet add up; taking them takes all.
#[derive(Debug)]
pub struct Event(File);

impl Event {
    /// An event that has not been signalled.
    ///
    /// # Errors
    /// The host's refusal, as when the process has too many open files.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the call touches no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        Ok(Self(unsafe { File::from_raw_fd(fd) }))
    }

    /// Another handle of the same event.
    ///
    /// # Errors
    /// The host's refusal, as when the process has too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Signals it. Never blocks.
    pub fn signal(&self) {
        // The one error, that the counter is full, says that it is signalled already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Takes the signals so far: how many there were.
    #[must_use]
    pub fn take(&self) -> u64 {
        let mut count = [0; 8];
        match (&self.0).read(&mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_add_up_and_are_taken_at_once() {
        let event = Event::new().unwrap();
        assert_eq!(event.take(), 0);
        event.signal();
        event.try_clone().unwrap().signal();
        assert_eq!((event.take(), event.take()), (2, 0));
    }
}

//! Pseudo-terminals: a terminal whose other end is a program.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use crate::WindowSize;

/// A new pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The program's end: it reads what is shown and writes what is typed.
    pub program: File,
    /// The end that behaves as a terminal.
    pub terminal: OwnedFd,
}

impl Pty {
    /// Opens one whose window has this size.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn open(size: WindowSize) -> io::Result<Self> {
        let (mut program, mut terminal) = (-1, -1);
        let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: openpty writes two descriptors and reads the size; the other two pointers may be null.
        let result = unsafe {
            libc::openpty(
                &raw mut program,
                &raw mut terminal,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                (&raw const size).cast_mut(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        for fd in [program, terminal] {
            // SAFETY: the descriptor is ours and open; the flag keeps it out of children.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
        // SAFETY: both descriptors are new and nobody else's.
        unsafe { Ok(Self { program: File::from_raw_fd(program), terminal: OwnedFd::from_raw_fd(terminal) }) }
    }
}

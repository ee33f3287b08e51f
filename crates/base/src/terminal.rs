//! The terminal: raw mode and the size of its window (POSIX.1-2017, chapter 11).

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::last_resort;

/// What is needed to give the terminal back; global, so that a panic hook can do it too.
static CURRENT: Mutex<Option<Modes>> = Mutex::new(None);

struct Modes {
    terminal: OwnedFd,
    before: libc::termios,
    raw: libc::termios,
}

fn current() -> MutexGuard<'static, Option<Modes>> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The process's terminal in raw mode: every byte comes as it is typed, and none means anything to the terminal itself.
/// The mode from before comes back when this is dropped, or by [`RawMode::restore`].
#[derive(Debug)]
pub struct RawMode(());

impl RawMode {
    /// Puts `terminal` into raw mode; `None` if it is no terminal.
    ///
    /// # Errors
    /// The host's refusal; `AlreadyExists` while another one is in raw mode.
    pub fn enter(terminal: impl AsFd) -> io::Result<Option<Self>> {
        let terminal = terminal.as_fd();
        if !terminal.is_terminal() {
            return Ok(None);
        }
        let mut current = current();
        if current.is_some() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let terminal = terminal.try_clone_to_owned()?;
        let before = attributes(&terminal)?;
        let mut raw = before;
        // SAFETY: cfmakeraw changes the fields of the structure that it is handed.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        set_attributes(&terminal, &raw)?;
        last_resort::arm(terminal.as_raw_fd(), before);
        *current = Some(Modes { terminal, before, raw });
        Ok(Some(Self(())))
    }

    /// Whether a terminal of this process is in raw mode, so that lines need a carriage return.
    #[must_use]
    pub fn is_on() -> bool {
        current().is_some()
    }

    /// Gives the terminal back its mode from before, from wherever. No effect if there is none in raw mode.
    pub fn restore() {
        if let Some(modes) = current().take() {
            // A terminal that is gone needs no mode.
            let _ = set_attributes(&modes.terminal, &modes.before);
            last_resort::disarm();
        }
    }

    /// Sets raw mode again, after a shell has changed it while the process was stopped.
    pub fn renew() {
        if let Some(modes) = &*current() {
            // As in `restore`.
            let _ = set_attributes(&modes.terminal, &modes.raw);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        Self::restore();
    }
}

fn attributes(terminal: &OwnedFd) -> io::Result<libc::termios> {
    // SAFETY: a termios of zeroes is a valid value of that plain type.
    let mut attributes: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: the call writes to the structure, which lives.
    check(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut attributes) })?;
    Ok(attributes)
}

fn set_attributes(terminal: &OwnedFd, attributes: &libc::termios) -> io::Result<()> {
    // SAFETY: the call reads the structure, which lives.
    check(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSADRAIN, attributes) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Whether the terminal is for people: it echoes, edits lines and makes signals of keys.
///
/// # Errors
/// The host's refusal, as for what is no terminal.
pub fn is_cooked(terminal: impl AsFd) -> io::Result<bool> {
    let all = libc::ECHO | libc::ICANON | libc::ISIG;
    Ok(attributes(&terminal.as_fd().try_clone_to_owned()?)?.c_lflag & all == all)
}

/// The size of a terminal's window in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// The height.
    pub rows: u16,
    /// The width.
    pub columns: u16,
}

/// The size of the window, `None` when it is no terminal or does not tell.
#[must_use]
pub fn window_size(terminal: impl AsFd) -> Option<WindowSize> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize to the place given, which lives.
    let result = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (result == 0 && size.ws_row != 0 && size.ws_col != 0)
        .then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pty;

    #[test]
    fn raw_mode_comes_and_goes() {
        let pty = Pty::open(WindowSize { rows: 30, columns: 100 }).unwrap();
        let echoes = || is_cooked(&pty.terminal).unwrap();
        assert!(echoes());
        assert_eq!(window_size(&pty.terminal), Some(WindowSize { rows: 30, columns: 100 }));
        let raw = RawMode::enter(&pty.terminal).unwrap();
        assert!(raw.is_some() && RawMode::is_on() && !echoes());
        assert!(RawMode::enter(&pty.terminal).is_err());
        drop(raw);
        assert!(!RawMode::is_on() && echoes());
        assert!(RawMode::enter(std::fs::File::open("/dev/null").unwrap()).unwrap().is_none());
    }
}

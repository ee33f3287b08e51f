//! The signals that ask the process to do something.

use std::io;

use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;

/// A signal that asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// Somebody wants the process to end: SIGTERM, SIGINT, SIGQUIT or SIGHUP, as the number.
    Terminate(i32),
    /// The process goes on after it was stopped; who holds the terminal may have changed its mode.
    Continue,
}

/// The asking signals, no longer deadly: they come out of [`Interrupts::wait`].
pub struct Interrupts(Signals);

impl Interrupts {
    /// Takes the signals over. Those that the parent has us ignore (as `nohup` does) stay ignored.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn take() -> io::Result<Self> {
        let asking = [SIGTERM, SIGINT, SIGQUIT, SIGHUP].into_iter().filter(|s| !is_ignored(*s));
        Ok(Self(Signals::new(asking.chain([SIGCONT]))?))
    }

    /// Waits for the next one; `None` when there will be no more.
    pub fn wait(&mut self) -> Option<Interrupt> {
        self.0.forever().next().map(|signal| match signal {
            SIGCONT => Interrupt::Continue,
            other => Interrupt::Terminate(other),
        })
    }
}

fn is_ignored(signal: i32) -> bool {
    // SAFETY: a sigaction of zeroes is a valid value of that plain type.
    let mut old: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: with no new action the call only writes the old one to the place given.
    let ok = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut old) } == 0;
    ok && old.sa_sigaction == libc::SIG_IGN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_comes_out() {
        let mut interrupts = Interrupts::take().unwrap();
        signal_hook::low_level::raise(SIGHUP).unwrap();
        assert_eq!(interrupts.wait(), Some(Interrupt::Terminate(SIGHUP)));
        signal_hook::low_level::raise(SIGCONT).unwrap();
        assert_eq!(interrupts.wait(), Some(Interrupt::Continue));
    }
}

//! A progress bar on standard error.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use super::args::Telling;
use crate::size;

/// How often it is drawn at most.
const PERIOD: Duration = Duration::from_millis(200);
const WIDTH: u64 = 32;

/// What has been done of something.
pub(crate) struct Progress {
    total: u64,
    done: u64,
    start: Instant,
    drawn: Option<Instant>,
    shown: bool,
    terminal: bool,
}

impl Progress {
    /// Nothing of so many bytes.
    pub(crate) fn new(total: u64, telling: Telling) -> Self {
        let terminal = stderr().is_terminal();
        let shown = !telling.quiet && (terminal || telling.progress);
        Self { total, done: 0, start: Instant::now(), drawn: None, shown, terminal }
    }

    /// So many bytes more are done.
    pub(crate) fn add(&mut self, bytes: u64) {
        self.done += bytes;
        if self.shown && self.drawn.is_none_or(|at| at.elapsed() >= PERIOD) {
            self.draw();
        }
    }

    /// All is done: the line goes on a terminal, and ends elsewhere.
    pub(crate) fn finish(mut self) {
        self.done = self.total;
        self.clear();
    }

    fn clear(&mut self) {
        if !self.shown || (self.drawn.is_none() && self.terminal) {
            return;
        }
        if self.terminal {
            let _ = write!(stderr(), "\r\x1b[K");
        } else {
            self.draw();
            let _ = writeln!(stderr());
        }
        self.shown = false;
    }

    fn draw(&mut self) {
        self.drawn = Some(Instant::now());
        let total = self.total.max(1);
        let part = |of: u64| (u128::from(self.done.min(total)) * u128::from(of) / u128::from(total)) as u64;
        let filled = part(WIDTH) as usize;
        let bar = format!("{}{}", "#".repeat(filled), ".".repeat(WIDTH as usize - filled));
        let seconds = self.start.elapsed().as_secs_f64();
        // A decimal is for the reader only.
        let speed = size::show((self.done as f64 / seconds.max(0.001)) as u64);
        let line = format!("[{bar}] {:3} % of {}, {speed}/s", part(100), size::show(self.total));
        // With standard error gone there is nobody to tell.
        let _ = write!(stderr(), "\r{line}{}", if self.terminal { "\x1b[K" } else { "" });
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

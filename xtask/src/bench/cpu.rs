//! The CPU time of another process (Linux, Documentation/filesystems/proc.rst and scheduler/sched-stats.rst).

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// The CPU time of a process, user and system, of all threads that it has or had.
pub(super) struct CpuTime {
    pid: u32,
    /// Each thread's last known time: those that have ended count on.
    threads: HashMap<String, u64>,
}

impl CpuTime {
    /// The time of a process that has just been started.
    pub(super) fn of(pid: u32) -> Self {
        Self { pid, threads: HashMap::new() }
    }

    /// Its time until now. The time of a thread that runs at this moment may be a few milliseconds old.
    pub(super) fn now(&mut self) -> Result<Duration> {
        let folder = format!("/proc/{}/task", self.pid);
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {folder}"))?;
        for entry in entries.flatten() {
            // A thread may end while it is looked at.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            if let Some(time) = nanoseconds(&text) {
                self.threads.insert(entry.file_name().to_string_lossy().into_owned(), time);
            }
        }
        if self.threads.is_empty() {
            return self.ticks();
        }
        Ok(Duration::from_nanos(self.threads.values().sum()))
    }

    /// Its time when it has come to rest: what it does once it waits for us.
    pub(super) fn at_rest(&mut self) -> Result<Duration> {
        let mut last = self.now()?;
        for _ in 0..100 {
            std::thread::sleep(Duration::from_millis(2));
            let now = self.now()?;
            if now - last < Duration::from_micros(150) {
                return Ok(now);
            }
            last = now;
        }
        Ok(last)
    }

    /// Where the kernel keeps no statistics of its scheduler: in hundredths of a second.
    fn ticks(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.pid);
        let stat = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Ok(Duration::from_millis(ticks(&stat) * 10))
    }
}

/// The first field of a thread's `schedstat`: time on the CPU.
fn nanoseconds(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15 of `stat`, counted behind the name in parentheses.
fn ticks(stat: &str) -> u64 {
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    fields.get(11..13).unwrap_or_default().iter().filter_map(|f| f.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_tables_are_read() {
        assert_eq!(nanoseconds("123456789 39263 1\n"), Some(123_456_789));
        assert_eq!(nanoseconds(""), None);
        let stat = "42 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 31 0 0 20";
        assert_eq!(ticks(stat), 281);
        assert_eq!(ticks("nonsense"), 0);
    }

    #[test]
    fn work_takes_time_and_the_time_of_a_process_grows() {
        let mut time = CpuTime::of(std::process::id());
        let before = time.now().unwrap();
        let mut sum = 1u64;
        for n in 0..30_000_000u64 {
            sum = std::hint::black_box(sum.rotate_left(5) ^ n);
        }
        assert_ne!(sum, 0);
        assert!(time.at_rest().unwrap() >= before);
    }
}

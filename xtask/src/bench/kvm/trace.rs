//! The host kernel's trace of KVM (Linux, Documentation/trace/ftrace.rst): when a process first enters its guest.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::shell;

const FOLDER: &str = "/sys/kernel/tracing";
const MARK: &str = "husk-bench-start";

/// The trace of the entries into guests, while it lives.
pub(super) struct Trace;

impl Trace {
    /// Starts it, if this kernel and this user can.
    pub(super) fn start() -> Result<Self> {
        if !Path::new(FOLDER).join("trace").exists() {
            shell::output(std::process::Command::new("mount").args(["-t", "tracefs", "tracefs", FOLDER]))?;
        }
        // What comes first counts, so nothing is to be overwritten.
        set("options/overwrite", "0")?;
        set("trace", "")?;
        set("events/kvm/kvm_entry/enable", "1")?;
        set("tracing_on", "1")?;
        Ok(Self)
    }

    /// Now is the start.
    pub(super) fn mark(&self) -> Result<()> {
        set("trace", "")?;
        set("trace_marker", MARK)
    }

    /// How long after the start a guest was entered.
    pub(super) fn first_entry(&self) -> Result<Duration> {
        let path = Path::new(FOLDER).join("trace");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        first_entry(&text).context("the trace has no entry into a guest")
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = set("events/kvm/kvm_entry/enable", "0");
        let _ = set("options/overwrite", "1");
    }
}

fn set(name: &str, value: &str) -> Result<()> {
    let path = Path::new(FOLDER).join(name);
    fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))
}

fn first_entry(trace: &str) -> Option<Duration> {
    // `comm-pid [cpu] flags seconds.microseconds: event: ...`
    let time = |line: &str| -> Option<f64> {
        let (before, _) = line.split_once(": ")?;
        before.split_whitespace().next_back()?.parse().ok()
    };
    let mut lines = trace.lines();
    let start = time(lines.find(|line| line.contains(MARK))?)?;
    let entry = time(lines.find(|line| line.contains("kvm_entry:"))?)?;
    Some(Duration::from_secs_f64((entry - start).max(0.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_entry_after_the_mark_counts() {
        let trace = "# tracer: nop\n   cpu0-7  [000] ..... 9.000000: kvm_entry: vcpu 0, rip 0x1\n \
                     xtask-9  [001] ..... 10.000500: tracing_mark_write: husk-bench-start\n \
                     cpu 0-11 [000] d..1. 10.003000: kvm_entry: vcpu 0, rip 0xfff0\n";
        assert_eq!(first_entry(trace), Some(Duration::from_micros(2500)));
        assert_eq!(first_entry("nothing"), None);
    }
}

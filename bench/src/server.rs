//! Orders on the standard input, answers on the standard output; every answer is a line that starts with `@@`.
//!
//! ```text
//! bench:  @@ ready
//! caller: run NAME UNITS
//! bench:  @@ start                     prepared; nothing runs until the caller says so
//! caller: go                           the caller has read the CPU time
//! bench:  @@ end CHECKSUM NANOSECONDS  the second as this system counts its CPU time; nothing runs
//! caller: go
//! bench:  @@ ready
//! ```
//!
//! In place of `@@ start` or `@@ end` there may be `@@ skip WHY` (the CPU lacks something) or `@@ fail WHY`. Each run
//! has a process of its own. The order `quit`, or the end of the input, ends it.

use std::io::Write;
use std::process::ExitCode;
use std::time::Instant;

use crate::cpu;
use crate::system::{call, place};
use crate::workload::{self, Unit, Workload};

/// Prints a line for the caller.
pub(crate) fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    // A line that starts anew, whatever the kernel printed meanwhile.
    let _ = write!(out, "\n@@ {what}\n");
    let _ = out.flush();
}

/// Serves until it is told to quit.
pub(crate) fn serve() {
    place::own(std::process::id());
    loop {
        say("ready");
        let Some(order) = hear() else { break };
        let words: Vec<&str> = order.split_whitespace().collect();
        match words[..] {
            ["run", name, units] => match (find(name), units.parse()) {
                (Some(workload), Ok(units)) => in_process(workload, units),
                _ => say("fail there is no such workload"),
            },
            ["quit"] => break,
            _ => say("fail the order is not understood"),
        }
    }
    place::clean();
}

/// Runs units of a workload and prints what came of it, for people.
pub(crate) fn by_hand(name: &str, units: u64) -> ExitCode {
    let Some(workload) = find(name) else {
        eprintln!("bench: there is no workload {name}");
        return ExitCode::from(2);
    };
    if let Some(feature) = cpu::missing(workload.needs) {
        eprintln!("bench: {name}: SKIPPED: this CPU has no {feature:?}");
        return ExitCode::SUCCESS;
    }
    let mut unit = (workload.make)();
    let (start, cpu) = (Instant::now(), cpu_time());
    match repeat(&mut unit, units) {
        Ok(sum) => {
            let each = |nanoseconds: u64| nanoseconds as f64 / units as f64 / 1e6;
            let (wall, cpu) = (each(start.elapsed().as_nanos() as u64), each(cpu_time() - cpu));
            println!("{name:<24} {sum:016x} {cpu:>10.3} ms CPU {wall:>10.3} ms");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("bench: {name}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs two units of each workload that has one of the texts in `group/name`, each in a process of its own, and prints
/// the checksums: lines that must be the same on every machine.
pub(crate) fn check(texts: &[&str]) -> ExitCode {
    place::own(std::process::id());
    let mut code = ExitCode::SUCCESS;
    for (group, workload) in workload::all() {
        let full = format!("{group}/{}", workload.name);
        if !texts.is_empty() && !texts.iter().any(|text| full.contains(text)) {
            continue;
        }
        let status = call::in_child(|| {
            one_cpu();
            match cpu::missing(workload.needs) {
                Some(feature) => say(&format!("checked {full} SKIPPED: the CPU has no {feature:?}")),
                None => match repeat(&mut (workload.make)(), 2) {
                    Ok(sum) => say(&format!("checked {full} {sum:016x}")),
                    Err(why) => say(&format!("checked {full} {why}")),
                },
            }
            0
        });
        if status != 0 {
            say(&format!("checked {full} ended with status {status:#x}"));
            code = ExitCode::FAILURE;
        }
    }
    place::clean();
    code
}

fn find(name: &str) -> Option<&'static Workload> {
    workload::all().map(|(_, workload)| workload).find(|workload| workload.name == name)
}

/// One line from the caller, without what ends it. Nothing is read ahead: the next line may be for a child.
fn hear() -> Option<String> {
    let mut line = Vec::new();
    loop {
        let mut byte = 0u8;
        // SAFETY: one byte of room.
        match unsafe { libc::read(0, (&raw mut byte).cast(), 1) } {
            1 if byte == b'\n' => return Some(String::from_utf8_lossy(&line).trim().to_owned()),
            1 => line.push(byte),
            _ => return None,
        }
    }
}

fn in_process(workload: &'static Workload, units: u64) {
    let status = call::in_child(|| {
        if let Some(feature) = cpu::missing(workload.needs) {
            say(&format!("skip the CPU has no {feature:?}"));
            return 0;
        }
        one_cpu();
        let mut unit = (workload.make)();
        say("start");
        if hear().is_none() {
            return 0;
        }
        let start = cpu_time();
        match repeat(&mut unit, units) {
            Ok(sum) => {
                say(&format!("end {sum:016x} {}", cpu_time() - start));
                // What the end of this process costs is no part of the work.
                hear();
            }
            Err(why) => say(&format!("fail {why}")),
        }
        0
    });
    if libc::WIFSIGNALED(status) {
        say(&format!("fail ended by signal {}", libc::WTERMSIG(status)));
    } else if libc::WEXITSTATUS(status) != 0 {
        say(&format!("fail ended with code {}", libc::WEXITSTATUS(status)));
    }
}

/// Keeps this process and its children on the CPU that it runs on: the guests have one only.
fn one_cpu() {
    // SAFETY: a set of plain data, filled before it is used.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu().max(0) as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

/// Runs units, which must all have the same checksum.
fn repeat(unit: &mut Unit, units: u64) -> Result<u64, String> {
    let first = unit();
    for n in 1..units {
        let sum = unit();
        if sum != first {
            return Err(format!("unit {n} has the checksum {sum:016x}, the first one {first:016x}"));
        }
    }
    Ok(first)
}

/// The CPU time of this process and of its children that have ended, in nanoseconds.
fn cpu_time() -> u64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN]
        .into_iter()
        .map(|who| {
            // SAFETY: the structure is plain data that getrusage fills.
            let usage = unsafe {
                let mut usage: libc::rusage = std::mem::zeroed();
                libc::getrusage(who, &raw mut usage);
                usage
            };
            [usage.ru_utime, usage.ru_stime].iter().map(|t| t.tv_sec as u64 * 1_000_000 + t.tv_usec as u64).sum::<u64>()
        })
        .sum::<u64>()
        * 1000
}

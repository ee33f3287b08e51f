//! `cargo xtask bench`: one run on this machine, Husk beside QEMU's TCG with the same kernel and initial RAM disk.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{guest, shell};

/// The guest's memory in MiB.
const MEMORY: u64 = 512;

/// What the guest runs for the second measurement: integer code, in user mode.
const LOOP: &str = "head -c 16777216 /dev/zero | sha256sum";

/// What is known of a run.
struct Run {
    /// From the start of the process to the first command in the guest.
    to_shell: Duration,
    /// What the host's CPUs worked until then.
    cpu: Duration,
    /// Resident memory at its highest, and the part of it now that is not the guest's RAM, in KiB.
    highest: u64,
    overhead: Option<u64>,
    /// How long [`LOOP`] took.
    work: Duration,
    /// What the process said in the end.
    closing: Vec<String>,
}

/// Measures and prints a table.
pub(crate) fn run() -> Result<()> {
    guest::assemble(guest::Choice::Cloud, false)?;
    let husk = shell::build_husk("release")?;
    let folder = guest::folder("cloud");
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd"));
    let append = |what: &str| format!("console=ttyS0 HUSK_RUN=\"echo ==started; sleep 2; {what}; echo ==ended\"");
    let start_husk = |what: &str| {
        let mut command = shell::command(&husk);
        command.arg("run").arg("--kernel").arg(&kernel).arg("--initrd").arg(&initrd).arg("--append").arg(append(what));
        command.arg("--memory").arg(format!("{MEMORY}M")).arg("--stats");
        command
    };
    shell::say("husk, to the shell");
    let empty = measure(&mut start_husk("true"))?;
    shell::say(&format!("husk, {LOOP}"));
    let full = measure(&mut start_husk(LOOP))?;
    println!("{:<28}{:>12}{:>12}{:>12}{:>14}{:>14}", "", "to shell", "host CPU", "loop", "highest", "beyond RAM");
    row("husk", &empty, full.work);
    if shell::installed("qemu-system-x86_64") {
        let mut qemu = shell::command("qemu-system-x86_64");
        qemu.args(["-accel", "tcg", "-cpu", "max", "-nographic", "-no-reboot", "-m", &MEMORY.to_string()]);
        qemu.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initrd).arg("-append").arg(append(LOOP));
        let qemu = measure(&mut qemu)?;
        row("qemu -accel tcg", &qemu, qemu.work);
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        let (shell, cpu) = (ratio(empty.to_shell, qemu.to_shell), ratio(empty.cpu, qemu.cpu));
        println!("{:<28}{shell:>11.2}x{cpu:>11.2}x{:>11.2}x", "husk / qemu", ratio(full.work, qemu.work));
    } else {
        println!("qemu-system-x86_64 is not installed (package qemu-system-x86): no comparison");
    }
    println!("\nhusk run --stats, boot only:");
    empty.closing.iter().for_each(|line| println!("  {line}"));
    println!("husk run --stats, with the loop `{LOOP}`:");
    full.closing.iter().for_each(|line| println!("  {line}"));
    if let (Some(boot), Some(all)) = (instructions(&empty), instructions(&full)) {
        let million = |n: u64, time: Duration| n as f64 / time.as_secs_f64() / 1e6;
        println!("boot: {:.1} million instructions per second of host CPU", million(boot, empty.cpu));
        println!("loop: {:.1} million instructions per second", million(all.saturating_sub(boot), full.work));
    }
    Ok(())
}

fn row(name: &str, run: &Run, work: Duration) {
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    let overhead = run.overhead.map_or_else(|| "-".into(), mib);
    let (to_shell, cpu, work, highest) = (seconds(run.to_shell), seconds(run.cpu), seconds(work), mib(run.highest));
    println!("{name:<28}{to_shell:>12}{cpu:>12}{work:>12}{highest:>14}{overhead:>14}");
}

/// The instructions that all CPUs have run, as the closing lines tell it.
fn instructions(run: &Run) -> Option<u64> {
    let line = run.closing.iter().filter(|line| line.contains("instructions"));
    let numbers = line
        .filter_map(|line| line.split_whitespace().rev().find_map(|word| word.replace([',', '_'], "").parse().ok()));
    numbers.reduce(|a: u64, b| a + b)
}

fn measure(command: &mut Command) -> Result<Run> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::shown(command)))?;
    let err = child.stderr.take();
    let closing = std::thread::spawn(move || err.map(lines).unwrap_or_default());
    let out = child.stdout.take().context("no pipe")?;
    let watched = watch(&mut child, out, start);
    if watched.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait")?;
    let closing = closing.join().unwrap_or_default();
    let run = watched.with_context(|| closing.join("\n"))?;
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", shell::shown(command), closing.join("\n"));
    }
    Ok(Run { closing, ..run })
}

fn lines(pipe: ChildStderr) -> Vec<String> {
    BufReader::new(pipe).lines().map_while(Result::ok).collect()
}

fn watch(child: &mut Child, out: ChildStdout, start: Instant) -> Result<Run> {
    let mut reader = BufReader::new(out);
    let mut line = Vec::new();
    let mut begun: Option<Run> = None;
    let mut last = start;
    while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
        let text = String::from_utf8_lossy(&line).into_owned();
        line.clear();
        match &mut begun {
            None if text.starts_with("==started") => {
                let (cpu, highest, overhead) = usage(child.id())?;
                begun = Some(Run {
                    to_shell: start.elapsed(),
                    cpu,
                    highest,
                    overhead,
                    work: Duration::ZERO,
                    closing: Vec::new(),
                });
                // The guest sleeps now.
                last = Instant::now() + Duration::from_secs(2);
            }
            Some(run) if text.starts_with("==ended") => run.work = last.elapsed(),
            _ => {}
        }
    }
    begun.context("the guest has not come to its shell")
}

/// CPU time, the highest resident size and what of it is not guest RAM, of a running process.
fn usage(pid: u32) -> Result<(Duration, u64, Option<u64>)> {
    let read = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    };
    // Fields 14 and 15, counted behind the name in parentheses; in hundredths of a second on every Linux that matters.
    let stat = read("stat")?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields.get(11..13).unwrap_or_default().iter().filter_map(|f| f.parse::<u64>().ok()).sum();
    let kib = |text: &str, key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let status = read("status")?;
    let (highest, resident) = (kib(&status, "VmHWM:"), kib(&status, "VmRSS:"));
    Ok((Duration::from_millis(ticks * 10), highest, guest_ram(&read("smaps")?).map(|ram| resident.saturating_sub(ram))))
}

/// The resident part of the mapping that is the guest's RAM: as large as it, or a little larger, and not code.
fn guest_ram(smaps: &str) -> Option<u64> {
    let mut size = None;
    let mut writable = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next().unwrap_or_default()) {
            ("Size:", n) => size = n.parse::<u64>().ok(),
            ("Rss:", n)
                if writable && size.is_some_and(|kib| ((MEMORY - 1) << 10..(MEMORY + 64) << 10).contains(&kib)) =>
            {
                return n.parse().ok();
            }
            (range, rights) if range.contains('-') => writable = rights.starts_with("rw-"),
            _ => {}
        }
    }
    None
}

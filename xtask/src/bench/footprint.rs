//! The guest of every day: how long it takes to its shell, and how much memory the process takes beyond the guest's.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::cpu::CpuTime;
use super::machine::{self, MEMORY};
use crate::{guest, shell};

/// What is known of a boot to the shell.
pub(super) struct Footprint {
    name: &'static str,
    /// From the start of the process to the first command in the guest.
    to_shell: Duration,
    /// What the host's CPUs worked until then.
    cpu: Duration,
    /// Resident memory at its highest, and the part of it then that is not the guest's RAM, in KiB.
    highest: u64,
    beyond: Option<u64>,
    /// What the process said in the end.
    closing: Vec<String>,
}

impl Footprint {
    /// As JSON: seconds and KiB.
    pub(super) fn json(&self) -> Value {
        json!({
            "name": self.name,
            "to_shell_s": self.to_shell.as_secs_f64(),
            "host_cpu_s": self.cpu.as_secs_f64(),
            "highest_kib": self.highest,
            "beyond_ram_kib": self.beyond,
        })
    }
}

/// Boots the default guest to its first command, in Husk and in QEMU.
pub(super) fn measure(husk: &Path, qemu: Option<&str>, husk_args: &str) -> Result<Vec<Footprint>> {
    let folder = guest::folder("cloud");
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd"));
    let append = "console=ttyS0 HUSK_RUN=\"echo ==started; sleep 2; echo ==ended\"";
    shell::say("husk, to the shell");
    let mut command = shell::command(husk);
    command.arg("run").arg("--kernel").arg(&kernel).arg("--initrd").arg(&initrd).arg("--append").arg(append);
    command.args(["--memory", &format!("{MEMORY}M"), "--stats"]).args(husk_args.split_whitespace());
    let mut all = vec![boot("husk", &mut command)?];
    if let Some(qemu) = qemu {
        shell::say("qemu, to the shell");
        let mut command = machine::qemu(qemu);
        command.arg("-kernel").arg(&kernel).arg("-initrd").arg(&initrd).arg("-append").arg(append);
        all.push(boot("tcg", &mut command)?);
    }
    Ok(all)
}

/// Prints them.
pub(super) fn print(all: &[Footprint]) {
    if all.is_empty() {
        return;
    }
    println!("\n{:<12}{:>12}{:>12}{:>14}{:>14}", "to the shell", "time", "host CPU", "highest", "beyond RAM");
    for one in all {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
        let beyond = one.beyond.map_or_else(|| "-".into(), mib);
        let (to_shell, cpu, highest) = (seconds(one.to_shell), seconds(one.cpu), mib(one.highest));
        println!("{:<12}{to_shell:>12}{cpu:>12}{highest:>14}{beyond:>14}", one.name);
    }
    for one in all.iter().filter(|one| !one.closing.is_empty()) {
        println!("what {} says of it:", one.name);
        one.closing.iter().for_each(|line| println!("  {line}"));
    }
}

fn boot(name: &'static str, command: &mut Command) -> Result<Footprint> {
    let start = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::shown(command)))?;
    let err = child.stderr.take();
    let closing = std::thread::spawn(move || {
        err.map(|err| BufReader::new(err).lines().map_while(Result::ok).collect::<Vec<_>>())
    });
    let out = child.stdout.take().context("no pipe")?;
    let watched = watch(name, &child, out, start);
    if watched.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().context("cannot wait")?;
    let closing = closing.join().ok().flatten().unwrap_or_default();
    let footprint = watched.with_context(|| closing.join("\n"))?;
    if !status.success() {
        bail!("`{}` failed: {status}\n{}", shell::shown(command), closing.join("\n"));
    }
    Ok(Footprint { closing, ..footprint })
}

fn watch(name: &'static str, child: &Child, out: impl Read, start: Instant) -> Result<Footprint> {
    let mut begun = None;
    for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
        if begun.is_none() && String::from_utf8_lossy(&line).starts_with("==started") {
            let to_shell = start.elapsed();
            let cpu = CpuTime::of(child.id()).now()?;
            let (highest, beyond) = memory(child.id(), MEMORY)?;
            begun = Some(Footprint { name, to_shell, cpu, highest, beyond, closing: Vec::new() });
        }
    }
    begun.context("the guest has not come to its shell")
}

/// The highest resident size of a process and what of its resident memory is not the guest's RAM of `ram` MiB, in KiB.
pub(super) fn memory(pid: u32, ram: u64) -> Result<(u64, Option<u64>)> {
    let status = read(pid, "status")?;
    let (highest, resident) = (kib(&status, "VmHWM:"), kib(&status, "VmRSS:"));
    Ok((highest, guest_ram(&read(pid, "smaps")?, ram).map(|ram| resident.saturating_sub(ram))))
}

fn read(pid: u32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/{name}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

/// The figure behind `key` in a file of /proc.
fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(key));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The resident part of the mapping that is the guest's RAM: as large as it, or a little larger, and not code.
fn guest_ram(smaps: &str, ram: u64) -> Option<u64> {
    let mut size = None;
    let mut writable = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next().unwrap_or_default()) {
            ("Size:", n) => size = n.parse::<u64>().ok(),
            ("Rss:", n) if writable && size.is_some_and(|kib| ((ram - 1) << 10..(ram + 64) << 10).contains(&kib)) => {
                return n.parse().ok();
            }
            (range, rights) if range.contains('-') => writable = rights.starts_with("rw-"),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guests_ram_is_found_among_the_mappings() {
        let smaps = "7f00-7f01 r-xp 0 00:00 0\nSize: 524288 kB\nRss: 1 kB\n\
                     7f02-7f03 rw-s 0 00:00 0\nSize: 64 kB\nRss: 2 kB\n\
                     7f04-7f05 rw-s 0 00:00 0\nSize: 524288 kB\nKernelPageSize: 4 kB\nRss: 34567 kB\n";
        assert_eq!(guest_ram(smaps, MEMORY), Some(34567));
        assert_eq!(guest_ram("7f02-7f03 rw-s 0 00:00 0\nSize: 64 kB\nRss: 2 kB\n", MEMORY), None);
    }
}

//! What is measured on a host with a sound KVM: Husk beside QEMU.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::tiny;
use super::trace::Trace;
use crate::bench::footprint;
use crate::shell;

/// The guests' memory in MiB.
pub(super) const MEMORY: u64 = 128;
/// How many exits of each kind are timed.
const EXITS: u32 = 20_000;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(120);
/// What the guest's first process says when it is up.
const INIT: &[u8] = b"=== begin ===";
/// What its first command says.
const SHELL: &[u8] = b"==started";

/// Where everything is.
pub(super) struct Place {
    pub(super) husk: PathBuf,
    pub(super) qemu: PathBuf,
    pub(super) firmware: Vec<PathBuf>,
    /// The folder of the guest, with `vmlinuz`, `vmlinux` and `initrd`.
    pub(super) guest: PathBuf,
}

/// A way to run a guest.
struct Way {
    name: &'static str,
    /// QEMU's machine; none for Husk.
    machine: Option<&'static str>,
    kernel: &'static str,
}

const WAYS: [Way; 5] = [
    Way { name: "husk, vmlinuz", machine: None, kernel: "vmlinuz" },
    Way { name: "husk, vmlinux", machine: None, kernel: "vmlinux" },
    Way { name: "qemu microvm, vmlinuz", machine: Some("microvm"), kernel: "vmlinuz" },
    Way { name: "qemu microvm, vmlinux", machine: Some("microvm"), kernel: "vmlinux" },
    Way { name: "qemu q35, vmlinuz", machine: Some("q35"), kernel: "vmlinuz" },
];

impl Way {
    fn command(&self, place: &Place, kernel: &Path) -> Command {
        let Some(machine) = self.machine else {
            let mut command = Command::new(&place.husk);
            command.args(["run", "--engine", "kvm", "--memory", &format!("{MEMORY}M"), "--kernel"]).arg(kernel);
            return command;
        };
        let mut command = Command::new(&place.qemu);
        place.firmware.iter().for_each(|folder| _ = command.arg("-L").arg(folder));
        command.args(["-M", machine, "-accel", "kvm", "-cpu", "host", "-m", &MEMORY.to_string(), "-nodefaults"]);
        command.args(["-display", "none", "-serial", "stdio", "-no-reboot", "-kernel"]).arg(kernel);
        command
    }

    /// An option in the words of this side.
    fn option(&self, name: &str) -> String {
        format!("{}{name}", if self.machine.is_some() { "-" } else { "--" })
    }

    /// Debian's kernel to its first command.
    fn boot(&self, place: &Place) -> Command {
        let mut command = self.command(place, &place.guest.join(self.kernel));
        command.arg(self.option("initrd")).arg(place.guest.join("initrd"));
        let append = "console=ttyS0 quiet HUSK_RUN=\"echo ==started; sleep 100\"";
        command.args([&self.option("append"), append]);
        command
    }
}

/// The figures of one way, each once a round.
type Figures = BTreeMap<&'static str, Vec<f64>>;

/// Measures everything `rounds` times, the ways in turn.
pub(super) fn all(place: &Place, rounds: u32) -> Result<Value> {
    let tiny_kernel = std::env::temp_dir().join("husk-bench-tiny");
    std::fs::write(&tiny_kernel, tiny::kernel(EXITS, EXITS)).context("cannot write the tiny guest")?;
    let mut figures: Vec<Figures> = WAYS.iter().map(|_| Figures::new()).collect();
    for round in 1..=rounds {
        for (way, figures) in WAYS.iter().zip(&mut figures) {
            shell::say(&format!("round {round} of {rounds}: {}", way.name));
            let mut note = |name, value: f64| figures.entry(name).or_default().push(value);
            // The tiny guest is loaded as a vmlinux is, whatever the way's kernel is.
            if way.kernel == "vmlinux" || way.machine == Some("q35") {
                tiny(way, place, &tiny_kernel, &mut note).with_context(|| format!("{}, tiny guest", way.name))?;
            }
            boot(way, place, &mut note).with_context(|| way.name)?;
        }
    }
    let ways = WAYS.iter().zip(figures).map(|(way, figures)| {
        let figures: BTreeMap<_, _> = figures.into_iter().map(|(name, values)| (name, json!(values))).collect();
        json!({ "name": way.name, "figures": figures })
    });
    let version = shell::output(Command::new(&place.qemu).arg("--version")).unwrap_or_default();
    Ok(json!({
        "qemu": version.lines().next(),
        "host_kernel": std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim(),
        "memory_mib": MEMORY,
        "exits": EXITS,
        "rounds": rounds,
        "ways": ways.collect::<Vec<_>>(),
    }))
}

/// The way into the guest, and what exits cost.
fn tiny(way: &Way, place: &Place, kernel: &Path, note: &mut dyn FnMut(&'static str, f64)) -> Result<()> {
    let trace = Trace::start()?;
    let mut run = Run::start(way.command(place, kernel), Some(&trace))?;
    let started = run.wait_for(tiny::STARTED)?;
    note("first_entry_ms", trace.first_entry()?.as_secs_f64() * 1e3);
    note("kernel_entry_ms", started.as_secs_f64() * 1e3);
    drop((run, trace));
    // Once more, as the trace itself takes time at each entry.
    let mut run = Run::start(way.command(place, kernel), None)?;
    let started = run.wait_for(tiny::STARTED)?;
    let ports = run.wait_for(tiny::PORTS_DONE)?;
    note("port_writes_per_s", f64::from(EXITS) / (ports - started).as_secs_f64());
    // A microvm has no HPET, and what is not there is no device's exit.
    if way.machine.is_none_or(|machine| machine == "q35") {
        let mmio = run.wait_for(tiny::MMIO_DONE)?;
        note("mmio_reads_per_s", f64::from(EXITS) / (mmio - ports).as_secs_f64());
    }
    Ok(())
}

/// Debian's kernel to its init and its shell, and the memory that the process has then.
fn boot(way: &Way, place: &Place, note: &mut dyn FnMut(&'static str, f64)) -> Result<()> {
    let mut run = Run::start(way.boot(place), None)?;
    note("init_ms", run.wait_for(INIT)?.as_secs_f64() * 1e3);
    note("shell_ms", run.wait_for(SHELL)?.as_secs_f64() * 1e3);
    let (_, beyond) = footprint::memory(run.child.id(), MEMORY)?;
    note("beyond_ram_kib", beyond.context("the guest's RAM is not among the mappings")? as f64);
    Ok(())
}

/// A process whose output is watched; it ends with this value.
struct Run {
    child: Child,
    start: Instant,
    bytes: Receiver<(Instant, Vec<u8>)>,
    /// What has not been looked at yet, and when its last part came.
    rest: Vec<u8>,
    shown: String,
}

impl Run {
    fn start(mut command: Command, trace: Option<&Trace>) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        if let Some(trace) = trace {
            trace.mark()?;
        }
        let start = Instant::now();
        let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shell::shown(&command)))?;
        let mut out = child.stdout.take().context("no pipe")?;
        let (sender, bytes) = channel();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 4096];
            while let Ok(n @ 1..) = out.read(&mut buffer) {
                if sender.send((Instant::now(), buffer[..n].to_vec())).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, start, bytes, rest: Vec::new(), shown: String::new() })
    }

    /// When `text` came, after the start.
    fn wait_for(&mut self, text: &[u8]) -> Result<Duration> {
        let mut at = Instant::now();
        loop {
            if let Some(found) = self.rest.windows(text.len()).position(|part| part == text) {
                self.rest.drain(..found + text.len());
                return Ok(at - self.start);
            }
            match self.bytes.recv_timeout(LIMIT.saturating_sub(self.start.elapsed())) {
                Ok((when, bytes)) => {
                    at = when;
                    self.shown += &String::from_utf8_lossy(&bytes);
                    self.rest.extend(bytes);
                }
                Err(RecvTimeoutError::Timeout) => bail!("it takes too long; it has shown:\n{}", self.shown),
                Err(RecvTimeoutError::Disconnected) => bail!("it has ended; it has shown:\n{}", self.shown),
            }
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

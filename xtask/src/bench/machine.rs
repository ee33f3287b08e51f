//! The three sides: the host itself, Husk, and QEMU. Each runs the same program and is told what to do by a line of
//! text (the protocol is that of `bench/src/server.rs`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::cpu::CpuTime;
use super::program::Program;
use crate::{guest, shell};

/// The guests' memory in MiB.
pub(super) const MEMORY: u64 = 512;

/// How long a boot may take.
const BOOT: Duration = Duration::from_secs(300);
/// How long a measurement may take.
const RUN: Duration = Duration::from_secs(60);

/// Who runs the work.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Side {
    Native,
    Husk,
    Tcg,
}

impl Side {
    /// All of them, in the order of the tables.
    pub(super) const ALL: [Self; 3] = [Self::Native, Self::Husk, Self::Tcg];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Husk => "husk",
            Self::Tcg => "tcg",
        }
    }
}

/// How the sides are started.
pub(super) struct Park {
    pub(super) husk: PathBuf,
    pub(super) qemu: Option<String>,
    husk_args: Vec<String>,
    program: PathBuf,
    busybox: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

impl Park {
    pub(super) fn new(program: &Program, husk: PathBuf, qemu: Option<String>, husk_args: &str) -> Result<Self> {
        Ok(Self {
            husk,
            qemu,
            husk_args: husk_args.split_whitespace().map(str::to_owned).collect(),
            program: program.path.clone(),
            busybox: program.busybox.clone(),
            kernel: guest::folder("cloud").join("vmlinuz"),
            initrd: program.initrd.clone(),
        })
    }

    /// The sides that there are.
    pub(super) fn sides(&self) -> impl Iterator<Item = Side> {
        Side::ALL.into_iter().filter(|side| *side != Side::Tcg || self.qemu.is_some())
    }

    /// What checks the workloads with one of these texts (with commas between, or `all`) and ends.
    pub(super) fn check(&self, side: Side, texts: &str) -> Command {
        if side == Side::Native {
            let mut command = self.native();
            command.arg("check").args(texts.split(',').filter(|text| *text != "all"));
            return command;
        }
        self.command(side, &format!("console=ttyS0 quiet BENCH_CHECK={texts}"))
    }

    fn native(&self) -> Command {
        let mut command = shell::command(&self.program);
        command.env_clear().env("BENCH_BUSYBOX", &self.busybox);
        command
    }

    fn command(&self, side: Side, append: &str) -> Command {
        let mut command = match side {
            Side::Native => {
                let mut command = self.native();
                command.arg("serve");
                return command;
            }
            Side::Husk => {
                let mut command = shell::command(&self.husk);
                command.args(["run", "--memory", &format!("{MEMORY}M")]).args(&self.husk_args);
                command
            }
            Side::Tcg => qemu(self.qemu.as_deref().unwrap_or_default()),
        };
        let dashes = if side == Side::Husk { "--" } else { "-" };
        let option = |name: &str| OsString::from(format!("{dashes}{name}"));
        command.arg(option("kernel")).arg(&self.kernel).arg(option("initrd")).arg(&self.initrd);
        command.arg(option("append")).arg(append);
        command
    }

    /// Starts a side; of a guest, returns the CPU time until its first process runs.
    pub(super) fn start(&self, side: Side) -> Result<(Machine, Duration)> {
        let mut command = self.command(side, "console=ttyS0 quiet");
        let mut machine = Machine::start(&mut command, side)?;
        let mut boot = Duration::ZERO;
        if side != Side::Native {
            machine.wait(BOOT, |answer| matches!(answer, Answer::Init))?;
            boot = machine.time.now()?;
        }
        machine.wait(BOOT, |answer| matches!(answer, Answer::Ready))?;
        Ok((machine, boot))
    }
}

/// QEMU's TCG with as many features as it has, and the memory of [`MEMORY`].
pub(super) fn qemu(program: &str) -> Command {
    let mut command = shell::command(program);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"]);
    command.args(["-m", &MEMORY.to_string()]);
    command
}

/// What the program says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Init,
    Ready,
    Start,
    End { checksum: String, nanoseconds: u64 },
    Skip(String),
    Fail(String),
}

impl Answer {
    /// The answer in a line, if there is one.
    fn parse(line: &str) -> Option<Self> {
        let (_, said) = line.split_once("@@ ")?;
        let (word, rest) = said.trim().split_once(' ').unwrap_or((said.trim(), ""));
        Some(match word {
            "init" => Self::Init,
            "ready" => Self::Ready,
            "start" => Self::Start,
            "end" => {
                let (checksum, time) = rest.split_once(' ')?;
                Self::End { checksum: checksum.to_owned(), nanoseconds: time.parse().ok()? }
            }
            "skip" => Self::Skip(rest.to_owned()),
            "fail" => Self::Fail(rest.to_owned()),
            _ => return None,
        })
    }
}

/// What came of a run.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is done: its checksum and the CPU time of the host.
    Done { checksum: String, time: Duration },
    /// The CPU lacks something.
    Skipped(String),
    /// It went wrong; the machine goes on.
    Failed(String),
}

/// One side that runs. It ends with this value.
pub(super) struct Machine {
    side: Side,
    child: Child,
    to: ChildStdin,
    lines: Receiver<String>,
    /// The last lines that it printed, for people to see why it failed.
    last: Arc<Mutex<VecDeque<String>>>,
    time: CpuTime,
}

impl Machine {
    fn start(command: &mut Command, side: Side) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start `{}`", shell::shown(command)))?;
        let (to, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let time = CpuTime::of(child.id());
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, lines) = channel();
        let (out, err) = (out.context("no pipe")?, err.context("no pipe")?);
        for pipe in [Box::new(out) as Box<dyn Read + Send>, Box::new(err)] {
            let (sender, last) = (sender.clone(), last.clone());
            std::thread::spawn(move || {
                for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
                    let line = String::from_utf8_lossy(&line).trim().to_owned();
                    if let Ok(mut last) = last.lock()
                        && !line.is_empty()
                    {
                        last.push_back(line.clone());
                        let more = last.len().saturating_sub(12);
                        last.drain(..more);
                    }
                    if sender.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { side, child, to: to.context("no pipe")?, lines, last, time })
    }

    /// Runs units of a workload. An error means that the machine is of no more use.
    pub(super) fn run(&mut self, name: &str, units: u64) -> Result<Outcome> {
        self.tell(&format!("run {name} {units}"))?;
        if let Some(other) = self.expect(|answer| matches!(answer, Answer::Start))? {
            return Ok(other);
        }
        let before = if self.side == Side::Native { Duration::ZERO } else { self.time.at_rest()? };
        self.tell("go")?;
        let end = self.wait(RUN, |answer| !matches!(answer, Answer::Init | Answer::Ready | Answer::Start))?;
        let outcome = match end {
            Answer::End { checksum, nanoseconds } => {
                let time = if self.side == Side::Native {
                    Duration::from_nanos(nanoseconds)
                } else {
                    self.time.at_rest()?.saturating_sub(before)
                };
                self.tell("go")?;
                Outcome::Done { checksum, time }
            }
            Answer::Fail(why) | Answer::Skip(why) => Outcome::Failed(why),
            answer => bail!("unexpected: {answer:?}"),
        };
        self.wait(RUN, |answer| matches!(answer, Answer::Ready))?;
        Ok(outcome)
    }

    /// Waits for what must come; what came in its place, up to the next `ready`, is the outcome.
    fn expect(&mut self, wanted: impl Fn(&Answer) -> bool) -> Result<Option<Outcome>> {
        let answer = self.wait(RUN, |a| wanted(a) || matches!(a, Answer::Skip(_) | Answer::Fail(_)))?;
        let outcome = match answer {
            Answer::Skip(why) => Outcome::Skipped(why),
            Answer::Fail(why) => Outcome::Failed(why),
            _ => return Ok(None),
        };
        self.wait(RUN, |answer| matches!(answer, Answer::Ready))?;
        Ok(Some(outcome))
    }

    fn tell(&mut self, line: &str) -> Result<()> {
        self.to.write_all(format!("{line}\n").as_bytes()).with_context(|| self.why("it does not listen"))
    }

    /// Reads on until the answer that is wanted comes.
    fn wait(&mut self, limit: Duration, wanted: impl Fn(&Answer) -> bool) -> Result<Answer> {
        let end = Instant::now() + limit;
        loop {
            let line = match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => line,
                Err(RecvTimeoutError::Timeout) => bail!(self.why(&format!("nothing for {} s", limit.as_secs()))),
                Err(RecvTimeoutError::Disconnected) => bail!(self.why("it has ended")),
            };
            if let Some(answer) = Answer::parse(&line)
                && wanted(&answer)
            {
                return Ok(answer);
            }
        }
    }

    fn why(&self, what: &str) -> String {
        let last: Vec<String> = self.last.lock().map(|last| last.iter().cloned().collect()).unwrap_or_default();
        format!("{}: {what}; its last lines:\n  {}", self.side.name(), last.join("\n  "))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // On the host it leaves a folder behind when it does not end by itself.
        if self.side == Side::Native && self.tell("quit").is_ok() {
            for _ in 0..100 {
                if !matches!(self.child.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_found_among_the_kernels_messages() {
        assert_eq!(Answer::parse("@@ ready"), Some(Answer::Ready));
        assert_eq!(Answer::parse("[    1.0] @@ init\r"), Some(Answer::Init));
        let end = Answer::End { checksum: "00ff".into(), nanoseconds: 12 };
        assert_eq!(Answer::parse("@@ end 00ff 12\r"), Some(end));
        assert_eq!(Answer::parse("@@ end 00ff"), None);
        assert_eq!(Answer::parse("@@ skip the CPU has no Avx"), Some(Answer::Skip("the CPU has no Avx".into())));
        assert_eq!(Answer::parse("@@ fail unit 3"), Some(Answer::Fail("unit 3".into())));
        assert_eq!(Answer::parse("[    0.5] tsc: calibrated"), None);
    }
}

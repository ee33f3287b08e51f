//! `cargo xtask lab`: runs a command on a genuine `/dev/kvm`, on machines that have none or a crippled one.
//!
//! QEMU emulates an AMD CPU with its virtualization, on it runs Debian's kernel with `kvm_amd`, from an initial RAM disk
//! with busybox and what is brought along. Everything there is 10 to 100 times slower than on a real CPU.

mod kernel;
mod kit;
mod log;
mod machine;
mod payload;
mod suite;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

pub(crate) use kernel::unpacked;
pub(crate) use payload::Item;
pub(crate) use suite::tests;

use crate::shell;

/// The exit code when the time is up, that of `timeout(1)`.
const TIME_LIMIT: u8 = 124;
/// The exit code when the lab itself has died.
const DIED: u8 = 125;
/// The exit code when there is no lab.
const NO_LAB: u8 = 126;

/// The lab's memory in MiB, unless less is asked for. With addresses beyond 2 GiB, the emulation of AMD's virtualization
/// corrupts guests and the lab's kernel now and then.
pub(crate) const MEMORY: u32 = 2048;

/// What runs in the lab, and on what.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seconds it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
    /// The lab's CPUs
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// The lab's memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = MEMORY, value_parser = clap::value_parser!(u32).range(256..=i64::from(MEMORY)))]
    memory: u32,
    /// A folder for what the command leaves in /out
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Run the project's tests on its KVM instead of a command: those with this text in their names, or all
    #[arg(long, value_name = "FILTER", num_args = 0..=1, default_missing_value = "", conflicts_with = "command")]
    tests: Option<String>,
    /// Files and folders that the command finds in /lab, programs with their libraries
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
    /// What to run in /lab: one word is a line for the shell
    #[arg(last = true, required_unless_present = "tests", value_name = "COMMAND")]
    command: Vec<String>,
}

/// A command for the lab.
pub(crate) struct Job {
    pub(crate) items: Vec<Item>,
    /// A line for the shell.
    pub(crate) command: String,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) timeout: Duration,
    pub(crate) cpus: u32,
    /// In MiB.
    pub(crate) memory: u32,
    pub(crate) out: Option<PathBuf>,
}

/// How a run has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The command has, with this status.
    Status(u8),
    /// The time was up.
    TimeLimit,
    /// The lab has died: nothing is known of the command.
    Died,
}

/// What is known of a run.
pub(crate) struct Outcome {
    pub(crate) ending: Ending,
    /// What the lab's kernel complained of while the command ran.
    pub(crate) complaints: Vec<String>,
    /// All that the lab's kernel has said.
    log: String,
    /// What QEMU has said.
    said: String,
}

/// Where the lab's files are.
fn folder() -> PathBuf {
    shell::root().join("target/lab")
}

/// The lab's QEMU and the folders of its firmware, none if it finds them itself.
pub(crate) fn qemu() -> Result<(PathBuf, Vec<PathBuf>)> {
    let kit = kit::Kit::prepare()?;
    Ok((kit.qemu, kit.firmware))
}

/// Runs a job; once more if the lab itself has died.
pub(crate) fn run(job: &Job, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
    let outcome = run_once(job, output)?;
    if outcome.ending != Ending::Died {
        return Ok(outcome);
    }
    shell::say("starting it once more");
    run_once(job, output)
}

/// Runs a job, and shows the last words of a lab that has died.
fn run_once(job: &Job, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
    let kit = kit::Kit::prepare()?;
    if let Some(out) = &job.out {
        std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    }
    let outcome = machine::run(&kit, job, output)?;
    if outcome.ending == Ending::Died {
        let log: Vec<&str> = outcome.log.lines().collect();
        let last = log[log.len().saturating_sub(20)..].join("\n  ");
        shell::say(&format!("the lab has died; its kernel's last words:\n  {last}\n  {}", outcome.said));
    }
    Ok(outcome)
}

/// The verb: its exit code is the command's, 124 when the time is up, 125 when the lab has died, 126 without a lab.
pub(crate) fn verb(options: Options) -> ExitCode {
    let print = &mut |bytes: &[u8]| {
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(bytes).and_then(|()| out.flush());
    };
    if let Some(filter) = &options.tests {
        let tested = tests(crate::test::PROFILE, Some(filter), print);
        return tested.map_or_else(
            |error| {
                eprintln!("xtask: {error:#}");
                ExitCode::FAILURE
            },
            |unknown| {
                unknown.iter().for_each(|portion| shell::say(&format!("not known: {portion}")));
                if unknown.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIED) }
            },
        );
    }
    let outcome = job(options).and_then(|job| run(&job, print));
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            return ExitCode::from(NO_LAB);
        }
    };
    for line in &outcome.complaints {
        shell::say(&format!("the lab's kernel complains: {line}"));
    }
    ExitCode::from(match outcome.ending {
        Ending::Status(status) => status,
        Ending::TimeLimit => {
            shell::say("the time is up");
            TIME_LIMIT
        }
        Ending::Died => DIED,
    })
}

fn job(options: Options) -> Result<Job> {
    let items = options.files.iter().map(|path| Item::plain(path)).collect::<Result<_>>()?;
    let out = options.out.map(std::path::absolute).transpose().context("cannot find the folder")?;
    let command = match &options.command[..] {
        [line] => line.clone(),
        words => words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect::<Vec<_>>().join(" "),
    };
    Ok(Job {
        items,
        command,
        environment: Vec::new(),
        timeout: Duration::from_secs(options.timeout),
        cpus: options.cpus,
        memory: options.memory,
        out,
    })
}

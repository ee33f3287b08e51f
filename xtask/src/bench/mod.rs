//! `cargo xtask bench`: the same programs natively, in Husk and in QEMU's TCG, in one run on this machine.
//!
//! What the programs are is told in `bench/README.md`. The three sides take turns, workload by workload, so that what
//! disturbs the host disturbs all of them. What counts is the host's CPU time.

mod chart;
mod check;
mod cpu;
pub(crate) mod disk;
mod footprint;
mod json;
pub(crate) mod kvm;
mod machine;
mod measure;
mod program;
mod stats;
mod table;

use std::path::PathBuf;

use anyhow::{Result, bail};

pub(crate) use program::cargo;

use crate::{guest, shell};

/// How it is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only workloads with one of these texts (with commas between) in `group/name`
    #[arg(long, value_name = "PATTERN")]
    only: Option<String>,
    /// How often each workload is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// One short round: what works, and figures for orientation
    #[arg(long)]
    quick: bool,
    /// Measure nothing: only compare what the workloads compute in Husk with what they compute natively
    #[arg(long)]
    check: bool,
    /// The QEMU to compare with, or `none`
    #[arg(long, value_name = "PATH|none", default_value = "qemu-system-x86_64")]
    qemu: String,
    /// A `husk` that is built already
    #[arg(long, value_name = "PATH")]
    husk: Option<PathBuf>,
    /// Where the figures go [default: docs/bench.json after a whole run]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the chart goes [default: docs/bench.svg after a whole run]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// More options for `husk run`, in one word: '--engine soft,jit=off'
    #[arg(long, value_name = "OPTIONS", default_value = "--engine soft", allow_hyphen_values = true)]
    husk_args: String,
}

impl Options {
    /// Whether a workload is wanted.
    fn wants(&self, group: &str, name: &str) -> bool {
        let full = format!("{group}/{name}");
        self.only.as_ref().is_none_or(|only| only.split(',').any(|part| full.contains(part.trim())))
    }

    /// How often each workload is measured.
    fn rounds(&self) -> u32 {
        if self.quick { 1 } else { self.rounds }
    }

    /// Whether this run is of the kind whose figures are kept.
    fn whole(&self) -> bool {
        self.only.is_none() && !self.quick && self.qemu != "none"
    }

    /// Where a result goes, if anywhere.
    fn place(&self, asked: Option<&PathBuf>, usual: &str) -> Option<PathBuf> {
        asked.cloned().or_else(|| self.whole().then(|| shell::root().join("docs").join(usual)))
    }
}

/// Measures, prints a table and keeps the figures.
pub(crate) fn run(options: &Options) -> Result<()> {
    guest::assemble(guest::Choice::Cloud, false)?;
    let program = program::build()?;
    let husk = match &options.husk {
        // A path without a folder is a name to look up, as for QEMU.
        Some(path) if path.components().count() > 1 => std::path::absolute(path)?,
        Some(name) => name.clone(),
        None => shell::build_husk("release")?,
    };
    if options.check {
        let park = machine::Park::new(&program, husk, None, &options.husk_args)?;
        return check::run(&park, options.only.as_deref());
    }
    let qemu = (options.qemu != "none").then(|| options.qemu.clone());
    if let Some(qemu) = &qemu
        && !qemu.contains('/')
        && !shell::installed(qemu)
    {
        bail!("{qemu} is not installed (package qemu-system-x86); `--qemu none` measures without it");
    }
    let park = machine::Park::new(&program, husk, qemu, &options.husk_args)?;
    let about = json::About::of(&park, options)?;
    let mut result = measure::run(park, &program, options)?;
    // The guest of every day, from the start to the shell: only where everything is measured, or this is asked for.
    if !options.quick && options.wants(measure::BOOT, measure::TO_SHELL) {
        result.footprints = footprint::measure(&about.husk, about.qemu.as_deref(), &options.husk_args)?;
    }
    table::print(&result);
    if let Some(path) = options.place(options.json.as_ref(), "bench.json") {
        shell::write(&path, json::write(&about, &result).as_bytes())?;
        shell::say(&format!("figures in {}", path.display()));
    }
    if let Some(path) = options.place(options.svg.as_ref(), "bench.svg") {
        shell::write(&path, chart::draw(&result).as_bytes())?;
        shell::say(&format!("chart in {}", path.display()));
    }
    if !result.errors.is_empty() {
        bail!("{} of the workloads went wrong", result.errors.len());
    }
    Ok(())
}

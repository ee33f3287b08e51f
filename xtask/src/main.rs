//! What the project does to itself: `cargo xtask <verb>`.
//!
//! Everything that is made lies under `target/`; nothing is changed in the system but by `cargo xtask test`, which
//! installs Debian packages that tests need.
#![forbid(unsafe_code)]

mod apt;
mod bench;
mod cpio;
mod disk;
mod guest;
mod lab;
mod man;
mod modules;
mod shell;
mod systems;
mod test;
mod workout;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "What the project does to itself")]
struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Build Husk, prepare the default guest and boot it to a shell
    Demo {
        /// More options for `husk run`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Assemble guests from Debian's packages, under target/guest
    Guest {
        /// Which one
        #[arg(long, value_enum, default_value = "cloud")]
        kind: guest::Choice,
        /// Fetch the newest packages even where there are some already
        #[arg(long)]
        update: bool,
    },
    /// Install what the tests need and run them all
    Test {
        /// Without the guests of Debian's other kernels
        #[arg(long)]
        quick: bool,
    },
    /// Run a command in an emulated machine that has a genuine /dev/kvm
    Lab(lab::Options),
    /// Write the man pages to docs/man
    Man {
        /// Only tell whether they are current
        #[arg(long)]
        check: bool,
    },
    /// Measure Husk beside the host itself and beside QEMU's TCG
    Bench(bench::Options),
    /// Measure Husk on KVM beside QEMU on KVM, in the lab
    BenchKvm(bench::kvm::Options),
    /// Measure disks from inside of a guest, in Husk and in QEMU's TCG
    BenchDisk(bench::disk::Options),
}

fn main() -> ExitCode {
    match run(Args::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode> {
    match verb {
        Verb::Demo { options } => return demo(&options),
        Verb::Guest { kind, update } => guest::assemble(kind, update)?,
        Verb::Test { quick } => return Ok(test::run(quick)),
        Verb::Lab(options) => return Ok(lab::verb(options)),
        Verb::Man { check } => man::run(check)?,
        Verb::Bench(options) => bench::run(&options)?,
        Verb::BenchKvm(options) => bench::kvm::run(&options)?,
        Verb::BenchDisk(options) => bench::disk::run(&options)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn demo(options: &[String]) -> Result<ExitCode> {
    let husk = shell::build_husk("release")?;
    guest::assemble(guest::Choice::Cloud, false)?;
    shell::say("husk run (Ctrl-A x stops the machine, Ctrl-A h shows the keys)");
    shell::replace(shell::command(husk).arg("run").args(options).env("HUSK_GUEST", guest::folder("cloud")))
}

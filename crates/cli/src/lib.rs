//! The command `husk`: what the user types becomes a configuration and open files for `vm`, and what becomes of the VM becomes
//! an exit code and a line.
#![forbid(unsafe_code)]

mod args;
mod console;
mod control;
mod default_guest;
mod doctor;
mod drives;
mod engines;
mod failure;
mod firmware;
mod img;
mod keys;
mod log;
mod run;
mod size;
mod stats;
mod values;
mod video;
mod vnc;

use std::io::Write;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use args::{Args, Verb};
use failure::Failure;

/// The whole command line as clap describes it: for completions, the man page and tests.
#[must_use]
pub fn command() -> clap::Command {
    Args::command()
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) if !error.use_stderr() => {
            // Help and version.
            let shown = error.print().and_then(|()| std::io::stdout().flush());
            return printed(shown).unwrap_or_else(|failure| report(&failure));
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // With standard error gone there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(failure::BAD_INPUT);
        }
        Err(error) => return report(&Failure::usage(&error)),
    };
    if let Err(failure) = log::start(args.log.as_deref(), args.verbose) {
        return report(&failure);
    }
    let result = match args.verb {
        Verb::Run(run) => run::run(*run),
        Verb::Running(verb) => control::run(verb),
        Verb::Img { verb } => img::run(&verb),
        Verb::Doctor { json, kvm_device } => doctor::run(json, &kvm_device),
        Verb::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut command(), "husk", &mut text);
            print(&text)
        }
        Verb::Version => print(concat!("husk ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
    };
    result.unwrap_or_else(|failure| report(&failure))
}

fn print(text: &[u8]) -> Result<ExitCode, Failure> {
    let mut stdout = std::io::stdout().lock();
    printed(stdout.write_all(text).and_then(|()| stdout.flush()))
}

/// What became of a text for standard output. A reader that has gone away has seen enough.
fn printed(result: std::io::Result<()>) -> Result<ExitCode, Failure> {
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::output(&error)),
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn report(failure: &Failure) -> ExitCode {
    // With standard error gone there is nobody to tell.
    let _ = writeln!(std::io::stderr(), "husk: {failure}");
    ExitCode::from(failure.code)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_command_line_is_consistent() {
        super::command().debug_assert();
    }
}

//! The command `husk`: what the user types becomes a configuration and open files for `vm`, and what becomes of the VM becomes
//! an exit code and a line.
#![forbid(unsafe_code)]

mod args;
mod console;
mod default_guest;
mod failure;
mod keys;
mod log;
mod run;
mod size;
mod values;

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
            // Help and version; a reader that has gone away has seen enough.
            let _ = error.print();
            return ExitCode::SUCCESS;
        }
        Err(error) if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // As above.
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
        Verb::Completions { shell } => {
            clap_complete::generate(shell, &mut command(), "husk", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Verb::Version => {
            let _ = writeln!(std::io::stdout(), "husk {}", env!("CARGO_PKG_VERSION"));
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|failure| report(&failure))
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

//! The commands that talk to running VMs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueHint};
use serde::Serialize;

use super::client::Connection;
use super::place;
use super::protocol::{Answer, Request, ScreenForm, Status};
use crate::failure::{BAD_INPUT, Failure, cause};

/// A running VM.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// The VM's name, as `husk list` shows it
    #[arg(value_name = "VM")]
    name: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// List the running virtual machines
    List {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Write what is on a VM's screen into a file
    Screenshot {
        #[command(flatten)]
        vm: Named,
        /// The file: NAME.png, or NAME.txt for the characters of a text screen
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
    },
    /// Press keys on a VM's keyboard
    #[command(after_long_help = KEYS_HELP)]
    SendKey {
        #[command(flatten)]
        vm: Named,
        /// Keys that are pressed together, joined by '-'; several such are pressed one after the other
        #[arg(value_name = "KEYS", required = true, allow_hyphen_values = true)]
        keys: Vec<String>,
    },
    /// Type a text on a VM's keyboard, which has the US layout
    Type {
        #[command(flatten)]
        vm: Named,
        /// The text; a line end is the Enter key
        #[arg(value_name = "TEXT", allow_hyphen_values = true)]
        text: String,
        /// Press Enter at the end
        #[arg(short, long)]
        enter: bool,
        /// The time between two characters in milliseconds
        #[arg(long, value_name = "MS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=5000))]
        delay: u64,
    },
    /// Press a VM's power button
    Stop {
        #[command(flatten)]
        vm: Named,
        /// Pull the plug instead, whatever the guest is doing
        #[arg(long)]
        force: bool,
    },
    /// Have a VM stand still
    Pause {
        #[command(flatten)]
        vm: Named,
    },
    /// Have a VM that stands still go on
    Resume {
        #[command(flatten)]
        vm: Named,
    },
    /// Press a VM's reset button
    Reset {
        #[command(flatten)]
        vm: Named,
    },
    /// Put a disc into a VM's CD drive, in the place of what is there
    Insert {
        #[command(flatten)]
        vm: Named,
        /// The disc: a file with its bytes
        #[arg(value_name = "FILE", value_hint = ValueHint::FilePath)]
        file: PathBuf,
        /// The drive, by the serial number that the guest sees [default: the only one]
        #[arg(long, value_name = "SERIAL")]
        drive: Option<String>,
    },
    /// Take the disc out of a VM's CD drive
    Eject {
        #[command(flatten)]
        vm: Named,
        /// The drive, by the serial number that the guest sees [default: the only one]
        #[arg(long, value_name = "SERIAL")]
        drive: Option<String>,
        /// Even when the guest holds the disc
        #[arg(long)]
        force: bool,
    },
}

const KEYS_HELP: &str = "\
Examples:
  husk send-key web ctrl-alt-delete
  husk send-key web down down ret
  husk send-key web alt-sysrq-b

Names of keys:
  those of QEMU and of X11, in any case: a, 1, ret, esc, tab, spc, backspace, up, home, pgdn, delete, f1, ctrl, alt,
  shift, meta_l, caps_lock, print, pause, kp_5, menu, volumeup";

/// Does what the verb says.
pub(crate) fn run(verb: Verb) -> Result<ExitCode, Failure> {
    match verb {
        Verb::List { json } => return list(json),
        Verb::Screenshot { vm, file } => screenshot(&vm.name, &file)?,
        Verb::SendKey { vm, keys } => patiently(&vm, &Request::SendKey { keys })?,
        Verb::Type { vm, mut text, enter, delay } => {
            if enter {
                text.push('\n');
            }
            patiently(&vm, &Request::Type { text, delay })?;
        }
        Verb::Stop { vm, force } => tell(&vm, &Request::Stop { force })?,
        Verb::Pause { vm } => tell(&vm, &Request::Pause)?,
        Verb::Resume { vm } => tell(&vm, &Request::Resume)?,
        Verb::Reset { vm } => tell(&vm, &Request::Reset)?,
        Verb::Insert { vm, file, drive } => insert(&vm, &file, drive)?,
        Verb::Eject { vm, drive, force } => tell(&vm, &Request::Eject { drive, force })?,
    }
    Ok(ExitCode::SUCCESS)
}

fn tell(vm: &Named, request: &Request) -> Result<(), Failure> {
    Connection::open(&vm.name)?.ask(request).map(drop)
}

/// The disc is opened here: the VM's process is handed its file.
fn insert(vm: &Named, path: &Path, drive: Option<String>) -> Result<(), Failure> {
    let shown = path.display();
    let refused = |error: &std::io::Error| Failure::input(&shown, cause(error), "check the path and its permissions");
    let file = base::open_at_once(path).map_err(|error| refused(&error))?;
    let name = path.canonicalize().map_err(|error| refused(&error))?;
    let mut connection = Connection::open(&vm.name)?;
    connection.ask(&Request::Insert { drive, name })?;
    connection.send_file(&file).map(drop)
}

/// Typing takes as long as the guest takes to read.
fn patiently(vm: &Named, request: &Request) -> Result<(), Failure> {
    let mut connection = Connection::open(&vm.name)?;
    connection.be_patient()?;
    connection.ask(request).map(drop)
}

fn screenshot(name: &str, file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let form = match file.extension().and_then(|ending| ending.to_str()) {
        Some(ending) if ending.eq_ignore_ascii_case("png") => ScreenForm::Png,
        Some(ending) if ending.eq_ignore_ascii_case("txt") => ScreenForm::Text,
        _ => return Err(Failure::input(shown, "its name says no form that there is", "call it NAME.png or NAME.txt")),
    };
    let mut connection = Connection::open(name)?;
    let Answer::Bytes(count) = connection.ask(&Request::Screenshot { form })? else {
        return Err(Failure::internal(format!("VM {name}: not an answer to a screenshot; is it of another version?")));
    };
    let bytes = connection.bytes(count)?;
    let refused = |error: std::io::Error| Failure::input(shown, cause(&error), "check the folder and its permissions");
    // A file that was there before is there until the new one is whole.
    let beside = file.with_added_extension(format!("{}.part", std::process::id()));
    let written = File::options().write(true).create_new(true).open(&beside).and_then(|mut new| {
        let written = new.write_all(&bytes).and_then(|()| std::fs::rename(&beside, file));
        written.inspect_err(|_| _ = std::fs::remove_file(&beside))
    });
    written.map_err(refused)
}

/// A line of the list.
#[derive(Serialize)]
struct Listed {
    name: String,
    #[serde(flatten)]
    status: Status,
}

fn list(json: bool) -> Result<ExitCode, Failure> {
    let refused = |error: std::io::Error| Failure::new(format!("the running VMs: {}", cause(&error)), BAD_INPUT);
    let mut all = Vec::new();
    for name in place::running().map_err(refused)? {
        // One that ends while it is asked runs no more.
        if let Ok(Answer::Status(status)) =
            Connection::open(&name).and_then(|mut connection| connection.ask(&Request::Status))
        {
            all.push(Listed { name, status });
        }
    }
    let mut text = Vec::new();
    if json {
        serde_json::to_writer_pretty(&mut text, &all).map_err(|error| Failure::internal(error.to_string()))?;
        text.push(b'\n');
    } else if !all.is_empty() {
        let width = all.iter().map(|vm| vm.name.len()).max().unwrap_or(0).max(4);
        // Writing into memory does not fail.
        let _ = writeln!(text, "{:width$}  {:>7}  {:6}  STATE", "NAME", "PID", "ENGINE");
        for Listed { name, status: Status { pid, engine, state } } in &all {
            let _ = writeln!(text, "{name:width$}  {pid:>7}  {engine:6}  {state}");
        }
    }
    crate::print(&text)
}

//! `husk img`: disk images.

pub(crate) mod args;
mod chain;
mod check;
mod compare;
mod copy;
mod info;
mod make;
mod open;
mod options;
mod progress;
mod resize;
pub(crate) mod secret;
mod snapshot;
mod target;
mod values;

use std::io::ErrorKind;
use std::process::ExitCode;

use args::Img;

use crate::failure::{BAD_INPUT, Failure, INTERNAL, cause};

pub(crate) use make::by_ending;

/// Does what the user asks for.
pub(crate) fn run(verb: &Img) -> Result<ExitCode, Failure> {
    match verb {
        Img::Create(args) => make::create(args),
        Img::Info(args) => info::info(args),
        Img::Convert(args) => make::convert(args),
        Img::Check(args) => check::check(args),
        Img::Resize(args) => resize::resize(args),
        Img::Snapshot(args) => snapshot::snapshot(args),
        Img::Commit(args) => chain::commit(args),
        Img::Rebase(args) => chain::rebase(args),
        Img::Map(args) => info::map(args),
        Img::Compare(args) => compare::compare(args),
    }
}

/// An error of an image as a failure of the command: bad input, or one of the host.
pub(crate) fn failed(error: &disk::Error) -> Failure {
    match error {
        disk::Error::Backing { path, cause } => {
            let Failure { code, .. } = failed(cause);
            Failure::new(format!("{}: its backing file: {}", path.display(), failed(cause)), code)
        }
        disk::Error::Host { path, what, cause: refused } => {
            let (code, fix) = match refused.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => (BAD_INPUT, "check the path"),
                ErrorKind::PermissionDenied => (BAD_INPUT, "check its permissions"),
                ErrorKind::IsADirectory | ErrorKind::AlreadyExists => (BAD_INPUT, "choose another name"),
                ErrorKind::ReadOnlyFilesystem => (BAD_INPUT, "choose a folder that can be written"),
                ErrorKind::StorageFull | ErrorKind::FileTooLarge | ErrorKind::QuotaExceeded => {
                    (INTERNAL, "make room on the host's file system")
                }
                _ => (INTERNAL, "check the host's file system"),
            };
            Failure::new(format!("{}: cannot {what}: {}; {fix}", path.display(), cause(refused)), code)
        }
        error => Failure::new(error.to_string(), BAD_INPUT),
    }
}

//! `husk img compare`: whether two disks are the same to a guest.

use std::process::ExitCode;

use super::args::Compare;
use super::{copy, failed, open};
use crate::failure::Failure;
use crate::{print, size};

const DIFFERENT: u8 = 1;

/// Compares the disks.
pub(crate) fn compare(args: &Compare) -> Result<ExitCode, Failure> {
    let first = open::read(&args.first, args.format, &args.opening)?;
    let second = open::read(&args.second, args.other_format, &args.opening)?;
    let (own, other) = (first.info().size, second.info().size);
    let say = |text: String| {
        if args.telling.quiet { Ok(ExitCode::SUCCESS) } else { print(text.as_bytes()) }
    };
    if args.strict && own != other {
        say(format!("the disks differ: {} and {}\n", size::show(own), size::show(other)))?;
        return Ok(ExitCode::from(DIFFERENT));
    }
    let difference = copy::first_difference(&*first, &*second, own.max(other), args.telling);
    match difference.map_err(|error| failed(&error))? {
        Some(at) => {
            say(format!("the disks differ at byte {at}\n"))?;
            Ok(ExitCode::from(DIFFERENT))
        }
        None if own != other => {
            let longer = size::show(own.max(other));
            say(format!("the disks are the same, but for zeros at the end of the longer ({longer})\n"))
        }
        None => say("the disks are the same\n".to_owned()),
    }
}

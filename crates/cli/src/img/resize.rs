//! `husk img resize`.

use std::process::ExitCode;

use disk::block_on;

use super::args::Resize;
use super::values::Change;
use super::{failed, open};
use crate::failure::Failure;
use crate::{print, size};

/// Makes the disk larger or smaller.
pub(crate) fn resize(args: &Resize) -> Result<ExitCode, Failure> {
    let image = open::write(&args.file, args.format, &args.opening)?;
    let shown = args.file.display();
    let before = image.info().size;
    let after = match args.size {
        Change::To(bytes) => Some(bytes),
        Change::More(bytes) => before.checked_add(bytes),
        Change::Less(bytes) => before.checked_sub(bytes),
    };
    let Some(after) = after else {
        let cause = format!("the disk has {}, so that cannot be", size::show(before));
        return Err(Failure::input(shown, cause, "give another size"));
    };
    if after % 512 != 0 {
        return Err(Failure::input(shown, "a disk has whole sectors of 512 bytes", "give a multiple of that"));
    }
    if after < before && !args.shrink {
        let cause = format!("the disk has {} now, and what is behind the new end would be lost", size::show(before));
        return Err(Failure::input(shown, cause, "shrink the guest's file systems, and then use --shrink"));
    }
    block_on(async {
        image.resize(after).await?;
        image.close().await
    })
    .map_err(|error| failed(&error))?;
    if args.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    print(format!("{shown}: {} now\n", size::show(after)).as_bytes())
}

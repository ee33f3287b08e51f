//! `husk img commit` and `husk img rebase`: overlays and what is behind them.

use std::path::Path;
use std::process::ExitCode;

use disk::qcow2::Qcow2;
use disk::{Erase, Image, Kind, block_on, write_at};

use super::args::{Commit, Rebase};
use super::{copy, failed, open};
use crate::failure::Failure;
use crate::print;

fn overlay(image: &dyn Image) -> Result<&Qcow2, Failure> {
    let info = image.info();
    image.as_qcow2().ok_or_else(|| {
        let cause = format!("{} images have no other behind them", info.format);
        Failure::input(info.path.display(), cause, "name an overlay in qcow2")
    })
}

/// Writes what the overlay holds into the image behind it.
pub(crate) fn commit(args: &Commit) -> Result<ExitCode, Failure> {
    let shown = args.file.display();
    // Alone, without a lock on the image behind it, which is to be written.
    let top = open::alone(&args.file, &args.opening, true)?;
    overlay(&*top)?;
    let Some(backing) = top.info().backing else {
        return Err(Failure::input(shown, "there is no image behind it", "name an overlay"));
    };
    let format = backing.format.as_deref().map(super::values::format).transpose();
    let path = open::path_of(&top.info(), &backing.name);
    let format = format.map_err(|cause| Failure::input(path.display(), cause, "name it with 'husk img rebase'"))?;
    let below = open::write(&path, format, &args.opening)?;
    let total = top.info().size;
    if below.info().size < total {
        block_on(below.resize(total)).map_err(|error| failed(&error))?;
    }
    let work = copy::pieces(total, args.telling, |at, len| {
        copy::extents(&*top, at, len, |at, extent| match extent.kind {
            Kind::Hole => Ok(()),
            Kind::Data => block_on(write_at(&*below, at, &copy::read(&*top, at, extent.len)?)),
            Kind::Zero => block_on(below.erase(at, extent.len, Erase::Zero)),
        })
    });
    work.and_then(|()| block_on(below.close())).map_err(|error| failed(&error))?;
    if args.telling.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    let below = path.display();
    print(format!("{below} holds it all now; {shown} is as it was, and may be deleted\n").as_bytes())
}

/// Puts another image behind the overlay; what a guest reads stays the same.
pub(crate) fn rebase(args: &Rebase) -> Result<ExitCode, Failure> {
    let shown = args.file.display();
    let folder = args.file.parent().unwrap_or_else(|| Path::new(""));
    let name = Some(args.backing.as_str()).filter(|name| !name.is_empty());
    let told = args.backing_format;
    // The names of images are relative to the folder of the image that has them.
    let behind = match name {
        Some(name) if !args.trust => Some(open::behind(&args.file, &folder.join(name), told, &args.opening)?),
        _ => None,
    };
    let format = match (&behind, told) {
        (Some(behind), None) => Some(behind.info().format),
        (_, told) => told.map(disk::Format::name),
    };
    let top = if args.trust {
        open::alone(&args.file, &args.opening, false)?
    } else {
        open::write(&args.file, None, &args.opening)?
    };
    let qcow2 = overlay(&*top)?;
    if !args.trust {
        // What the overlay holds itself does not change.
        let wanted = |extent: &disk::Extent| extent.depth > 0 || extent.kind == Kind::Hole;
        copy::copy_difference(&*top, behind.as_deref(), &*top, args.telling, wanted).map_err(|error| failed(&error))?;
    }
    block_on(async {
        // Everything is in the overlay before it forgets where it came from.
        top.flush().await?;
        qcow2.set_backing(name, format).await?;
        top.close().await
    })
    .map_err(|error| failed(&error))?;
    if args.telling.quiet {
        return Ok(ExitCode::SUCCESS);
    }
    match name {
        Some(name) => print(format!("{shown}: {name} is behind it now\n").as_bytes()),
        None => print(format!("{shown}: it holds everything itself now\n").as_bytes()),
    }
}

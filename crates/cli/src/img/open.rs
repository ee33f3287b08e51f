//! Opening images for the verbs.

use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::file::{Access, HostFile};
use disk::image::Work;
use disk::luks::{LuksImage, Passphrase};
use disk::{Erase, Error, Extent, Format, Image, Info, OpenOptions, Unlock, block_on};

use super::args::Opening;
use super::{failed, secret};
use crate::failure::Failure;

/// The formats by their names.
pub(crate) const FORMATS: [(&str, Format); 7] = [
    ("raw", Format::Raw),
    ("qcow2", Format::Qcow2),
    ("luks", Format::Luks),
    ("vmdk", Format::Vmdk),
    ("vdi", Format::Vdi),
    ("vhd", Format::Vhd),
    ("vhdx", Format::Vhdx),
];

/// The longest chain of images that is followed.
pub(crate) const LONGEST_CHAIN: usize = 200;

fn options(path: &Path, format: Option<Format>, opening: &Opening) -> Result<OpenOptions, Failure> {
    let unlock = match &opening.passphrase_file {
        Some(file) => Some(Arc::new(Passphrase::new(secret::read(file)?)) as Arc<dyn Unlock>),
        None => None,
    };
    Ok(OpenOptions { format, unlock, ..OpenOptions::new(path) })
}

fn opened(options: OpenOptions) -> Result<Arc<dyn Image>, Failure> {
    let passphrase = options.unlock.is_some();
    block_on(disk::open(options)).map_err(|error| match error {
        Error::Locked { path, .. } if !passphrase => {
            Failure::input(path.display(), "the image is encrypted", "give its passphrase with --passphrase-file")
        }
        error => failed(&error),
    })
}

/// Opens an image to read what a guest would.
pub(crate) fn read(path: &Path, format: Option<Format>, opening: &Opening) -> Result<Arc<dyn Image>, Failure> {
    let unlocked = opening.force_share;
    let image = opened(OpenOptions { read_only: true, unlocked, ..options(path, format, opening)? })?;
    let info = image.info();
    if info.encrypted && opening.passphrase_file.is_none() {
        let fix = "give its passphrase with --passphrase-file";
        return Err(Failure::input(info.path.display(), "the image is encrypted", fix));
    }
    Ok(image)
}

/// Opens an image to change it.
pub(crate) fn write(path: &Path, format: Option<Format>, opening: &Opening) -> Result<Arc<dyn Image>, Failure> {
    if opening.force_share {
        return Err(Failure::input(path.display(), "an image in use cannot be changed", "leave --force-share out"));
    }
    let image = opened(options(path, format, opening)?)?;
    if image.info().read_only {
        let cause = format!("{} images are read only", image.info().format);
        return Err(Failure::input(path.display(), cause, "convert it to qcow2 with 'husk img convert'"));
    }
    Ok(image)
}

/// Opens an image without those behind it, which are not touched: to read what it holds itself, or to name another.
pub(crate) fn alone(path: &Path, opening: &Opening, read_only: bool) -> Result<Arc<dyn Image>, Failure> {
    opened(OpenOptions { alone: true, read_only, ..options(path, None, opening)? })
}

/// Opens an image for its check, or its repair.
pub(crate) fn check(
    path: &Path,
    format: Option<Format>,
    opening: &Opening,
    repair: bool,
) -> Result<Arc<dyn Image>, Failure> {
    let unlocked = opening.force_share && !repair;
    opened(OpenOptions { alone: true, read_only: !repair, unlocked, ..options(path, format, opening)? })
}

/// Opens an image to tell what it is: without those behind it, and without a passphrase.
pub(crate) fn describe(path: &Path, format: Option<Format>, opening: &Opening) -> Result<Arc<dyn Image>, Failure> {
    let access = if opening.force_share { Access::ReadUnlocked } else { Access::Read };
    if opening.passphrase_file.is_none() {
        let file = HostFile::open(path, access).map_err(|error| failed(&error))?;
        let found = block_on(disk::probe(&file)).map_err(|error| failed(&error))?;
        if format.unwrap_or(found) == Format::Luks {
            let summary = LuksImage::summary(&file).map_err(|error| failed(&error))?;
            let on_host = file.info();
            let mut info = Info::new(path.to_owned(), "luks", on_host.size.saturating_sub(summary.payload));
            info.on_host = on_host.on_host;
            info.encrypted = true;
            let slots: Vec<String> = summary.slots.iter().map(u32::to_string).collect();
            info.details = vec![
                ("version", summary.version.to_string()),
                ("cipher", summary.cipher),
                ("hash", summary.hash),
                ("uuid", summary.uuid),
                ("slots", slots.join(" ")),
            ];
            info.details.retain(|(_, value)| !value.is_empty());
            return Ok(Arc::new(Locked(info)));
        }
    }
    opened(OpenOptions {
        alone: true,
        read_only: true,
        unlocked: opening.force_share,
        ..options(path, format, opening)?
    })
}

/// Where the image behind one is.
pub(crate) fn path_of(info: &Info, name: &str) -> PathBuf {
    let folder = info.path.parent().unwrap_or_else(|| Path::new(""));
    folder.join(name.strip_prefix("file:").unwrap_or(name))
}

/// The format of an image that is to be behind another, and that image. It must not be the other itself, nor have it behind
/// it.
pub(crate) fn behind(
    above: &Path,
    path: &Path,
    format: Option<Format>,
    opening: &Opening,
) -> Result<Arc<dyn Image>, Failure> {
    let image = read(path, format, opening)?;
    let same = |path: &Path| {
        let both = std::fs::canonicalize(path).ok().zip(std::fs::canonicalize(above).ok());
        both.is_some_and(|(path, above)| path == above)
    };
    let mut next = Some((path.to_owned(), Some(image.info())));
    for _ in 0..LONGEST_CHAIN {
        let Some((path, info)) = next else { break };
        if same(&path) {
            return Err(Failure::input(above.display(), "it would be behind itself", "name another image"));
        }
        let info = match info {
            Some(info) => info,
            None => describe(&path, None, opening)?.info(),
        };
        next = info.backing.as_ref().map(|backing| (path_of(&info, &backing.name), None));
    }
    Ok(image)
}

/// An encrypted image without its passphrase: there is nothing but its description.
struct Locked(Info);

impl Locked {
    fn refuse<T>(&self) -> Work<'static, T> {
        let error = Error::Locked { path: self.0.path.clone(), what: "the image is encrypted".to_owned() };
        Box::pin(async { Err(error) })
    }
}

impl Image for Locked {
    fn info(&self) -> Info {
        self.0.clone()
    }

    fn read<'a>(&'a self, _: u64, _: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        self.refuse()
    }

    fn write<'a>(&'a self, _: u64, _: &'a [IoSlice<'_>], _: bool) -> Work<'a, ()> {
        self.refuse()
    }

    fn erase(&self, _: u64, _: u64, _: Erase) -> Work<'_, ()> {
        self.refuse()
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn extent(&self, _: u64, _: u64) -> Work<'_, Extent> {
        self.refuse()
    }

    fn resize(&self, _: u64) -> Work<'_, ()> {
        self.refuse()
    }
}

//! What goes wrong with images: which file, why, and what to do.

use std::io;
use std::path::{Path, PathBuf};

/// The result of everything here.
pub type Result<T> = std::result::Result<T, Error>;

/// An image could not be opened, read, changed or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host refused something.
    #[error("{}: cannot {what}: {cause}{}", path.display(), advice(cause))]
    Host {
        /// The file.
        path: PathBuf,
        /// What was tried, in words that follow "cannot".
        what: &'static str,
        /// The host's word.
        cause: io::Error,
    },
    /// Somebody else has it open in a way that excludes ours.
    #[error("{}: the image is in use by {holder}; stop that first, or make an overlay over a copy", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// Who: process and command, as far as this can be seen.
        holder: String,
    },
    /// A change of what was opened for reading.
    #[error("{}: the image is open for reading only", path.display())]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// A request beyond the end of the disk.
    #[error("{}: {len} bytes at {offset} reach beyond the end of the disk, {size} bytes", path.display())]
    Beyond {
        /// The file.
        path: PathBuf,
        /// Where the request starts, in bytes.
        offset: u64,
        /// Its length in bytes.
        len: u64,
        /// Bytes of the disk.
        size: u64,
    },
    /// The image contradicts its own format.
    #[error("{}: the {format} image is damaged: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The format's name.
        format: &'static str,
        /// What contradicts what.
        what: String,
    },
    /// The image or the wish is sound, and Husk cannot do it.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// What cannot be done, and what to do instead.
        what: String,
    },
    /// Options that contradict each other or the image.
    #[error("{}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        what: String,
    },
    /// The image needs a key, and there was none, or the wrong one.
    #[error("{}: {what}", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// What is missing.
        what: String,
    },
    /// The image behind an image could not be had.
    #[error("{}: its backing file: {cause}", path.display())]
    Backing {
        /// The image that has the backing file.
        path: PathBuf,
        /// What happened to it.
        cause: Box<Error>,
    },
}

/// What to do about a refusal of the host.
fn advice(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::StorageFull => "; make room on the host's file system: nothing that was flushed is lost",
        io::ErrorKind::ReadOnlyFilesystem => "; open it read-only, or make an overlay elsewhere",
        _ => "",
    }
}

impl Error {
    /// The host refused `what`, which follows "cannot".
    pub fn host(path: &Path, what: &'static str, cause: io::Error) -> Self {
        Self::Host { path: path.into(), what, cause }
    }

    /// The image contradicts its format.
    pub fn damaged(path: &Path, format: &'static str, what: impl Into<String>) -> Self {
        Self::Damaged { path: path.into(), format, what: what.into() }
    }

    /// Husk cannot do it.
    pub fn unsupported(path: &Path, what: impl Into<String>) -> Self {
        Self::Unsupported { path: path.into(), what: what.into() }
    }

    /// The options are wrong.
    pub fn invalid(path: &Path, what: impl Into<String>) -> Self {
        Self::Invalid { path: path.into(), what: what.into() }
    }
}

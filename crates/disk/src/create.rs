//! Making images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::file::{Access, HostFile};
use crate::image::Image;
use crate::open::{Format, OpenOptions, open};
use crate::qcow2::{self, Layout, Reserve};

/// What of a new image's space is taken at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preallocation {
    /// Nothing.
    #[default]
    Off,
    /// The tables; the data is a hole.
    Metadata,
    /// The tables, and space for the data.
    Falloc,
    /// The tables, and the data written with zeros.
    Full,
}

/// A new image.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// The file, which must not be there.
    pub path: PathBuf,
    /// Raw or qcow2.
    pub format: Format,
    /// Bytes of the disk; that of the backing file when it is not told.
    pub size: Option<u64>,
    /// What of its space is taken at once.
    pub preallocation: Preallocation,
    /// More about a qcow2 image. Its backing file must be there and tell its format.
    pub layout: Layout,
}

impl CreateOptions {
    /// An image of a format and a size, with the defaults of everything else.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, format: Format, size: u64) -> Self {
        Self {
            path: path.into(),
            format,
            size: Some(size),
            preallocation: Preallocation::Off,
            layout: Layout::default(),
        }
    }
}

/// Makes an image, durably; what it has made is removed when it fails.
///
/// # Errors
/// A file that is there already; options that contradict each other; refusals of the host; formats that are only read.
pub async fn create(options: &CreateOptions) -> Result<()> {
    let path = &options.path;
    if !matches!(options.format, Format::Raw | Format::Qcow2) {
        return Err(Error::unsupported(path, format!("images of the format {} are only read", options.format.name())));
    }
    let size = match (options.size, &options.layout.backing) {
        (Some(size), _) => size,
        (None, None) => return Err(Error::invalid(path, "a new image needs a size")),
        (None, Some(_)) => backing_size(options).await?,
    };
    let file = Arc::new(HostFile::create(path)?);
    let mut made = vec![path.clone()];
    let mut done = fill(options, &file, size, &mut made).await;
    if done.is_ok() {
        done = note_name(path);
    }
    if done.is_err() {
        made.iter().for_each(|path| _ = std::fs::remove_file(path));
    }
    done
}

/// Makes the file's name durable: it is its folder's.
fn note_name(path: &Path) -> Result<()> {
    let folder = qcow2::folder(path);
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| Error::host(path, "flush the image's folder", e))
}

async fn backing_size(options: &CreateOptions) -> Result<u64> {
    let path = &options.path;
    let Some((name, format)) = &options.layout.backing else { return Ok(0) };
    let Some(format) = format else {
        return Err(Error::invalid(path, "tell the format of the backing file: a raw one must not be guessed"));
    };
    let format: Format = format.parse().map_err(|e: String| Error::invalid(path, e))?;
    let behind = OpenOptions {
        format: Some(format),
        read_only: true,
        probe_backing: true,
        ..OpenOptions::new(crate::open::beside(path, name)?)
    };
    let behind = open(behind).await.map_err(|cause| Error::Backing { path: path.clone(), cause: Box::new(cause) })?;
    Ok(behind.info().size)
}

async fn fill(options: &CreateOptions, file: &Arc<HostFile>, size: u64, made: &mut Vec<PathBuf>) -> Result<()> {
    let path = &options.path;
    if options.format == Format::Raw {
        file.resize(size).await?;
        return take_space(file, options.preallocation, size).await;
    }
    let mut layout = options.layout.clone();
    if options.preallocation != Preallocation::Off {
        layout.reserve = Reserve::Metadata;
    }
    let mut data = None;
    if let Some((name, _)) = &layout.data_file {
        let place = crate::open::beside(path, name)?;
        let there = place.exists();
        let opened = if there { HostFile::open(&place, Access::Write)? } else { HostFile::create(&place)? };
        if !there {
            made.push(place);
        }
        data = Some(Arc::new(opened));
    }
    let node = data.clone().map(|d| d as Arc<dyn Image>);
    qcow2::make(Arc::clone(file) as Arc<dyn Image>, node, size, &layout).await?;
    let place = data.as_ref().unwrap_or(file);
    take_space(place, options.preallocation, place.len()?).await
}

/// Takes space for the whole file.
async fn take_space(file: &HostFile, how: Preallocation, size: u64) -> Result<()> {
    if size > 0 && matches!(how, Preallocation::Falloc | Preallocation::Full) {
        file.reserve(0, size)?;
    }
    file.flush().await
}

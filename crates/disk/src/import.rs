//! Images of other programs, read for import: what VMDK, VDI, VHD and VHDX have in common. Each says where the bytes of the disk
//! are (`Layout`); this reads them, and refuses to write.

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::buffers;
use crate::error::{Error, Result};
use crate::image::{Erase, Extent, Image, Info, Kind, Work, block_on, read_at, within};
use crate::vdi::Vdi;
use crate::vhd::Vhd;
use crate::vhdx::Vhdx;
use crate::vmdk::Vmdk;
use crate::{vdi, vhd, vhdx, vmdk};

/// A format that is read for import.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// VMware's.
    Vmdk,
    /// VirtualBox's.
    Vdi,
    /// That of Virtual PC and old Hyper-V, `vpc`.
    Vhd,
    /// Hyper-V's.
    Vhdx,
}

impl Foreign {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Vmdk, Self::Vdi, Self::Vhd, Self::Vhdx];

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmdk => "vmdk",
            Self::Vdi => "vdi",
            Self::Vhd => "vpc",
            Self::Vhdx => "vhdx",
        }
    }

    /// The format of a file, by its first bytes (some KiB of them, fewer if it is shorter) and its last 512, where a fixed
    /// VHD has its only mark.
    #[must_use]
    pub fn probe(start: &[u8], end: &[u8]) -> Option<Self> {
        match start {
            start if vhdx::probe(start) => Some(Self::Vhdx),
            start if vmdk::probe(start) => Some(Self::Vmdk),
            start if vdi::probe(start) => Some(Self::Vdi),
            start if vhd::probe(start, end) => Some(Self::Vhd),
            _ => None,
        }
    }

    /// Opens an image of this format to read. `beside` opens what a descriptor of VMDK names in the folder of the image.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Unsupported`] and those of the files.
    pub fn open(self, file: Arc<dyn Image>, beside: &OpenBeside<'_>) -> Result<Imported> {
        let info = file.info();
        let source = Source::new(file);
        let layout = || -> Parsed<Box<dyn Layout>> {
            Ok(match self {
                Self::Vmdk => Box::new(Vmdk::open(source, &info.path, beside)?),
                Self::Vdi => Box::new(Vdi::open(source)?),
                Self::Vhd => Box::new(Vhd::open(source)?),
                Self::Vhdx => Box::new(Vhdx::open(source)?),
            })
        };
        let layout = layout().map_err(|cause| cause.of(&info.path, self.name()))?;
        Ok(Imported { size: layout.size(), layout, path: info.path, on_host: info.on_host })
    }
}

/// Why an image cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ImportError {
    /// The image contradicts itself, or its format.
    #[error("{0}")]
    Corrupt(String),
    /// Something that the format has and this crate does not.
    #[error("it has {0}, which is not supported")]
    Unsupported(String),
    /// Its log has to be replayed first.
    #[error(
        "it was not closed in order, and its log holds what is missing; open and close it once in the program it is from"
    )]
    Dirty,
    /// The host, or an image that it lies in.
    #[error(transparent)]
    Source(#[from] crate::Error),
}

impl ImportError {
    pub(crate) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt(what.into())
    }

    fn of(self, path: &Path, format: &'static str) -> Error {
        match self {
            Self::Corrupt(what) => Error::damaged(path, format, what),
            Self::Source(error) => error,
            other => Error::unsupported(path, format!("the {format} image cannot be imported: {other}")),
        }
    }
}

/// What reading a format comes to.
pub(crate) type Parsed<T> = std::result::Result<T, ImportError>;

/// A file of an image.
#[derive(Clone)]
pub(crate) struct Source {
    file: Arc<dyn Image>,
    path: PathBuf,
    /// Bytes, when it was opened.
    len: u64,
}

impl Source {
    pub(crate) fn new(file: Arc<dyn Image>) -> Self {
        let Info { path, size, .. } = file.info();
        Self { file, path, len: size }
    }

    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    fn check(&self, offset: u64, len: u64) -> Parsed<()> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        let missing = || format!("it is truncated: {len} bytes at {offset} of {} are missing", self.path.display());
        if inside { Ok(()) } else { Err(ImportError::Corrupt(missing())) }
    }

    /// Fills the buffer, now: tables are read so, by tools that have nothing else to do.
    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Parsed<()> {
        self.check(offset, buffer.len() as u64)?;
        Ok(block_on(read_at(&*self.file, offset, buffer))?)
    }
}

/// Where bytes of a disk are.
pub(crate) enum Place<'a> {
    /// Nowhere: they are zero.
    Zero,
    /// In the file, at this byte.
    At(&'a Source, u64),
    /// In memory, unpacked, from this byte on.
    Unpacked(Arc<Vec<u8>>, usize),
}

/// What bytes of a disk from some offset on have in common.
pub(crate) struct Run<'a> {
    /// How many bytes, at least one. May reach behind the end of the disk.
    pub(crate) len: u64,
    pub(crate) place: Place<'a>,
}

/// Where a format keeps the bytes of its disk.
pub(crate) trait Layout: Send + Sync {
    /// The format's name on the command line.
    fn format(&self) -> &'static str;
    /// The bytes of the disk.
    fn size(&self) -> u64;
    /// Where the bytes from this offset on are, which is less than the size.
    fn run(&self, offset: u64) -> Parsed<Run<'_>>;
}

/// A number of a header; 0 behind its end.
pub(crate) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

/// A number of a header; 0 behind its end.
pub(crate) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// A number of a header; 0 behind its end.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// A number of a header; 0 behind its end.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_be_bytes)
}

/// Bytes of a page of a table.
const PAGE: u64 = 16 << 10;
/// How many of them are kept.
const PAGES: usize = 128;

/// A table of a file, read by pages, so that memory does not grow with what a header claims.
pub(crate) struct Table {
    source: Source,
    /// Bytes from the start of the file.
    at: u64,
    /// Bytes.
    len: u64,
    pages: Mutex<HashMap<u64, Arc<Vec<u8>>>>,
}

impl Table {
    /// The table at this byte of the file, of so many bytes; it has to be in the file.
    pub(crate) fn new(source: &Source, at: u64, len: u64) -> Parsed<Self> {
        if at.checked_add(len).is_none_or(|end| end > source.len()) {
            return Err(ImportError::corrupt("it is truncated: a table is behind its end"));
        }
        Ok(Self { source: source.clone(), at, len, pages: Mutex::default() })
    }

    /// Reads an entry, which does not cross a page.
    pub(crate) fn read(&self, offset: u64, entry: &mut [u8]) -> Parsed<()> {
        let (page, within) = (offset / PAGE, (offset % PAGE) as usize);
        let outside = || ImportError::corrupt("an entry is behind the end of its table");
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = match pages.get(&page) {
            Some(bytes) => Arc::clone(bytes),
            None => {
                let start = page.checked_mul(PAGE).filter(|start| *start < self.len).ok_or_else(outside)?;
                let mut bytes = vec![0; PAGE.min(self.len - start) as usize];
                self.source.read(self.at + start, &mut bytes)?;
                if pages.len() >= PAGES {
                    pages.clear();
                }
                let bytes = Arc::new(bytes);
                pages.insert(page, Arc::clone(&bytes));
                bytes
            }
        };
        entry.copy_from_slice(bytes.get(within..within + entry.len()).ok_or_else(outside)?);
        Ok(())
    }
}

/// Opens a file that a descriptor of VMDK names, to read.
pub type OpenBeside<'a> = dyn Fn(&Path) -> Result<Arc<dyn Image>> + 'a;

/// An image of another program, to read.
pub struct Imported {
    layout: Box<dyn Layout>,
    path: PathBuf,
    size: u64,
    on_host: Option<u64>,
}

impl Imported {
    fn read_only<T>(&self) -> Result<T> {
        let what =
            format!("{} images are read only; convert it to qcow2 with 'husk img convert'", self.layout.format());
        Err(Error::unsupported(&self.path, what))
    }

    fn run(&self, offset: u64, len: u64) -> Result<Run<'_>> {
        let run = self.layout.run(offset).map_err(|cause| cause.of(&self.path, self.layout.format()))?;
        Ok(Run { len: run.len.clamp(1, len), ..run })
    }
}

impl Image for Imported {
    fn info(&self) -> Info {
        let mut info = Info::new(self.path.clone(), self.layout.format(), self.size);
        info.on_host = self.on_host;
        info.read_only = true;
        info
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            let total = buffers::total_mut(buffers);
            within(&self.path, self.size, offset, total)?;
            let mut done = 0;
            while done < total {
                let run = self.run(offset + done, total - done)?;
                let mut part = buffers::part_mut(buffers, done, run.len);
                match run.place {
                    Place::Zero => buffers::clear(&mut part),
                    Place::Unpacked(bytes, from) => buffers::scatter(&mut part, bytes.get(from..).unwrap_or_default()),
                    Place::At(source, at) => {
                        source.check(at, run.len).map_err(|cause| cause.of(&self.path, self.layout.format()))?;
                        source.file.read(at, &mut part).await?;
                    }
                }
                done += run.len;
            }
            Ok(())
        })
    }

    fn write<'a>(&'a self, _offset: u64, _buffers: &'a [IoSlice<'_>], _durable: bool) -> Work<'a, ()> {
        Box::pin(async move { self.read_only() })
    }

    fn erase(&self, _offset: u64, _len: u64, _how: Erase) -> Work<'_, ()> {
        Box::pin(async move { self.read_only() })
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async move { Ok(()) })
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move {
            within(&self.path, self.size, offset, len)?;
            let run = self.run(offset, len)?;
            Ok(match run.place {
                Place::Zero => Extent { len: run.len, kind: Kind::Hole, depth: 0, at: None },
                Place::Unpacked(..) => Extent { len: run.len, kind: Kind::Data, depth: 0, at: None },
                Place::At(source, at) => {
                    // The holes of flat images are holes of their files.
                    let inner = source.file.extent(at, run.len).await?;
                    let kind = if inner.kind == Kind::Hole { Kind::Hole } else { Kind::Data };
                    Extent { len: inner.len.clamp(1, run.len), kind, depth: 0, at: Some(at) }
                }
            })
        })
    }

    fn resize(&self, _size: u64) -> Work<'_, ()> {
        Box::pin(async move { self.read_only() })
    }
}

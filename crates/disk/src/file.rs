//! The node over an open file or block device of the host.
//!
//! Its host I/O completes on the thread that polls; io_uring is to come behind the same type.
//!
//! Locks keep two writers, or a writer and a reader, from one image. They are of the open file (fcntl(2), `F_OFD_SETLK`)
//! and single bytes of it, as QEMU's: byte 100 + p says "I do p", byte 200 + p "nobody else may do p", where p is 0 for
//! reading what must stay the same, 1 for writing, 3 for resizing. So each refuses what the other has open.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use base::disk_file;

use crate::buffers;
use crate::error::{Error, Result};
use crate::holder;
use crate::image::{Erase, Extent, Image, Info, Kind, Work};

/// Zeros are written in pieces of this size where the host cannot make them.
const PIECE: usize = 1 << 20;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// For reading; others may read.
    Read,
    /// For reading and writing; nobody else may have it.
    Write,
    /// For reading, whoever writes it meanwhile: what is read may contradict itself.
    ReadUnlocked,
}

/// A file or block device of the host. Writes behind its end make it longer; behind the end it reads as zeros.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    path: PathBuf,
    read_only: bool,
    device: bool,
    block: u32,
}

impl HostFile {
    /// Opens what is there.
    ///
    /// # Errors
    /// The host's refusal; [`Error::InUse`] when another has it; [`Error::Unsupported`] for what is no file or block
    /// device.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let about = std::fs::metadata(path).map_err(|e| Error::host(path, "open the image", e))?;
        if !about.is_file() && !about.file_type().is_block_device() {
            return Err(Error::unsupported(path, "an image must be a file or a block device"));
        }
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(access == Access::Write)
            .open(path)
            .map_err(|e| Error::host(path, "open the image", e))?;
        Self::over(file, path, access)
    }

    /// Makes a new, empty file; refuses to touch one that is there.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn create(path: &Path) -> Result<Self> {
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|e| Error::host(path, "make the image", e))?;
        Self::over(file, path, Access::Write)
    }

    /// The node over a file that is open already, as one that another process has handed over.
    ///
    /// # Errors
    /// The host's refusal; [`Error::InUse`] when another has it; [`Error::Unsupported`] for what is no file or block
    /// device.
    pub fn over(file: File, path: &Path, access: Access) -> Result<Self> {
        let about = file.metadata().map_err(|e| Error::host(path, "look at the image", e))?;
        let device = about.file_type().is_block_device();
        if !about.is_file() && !device {
            return Err(Error::unsupported(path, "an image must be a file or a block device"));
        }
        if access != Access::ReadUnlocked {
            lock(&file, path)?;
        }
        let block = if device { disk_file::device_block_size(&file).unwrap_or(512) } else { 512 };
        Ok(Self { file, path: path.into(), read_only: access != Access::Write, device, block })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn len(&self) -> Result<u64> {
        let len = if self.device {
            io::Seek::seek(&mut &self.file, io::SeekFrom::End(0))
        } else {
            self.file.metadata().map(|m| m.len())
        };
        len.map_err(|e| Error::host(&self.path, "tell the length of the image", e))
    }

    /// Whether it has no byte.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn is_empty(&self) -> Result<bool> {
        self.len().map(|len| len == 0)
    }

    /// Takes space for bytes on the host's file system, so that writing them cannot find it full.
    ///
    /// # Errors
    /// The host's refusal.
    pub fn reserve(&self, offset: u64, len: u64) -> Result<()> {
        self.writable()?;
        disk_file::allocate(&self.file, offset, len).map_err(|e| Error::host(&self.path, "take space", e))
    }

    fn writable(&self) -> Result<()> {
        if self.read_only { Err(Error::ReadOnly { path: self.path.clone() }) } else { Ok(()) }
    }

    fn read_now(&self, offset: u64, buffers: &mut [IoSliceMut<'_>]) -> Result<()> {
        let mut rest = buffers;
        IoSliceMut::advance_slices(&mut rest, 0);
        let mut at = offset;
        while !rest.is_empty() {
            match disk_file::read_vectored_at(&self.file, rest, at) {
                Ok(0) => {
                    buffers::clear(rest);
                    break;
                }
                Ok(n) => {
                    at += n as u64;
                    IoSliceMut::advance_slices(&mut rest, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::host(&self.path, "read the image", e)),
            }
        }
        Ok(())
    }

    fn write_now(&self, offset: u64, buffers: &[IoSlice<'_>], durable: bool) -> Result<()> {
        self.writable()?;
        let mut list = buffers.to_vec();
        let mut rest = &mut list[..];
        IoSlice::advance_slices(&mut rest, 0);
        let mut at = offset;
        while !rest.is_empty() {
            match disk_file::write_vectored_at(&self.file, rest, at) {
                Ok(0) => return Err(Error::host(&self.path, "write the image", io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::host(&self.path, "write the image", e)),
            }
        }
        if durable { self.flush_now() } else { Ok(()) }
    }

    fn flush_now(&self) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.file.sync_data().map_err(|e| Error::host(&self.path, "flush the image", e))
    }

    fn erase_now(&self, offset: u64, len: u64, how: Erase) -> Result<()> {
        self.writable()?;
        // Behind the end there are zeros already.
        let len = len.min(self.len()?.saturating_sub(offset));
        if len == 0 {
            return Ok(());
        }
        let done = match (self.device, how) {
            (true, Erase::Zero) => disk_file::device_zero(&self.file, offset, len),
            (true, Erase::Discard) => disk_file::device_discard(&self.file, offset, len),
            (false, _) => disk_file::punch_hole(&self.file, offset, len)
                .or_else(|_| disk_file::zero_range(&self.file, offset, len)),
        };
        if done.is_ok() || how == Erase::Discard {
            return Ok(());
        }
        let zeros = vec![0; PIECE.min(len as usize)];
        let mut at = offset;
        while at < offset + len {
            let now = (offset + len - at).min(zeros.len() as u64);
            self.write_now(at, &[IoSlice::new(&zeros[..now as usize])], false)?;
            at += now;
        }
        Ok(())
    }

    fn extent_now(&self, offset: u64, len: u64) -> Result<Extent> {
        let size = self.len()?;
        let hole = |len| Extent { len, kind: Kind::Hole, depth: 0, at: Some(offset) };
        if offset >= size {
            return Ok(hole(len.max(1)));
        }
        let len = len.max(1).min(size - offset);
        let data = |len| Extent { len, kind: Kind::Data, depth: 0, at: Some(offset) };
        if self.device {
            return Ok(data(len));
        }
        Ok(match disk_file::next_data(&self.file, offset) {
            Ok(None) => hole(len),
            Ok(Some(start)) if start > offset => hole(len.min(start - offset)),
            Ok(Some(_)) => match disk_file::next_hole(&self.file, offset) {
                Ok(Some(end)) if end > offset => data(len.min(end - offset)),
                _ => data(len),
            },
            Err(_) => data(len),
        })
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        let _ = disk_file::unlock(&self.file);
    }
}

/// Says that the file is read and that nobody may write or resize it; a writer needs no more, as readers exclude it so.
fn lock(file: &File, path: &Path) -> Result<()> {
    let in_use = || Error::InUse { path: path.into(), holder: holder::name(path, file) };
    let writer = disk_file::is_writable(file);
    let uses: &[u64] = if writer { &[0, 1, 3] } else { &[0] };
    let forbids: &[u64] = &[1, 3];
    let mine = uses.iter().map(|p| 100 + p).chain(forbids.iter().map(|p| 200 + p));
    let others = uses.iter().map(|p| 200 + p).chain(forbids.iter().map(|p| 100 + p));
    let run = || -> io::Result<bool> {
        for byte in mine {
            if !disk_file::lock_byte(file, byte)? {
                return Ok(false);
            }
        }
        for byte in others {
            if disk_file::byte_is_locked(file, byte)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    match run() {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use()),
        // File systems without locks: nothing to be had, and no reason to refuse the disk.
        Err(e) if matches!(e.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput) => Ok(()),
        Err(e) => Err(Error::host(path, "lock the image", e)),
    }
}

impl Image for HostFile {
    fn info(&self) -> Info {
        let mut info = Info::new(self.path.clone(), "file", self.len().unwrap_or(0));
        info.on_host = self.file.metadata().ok().filter(|_| !self.device).map(|m| m.blocks().saturating_mul(512));
        info.logical_block = self.block;
        info.read_only = self.read_only;
        info
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            // The list is cut as it is read, so a copy of it is: the caller's stays whole.
            let whole = buffers::total_mut(buffers);
            self.read_now(offset, &mut buffers::part_mut(buffers, 0, whole))
        })
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        Box::pin(async move { self.write_now(offset, buffers, durable) })
    }

    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        Box::pin(async move { self.erase_now(offset, len, how) })
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async move { self.flush_now() })
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move { self.extent_now(offset, len) })
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        Box::pin(async move {
            self.writable()?;
            if self.device {
                return Err(Error::unsupported(&self.path, "a block device has the length it has"));
            }
            self.file.set_len(size).map_err(|e| Error::host(&self.path, "resize the image", e))
        })
    }
}

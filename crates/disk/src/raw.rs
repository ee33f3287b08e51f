//! A raw image: the disk's bytes and nothing else, at some place of another node.

use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::buffers;
use crate::error::{Error, Result};
use crate::image::{Erase, Extent, Image, Info, Work, within};

/// A raw disk over a file: requests behind its end are refused.
pub struct Raw {
    file: Arc<dyn Image>,
    path: PathBuf,
    start: u64,
    size: AtomicU64,
}

impl Raw {
    /// The whole of `file`.
    #[must_use]
    pub fn new(file: Arc<dyn Image>) -> Self {
        let info = file.info();
        Self { file, path: info.path, start: 0, size: AtomicU64::new(info.size) }
    }

    /// `size` bytes of `file` from byte `start`.
    ///
    /// # Errors
    /// [`Error::Beyond`] when the file is shorter.
    pub fn part(file: Arc<dyn Image>, start: u64, size: u64) -> Result<Self> {
        let info = file.info();
        info.within(start, size)?;
        Ok(Self { file, path: info.path, start, size: AtomicU64::new(size) })
    }

    fn place(&self, offset: u64, len: u64) -> Result<u64> {
        within(&self.path, self.size.load(Ordering::Relaxed), offset, len)?;
        Ok(self.start + offset)
    }
}

impl Image for Raw {
    fn info(&self) -> Info {
        let mut info = self.file.info();
        info.format = "raw";
        info.size = self.size.load(Ordering::Relaxed);
        info
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            let at = self.place(offset, buffers::total_mut(buffers))?;
            self.file.read(at, buffers).await
        })
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        Box::pin(async move {
            let at = self.place(offset, buffers::total(buffers))?;
            self.file.write(at, buffers, durable).await
        })
    }

    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        Box::pin(async move {
            let at = self.place(offset, len)?;
            self.file.erase(at, len, how).await
        })
    }

    fn flush(&self) -> Work<'_, ()> {
        self.file.flush()
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move {
            let at = self.place(offset, len)?;
            let mut extent = self.file.extent(at, len).await?;
            extent.len = extent.len.clamp(1, len.max(1));
            Ok(extent)
        })
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        Box::pin(async move {
            if self.start != 0 {
                return Err(Error::unsupported(&self.path, "a part of a file has the length it has"));
            }
            self.file.resize(size).await?;
            self.size.store(size, Ordering::Relaxed);
            Ok(())
        })
    }
}

//! A plain LUKS image: the header, and the encrypted disk behind it.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{FORMAT, LuksError, Parameters, Summary, Unlocked, create, summary, unlock};
use crate::buffers;
use crate::cipher::{Cipher, SECTOR};
use crate::error::{Error, Result};
use crate::image::{Erase, Extent, Image, Info, Kind, Work, block_on, read_at, within, write_at};
use crate::turn::Stretches;

/// Bytes that are encrypted at a time.
const PIECE: u64 = 1 << 20;

/// A disk encrypted by LUKS in a file. What is erased is overwritten, as holes would decrypt to noise.
pub struct LuksImage {
    file: Arc<dyn Image>,
    key: Unlocked,
    summary: Summary,
    /// Bytes of the disk.
    size: AtomicU64,
    /// Writes of parts of sectors read and write back: nobody else is to touch them meanwhile.
    stretches: Stretches,
}

fn locked(file: &dyn Image, error: LuksError) -> Error {
    error.of(&file.info().path)
}

/// Reads the area of the header in a file, whose bytes behind the end are an error.
fn reader(file: &dyn Image) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<()> + '_ {
    let len = file.info().size;
    move |at, data| {
        if at.checked_add(data.len() as u64).is_none_or(|end| end > len) {
            return Err(std::io::Error::other("it is truncated"));
        }
        block_on(read_at(file, at, data)).map_err(|error| std::io::Error::other(error.to_string()))
    }
}

impl LuksImage {
    /// What the header of a file says, without a passphrase.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Unsupported`] and those of the file.
    pub fn summary(file: &dyn Image) -> Result<Summary> {
        summary(&mut reader(file)).map_err(|error| locked(file, error))
    }

    /// Unlocks the image in a file.
    ///
    /// # Errors
    /// [`Error::Locked`] for a wrong passphrase, [`Error::Damaged`], [`Error::Unsupported`] and those of the file.
    pub fn open(file: Arc<dyn Image>, passphrase: &[u8]) -> Result<Self> {
        let summary = Self::summary(&*file)?;
        let key = unlock(&mut reader(&*file), passphrase).map_err(|error| locked(&*file, error))?;
        let len = file.info().size;
        let left = len.checked_sub(key.payload);
        let left = left.ok_or_else(|| Error::damaged(&file.info().path, FORMAT, "it is truncated"))?;
        let size = key.payload_len.unwrap_or(left).min(left);
        let size = size - size % key.sector as u64;
        Ok(Self { file, key, summary, size: size.into(), stretches: Stretches::default() })
    }

    /// Makes an image for a disk of `size` bytes, a multiple of 512, in an empty file.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another size, those of the file, and the host's when it has no random numbers.
    pub fn create(file: Arc<dyn Image>, size: u64, parameters: &Parameters, passphrase: &[u8]) -> Result<Self> {
        if !size.is_multiple_of(SECTOR) {
            return Err(Error::invalid(&file.info().path, "an encrypted disk has whole sectors of 512 bytes"));
        }
        let (area, key) = create(parameters, passphrase).map_err(|error| locked(&*file, error))?;
        let end = key.payload.checked_add(size);
        let end = end.ok_or_else(|| Error::invalid(&file.info().path, "the disk is larger than any file"))?;
        block_on(write_at(&*file, 0, &area))?;
        block_on(file.resize(end))?;
        block_on(file.flush())?;
        let summary = Self::summary(&*file)?;
        Ok(Self { file, key, summary, size: size.into(), stretches: Stretches::default() })
    }

    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    fn path(&self) -> std::path::PathBuf {
        self.file.info().path
    }

    /// The whole sectors around bytes.
    fn around(&self, offset: u64, len: u64) -> (u64, u64) {
        let sector = self.key.sector as u64;
        (offset - offset % sector, (offset + len).next_multiple_of(sector))
    }

    async fn read_sectors(&self, start: u64, data: &mut [u8]) -> Result<()> {
        read_at(&*self.file, self.key.payload + start, data).await?;
        self.key.sectors.decrypt(self.key.first_sector.wrapping_add(start / SECTOR), data);
        Ok(())
    }

    /// Writes bytes that `fill` puts into the clear sectors.
    async fn write_piece(&self, offset: u64, len: u64, durable: bool, fill: impl FnOnce(&mut [u8])) -> Result<()> {
        let (start, end) = self.around(offset, len);
        let _alone = self.stretches.take(start, end, true).await;
        let mut data = vec![0; (end - start) as usize];
        let sector = self.key.sector;
        let last = data.len() - sector;
        if start < offset {
            self.read_sectors(start, &mut data[..sector]).await?;
        }
        if offset + len < end && (last > 0 || start == offset) {
            self.read_sectors(end - sector as u64, &mut data[last..]).await?;
        }
        let within = (offset - start) as usize;
        fill(&mut data[within..within + len as usize]);
        self.key.sectors.encrypt(self.key.first_sector.wrapping_add(start / SECTOR), &mut data);
        self.file.write(self.key.payload + start, &[IoSlice::new(&data)], durable).await
    }
}

impl Image for LuksImage {
    fn info(&self) -> Info {
        let file = self.file.info();
        let mut info = Info::new(file.path, FORMAT, self.size());
        info.on_host = file.on_host;
        info.read_only = file.read_only;
        info.logical_block = self.key.sector as u32;
        info.encrypted = true;
        let Summary { version, cipher, hash, uuid, slots, .. } = &self.summary;
        info.details = vec![("version", version.to_string()), ("cipher", cipher.clone()), ("uuid", uuid.clone())];
        if !hash.is_empty() {
            info.details.push(("hash", hash.clone()));
        }
        let slots: Vec<String> = slots.iter().map(u32::to_string).collect();
        info.details.push(("slots", slots.join(" ")));
        info
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            let total = buffers::total_mut(buffers);
            within(&self.path(), self.size(), offset, total)?;
            let mut done = 0;
            while done < total {
                let now = (total - done).min(PIECE);
                let (start, end) = self.around(offset + done, now);
                let mut data = vec![0; (end - start) as usize];
                let together = self.stretches.take(start, end, false).await;
                self.read_sectors(start, &mut data).await?;
                drop(together);
                let from = (offset + done - start) as usize;
                let clear = &data[from..from + now as usize];
                buffers::scatter(&mut buffers::part_mut(buffers, done, now), clear);
                done += now;
            }
            Ok(())
        })
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        Box::pin(async move {
            let total = buffers::total(buffers);
            within(&self.path(), self.size(), offset, total)?;
            let mut done = 0;
            while done < total {
                let now = (total - done).min(PIECE);
                let bytes = buffers::gather(&buffers::part(buffers, done, now));
                self.write_piece(offset + done, now, durable, |data| data.copy_from_slice(&bytes)).await?;
                done += now;
            }
            Ok(())
        })
    }

    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        Box::pin(async move {
            within(&self.path(), self.size(), offset, len)?;
            if how == Erase::Discard {
                return Ok(());
            }
            let mut done = 0;
            while done < len {
                let now = (len - done).min(PIECE);
                self.write_piece(offset + done, now, false, |data| data.fill(0)).await?;
                done += now;
            }
            Ok(())
        })
    }

    fn flush(&self) -> Work<'_, ()> {
        self.file.flush()
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move {
            within(&self.path(), self.size(), offset, len)?;
            Ok(Extent { len: len.max(1), kind: Kind::Data, depth: 0, at: None })
        })
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        Box::pin(async move {
            let end = self.key.payload.checked_add(size).filter(|_| size.is_multiple_of(self.key.sector as u64));
            let end = end.ok_or_else(|| Error::invalid(&self.path(), "an encrypted disk has whole sectors"))?;
            let before = self.size();
            self.file.resize(end).await?;
            self.size.store(size, Ordering::Relaxed);
            // The new part is a hole, which would decrypt to noise.
            if size > before { self.erase(before, size - before, Erase::Zero).await } else { Ok(()) }
        })
    }
}

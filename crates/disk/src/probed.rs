//! A raw disk that nobody has called raw: it is one because its first bytes show no other format.
//!
//! What a guest writes there would decide what the disk is taken for the next time, and headers of other formats name files
//! of the host. So writes that would make one of them of it are refused, as QEMU refuses them. The header of LUKS is let
//! through, as it names nothing, and guests do encrypt whole disks.

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use crate::buffers;
use crate::error::{Error, Result};
use crate::image::{Erase, Extent, Image, Info, Work, read_at};
use crate::import::Foreign;
use crate::qcow2;
use crate::turn::Shared;

/// The first bytes, by which a format is known.
pub(crate) const FIRST: usize = 4096;
/// The last ones, by which the rest is.
pub(crate) const LAST: usize = 512;

/// A raw disk that stays one.
pub(crate) struct ProbedRaw {
    disk: Arc<dyn Image>,
    /// Writes to the ends of the disk are looked at one after the other.
    turn: Shared<()>,
}

impl ProbedRaw {
    /// Over a raw disk.
    pub(crate) fn new(disk: Arc<dyn Image>) -> Self {
        Self { disk, turn: Shared::new(()) }
    }

    /// Where the last bytes are.
    fn end(size: u64) -> u64 {
        size.saturating_sub(LAST as u64)
    }

    /// Whether the disk would still be raw.
    async fn stays_raw(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<bool> {
        let size = self.disk.info().size;
        let mut first = vec![0; FIRST.min(size as usize)];
        let mut last = vec![0; LAST.min(size as usize)];
        read_at(&*self.disk, 0, &mut first).await?;
        read_at(&*self.disk, Self::end(size), &mut last).await?;
        let mut at = offset;
        for buffer in buffers {
            put(&mut first, 0, at, buffer);
            put(&mut last, Self::end(size), at, buffer);
            at = at.saturating_add(buffer.len() as u64);
        }
        Ok(!qcow2::looks_like(&first) && Foreign::probe(&first, &last).is_none())
    }
}

/// Copies what of `bytes`, which belong to `at`, lies in the `window` from `start`.
fn put(window: &mut [u8], start: u64, at: u64, bytes: &[u8]) {
    let end = start + window.len() as u64;
    let (from, to) = (at.max(start), at.saturating_add(bytes.len() as u64).min(end));
    if from >= to {
        return;
    }
    // Both lie within the window and the bytes, whose lengths are those of memory.
    let into = (from - start) as usize..(to - start) as usize;
    let out = (from - at) as usize..(to - at) as usize;
    if let (Some(into), Some(out)) = (window.get_mut(into), bytes.get(out)) {
        into.copy_from_slice(out);
    }
}

impl Image for ProbedRaw {
    fn info(&self) -> Info {
        self.disk.info()
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        self.disk.read(offset, buffers)
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        let size = self.disk.info().size;
        let end = offset.saturating_add(buffers::total(buffers));
        if offset >= FIRST as u64 && end <= Self::end(size) || end > size {
            return self.disk.write(offset, buffers, durable);
        }
        Box::pin(async move {
            let _turn = self.turn.take().await;
            if !self.stays_raw(offset, buffers).await? {
                let what = "the guest writes the header of another format over a disk that is only taken for raw: it is \
                            refused; say format=raw to allow it";
                return Err(Error::unsupported(&self.disk.info().path, what));
            }
            self.disk.write(offset, buffers, durable).await
        })
    }

    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        // Zeros make no header.
        self.disk.erase(offset, len, how)
    }

    fn flush(&self) -> Work<'_, ()> {
        self.disk.flush()
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        self.disk.extent(offset, len)
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        self.disk.resize(size)
    }

    fn close(&self) -> Work<'_, ()> {
        self.disk.close()
    }
}

#[cfg(test)]
mod tests {
    use crate::image::{block_on, write_at};
    use crate::{Format, OpenOptions, open, probe};

    #[test]
    fn a_guest_cannot_turn_a_raw_disk_into_another_format() {
        let path = std::env::temp_dir().join(format!("husk-probed-{}", std::process::id()));
        std::fs::write(&path, vec![0; 1 << 20]).unwrap();
        let disk = block_on(open(OpenOptions::new(&path))).unwrap();
        assert_eq!(disk.info().format, "raw");
        let qcow2 = b"QFI\xfb\0\0\0\x03";
        assert!(block_on(write_at(&*disk, 0, qcow2)).is_err_and(|error| error.to_string().contains("format=raw")));
        // In two steps, the second of which completes it.
        block_on(write_at(&*disk, 0, &qcow2[..3])).unwrap();
        assert!(block_on(write_at(&*disk, 3, &qcow2[3..])).is_err());
        // The footer of a VHD at the end.
        let footer = [&b"conectix"[..], &[0; 4], &[0, 1, 0, 0]].concat();
        let probed =
            || block_on(probe(&crate::file::HostFile::open(&path, crate::file::Access::ReadUnlocked).unwrap()));
        let _ = block_on(write_at(&*disk, (1 << 20) - 512, &footer));
        assert_eq!(probed().unwrap(), Format::Raw);
        // What is no header, and what lies between, is written; LUKS too.
        block_on(write_at(&*disk, 0, b"LUKS\xba\xbe\0\x02")).unwrap();
        block_on(write_at(&*disk, 8192, qcow2)).unwrap();
        drop(disk);
        let told = block_on(open(OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(&path) })).unwrap();
        block_on(write_at(&*told, 0, qcow2)).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
}

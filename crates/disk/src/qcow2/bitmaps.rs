//! Bitmaps of dirty tracking ("Bitmaps" of the specification): kept intact, never believed when they may be wrong.
//!
//! Husk does not track changes in them. One that is to track them (`auto`) is marked as not saved (`in_use`) before the
//! first change, so that no tool takes it for true; all others stay as they are, sound.

use crate::error::Result;
use crate::image::{read_at, write_at};
use crate::qcow2::Qcow2;
use crate::qcow2::header::{BITMAPS_SOUND, BitmapsPlace};
use crate::qcow2::layout::{OFFSET, be16, be32, be64, put};
use crate::qcow2::meta::Meta;

const IN_USE: u32 = 1;
const AUTO: u32 = 2;

/// A bitmap of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bitmap {
    /// Its name.
    pub name: String,
    /// Bytes of the disk that one bit stands for, as a power of two.
    pub granularity_bits: u8,
    /// It was not saved and may be wrong.
    pub in_use: bool,
    /// It is to track changes.
    pub auto: bool,
    pub(super) table: u64,
    pub(super) entries: u32,
    /// Where in the directory its entry begins.
    place: usize,
}

impl Qcow2 {
    /// The directory's bytes and what it lists.
    pub(super) async fn directory(&self, place: BitmapsPlace) -> Result<(Vec<u8>, Vec<Bitmap>)> {
        let mut data = vec![0; place.size as usize];
        read_at(&*self.file, place.at, &mut data).await?;
        let mut list = Vec::new();
        let mut at = 0;
        for _ in 0..place.count {
            let (name_len, extra) = (be16(&data, at + 18) as usize, be32(&data, at + 20) as usize);
            let name = at.checked_add(24).and_then(|a| a.checked_add(extra));
            let name = name.and_then(|start| data.get(start..start.checked_add(name_len)?));
            let Some(name) = name.filter(|n| !n.is_empty()) else {
                return Err(self.damaged("its directory of bitmaps ends in the middle of one"));
            };
            let flags = be32(&data, at + 12);
            let table = be64(&data, at);
            if !table.is_multiple_of(self.geometry.cluster()) || table >= 1 << 56 || be32(&data, at + 8) > 1 << 22 {
                return Err(self.damaged("a bitmap's table cannot be where it is said to be"));
            }
            list.push(Bitmap {
                name: String::from_utf8_lossy(name).into_owned(),
                granularity_bits: data.get(at + 17).copied().unwrap_or(0),
                in_use: flags & IN_USE != 0,
                auto: flags & AUTO != 0,
                table,
                entries: be32(&data, at + 8),
                place: at,
            });
            at += (24 + extra + name_len).next_multiple_of(8);
        }
        Ok((data, list))
    }

    /// The bitmaps of the image; none when they are not sound.
    ///
    /// # Errors
    /// When the directory is damaged or cannot be read.
    pub async fn bitmaps(&self) -> Result<Vec<Bitmap>> {
        let place = {
            let m = self.meta.take().await;
            m.header.bitmaps.filter(|_| m.header.autoclear & BITMAPS_SOUND != 0)
        };
        match place {
            Some(place) => Ok(self.directory(place).await?.1),
            None => Ok(Vec::new()),
        }
    }

    /// Before the first change: marks the bitmaps that would have to follow it.
    pub(super) async fn outdate_bitmaps(&self, m: &mut Meta) -> Result<()> {
        let Some(place) = m.header.bitmaps.filter(|_| m.header.autoclear & BITMAPS_SOUND != 0) else { return Ok(()) };
        let (mut data, list) = self.directory(place).await?;
        let mut changed = false;
        for bitmap in list.iter().filter(|b| b.auto && !b.in_use) {
            let flags = be32(&data, bitmap.place + 12) | IN_USE;
            put(&mut data, bitmap.place + 12, &flags.to_be_bytes());
            changed = true;
        }
        if changed {
            write_at(&*self.file, place.at, &data).await?;
            self.file.flush().await?;
        }
        Ok(())
    }

    /// Every cluster that bitmaps hold: first cluster and how many.
    pub(super) async fn bitmap_clusters(&self, m: &Meta) -> Result<Vec<(u64, u64)>> {
        let Some(place) = m.header.bitmaps else { return Ok(Vec::new()) };
        let geometry = self.geometry;
        let stretch = |at: u64, len: u64| (at >> geometry.cluster_bits, geometry.clusters(len));
        let mut out = vec![stretch(place.at, place.size)];
        for bitmap in self.directory(place).await?.1 {
            let len = u64::from(bitmap.entries) * 8;
            out.push(stretch(bitmap.table, len));
            let mut table = vec![0; len as usize];
            read_at(&*self.file, bitmap.table, &mut table).await?;
            let entries = table.chunks_exact(8).map(|e| be64(e, 0) & OFFSET);
            out.extend(entries.filter(|at| *at != 0).map(|at| stretch(at, 1)));
        }
        Ok(out)
    }
}

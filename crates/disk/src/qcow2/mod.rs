//! QEMU's image format, versions 2 and 3, by its specification (`docs/interop/qcow2.txt` of QEMU).
//!
//! **Order.** See the head of `meta`: at every moment the file is an image that a check accepts, with leaks at worst, and
//! what was flushed is in it. Changes of snapshots and repairs set the dirty bit meanwhile (version 3), so that a kill in
//! the middle of one is repaired at the next opening.
//!
//! **Side by side.** A request has its clusters of the disk: readers share them, a writer has them alone. The metadata is
//! one task's at a time, while it looks up, allocates or links; never while guest data is read or written. So requests to
//! different clusters run side by side, their lookups one after the other. Snapshots, resizing and checks have the
//! whole disk alone.
//!
//! **Hostile images.** Every offset is checked for its alignment before use; tables are bounded as QEMU bounds them (L1
//! 32 MiB, refcount table 8 MiB, 65536 snapshots); caches of tables have a fixed size. Nothing is written to a cluster
//! that is known to hold other metadata: such an image is marked corrupt.

mod bitmaps;
mod check;
mod compress;
mod create;
mod erase;
pub(crate) mod header;
mod layout;
mod map;
mod meta;
mod read;
mod refcounts;
mod repair;
mod resize;
mod snapshot;
mod tables;
mod write;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use bitmaps::Bitmap;
pub use check::Report;
pub(crate) use create::make;
pub use create::{Layout, Reserve};
pub use header::Compression;
pub use snapshot::Snapshot;

use crate::buffers;
use crate::cipher::Cipher;
use crate::error::{Error, Result};
use crate::image::{Backing, Erase, Extent, Image, Info, Kind, Work, block_on, read_at, within};
use crate::turn::{Shared, Stretches};
use header::{Header, NAME};
use layout::{Geometry, be64};
use map::Place;
use meta::{L2_CACHE, Meta, REFCOUNT_CACHE};
use tables::Tables;

/// The disk's encryption.
#[derive(Clone)]
pub struct Encryption {
    /// What encrypts its sectors.
    pub cipher: Arc<dyn Cipher>,
    /// Sectors are counted in the file (LUKS), not on the disk (the old AES).
    pub by_host: bool,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encryption").field("by_host", &self.by_host).finish_non_exhaustive()
    }
}

/// What is around an image that is opened.
#[derive(Clone, Default)]
pub struct Parts {
    /// The image behind it, where it has one.
    pub backing: Option<Arc<dyn Image>>,
    /// The external data file, where it has one.
    pub data: Option<Arc<dyn Image>>,
    /// The encryption, where it has one; without, an encrypted image opens and refuses to be read and written.
    pub encryption: Option<Encryption>,
    /// It is opened for checking or for its description: a dirty image is not repaired first.
    pub as_it_is: bool,
}

/// What the header tells before anything else is opened.
#[derive(Clone, Debug)]
pub struct Named {
    /// The backing file's name as it is written.
    pub backing: Option<String>,
    /// Its format, where the image says so.
    pub backing_format: Option<String>,
    /// The external data file's name: `Some` when the image needs one, empty when it does not say which.
    pub data_file: Option<String>,
    /// 0 for none, 1 for AES, 2 for LUKS.
    pub crypt_method: u32,
    /// Where in the file the header of LUKS is: offset and length.
    pub crypt_header: Option<(u64, u64)>,
    /// Bytes of the disk.
    pub size: u64,
}

/// An open image.
pub struct Qcow2 {
    file: Arc<dyn Image>,
    data: Option<Arc<dyn Image>>,
    backing: Option<Arc<dyn Image>>,
    /// Bytes of the disk behind it, 0 without one.
    behind: u64,
    path: PathBuf,
    read_only: bool,
    geometry: Geometry,
    compression: Compression,
    encryption: Option<Encryption>,
    /// The content is encrypted; without `encryption` it cannot be had.
    encrypted: bool,
    size: AtomicU64,
    meta: Shared<Meta>,
    stretches: Stretches,
    /// The last cluster that was decompressed, by its entry.
    unpacked: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
    /// What [`Image::info`] tells of the header.
    about: Mutex<About>,
}

#[derive(Clone, Debug, Default)]
struct About {
    dirty: bool,
    corrupt: bool,
    backing: Option<Backing>,
    details: Vec<(&'static str, String)>,
}

/// Reads the header from the file.
async fn read_header(file: &dyn Image) -> Result<Header> {
    let info = file.info();
    // Headers are in the first cluster, and none is larger than this.
    let mut first = vec![0; info.size.min(2 << 20) as usize];
    read_at(file, 0, &mut first).await?;
    Header::parse(&info.path, &first)
}

/// What other files an image needs, by its header.
///
/// # Errors
/// A header that is none, is damaged, or has features that are unknown.
pub async fn named(file: &dyn Image) -> Result<Named> {
    let header = read_header(file).await?;
    Ok(Named {
        data_file: header.external_data().then(|| header.data_file.clone().unwrap_or_default()),
        crypt_method: header.crypt_method,
        crypt_header: header.encryption,
        size: header.size,
        backing: header.backing,
        backing_format: header.backing_format,
    })
}

impl Qcow2 {
    /// Opens an image over its file. One that was not closed, with its refcounts late, is repaired first, unless it is
    /// opened for reading.
    ///
    /// # Errors
    /// Damage, features that are unknown, refusals of the host.
    pub async fn open(file: Arc<dyn Image>, parts: Parts) -> Result<Self> {
        let header = read_header(&*file).await?;
        let info = file.info();
        let path = info.path.clone();
        let geometry = Geometry::of(&header);
        if geometry.external && parts.data.is_none() && !parts.as_it_is {
            return Err(Error::unsupported(&path, "the image needs an external data file, and has none given"));
        }
        let l1 = numbers(&*file, header.l1_at, u64::from(header.l1_size)).await?;
        let entries = u64::from(header.refcount_clusters) << header.cluster_bits >> 3;
        let refcount_table = numbers(&*file, header.refcount_at, entries).await?;
        let (snapshots, snapshots_len) = snapshot::read_table(&path, &*file, &header, geometry).await?;
        let cluster = geometry.cluster();
        let mut meta = Meta {
            l1,
            l1_dirty: BTreeSet::new(),
            l2: Tables::new(L2_CACHE, cluster),
            refcount_table,
            refcount_table_dirty: BTreeSet::new(),
            blocks: Tables::new(REFCOUNT_CACHE, cluster),
            first_free: 0,
            freed: Vec::new(),
            snapshots,
            snapshots_len,
            tables: HashSet::new(),
            reserved: Vec::new(),
            compressed_at: 0,
            prepared: false,
            late_refcounts: false,
            header,
        };
        meta.note_places();
        let header = &meta.header;
        let (was_dirty, corrupt) = (header.is_dirty(), header.is_corrupt());
        let image = Self {
            read_only: info.read_only,
            geometry,
            compression: header.compression,
            encrypted: header.crypt_method != 0,
            encryption: parts.encryption,
            size: AtomicU64::new(header.size),
            data: parts.data.filter(|_| geometry.external),
            behind: parts.backing.as_ref().map_or(0, |b| b.info().size),
            backing: parts.backing,
            path,
            file,
            meta: Shared::new(meta),
            stretches: Stretches::default(),
            unpacked: Mutex::default(),
            about: Mutex::default(),
        };
        image.note_state(&mut *image.meta.take().await);
        if was_dirty && !corrupt && !image.read_only && !parts.as_it_is {
            image.check(true).await?;
        }
        Ok(image)
    }

    /// Bytes of the disk.
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Keeps what the description tells.
    fn note_state(&self, m: &mut Meta) {
        let header = &m.header;
        let yes = |flag: bool| flag.to_string();
        let mut details = vec![
            ("compat", if header.version == 2 { "0.10" } else { "1.1" }.to_owned()),
            ("compression type", if header.compression == Compression::Zstd { "zstd" } else { "zlib" }.to_owned()),
            ("lazy refcounts", yes(header.lazy())),
            ("refcount bits", (1u32 << header.refcount_order).to_string()),
            ("corrupt", yes(header.is_corrupt())),
            ("extended l2", yes(header.extended_l2())),
        ];
        if header.external_data() {
            details.push(("data file", header.data_file.clone().unwrap_or_default()));
            details.push(("data file raw", yes(header.raw_external())));
        }
        if header.crypt_method != 0 {
            details.push(("encryption", if header.crypt_method == 2 { "luks" } else { "aes" }.to_owned()));
        }
        let behind = self.backing.as_ref().map(|b| b.info().path).unwrap_or_default();
        let backing =
            header.backing.clone().map(|name| Backing { name, format: header.backing_format.clone(), path: behind });
        let about = About { dirty: header.is_dirty(), corrupt: header.is_corrupt(), backing, details };
        *self.about.lock().unwrap_or_else(PoisonError::into_inner) = about;
    }

    fn readable(&self) -> Result<()> {
        if self.encrypted && self.encryption.is_none() {
            let what = "the image is encrypted: give its passphrase".to_owned();
            return Err(Error::Locked { path: self.path.clone(), what });
        }
        if self.geometry.external && self.data.is_none() {
            return Err(Error::unsupported(&self.path, "the image's external data file has not been opened"));
        }
        Ok(())
    }

    /// The clusters that bytes of the disk are in, as bytes.
    fn around(&self, offset: u64, len: u64) -> (u64, u64) {
        let cluster = self.geometry.cluster();
        (offset / cluster * cluster, (offset + len).next_multiple_of(cluster))
    }

    /// Names another backing file, or none, without looking at what either holds: what `rebase` ends with, after it has
    /// copied what differs. It is used from the next opening on.
    ///
    /// # Errors
    /// An image that cannot be changed; a name too long for the header.
    pub async fn set_backing(&self, name: Option<&str>, format: Option<&str>) -> Result<()> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let mut m = self.meta.take().await;
        self.prepare(&mut m).await?;
        if name.is_some_and(|n| n.len() > header::MOST_NAME) {
            return Err(Error::invalid(&self.path, "a backing file's name has 1023 bytes at most"));
        }
        if name.is_some() && self.geometry.raw_external {
            return Err(Error::invalid(&self.path, "an image with raw external data has no backing file"));
        }
        self.flush_all(&mut m).await?;
        let before = (m.header.backing.clone(), m.header.backing_format.clone());
        m.header.backing = name.map(str::to_owned);
        m.header.backing_format = name.and(format).map(str::to_owned);
        if let Err(error) = self.write_header(&m).await {
            (m.header.backing, m.header.backing_format) = before;
            return Err(error);
        }
        self.note_state(&mut m);
        Ok(())
    }

    /// The image behind it.
    #[must_use]
    pub fn backing(&self) -> Option<&Arc<dyn Image>> {
        self.backing.as_ref()
    }
}

/// A table of numbers of 8 bytes.
async fn numbers(file: &dyn Image, at: u64, count: u64) -> Result<Vec<u64>> {
    let Info { path, size, .. } = file.info();
    // Behind its end a file reads as zeros, which would be an empty disk.
    if at.saturating_add(count.saturating_mul(8)) > size {
        return Err(Error::damaged(&path, NAME, "it is truncated: a table is behind its end"));
    }
    let mut data = vec![0; (count * 8) as usize];
    read_at(file, at, &mut data).await?;
    Ok(data.chunks_exact(8).map(|e| be64(e, 0)).collect())
}

impl Drop for Qcow2 {
    fn drop(&mut self) {
        // As close() does; who wants to know whether it worked calls that.
        let _ = block_on(async { self.close_all(&mut *self.meta.take().await).await });
    }
}

impl Image for Qcow2 {
    fn info(&self) -> Info {
        let about = self.about.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut info = self.file.info();
        info.format = NAME;
        info.size = self.size();
        info.cluster = Some(self.geometry.cluster() as u32);
        info.logical_block = 512;
        info.physical_block = self.geometry.piece().min(65536) as u32;
        info.backing = about.backing;
        info.read_only = self.read_only;
        info.dirty = about.dirty;
        info.corrupt = about.corrupt;
        info.encrypted = self.encrypted;
        info.details = about.details;
        info
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            let len = buffers::total_mut(buffers);
            within(&self.path, self.size(), offset, len)?;
            self.readable()?;
            if len == 0 {
                return Ok(());
            }
            let (start, end) = self.around(offset, len);
            let _held = self.stretches.take(start, end, false).await;
            self.read_held(offset, buffers).await
        })
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        Box::pin(async move {
            let len = buffers::total(buffers);
            within(&self.path, self.size(), offset, len)?;
            self.readable()?;
            if len > 0 {
                let (start, end) = self.around(offset, len);
                let _held = self.stretches.take(start, end, true).await;
                // Again, as the disk may have become shorter meanwhile.
                within(&self.path, self.size(), offset, len)?;
                self.write_held(offset, buffers).await?;
            }
            if durable { self.flush().await } else { Ok(()) }
        })
    }

    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        Box::pin(async move {
            within(&self.path, self.size(), offset, len)?;
            self.readable()?;
            if len == 0 {
                return Ok(());
            }
            let (start, end) = self.around(offset, len);
            let _held = self.stretches.take(start, end, true).await;
            within(&self.path, self.size(), offset, len)?;
            self.erase_held(offset, len, how).await
        })
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async move { self.flush_all(&mut *self.meta.take().await).await })
    }

    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move {
            let size = self.size();
            within(&self.path, size, offset, len)?;
            let len = len.max(1);
            let (place, found) = {
                let mut m = self.meta.take().await;
                self.look_up(&mut m, offset, len).await?
            };
            let here = |kind, at| Extent { len: found, kind, depth: 0, at };
            Ok(match place {
                Place::At(at) => here(Kind::Data, Some(at).filter(|_| self.encryption.is_none())),
                Place::Compressed(_) => here(Kind::Data, None),
                Place::Zeros => here(Kind::Zero, None),
                Place::Nothing => match &self.backing {
                    None => here(Kind::Hole, None),
                    Some(backing) => {
                        let inside = found.min(self.behind.saturating_sub(offset));
                        if inside == 0 {
                            return Ok(here(Kind::Hole, None));
                        }
                        let mut extent = backing.extent(offset, inside).await?;
                        extent.len = extent.len.clamp(1, inside);
                        extent.depth += 1;
                        extent
                    }
                },
            })
        })
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        Box::pin(async move { self.resize_alone(size).await })
    }

    fn close(&self) -> Work<'_, ()> {
        Box::pin(async move {
            // Whoever still works finishes first.
            let _all = self.stretches.take(0, u64::MAX, true).await;
            self.close_all(&mut *self.meta.take().await).await
        })
    }

    fn as_qcow2(&self) -> Option<&Qcow2> {
        Some(self)
    }
}

/// Whether a file of this beginning is qcow2.
#[must_use]
pub(crate) fn looks_like(first: &[u8]) -> bool {
    layout::be32(first, 0) == header::MAGIC && first.len() >= 72
}

/// The folder that names in an image are relative to.
pub(crate) fn folder(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

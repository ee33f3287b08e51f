//! Making images.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::error::{Error, Result};
use crate::image::{Image, write_at};
use crate::qcow2::header::{self, Compression, Header, MOST_NAME};
use crate::qcow2::layout::{COPIED, Entry, Geometry};
use crate::qcow2::{Parts, Qcow2};

/// What of a new image's space is taken at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reserve {
    /// Nothing: the file grows as the disk is written.
    #[default]
    Nothing,
    /// Every cluster has its place, and its table; the file is sparse.
    Metadata,
}

/// How a new image is made.
#[derive(Clone, Debug)]
pub struct Layout {
    /// 2 or 3.
    pub version: u32,
    /// Bytes of a cluster: a power of two from 512 to 2 MiB.
    pub cluster: u32,
    /// Bits of a refcount: a power of two from 1 to 64; 16 in version 2.
    pub refcount_bits: u32,
    /// How clusters are compressed.
    pub compression: Compression,
    /// Clusters of 32 pieces that are allocated on their own.
    pub extended_l2: bool,
    /// Refcounts may be written late.
    pub lazy_refcounts: bool,
    /// The backing file's name and format, written as they are.
    pub backing: Option<(String, Option<String>)>,
    /// The external data file's name, and whether it is raw.
    pub data_file: Option<(String, bool)>,
    /// The header of LUKS, whole, when the disk is encrypted.
    pub crypt_header: Option<Vec<u8>>,
    /// What is taken at once.
    pub reserve: Reserve,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            version: 3,
            cluster: 65536,
            refcount_bits: 16,
            compression: Compression::Zlib,
            extended_l2: false,
            lazy_refcounts: false,
            backing: None,
            data_file: None,
            crypt_header: None,
            reserve: Reserve::Nothing,
        }
    }
}

fn header_of(path: &std::path::Path, layout: &Layout) -> Result<Header> {
    let bad = |what: &str| Err(Error::invalid(path, what));
    if !layout.cluster.is_power_of_two() || !(512..=2 << 20).contains(&layout.cluster) {
        return bad("the cluster size must be a power of two from 512 bytes to 2 MiB");
    }
    if !layout.refcount_bits.is_power_of_two() || layout.refcount_bits > 64 {
        return bad("refcounts have 1, 2, 4, 8, 16, 32 or 64 bits");
    }
    let version_3 = layout.refcount_bits != 16
        || layout.compression != Compression::Zlib
        || layout.extended_l2
        || layout.lazy_refcounts
        || layout.data_file.is_some();
    match layout.version {
        2 if version_3 => return bad("version 2 has none of these options: take version 3"),
        2 | 3 => {}
        _ => return bad("the version must be 2 or 3"),
    }
    if layout.extended_l2 && layout.cluster < 16384 {
        return bad("extended L2 entries need clusters of 16 KiB at least");
    }
    let names = layout.backing.iter().map(|b| &b.0).chain(layout.data_file.iter().map(|d| &d.0));
    if names.into_iter().any(|n| n.len() > MOST_NAME || n.is_empty()) {
        return bad("the name of a backing or data file has 1 to 1023 bytes");
    }
    let raw = layout.data_file.as_ref().is_some_and(|(_, raw)| *raw);
    if raw && layout.backing.is_some() {
        return bad("an image with raw external data has no backing file");
    }
    if layout.reserve != Reserve::Nothing && layout.backing.is_some() {
        return bad("space is not taken at once for an image with a backing file: every cluster would hide it");
    }
    let cluster = u64::from(layout.cluster);
    let flag = |on: bool, bit: u64| if on { bit } else { 0 };
    Ok(Header {
        version: layout.version,
        cluster_bits: layout.cluster.trailing_zeros(),
        size: 0,
        crypt_method: if layout.crypt_header.is_some() { 2 } else { 0 },
        l1_size: 1,
        l1_at: 3 * cluster,
        refcount_at: cluster,
        refcount_clusters: 1,
        snapshots: 0,
        snapshots_at: 0,
        incompatible: flag(layout.data_file.is_some(), header::EXTERNAL)
            | flag(layout.compression != Compression::Zlib, header::COMPRESSION)
            | flag(layout.extended_l2, header::EXTENDED),
        compatible: flag(layout.lazy_refcounts, header::LAZY),
        autoclear: flag(raw, header::RAW_EXTERNAL),
        refcount_order: layout.refcount_bits.trailing_zeros(),
        compression: layout.compression,
        more: Vec::new(),
        backing: layout.backing.as_ref().map(|b| b.0.clone()),
        backing_format: layout.backing.as_ref().and_then(|b| b.1.clone()),
        data_file: layout.data_file.as_ref().map(|d| d.0.clone()),
        bitmaps: None,
        encryption: None,
        unknown: Vec::new(),
    })
}

/// Writes an empty image of `size` bytes into an empty file, durably.
pub(crate) async fn make(file: Arc<dyn Image>, data: Option<Arc<dyn Image>>, size: u64, layout: &Layout) -> Result<()> {
    let path = file.info().path;
    let mut header = header_of(&path, layout)?;
    let geometry = Geometry::of(&header);
    let cluster = geometry.cluster();
    // Cluster 0: header, 1: refcount table, 2: its first block, 3: L1 table, then the header of the encryption.
    let mut used = 4;
    if let Some(crypt) = &layout.crypt_header {
        header.encryption = Some((used * cluster, crypt.len() as u64));
        used += geometry.clusters(crypt.len() as u64);
        if used > geometry.refcounts() {
            return Err(Error::invalid(&path, "the encryption's header needs larger clusters or narrower refcounts"));
        }
        write_at(&*file, 4 * cluster, crypt).await?;
    }
    let mut block = vec![0; cluster as usize];
    (0..used).for_each(|c| geometry.set_refcount(&mut block, c, 1));
    write_at(&*file, 2 * cluster, &block).await?;
    let mut table = vec![0; cluster as usize];
    super::layout::put(&mut table, 0, &(2 * cluster).to_be_bytes());
    write_at(&*file, cluster, &table).await?;
    write_at(&*file, 3 * cluster, &vec![0; cluster as usize]).await?;
    let mut first = header.bytes(&path)?;
    first.resize(cluster as usize, 0);
    write_at(&*file, 0, &first).await?;
    let parts = Parts { data: data.clone(), as_it_is: true, ..Parts::default() };
    let image = Qcow2::open(file, parts).await?;
    {
        let mut m = image.meta.take().await;
        image.grow_l1(&mut m, size).await?;
        m.header.size = size;
        image.flush_all(&mut m).await?;
        image.write_refcounts(&mut m).await?;
        image.write_header(&m).await?;
        image.size.store(size, Ordering::Release);
    }
    if let Some(data) = &data {
        data.resize(size).await?;
    }
    if layout.reserve == Reserve::Metadata {
        image.reserve_all().await?;
    }
    image.close().await
}

impl Qcow2 {
    /// Gives every cluster of the disk its place.
    async fn reserve_all(&self) -> Result<()> {
        let geometry = self.geometry;
        let clusters = geometry.clusters(self.size());
        let mut m = self.meta.take().await;
        let m = &mut *m;
        let mut number = 0;
        let mut end = 0;
        while number < clusters {
            let table = self.l2_to_change(m, number).await?;
            let wanted = (clusters - number).min(geometry.entries() - number % geometry.entries());
            let (first, got) =
                if geometry.external { (number, wanted) } else { self.allocate(m, wanted, false).await? };
            // Blocks that were made for them may have pushed the table out of the cache.
            self.load_l2(m, table).await?;
            for i in 0..got {
                let word = ((first + i) << geometry.cluster_bits) | COPIED;
                let bitmap = if geometry.extended { u64::from(u32::MAX) } else { 0 };
                self.set_entry_in(m, table, (number + i) % geometry.entries(), Entry { word, bitmap });
            }
            end = end.max(first + got);
            number += got;
        }
        self.flush_all(m).await?;
        self.write_refcounts(m).await?;
        let end = end << geometry.cluster_bits;
        if !geometry.external && self.file.info().size < end {
            self.file.resize(end).await?;
        }
        Ok(())
    }
}

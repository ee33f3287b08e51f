//! The header and its extensions.

use std::path::Path;

use crate::error::{Error, Result};
use crate::qcow2::layout::{be32, be64, put};

/// "QFI\xfb".
pub(crate) const MAGIC: u32 = 0x5146_49fb;
/// The format's name in messages and headers.
pub(super) const NAME: &str = "qcow2";

/// Most bytes of an L1 table, as QEMU's.
pub(super) const MOST_L1: u64 = 32 << 20;
/// Most bytes of a refcount table, as QEMU's.
pub(super) const MOST_REFCOUNT_TABLE: u64 = 8 << 20;
/// Most snapshots, as QEMU's.
pub(super) const MOST_SNAPSHOTS: u32 = 65536;
/// Most bytes of a backing file's name.
pub(super) const MOST_NAME: usize = 1023;

const END: u32 = 0;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const FEATURE_NAMES: u32 = 0x6803_f857;
const BITMAPS: u32 = 0x2385_2875;
const ENCRYPTION: u32 = 0x0537_be77;
const DATA_FILE: u32 = 0x4441_5441;

/// Incompatible feature: refcounts may be wrong.
pub(super) const DIRTY: u64 = 1;
/// Incompatible feature: anything may be wrong.
pub(super) const CORRUPT: u64 = 2;
/// Incompatible feature: guest clusters are in another file.
pub(super) const EXTERNAL: u64 = 4;
/// Incompatible feature: not zlib.
pub(super) const COMPRESSION: u64 = 8;
/// Incompatible feature: L2 entries of 16 bytes.
pub(super) const EXTENDED: u64 = 16;
/// Compatible feature: refcounts may be written late.
pub(super) const LAZY: u64 = 1;
/// Autoclear feature: bitmaps are consistent.
pub(super) const BITMAPS_SOUND: u64 = 1;
/// Autoclear feature: the external file is raw.
pub(super) const RAW_EXTERNAL: u64 = 2;

/// The features that we know: kind, bit, name.
const KNOWN: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// How clusters are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw deflate with a window of 4 KiB.
    #[default]
    Zlib,
    /// Zstandard.
    Zstd,
}

/// Where the bitmaps' directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BitmapsPlace {
    pub(super) count: u32,
    pub(super) size: u64,
    pub(super) at: u64,
}

/// The header with its extensions.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) cluster_bits: u32,
    pub(super) size: u64,
    pub(super) crypt_method: u32,
    pub(super) l1_size: u32,
    pub(super) l1_at: u64,
    pub(super) refcount_at: u64,
    pub(super) refcount_clusters: u32,
    pub(super) snapshots: u32,
    pub(super) snapshots_at: u64,
    pub(super) incompatible: u64,
    pub(super) compatible: u64,
    pub(super) autoclear: u64,
    pub(super) refcount_order: u32,
    pub(super) compression: Compression,
    /// Additional fields that we do not know, from byte 112 on.
    pub(super) more: Vec<u8>,
    pub(super) backing: Option<String>,
    pub(super) backing_format: Option<String>,
    pub(super) data_file: Option<String>,
    pub(super) bitmaps: Option<BitmapsPlace>,
    /// Offset and length of the encryption's header.
    pub(super) encryption: Option<(u64, u64)>,
    /// Extensions that we do not know.
    pub(super) unknown: Vec<(u32, Vec<u8>)>,
}

impl Header {
    /// Reads the header from the first bytes of the file, its first cluster at least (or 2 MiB).
    pub(super) fn parse(path: &Path, data: &[u8]) -> Result<Self> {
        let bad = |what: String| Error::damaged(path, NAME, what);
        if data.len() < 72 || be32(data, 0) != MAGIC {
            return Err(bad("it does not begin with a header of qcow2".into()));
        }
        let version = be32(data, 4);
        if version != 2 && version != 3 {
            return Err(Error::unsupported(path, format!("qcow2 of version {version} is unknown; 2 and 3 are known")));
        }
        let cluster_bits = be32(data, 20);
        if !(9..=21).contains(&cluster_bits) {
            return Err(bad(format!("clusters of 2^{cluster_bits} bytes; 2^9 to 2^21 can be")));
        }
        let cluster = 1usize << cluster_bits;
        let first = data.get(..cluster.min(data.len())).unwrap_or(data);
        let mut header = Self {
            version,
            cluster_bits,
            size: be64(data, 24),
            crypt_method: be32(data, 32),
            l1_size: be32(data, 36),
            l1_at: be64(data, 40),
            refcount_at: be64(data, 48),
            refcount_clusters: be32(data, 56),
            snapshots: be32(data, 60),
            snapshots_at: be64(data, 64),
            incompatible: 0,
            compatible: 0,
            autoclear: 0,
            refcount_order: 4,
            compression: Compression::Zlib,
            more: Vec::new(),
            backing: None,
            backing_format: None,
            data_file: None,
            bitmaps: None,
            encryption: None,
            unknown: Vec::new(),
        };
        let mut length = 72;
        if version == 3 {
            header.incompatible = be64(data, 72);
            header.compatible = be64(data, 80);
            header.autoclear = be64(data, 88);
            header.refcount_order = be32(data, 96);
            length = be32(data, 100) as usize;
            if length < 104 || length > first.len() || !length.is_multiple_of(8) {
                return Err(bad(format!("its header says to be {length} bytes long")));
            }
            if length > 112 {
                header.more = first.get(112..length).unwrap_or_default().to_vec();
            }
        }
        let (name_at, name_len) = (be64(data, 8), be32(data, 16) as usize);
        // Unknown features are told by name, and the names are among the extensions: those first.
        let end = if name_at != 0 { name_at.min(first.len() as u64) as usize } else { first.len() };
        let names = header.extensions(path, first, length, end)?;
        header.features(path, length, data.get(104).copied().unwrap_or(0), &names)?;
        if name_at != 0 {
            if name_len > MOST_NAME {
                return Err(bad(format!("its backing file's name has {name_len} bytes; {MOST_NAME} at most can be")));
            }
            let place = usize::try_from(name_at).ok().and_then(|at| first.get(at..at.checked_add(name_len)?));
            let Some(name) = place.filter(|_| name_at >= length as u64) else {
                return Err(bad("its backing file's name is outside of the first cluster".into()));
            };
            let name = std::str::from_utf8(name)
                .map_err(|_| Error::unsupported(path, "the backing file's name is not UTF-8: give it another name"))?;
            header.backing = Some(name.to_owned()).filter(|n| !n.is_empty());
        }
        header.sane(path)?;
        Ok(header)
    }

    /// Reads the extensions between `at` and `end`; returns the table of feature names.
    fn extensions(&mut self, path: &Path, first: &[u8], mut at: usize, end: usize) -> Result<Vec<u8>> {
        let text = |data: &[u8]| {
            let text = std::str::from_utf8(data);
            text.map(str::to_owned).map_err(|_| Error::damaged(path, NAME, "a name in its header is not UTF-8"))
        };
        let mut names = Vec::new();
        while at + 8 <= end {
            let (kind, len) = (be32(first, at), be32(first, at + 4) as usize);
            if kind == END {
                break;
            }
            let data = (at + 8).checked_add(len).filter(|stop| *stop <= end).and_then(|stop| first.get(at + 8..stop));
            let Some(data) = data else {
                return Err(Error::damaged(path, NAME, format!("extension {kind:#x} leaves the header, {len} bytes")));
            };
            match kind {
                BACKING_FORMAT => self.backing_format = Some(text(data)?),
                DATA_FILE => self.data_file = Some(text(data)?),
                FEATURE_NAMES => names = data.to_vec(),
                BITMAPS if len == 24 => {
                    self.bitmaps = Some(BitmapsPlace { count: be32(data, 0), size: be64(data, 8), at: be64(data, 16) });
                }
                ENCRYPTION if len == 16 => self.encryption = Some((be64(data, 0), be64(data, 8))),
                BITMAPS | ENCRYPTION => {
                    return Err(Error::damaged(path, NAME, format!("extension {kind:#x} has {len} bytes")));
                }
                _ => self.unknown.push((kind, data.to_vec())),
            }
            at += 8 + len.next_multiple_of(8);
        }
        Ok(names)
    }

    fn features(&mut self, path: &Path, length: usize, compression: u8, names: &[u8]) -> Result<()> {
        let unknown = self.incompatible & !(DIRTY | CORRUPT | EXTERNAL | COMPRESSION | EXTENDED);
        if unknown != 0 {
            let list: Vec<String> = (0..64u8)
                .filter(|bit| unknown >> bit & 1 == 1)
                .map(|bit| {
                    let entry = names.chunks_exact(48).find(|e| e[0] == 0 && e[1] == bit);
                    entry.map_or_else(
                        || format!("bit {bit}"),
                        |e| {
                            let name = e[2..].split(|b| *b == 0).next().unwrap_or_default();
                            String::from_utf8_lossy(name).chars().filter(|c| !c.is_control()).collect()
                        },
                    )
                })
                .collect();
            let what = format!("the image uses features of qcow2 that Husk does not know: {}", list.join(", "));
            return Err(Error::unsupported(path, what));
        }
        let compression = if self.version == 3 && length > 104 { compression } else { 0 };
        self.compression = match (self.incompatible & COMPRESSION != 0, compression) {
            (false, 0) => Compression::Zlib,
            (true, 1) => Compression::Zstd,
            (true, 2..) => {
                return Err(Error::unsupported(path, format!("compression of type {compression} is unknown")));
            }
            (flag, kind) => {
                let what = format!("compression of type {kind} with its feature bit {}", u8::from(flag));
                return Err(Error::damaged(path, NAME, what));
            }
        };
        Ok(())
    }

    /// Checks every number against the others and the limits.
    fn sane(&self, path: &Path) -> Result<()> {
        let bad = |what: &str| Err(Error::damaged(path, NAME, what));
        let cluster = 1u64 << self.cluster_bits;
        let aligned = |at: u64| at.is_multiple_of(cluster) && at < 1 << 56;
        if self.refcount_order > 6 {
            return bad("refcounts of more than 64 bits");
        }
        if self.incompatible & EXTENDED != 0 && self.cluster_bits < 14 {
            return bad("extended L2 entries with clusters smaller than 16 KiB");
        }
        if self.size > i64::MAX as u64 / 2 {
            return bad("the disk is larger than any can be");
        }
        if u64::from(self.l1_size) * 8 > MOST_L1 {
            return bad("its L1 table is larger than 32 MiB");
        }
        if u64::from(self.l1_size) < self.size.div_ceil(self.covered()) {
            return bad("its L1 table is too short for the disk");
        }
        if !aligned(self.l1_at) || (self.l1_at == 0 && self.l1_size != 0) {
            return bad("its L1 table is at no cluster's start");
        }
        if !aligned(self.refcount_at) || self.refcount_at == 0 {
            return bad("its refcount table is at no cluster's start");
        }
        if self.refcount_clusters == 0 || u64::from(self.refcount_clusters) * cluster > MOST_REFCOUNT_TABLE {
            return bad("its refcount table is empty or larger than 8 MiB");
        }
        if self.snapshots > MOST_SNAPSHOTS || !aligned(self.snapshots_at) {
            return bad("its table of snapshots is too long or at no cluster's start");
        }
        if self.raw_external() && !self.external_data() {
            return bad("raw external data without an external data file");
        }
        if self.raw_external() && self.backing.is_some() {
            return bad("a backing file together with raw external data");
        }
        if self.external_data() && self.snapshots != 0 {
            return bad("snapshots together with an external data file");
        }
        if self.autoclear & BITMAPS_SOUND != 0 && self.bitmaps.is_none() && self.version == 3 {
            return bad("bitmaps are said to be sound, and there are none");
        }
        if let Some(place) = self.bitmaps
            && (place.count == 0 || place.count > 65535 || place.size > 64 << 20 || !aligned(place.at) || place.at == 0)
        {
            return bad("its directory of bitmaps cannot be");
        }
        if let Some((at, len)) = self.encryption
            && (!aligned(at) || at == 0 || len == 0 || len > 64 << 20)
        {
            return bad("its encryption's header cannot be");
        }
        match (self.crypt_method, self.encryption.is_some()) {
            (0 | 1, false) | (2, true) => Ok(()),
            (0..=2, _) => bad("its encryption and the header for that contradict each other"),
            (method, _) => Err(Error::unsupported(path, format!("encryption of method {method} is unknown"))),
        }
    }

    fn covered(&self) -> u64 {
        let entry = if self.extended_l2() { 16 } else { 8 };
        ((1u64 << self.cluster_bits) / entry) << self.cluster_bits
    }

    pub(super) fn extended_l2(&self) -> bool {
        self.incompatible & EXTENDED != 0
    }

    pub(super) fn external_data(&self) -> bool {
        self.incompatible & EXTERNAL != 0
    }

    pub(super) fn raw_external(&self) -> bool {
        self.autoclear & RAW_EXTERNAL != 0 && self.version == 3
    }

    pub(super) fn lazy(&self) -> bool {
        self.version == 3 && self.compatible & LAZY != 0
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.incompatible & DIRTY != 0
    }

    pub(super) fn is_corrupt(&self) -> bool {
        self.incompatible & CORRUPT != 0
    }

    /// The header as it is written. The names of features are left out where there is no room for them.
    pub(super) fn bytes(&self, path: &Path) -> Result<Vec<u8>> {
        self.bytes_with(path, true).or_else(|_| self.bytes_with(path, false))
    }

    fn bytes_with(&self, path: &Path, names: bool) -> Result<Vec<u8>> {
        let mut out = vec![0; 72];
        put(&mut out, 0, &MAGIC.to_be_bytes());
        put(&mut out, 4, &self.version.to_be_bytes());
        put(&mut out, 20, &self.cluster_bits.to_be_bytes());
        put(&mut out, 24, &self.size.to_be_bytes());
        put(&mut out, 32, &self.crypt_method.to_be_bytes());
        put(&mut out, 36, &self.l1_size.to_be_bytes());
        put(&mut out, 40, &self.l1_at.to_be_bytes());
        put(&mut out, 48, &self.refcount_at.to_be_bytes());
        put(&mut out, 56, &self.refcount_clusters.to_be_bytes());
        put(&mut out, 60, &self.snapshots.to_be_bytes());
        put(&mut out, 64, &self.snapshots_at.to_be_bytes());
        if self.version == 3 {
            out.resize(112, 0);
            put(&mut out, 72, &self.incompatible.to_be_bytes());
            put(&mut out, 80, &self.compatible.to_be_bytes());
            put(&mut out, 88, &self.autoclear.to_be_bytes());
            put(&mut out, 96, &self.refcount_order.to_be_bytes());
            put(&mut out, 104, &[u8::from(self.compression == Compression::Zstd)]);
            out.extend(&self.more);
            let length = out.len() as u32;
            put(&mut out, 100, &length.to_be_bytes());
        }
        let mut add = |kind: u32, data: &[u8]| {
            out.extend(kind.to_be_bytes());
            out.extend((data.len() as u32).to_be_bytes());
            out.extend(data);
            out.resize(out.len().next_multiple_of(8), 0);
        };
        if let Some(format) = &self.backing_format {
            add(BACKING_FORMAT, format.as_bytes());
        }
        if let Some(name) = &self.data_file {
            add(DATA_FILE, name.as_bytes());
        }
        if let Some((at, len)) = self.encryption {
            add(ENCRYPTION, &[at.to_be_bytes(), len.to_be_bytes()].concat());
        }
        if let Some(place) = self.bitmaps {
            let count = u64::from(place.count) << 32;
            add(BITMAPS, &[count.to_be_bytes(), place.size.to_be_bytes(), place.at.to_be_bytes()].concat());
        }
        if self.version == 3 && names {
            let mut table = Vec::new();
            for (kind, bit, name) in KNOWN {
                let start = table.len();
                table.extend([kind, bit]);
                table.extend(name.as_bytes());
                table.resize(start + 48, 0);
            }
            add(FEATURE_NAMES, &table);
        }
        for (kind, data) in &self.unknown {
            add(*kind, data);
        }
        add(END, &[]);
        if let Some(name) = &self.backing {
            let at = out.len() as u64;
            put(&mut out, 8, &at.to_be_bytes());
            put(&mut out, 16, &(name.len() as u32).to_be_bytes());
            out.extend(name.as_bytes());
        }
        if out.len() > 1 << self.cluster_bits {
            let what = "the header with the names in it is larger than a cluster: use shorter names or larger clusters";
            return Err(Error::invalid(path, what));
        }
        Ok(out)
    }
}

//! VHDX, the images of Hyper-V, for import: fixed and dynamic, as [MS-VHDX] has them. The log is not replayed: an image that
//! needs it is refused. Numbers are little endian.

mod crc32c;
mod log;

use crate::import::{ImportError, Layout, Parsed, Place, Run, Source, Table, le32, le64};
use crc32c::crc32c;

const MIB: u64 = 1 << 20;
/// Where the two headers and the two region tables are, and their sizes.
const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
const HEADER: usize = 4096;
const REGIONS: [u64; 2] = [192 << 10, 256 << 10];
const REGION_TABLE: usize = 64 << 10;
/// The most entries of a region table and of a metadata table.
const MOST_ENTRIES: usize = 2047;

/// A GUID as it lies in the file, from its fields.
const fn guid(a: u32, b: u16, c: u16, d: [u8; 8]) -> [u8; 16] {
    let (a, b, c) = (a.to_le_bytes(), b.to_le_bytes(), c.to_le_bytes());
    [a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5], d[6], d[7]]
}

const BAT: [u8; 16] = guid(0x2dc2_7766, 0xf623, 0x4200, [0x9d, 0x64, 0x11, 0x5e, 0x9b, 0xfd, 0x4a, 0x08]);
const METADATA: [u8; 16] = guid(0x8b7c_a206, 0x4790, 0x4b9a, [0xb8, 0xfe, 0x57, 0x5f, 0x05, 0x0f, 0x88, 0x6e]);
const FILE_PARAMETERS: [u8; 16] = guid(0xcaa1_6737, 0xfa36, 0x4d43, [0xb3, 0xb6, 0x33, 0xf0, 0xaa, 0x44, 0xe7, 0x6b]);
const DISK_SIZE: [u8; 16] = guid(0x2fa5_4224, 0xcd1b, 0x4876, [0xb2, 0x11, 0x5d, 0xbe, 0xd8, 0x3b, 0xf4, 0xb8]);
const DISK_ID: [u8; 16] = guid(0xbeca_12ab, 0xb2e6, 0x4523, [0x93, 0xef, 0xc3, 0x09, 0xe0, 0x00, 0xc7, 0x46]);
const LOGICAL_SECTOR: [u8; 16] = guid(0x8141_bf1d, 0xa96f, 0x4709, [0xba, 0x47, 0xf2, 0x33, 0xa8, 0xfa, 0xab, 0x5f]);
const PHYSICAL_SECTOR: [u8; 16] = guid(0xcda3_48c7, 0x445d, 0x4471, [0x9c, 0xc9, 0xe9, 0x88, 0x52, 0x51, 0xc5, 0x56]);
const PARENT: [u8; 16] = guid(0xa8d3_5f2d, 0xb30b, 0x454d, [0xab, 0xf7, 0xd3, 0xd8, 0x48, 0x34, 0xab, 0x0c]);

/// Whether these are the first bytes of a VHDX.
pub(crate) fn probe(start: &[u8]) -> bool {
    start.starts_with(b"vhdxfile")
}

/// Where the blocks of a VHDX are.
pub(crate) struct Vhdx {
    source: Source,
    bat: Table,
    /// Bytes of the disk.
    size: u64,
    /// Bytes of a block.
    block: u64,
    /// So many blocks have their entries before that of their sector bitmap comes.
    chunk: u64,
}

/// Whether the checksum at byte 4 is that of the whole.
fn intact(bytes: &[u8]) -> bool {
    bytes.len() > 8 && crc32c(&[&bytes[..4], &[0; 4], &bytes[8..]]) == le32(bytes, 4)
}

fn header(source: &Source) -> Parsed<Vec<u8>> {
    let mut current: Option<Vec<u8>> = None;
    for at in HEADERS {
        let mut bytes = vec![0; HEADER];
        source.read(at, &mut bytes)?;
        let newer = current.as_ref().is_none_or(|other| le64(other, 8) < le64(&bytes, 8));
        if bytes.starts_with(b"head") && intact(&bytes) && newer {
            current = Some(bytes);
        }
    }
    current.ok_or_else(|| ImportError::corrupt("neither of its headers is intact"))
}

/// The places of the block allocation table and of the metadata: byte and length.
fn regions(source: &Source) -> Parsed<[(u64, u64); 2]> {
    for at in REGIONS {
        let mut table = vec![0; REGION_TABLE];
        source.read(at, &mut table)?;
        if !table.starts_with(b"regi") || !intact(&table) {
            continue;
        }
        let (mut bat, mut metadata) = (None, None);
        let entries = (le32(&table, 8) as usize).min(MOST_ENTRIES);
        for entry in table[16..].chunks_exact(32).take(entries) {
            let place = (le64(entry, 16), u64::from(le32(entry, 24)));
            match entry {
                entry if entry.starts_with(&BAT) => bat = Some(place),
                entry if entry.starts_with(&METADATA) => metadata = Some(place),
                entry if le32(entry, 28) & 1 != 0 => {
                    return Err(ImportError::Unsupported("a region of an unknown kind".to_owned()));
                }
                _ => {}
            }
        }
        return match (bat, metadata) {
            (Some(bat), Some(metadata)) => Ok([bat, metadata]),
            _ => Err(ImportError::corrupt("a region is missing")),
        };
    }
    Err(ImportError::corrupt("neither of its region tables is intact"))
}

/// What the metadata says of the disk.
#[derive(Default)]
struct Metadata {
    block: u64,
    size: u64,
    sector: u64,
    has_parent: bool,
}

impl Metadata {
    fn read(source: &Source, at: u64, len: u64) -> Parsed<Self> {
        let mut table = vec![0; REGION_TABLE];
        if len < REGION_TABLE as u64 {
            return Err(ImportError::corrupt("its metadata is too short"));
        }
        source.read(at, &mut table)?;
        if !table.starts_with(b"metadata") {
            return Err(ImportError::corrupt("its metadata has no signature"));
        }
        let count = usize::from(u16::from_le_bytes([table[10], table[11]])).min(MOST_ENTRIES);
        let mut metadata = Self::default();
        for entry in table[32..].chunks_exact(32).take(count) {
            let mut item = [0; 8];
            let (offset, item_len) = (u64::from(le32(entry, 16)), (le32(entry, 20) as usize).min(8));
            if offset.saturating_add(item_len as u64) > len {
                return Err(ImportError::corrupt("an item of its metadata is behind the end"));
            }
            if item_len > 0 {
                source.read(at.saturating_add(offset), &mut item[..item_len])?;
            }
            match entry {
                e if e.starts_with(&FILE_PARAMETERS) => {
                    metadata.block = u64::from(le32(&item, 0));
                    metadata.has_parent |= le32(&item, 4) & 2 != 0;
                }
                e if e.starts_with(&DISK_SIZE) => metadata.size = le64(&item, 0),
                e if e.starts_with(&LOGICAL_SECTOR) => metadata.sector = u64::from(le32(&item, 0)),
                e if e.starts_with(&PARENT) => metadata.has_parent = true,
                e if e.starts_with(&DISK_ID) || e.starts_with(&PHYSICAL_SECTOR) => {}
                // Required, and of the system's.
                e if le32(e, 24) & 4 != 0 => {
                    return Err(ImportError::Unsupported("metadata of an unknown kind".to_owned()));
                }
                _ => {}
            }
        }
        Ok(metadata)
    }
}

impl Vhdx {
    pub(crate) fn open(source: Source) -> Parsed<Self> {
        let header = header(&source)?;
        let version = u16::from_le_bytes([header[66], header[67]]);
        if version != 1 {
            return Err(ImportError::Unsupported(format!("version {version}")));
        }
        if log::is_needed(&source, &header)? {
            return Err(ImportError::Dirty);
        }
        let [(bat_at, bat_len), (metadata_at, metadata_len)] = regions(&source)?;
        let Metadata { block, size, sector, has_parent } = Metadata::read(&source, metadata_at, metadata_len)?;
        if has_parent {
            return Err(ImportError::Unsupported("a parent image (it is a differencing one)".to_owned()));
        }
        if !block.is_power_of_two() || !(MIB..=256 * MIB).contains(&block) {
            return Err(ImportError::corrupt(format!("blocks of {block} bytes")));
        }
        if !matches!(sector, 512 | 4096) {
            return Err(ImportError::corrupt(format!("sectors of {sector} bytes")));
        }
        // [MS-VHDX] 2.6.2.4
        if size > 64 << 40 || !size.is_multiple_of(sector) {
            return Err(ImportError::corrupt(format!("a disk of {size} bytes")));
        }
        let chunk = (sector << 23) / block;
        let blocks = size.div_ceil(block);
        let entries = blocks + blocks.saturating_sub(1) / chunk;
        if entries * 8 > bat_len {
            return Err(ImportError::corrupt("its block table is shorter than its disk"));
        }
        let bat = Table::new(&source, bat_at, entries * 8)?;
        Ok(Self { source, bat, size, block, chunk })
    }
}

impl Layout for Vhdx {
    fn format(&self) -> &'static str {
        "vhdx"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn run(&self, offset: u64) -> Parsed<Run<'_>> {
        let (number, within) = (offset / self.block, offset % self.block);
        let mut entry = [0; 8];
        self.bat.read((number + number / self.chunk) * 8, &mut entry)?;
        let entry = u64::from_le_bytes(entry);
        let place = match entry & 7 {
            // Not present, undefined, zero, unmapped: [MS-VHDX] 2.5.1.1. What is undefined may be anything, so zero.
            0..=3 => Place::Zero,
            6 => {
                let at = (entry >> 20).saturating_mul(MIB);
                if at == 0 {
                    return Err(ImportError::corrupt("a block lies in the header"));
                }
                Place::At(&self.source, at.saturating_add(within))
            }
            7 => return Err(ImportError::corrupt("a block of a parent, of which there is none")),
            _ => return Err(ImportError::corrupt("a block of an unknown state")),
        };
        Ok(Run { len: self.block - within, place })
    }
}

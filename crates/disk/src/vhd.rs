//! VHD, the images of Virtual PC and old Hyper-V, for import: fixed and dynamic, as Microsoft's "Virtual Hard Disk Image Format
//! Specification" 1.0 has them. Numbers are big endian.

use crate::import::{ImportError, Layout, Parsed, Place, Run, Source, Table, be32, be64};

const COOKIE: &[u8] = b"conectix";
const DYNAMIC_COOKIE: &[u8] = b"cxsparse";
const FOOTER: u64 = 512;
const SECTOR: u64 = 512;
const UNUSED: u32 = u32::MAX;
/// Bytes of a bitmap that are looked at together.
const WINDOW: usize = 512;

/// Whether these bytes start a footer, of which a dynamic image has a copy at its start.
fn is_footer(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE)
}

/// Whether a file of this beginning and these last bytes is a VHD. A fixed one is known by its end alone, which has to be
/// right in every bit: a guest could have written it.
pub(crate) fn probe(start: &[u8], end: &[u8]) -> bool {
    is_footer(start) || (is_footer(end) && end.len() == FOOTER as usize && checksum(end, 64))
}

/// Where the footer of an image of this size is.
fn footer_at(file: u64) -> Option<u64> {
    file.checked_sub(FOOTER)
}

struct Blocks {
    table: Table,
    entries: u64,
    /// Bytes of the data of a block.
    block: u64,
    /// Bytes of the bitmap in front of it.
    bitmap: u64,
}

/// Where the blocks of a VHD are.
pub(crate) struct Vhd {
    source: Source,
    /// Bytes of the disk.
    size: u64,
    /// None of a fixed image.
    blocks: Option<Blocks>,
}

/// The one's complement of the sum of all bytes but the checksum's own.
fn checksum(bytes: &[u8], at: usize) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let own = bytes.get(at..at + 4).map_or(0, sum);
    be32(bytes, at) == !sum(bytes).wrapping_sub(own)
}

impl Vhd {
    pub(crate) fn open(source: Source) -> Parsed<Self> {
        let mut footer = [0; FOOTER as usize];
        let end = footer_at(source.len()).ok_or_else(|| ImportError::corrupt("it is shorter than its footer"))?;
        source.read(end, &mut footer)?;
        if !is_footer(&footer) || !checksum(&footer, 64) {
            // The copy at the start is for the day when the footer is lost.
            source.read(0, &mut footer)?;
        }
        if !is_footer(&footer) {
            return Err(ImportError::corrupt("it has no footer"));
        }
        if !checksum(&footer, 64) {
            return Err(ImportError::corrupt("the checksum of its footer is wrong"));
        }
        let version = be32(&footer, 12);
        if version >> 16 != 1 {
            return Err(ImportError::Unsupported(format!("version {}.{}", version >> 16, version & 0xffff)));
        }
        let size = be64(&footer, 48);
        let blocks = match be32(&footer, 60) {
            2 => {
                if size > end {
                    return Err(ImportError::corrupt("it is truncated"));
                }
                None
            }
            3 => Some(Blocks::open(&source, be64(&footer, 16), size)?),
            4 => return Err(ImportError::Unsupported("a parent image (it is a differencing one)".to_owned())),
            other => return Err(ImportError::Unsupported(format!("type {other}"))),
        };
        Ok(Self { source, size, blocks })
    }
}

impl Blocks {
    fn open(source: &Source, at: u64, size: u64) -> Parsed<Self> {
        let mut header = [0; 1024];
        source.read(at, &mut header)?;
        if !header.starts_with(DYNAMIC_COOKIE) || !checksum(&header, 36) {
            return Err(ImportError::corrupt("the header of its blocks is damaged"));
        }
        let (entries, block) = (u64::from(be32(&header, 28)), u64::from(be32(&header, 32)));
        if !block.is_power_of_two() || !(SECTOR..=1 << 28).contains(&block) {
            return Err(ImportError::corrupt(format!("blocks of {block} bytes")));
        }
        if size.div_ceil(block) > entries {
            return Err(ImportError::corrupt("its block table is shorter than its disk"));
        }
        let table = Table::new(source, be64(&header, 16), entries * 4)?;
        let bitmap = (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR);
        Ok(Self { table, entries, block, bitmap })
    }
}

impl Layout for Vhd {
    fn format(&self) -> &'static str {
        "vpc"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn run(&self, offset: u64) -> Parsed<Run<'_>> {
        let Some(blocks) = &self.blocks else {
            return Ok(Run { len: self.size - offset, place: Place::At(&self.source, offset) });
        };
        let (number, within) = (offset / blocks.block, offset % blocks.block);
        debug_assert!(number < blocks.entries);
        let mut entry = [0; 4];
        blocks.table.read(number * 4, &mut entry)?;
        let entry = u32::from_be_bytes(entry);
        if entry == UNUSED {
            return Ok(Run { len: blocks.block - within, place: Place::Zero });
        }
        // 2^32 sectors and a block: no overflow.
        let start = u64::from(entry) * SECTOR;
        // A window of the bitmap is enough: the next call looks at the next.
        let first = within / SECTOR;
        let window = first / 8;
        let mut bitmap = [0; WINDOW];
        let left = (blocks.bitmap - window).min(WINDOW as u64);
        self.source.read(start + window, &mut bitmap[..left as usize])?;
        let present = |sector: u64| {
            let byte = bitmap.get((sector / 8 - window) as usize);
            byte.map(|byte| byte << (sector % 8) & 0x80 != 0)
        };
        let state = present(first).unwrap_or(false);
        let last = (blocks.block / SECTOR).min((window + left) * 8);
        let end = (first + 1..last).find(|sector| present(*sector) != Some(state)).unwrap_or(last);
        let len = end * SECTOR - within;
        // A sector that is not marked was never written.
        let place = if state { Place::At(&self.source, start + blocks.bitmap + within) } else { Place::Zero };
        Ok(Run { len, place })
    }
}

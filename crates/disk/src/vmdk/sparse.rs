//! A sparse extent of VMDK: grains behind two levels of tables, plain or compressed ("Virtual Disk Format 5.0", "Hosted Sparse
//! Extents" and "Stream-Optimized Compressed Sparse Extents").

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::ZlibDecoder;

use super::descriptor::{self, Descriptor};
use super::{MAGIC, SECTOR};
use crate::import::{ImportError, Parsed, Place, Run, Source, Table, le32, le64};

/// Where the grain directory is when the footer knows.
const AT_END: u64 = u64::MAX;
/// Of the flags.
const ZERO_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
/// The footer starts so many bytes in front of the end, behind its marker and in front of the end-of-stream marker.
const FOOTER: u64 = 1024;
/// The header of a compressed grain: the sector it is for, and the bytes that follow.
const MARKER: u64 = 12;

/// A sparse extent.
pub(super) struct Sparse {
    source: Source,
    directory: Table,
    /// Bytes.
    size: u64,
    grain: u64,
    /// Entries of a grain table.
    entries: u64,
    zero_grains: bool,
    compressed: bool,
    descriptor: Option<Descriptor>,
    /// The grain that was unpacked last, and the byte of the file where it is.
    last: Mutex<Option<(u64, Arc<Vec<u8>>)>>,
}

impl Sparse {
    pub(super) fn open(source: Source) -> Parsed<Self> {
        let mut header = [0; 512];
        source.read(0, &mut header)?;
        if le64(&header, 56) == AT_END {
            let at = source.len().checked_sub(FOOTER).filter(|at| *at >= SECTOR);
            source.read(at.ok_or_else(|| ImportError::corrupt("it is truncated"))?, &mut header)?;
            if le64(&header, 56) == AT_END {
                return Err(ImportError::corrupt("its footer does not say where the grains are"));
            }
        }
        if le32(&header, 0) != MAGIC {
            return Err(ImportError::corrupt("it is no sparse extent, or its footer is gone"));
        }
        let version = le32(&header, 4);
        if !(1..=3).contains(&version) {
            return Err(ImportError::Unsupported(format!("version {version}")));
        }
        let (flags, entries) = (le32(&header, 8), u64::from(le32(&header, 44)));
        let bytes = |at: usize, what: &str| {
            le64(&header, at)
                .checked_mul(SECTOR)
                .ok_or_else(|| ImportError::corrupt(format!("{what} is out of bounds")))
        };
        let (size, grain) = (bytes(12, "its capacity")?, bytes(20, "its grain")?);
        if !grain.is_power_of_two() || !(4096..=1 << 20).contains(&grain) {
            return Err(ImportError::corrupt(format!("grains of {grain} bytes")));
        }
        if !(1..=512).contains(&entries) {
            return Err(ImportError::corrupt(format!("grain tables of {entries} entries")));
        }
        let compressed = flags & COMPRESSED != 0;
        let algorithm = u16::from_le_bytes([header[77], header[78]]);
        if compressed && algorithm != 1 {
            return Err(ImportError::Unsupported(format!("compression of the kind {algorithm}")));
        }
        let (text_at, text_len) = (bytes(28, "its descriptor")?, bytes(36, "its descriptor")?);
        // The extents of a descriptor have room for one of their own, and nothing in it.
        let text = if text_at == 0 { String::new() } else { descriptor::read(&source, text_at, text_len)? };
        let descriptor = if text.is_empty() { None } else { Some(Descriptor::parse(&text)?) };
        let tables = size.div_ceil(grain * entries);
        let directory = Table::new(&source, bytes(56, "its grain directory")?, tables * 4)?;
        let zero_grains = flags & ZERO_GRAINS != 0;
        let last = Mutex::default();
        Ok(Self { source, directory, size, grain, entries, zero_grains, compressed, descriptor, last })
    }

    /// Bytes of the disk.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn refuse_parent(&self) -> Parsed<()> {
        self.descriptor.as_ref().map_or(Ok(()), Descriptor::refuse_parent)
    }

    pub(super) fn run(&self, offset: u64) -> Parsed<Run<'_>> {
        let (number, within) = (offset / self.grain, offset % self.grain);
        let len = self.grain - within;
        let zero = Run { len, place: Place::Zero };
        let mut entry = [0; 4];
        self.directory.read(number / self.entries * 4, &mut entry)?;
        let table = u64::from(u32::from_le_bytes(entry)) * SECTOR;
        if table == 0 {
            // No table, no grains.
            let span = self.grain * self.entries;
            return Ok(Run { len: span - offset % span, place: Place::Zero });
        }
        self.source.read(table + number % self.entries * 4, &mut entry)?;
        let at = match u32::from_le_bytes(entry) {
            0 => return Ok(zero),
            1 if self.zero_grains => return Ok(zero),
            sector => u64::from(sector) * SECTOR,
        };
        let place = if self.compressed {
            Place::Unpacked(self.unpack(at, number)?, within as usize)
        } else {
            Place::At(&self.source, at + within)
        };
        Ok(Run { len, place })
    }

    fn unpack(&self, at: u64, number: u64) -> Result<Arc<Vec<u8>>, ImportError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, grain)) = last.as_ref().filter(|(place, _)| *place == at) {
            return Ok(Arc::clone(grain));
        }
        let mut marker = [0; MARKER as usize];
        self.source.read(at, &mut marker)?;
        let (sector, len) = (le64(&marker, 0), u64::from(le32(&marker, 8)));
        if sector.checked_mul(SECTOR) != number.checked_mul(self.grain) {
            return Err(ImportError::corrupt("a grain is another one's"));
        }
        // What does not shrink grows by a few bytes.
        if len == 0 || len > self.grain * 2 {
            return Err(ImportError::corrupt(format!("a compressed grain of {len} bytes")));
        }
        let mut packed = vec![0; len as usize];
        self.source.read(at + MARKER, &mut packed)?;
        let mut grain = Vec::new();
        let unpacked = ZlibDecoder::new(packed.as_slice()).take(self.grain).read_to_end(&mut grain);
        if unpacked.is_err() || (grain.len() as u64) < self.grain.min(self.size - number * self.grain) {
            return Err(ImportError::corrupt("a compressed grain is damaged"));
        }
        grain.resize(self.grain as usize, 0);
        let grain = Arc::new(grain);
        *last = Some((at, Arc::clone(&grain)));
        Ok(grain)
    }
}

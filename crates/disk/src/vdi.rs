//! VDI, the images of VirtualBox, for import: dynamic and fixed, header version 1.1, as VirtualBox's own description of the
//! format ("All about VDIs") has it. Numbers are little endian.

use crate::import::{ImportError, Layout, Parsed, Place, Run, Source, Table, le32, le64};

const SIGNATURE: u32 = 0xbeda_107f;
const HEADER: usize = 512;
/// A block that was never written.
const FREE: u32 = u32::MAX;
/// A block that was discarded.
const ZERO: u32 = u32::MAX - 1;
const DYNAMIC: u32 = 1;
const FIXED: u32 = 2;

/// Whether these are the first bytes of a VDI.
pub(crate) fn probe(start: &[u8]) -> bool {
    le32(start, 0x40) == SIGNATURE
}

/// Where the blocks of a VDI are.
pub(crate) struct Vdi {
    source: Source,
    map: Table,
    /// Bytes of the disk.
    size: u64,
    /// Bytes of a block.
    block: u64,
    /// Bytes in front of each block that are not the guest's.
    extra: u64,
    /// Bytes from the start of the file.
    data: u64,
}

impl Vdi {
    pub(crate) fn open(source: Source) -> Parsed<Self> {
        let mut header = [0; HEADER];
        source.read(0, &mut header)?;
        if !probe(&header) {
            return Err(ImportError::corrupt("it has no signature"));
        }
        let version = le32(&header, 0x44);
        if version >> 16 != 1 {
            return Err(ImportError::Unsupported(format!("version {}.{}", version >> 16, version & 0xffff)));
        }
        match le32(&header, 0x4c) {
            DYNAMIC | FIXED => {}
            4 => return Err(ImportError::Unsupported("a parent image (it is a differencing one)".to_owned())),
            other => return Err(ImportError::Unsupported(format!("type {other}"))),
        }
        // Differencing images are of type 4, but the parent is what makes them so.
        if header[0x1a8..0x1c8].iter().any(|byte| *byte != 0) {
            return Err(ImportError::Unsupported("a parent image (it is a differencing one)".to_owned()));
        }
        let (size, block) = (le64(&header, 0x170), u64::from(le32(&header, 0x178)));
        let blocks = u64::from(le32(&header, 0x180));
        if block < 512 || !block.is_power_of_two() || block > 1 << 28 {
            return Err(ImportError::corrupt(format!("blocks of {block} bytes")));
        }
        if size.div_ceil(block) > blocks {
            return Err(ImportError::corrupt("its block map is shorter than its disk"));
        }
        let map = Table::new(&source, u64::from(le32(&header, 0x154)), blocks * 4)?;
        let (data, extra) = (u64::from(le32(&header, 0x158)), u64::from(le32(&header, 0x17c)));
        Ok(Self { source, map, size, block, extra, data })
    }
}

impl Layout for Vdi {
    fn format(&self) -> &'static str {
        "vdi"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn run(&self, offset: u64) -> Parsed<Run<'_>> {
        let (number, within) = (offset / self.block, offset % self.block);
        let len = self.block - within;
        let mut entry = [0; 4];
        self.map.read(number * 4, &mut entry)?;
        let place = match u32::from_le_bytes(entry) {
            FREE | ZERO => Place::Zero,
            // At most 2^32 blocks of 2^28 and their extra bytes: no overflow.
            at => Place::At(&self.source, self.data + u64::from(at) * (self.block + self.extra) + self.extra + within),
        };
        Ok(Run { len, place })
    }
}

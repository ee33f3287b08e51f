//! VMDK, the images of VMware, for import, as VMware's "Virtual Disk Format 5.0" has them: a sparse file (monolithic, or
//! stream-optimized with compressed grains), or a descriptor with flat and sparse extents beside it. Numbers are little endian.

mod descriptor;
mod sparse;

use std::path::Path;

use crate::import::{ImportError, Layout, OpenBeside, Parsed, Place, Run, Source, le32};
use descriptor::{Descriptor, Kind};
use sparse::Sparse;

pub(crate) const SECTOR: u64 = 512;
const MAGIC: u32 = 0x564d_444b;
/// The old sparse format of ESX.
const COWD: u32 = 0x4457_4f43;

/// Whether these are the first bytes of a VMDK.
pub(crate) fn probe(start: &[u8]) -> bool {
    [MAGIC, COWD].contains(&le32(start, 0)) || descriptor::probe(start)
}

enum Data {
    Sparse(Box<Sparse>),
    /// From this byte of the file on.
    Flat(Source, u64),
    Zero,
}

struct Extent {
    /// The first byte behind it, of the disk.
    end: u64,
    data: Data,
}

/// Where the bytes of a VMDK are.
pub(crate) struct Vmdk {
    extents: Vec<Extent>,
    size: u64,
}

impl Vmdk {
    /// `path` is that of the image, beside which the extents of a descriptor are.
    pub(crate) fn open(source: Source, path: &Path, open: &OpenBeside<'_>) -> Parsed<Self> {
        let mut start = [0; 4];
        source.read(0, &mut start)?;
        if le32(&start, 0) == MAGIC {
            let sparse = Sparse::open(source)?;
            sparse.refuse_parent()?;
            let size = sparse.size();
            return Ok(Self { extents: vec![Extent { end: size, data: Data::Sparse(Box::new(sparse)) }], size });
        }
        if le32(&start, 0) == COWD {
            return Err(ImportError::Unsupported("the old sparse extents of ESX (COWD)".to_owned()));
        }
        let text = descriptor::read(&source, 0, source.len())?;
        let descriptor = Descriptor::parse(&text)?;
        descriptor.refuse_parent()?;
        let folder = path.parent().unwrap_or_else(|| Path::new(""));
        let (mut extents, mut size) = (Vec::new(), 0u64);
        for extent in &descriptor.extents {
            let data = match &extent.kind {
                Kind::Zero => Data::Zero,
                Kind::Flat { file, offset } => {
                    let source = Source::new(open(&folder.join(file))?);
                    if offset.checked_add(extent.len).is_none_or(|end| end > source.len()) {
                        return Err(ImportError::corrupt(format!("{file} is shorter than its extent")));
                    }
                    Data::Flat(source, *offset)
                }
                Kind::Sparse { file } => {
                    let sparse = Sparse::open(Source::new(open(&folder.join(file))?))?;
                    if sparse.size() < extent.len {
                        return Err(ImportError::corrupt(format!("{file} is shorter than its extent")));
                    }
                    Data::Sparse(Box::new(sparse))
                }
            };
            size = size.checked_add(extent.len).ok_or_else(|| ImportError::corrupt("it is larger than any disk"))?;
            extents.push(Extent { end: size, data });
        }
        Ok(Self { extents, size })
    }
}

impl Layout for Vmdk {
    fn format(&self) -> &'static str {
        "vmdk"
    }

    fn size(&self) -> u64 {
        self.size
    }

    fn run(&self, offset: u64) -> Parsed<Run<'_>> {
        let number = self.extents.partition_point(|extent| extent.end <= offset);
        let behind = || ImportError::corrupt("an offset is behind the last extent");
        let extent = self.extents.get(number).ok_or_else(behind)?;
        let start = number.checked_sub(1).and_then(|before| self.extents.get(before)).map_or(0, |before| before.end);
        let (within, left) = (offset - start, extent.end - offset);
        let run = match &extent.data {
            Data::Zero => Run { len: left, place: Place::Zero },
            Data::Flat(source, at) => Run { len: left, place: Place::At(source, at + within) },
            Data::Sparse(sparse) => sparse.run(within)?,
        };
        Ok(Run { len: run.len.min(left), ..run })
    }
}

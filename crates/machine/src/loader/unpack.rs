//! What a bzImage's payload is compressed with, and readers that undo it. No reader writes what it has read anywhere,
//! and none takes more memory than its window.

use std::io::{self, Read};

/// The largest window that kernels are compressed with: `xz` and `zstd` are told 128 MiB by newer ones.
const WINDOW_MOST: u64 = 128 << 20;
/// The same for `lzma-rust2`, in KiB, with its own tables, which are well below a megabyte.
const LZMA_MEMORY_KIB: u32 = (WINDOW_MOST / 1024) as u32 + 1024;

/// A way to compress a kernel. LZO is left to the kernel itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    /// gzip (RFC 1952).
    Gzip,
    /// bzip2.
    Bzip2,
    /// The `.lzma` file format ("LZMA alone").
    Lzma,
    /// The .xz file format 1.2.
    Xz,
    /// The legacy frame of LZ4 (*LZ4 Frame Format Description*, legacy frame).
    Lz4,
    /// Zstandard (RFC 8878).
    Zstd,
}

impl Compression {
    /// Recognises the payload by its first bytes.
    pub(super) fn of(payload: &[u8]) -> Option<Self> {
        const MAGICS: &[(&[u8], Compression)] = &[
            (b"\x1f\x8b", Compression::Gzip),
            (b"BZh", Compression::Bzip2),
            (b"\x5d\0\0", Compression::Lzma),
            (b"\xfd7zXZ\0", Compression::Xz),
            (&LEGACY.to_le_bytes(), Compression::Lz4),
            (b"\x28\xb5\x2f\xfd", Compression::Zstd),
        ];
        MAGICS.iter().find(|(magic, _)| payload.starts_with(magic)).map(|(_, which)| *which)
    }

    /// A reader of what `packed` holds. Errors of the format come from here or from reading.
    pub(super) fn reader<'a>(self, packed: &'a [u8]) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(flate2::bufread::GzDecoder::new(packed)),
            Self::Bzip2 => Box::new(bzip2::bufread::BzDecoder::new(packed)),
            Self::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(packed, LZMA_MEMORY_KIB, None)?),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(packed, false, LZMA_MEMORY_KIB)),
            Self::Lz4 => Box::new(Lz4Legacy { packed, block: Vec::new(), read: 0 }),
            Self::Zstd => {
                let reader = ruzstd::decoding::StreamingDecoder::new_with_max_window_size(packed, WINDOW_MOST);
                Box::new(reader.map_err(io::Error::other)?)
            }
        })
    }
}

/// The magic number of a legacy frame of LZ4.
const LEGACY: u32 = 0x184c_2102;
/// What a block of a legacy frame holds at most.
const LEGACY_BLOCK: usize = 8 << 20;

/// Reads legacy frames of LZ4: blocks of up to 8 MiB, each by itself, each behind its compressed length.
struct Lz4Legacy<'a> {
    packed: &'a [u8],
    block: Vec<u8>,
    read: usize,
}

impl Lz4Legacy<'_> {
    /// Decompresses the next block; false at the end.
    fn next_block(&mut self) -> io::Result<bool> {
        let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        loop {
            if self.packed.is_empty() {
                return Ok(false);
            }
            let (len, rest) = self.packed.split_first_chunk().ok_or_else(|| damaged("the length of a block is cut"))?;
            self.packed = rest;
            let len = u32::from_le_bytes(*len);
            // Another frame may follow, whose magic number is no possible length.
            if len == LEGACY {
                continue;
            }
            let split = self.packed.split_at_checked(len as usize);
            let (block, rest) = split.ok_or_else(|| damaged("a block is cut"))?;
            self.packed = rest;
            self.block.resize(LEGACY_BLOCK, 0);
            let held = lz4_flex::block::decompress_into(block, &mut self.block).map_err(io::Error::other)?;
            self.block.truncate(held);
            self.read = 0;
            return Ok(true);
        }
    }
}

impl Read for Lz4Legacy<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A block may be empty.
        while self.read >= self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = self.block.get(self.read..).unwrap_or(&[]).read(buffer)?;
        self.read += count;
        Ok(count)
    }
}

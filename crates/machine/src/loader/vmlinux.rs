//! A bzImage's payload, the kernel as an ELF file, decompressed straight into guest memory, as the code in front of it
//! would do there (`Documentation/arch/x86/boot.rst`: `payload_offset`, `payload_length`, `init_size`).

use std::io::{self, Read};
use std::ops::Range;

use memory::GuestMemory;

use super::LoadError;
use super::elf::Elf;
use super::fill::{CHUNK, clear, put};
use super::unpack::Compression;

/// A kernel in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Vmlinux {
    /// Its entry, a physical address.
    pub(super) entry: u64,
    /// Whether it starts in long mode; else in protected mode without paging.
    pub(super) wide: bool,
    /// What it was compressed with.
    pub(super) compression: Compression,
    /// The bytes it had uncompressed.
    pub(super) unpacked: u64,
}

/// Why a payload is left to the code in front of it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    #[error("its header names no payload")]
    NoPayload,
    #[error("the compression of its payload is none that is known")]
    Compression,
    #[error("its payload claims {unpacked} bytes, but the kernel needs only {room} bytes of memory")]
    Large { unpacked: u64, room: u64 },
    #[error("its payload cannot be decompressed: {0}")]
    Damaged(#[from] io::Error),
    #[error("its payload holds another number of bytes than the {unpacked} that it claims")]
    Length { unpacked: u64 },
    #[error("its payload is no ELF file")]
    NotElf,
    #[error("its payload cannot be loaded: {0}")]
    Elf(LoadError),
    #[error("the ELF file in its payload has segments in no order, or outside of the memory that the kernel needs")]
    Segments,
    #[error(transparent)]
    Memory(#[from] memory::Error),
}

/// Decompresses `payload` into `mem`. All of it must fit into `room`, which is RAM; what is written there before an
/// error stays. Nothing is relocated.
pub(super) fn load(mem: &GuestMemory, payload: &[u8], room: Range<u64>) -> Result<Vmlinux, Unfit> {
    /// Real kernels have their program headers right behind the ELF header.
    const HEAD: u64 = 1 << 14;
    let compression = Compression::of(payload).ok_or(Unfit::Compression)?;
    // The length of the contents ends the payload. A file of gzip ends in it anyway; for the others it was appended.
    let (packed, unpacked) = payload.split_last_chunk().ok_or(Unfit::NoPayload)?;
    let packed = if compression == Compression::Gzip { payload } else { packed };
    let unpacked = u64::from(u32::from_le_bytes(*unpacked));
    let room_len = room.end.saturating_sub(room.start);
    if unpacked > room_len {
        return Err(Unfit::Large { unpacked, room: room_len });
    }
    // One byte more, to see that there is none.
    let mut rest = compression.reader(packed)?.take(unpacked + 1);
    let mut head = Vec::new();
    rest.by_ref().take(HEAD).read_to_end(&mut head)?;
    if !Elf::is_elf(&head) {
        return Err(Unfit::NotElf);
    }
    let elf = Elf::parse(&head).map_err(Unfit::Elf)?;
    let mut input = Input { bytes: head.chain(rest), at: 0, chunk: vec![0; CHUNK] };
    let end = |at: u64, len: u64| at.checked_add(len).ok_or(Unfit::Segments);
    let mut loads = elf.loads.clone();
    loads.sort_by_key(|load| load.offset);
    for load in &loads {
        let past = end(load.at, load.len)?;
        if load.at < room.start || past > room.end || end(load.offset, load.data_len)? > unpacked {
            return Err(Unfit::Segments);
        }
        let gap = load.offset.checked_sub(input.at).ok_or(Unfit::Segments)?;
        input.pass(gap, |_, _| Ok(()))?;
        input.pass(load.data_len, |done, data| Ok(put(mem, load.at + done, data)?))?;
        clear(mem, load.at + load.data_len..past)?;
    }
    if !loads.iter().any(|load| (load.at..load.at.saturating_add(load.data_len)).contains(&elf.entry)) {
        return Err(Unfit::Segments);
    }
    // The rest, relocations, is of no use; but the reader checks what it has read at its end.
    let left = unpacked.saturating_sub(input.at);
    input.pass(left, |_, _| Ok(()))?;
    if input.bytes.read(&mut [0])? > 0 {
        return Err(Unfit::Length { unpacked });
    }
    Ok(Vmlinux { entry: elf.entry, wide: elf.wide, compression, unpacked })
}

/// The payload's contents, read from front to end.
struct Input<R> {
    bytes: R,
    /// The bytes read so far.
    at: u64,
    chunk: Vec<u8>,
}

impl<R: Read> Input<R> {
    /// Reads `len` bytes and hands them on in pieces, each with how many came before it.
    fn pass(&mut self, len: u64, mut take: impl FnMut(u64, &[u8]) -> Result<(), Unfit>) -> Result<(), Unfit> {
        let mut done = 0;
        while done < len {
            let most = (CHUNK as u64).min(len - done) as usize;
            let count = match self.bytes.read(self.chunk.get_mut(..most).unwrap_or_default()) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            take(done, self.chunk.get(..count).unwrap_or_default())?;
            done += count as u64;
            self.at += count as u64;
        }
        Ok(())
    }
}

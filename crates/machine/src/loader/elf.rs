//! ELF files as far as a kernel needs them (*Tool Interface Standard, ELF specification 1.2*; System V ABI, gABI 4.1).

use super::{LoadError, bytes, u16_at, u32_at, u64_at};

/// A part of the file that is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Load {
    /// The physical address.
    pub(super) at: u64,
    /// Where in the file what comes there is.
    pub(super) offset: u64,
    /// The length of what is in the file.
    pub(super) data_len: u64,
    /// The length in memory, not less; what is beyond the data is zero.
    pub(super) len: u64,
}

/// An ELF executable for x86.
#[derive(Debug)]
pub(super) struct Elf {
    /// Whether it is for 64-bit mode.
    pub(super) wide: bool,
    /// Where it starts, which is a physical address for a kernel.
    pub(super) entry: u64,
    /// In order of address, not overlapping.
    pub(super) loads: Vec<Load>,
    /// Offset and length of the notes.
    notes: Vec<(u64, u64)>,
}

const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
const EM_386: u16 = 3;
const EM_X86_64: u16 = 62;
/// Real kernels have about five.
const MOST_SEGMENTS: u16 = 128;
/// Real kernels have less than a kilobyte of notes.
const MOST_NOTES: usize = 1 << 16;
/// Name and type of the note that holds the PVH entry (Xen, `public/elfnote.h`).
const XEN: &[u8] = b"Xen\0";
const XEN_PHYS32_ENTRY: u32 = 18;

/// The fields of a program header.
struct Header {
    kind: u32,
    offset: u64,
    at: u64,
    file_len: u64,
    mem_len: u64,
}

impl Elf {
    /// Whether the data starts like an ELF file.
    pub(super) fn is_elf(data: &[u8]) -> bool {
        data.starts_with(b"\x7fELF")
    }

    /// Reads the headers. `data` may end behind them.
    pub(super) fn parse(data: &[u8]) -> Result<Self, LoadError> {
        let cut = |need: u64| LoadError::Truncated { part: "the ELF header", need, have: data.len() as u64 };
        let [class, order] = bytes(data, 4).ok_or(cut(64))?;
        let wide = match (class, order) {
            (1, 1) => false,
            (2, 1) => true,
            _ => return Err(LoadError::NotKernel { looks: "is an ELF file for another kind of computer" }),
        };
        let machine = u16_at(data, 18).ok_or(cut(64))?;
        if machine != EM_386 && machine != EM_X86_64 {
            return Err(LoadError::NotKernel { looks: "is an ELF file for another kind of computer" });
        }
        let (entry, table, entry_len, count) = if wide {
            (u64_at(data, 24), u64_at(data, 32), u16_at(data, 54), u16_at(data, 56))
        } else {
            let word = |at| u32_at(data, at).map(u64::from);
            (word(24), word(28), u16_at(data, 42), u16_at(data, 44))
        };
        let (table, entry_len, count) = (table.ok_or(cut(64))?, entry_len.ok_or(cut(64))?, count.ok_or(cut(64))?);
        if usize::from(entry_len) < if wide { 56 } else { 32 } {
            return Err(LoadError::Damaged { reason: "its ELF program headers are too short" });
        }
        if count > MOST_SEGMENTS {
            return Err(LoadError::Damaged { reason: "it has too many ELF segments" });
        }
        let (mut loads, mut notes) = (Vec::new(), Vec::new());
        for i in 0..u64::from(count) {
            let at = table.saturating_add(i * u64::from(entry_len));
            let header = usize::try_from(at).ok().and_then(|at| Header::parse(data, at, wide));
            let need = at.saturating_add(entry_len.into());
            let header =
                header.ok_or(LoadError::Truncated { part: "its table of segments", need, have: data.len() as u64 })?;
            match header.kind {
                PT_LOAD if header.mem_len > 0 => {
                    let Header { at, offset, file_len: data_len, mem_len: len, .. } = header;
                    loads.push(Load { at, offset, data_len, len });
                }
                PT_NOTE => notes.push((header.offset, header.file_len)),
                _ => {}
            }
        }
        loads.sort_by_key(|load| load.at);
        if loads.iter().any(|load| load.data_len > load.len || load.at.checked_add(load.len).is_none())
            || loads.windows(2).any(|pair| pair[0].at + pair[0].len > pair[1].at)
        {
            return Err(LoadError::Damaged { reason: "its ELF segments overlap or do not fit" });
        }
        if loads.is_empty() {
            return Err(LoadError::NotKernel { looks: "is an ELF file with nothing to load" });
        }
        Ok(Self { wide, entry: entry.ok_or(cut(64))?, loads, notes })
    }

    /// The PVH entry point, for which all of the file has to be there.
    pub(super) fn pvh_entry(&self, file: &[u8]) -> Result<u64, LoadError> {
        for (offset, len) in &self.notes {
            if let Some(entry) = find_pvh_entry(part(file, *offset, *len)?) {
                return Ok(entry);
            }
        }
        Err(LoadError::NotKernel { looks: "is an ELF file without a PVH entry note (built without CONFIG_PVH)" })
    }
}

impl Load {
    /// What the whole file holds of it.
    pub(super) fn data<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], LoadError> {
        part(file, self.offset, self.data_len)
    }
}

fn part(file: &[u8], offset: u64, len: u64) -> Result<&[u8], LoadError> {
    let end = offset.saturating_add(len);
    let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
    let data = range.and_then(|(start, end)| file.get(start..end));
    data.ok_or(LoadError::Truncated { part: "a segment", need: end, have: file.len() as u64 })
}

impl Header {
    fn parse(data: &[u8], at: usize, wide: bool) -> Option<Self> {
        let field = |offset: usize| at.checked_add(offset);
        let kind = u32_at(data, at)?;
        Some(if wide {
            Self {
                kind,
                offset: u64_at(data, field(8)?)?,
                at: u64_at(data, field(24)?)?,
                file_len: u64_at(data, field(32)?)?,
                mem_len: u64_at(data, field(40)?)?,
            }
        } else {
            let word = |offset| u32_at(data, field(offset)?).map(u64::from);
            Self { kind, offset: word(4)?, at: word(12)?, file_len: word(16)?, mem_len: word(20)? }
        })
    }
}

/// Looks for the PVH entry among notes: three words, then name and content, each padded to four bytes.
fn find_pvh_entry(notes: &[u8]) -> Option<u64> {
    let mut notes = &notes[..notes.len().min(MOST_NOTES)];
    while let (Some(name_len), Some(len), Some(kind)) = (u32_at(notes, 0), u32_at(notes, 4), u32_at(notes, 8)) {
        let name_end = (name_len as usize).checked_add(12)?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(len as usize)?;
        let content = notes.get(start..end)?;
        if kind == XEN_PHYS32_ENTRY && notes.get(12..name_end) == Some(XEN) {
            return u64_at(content, 0).or_else(|| u32_at(content, 0).map(u64::from));
        }
        notes = notes.get(end.checked_next_multiple_of(4)?..)?;
    }
    None
}

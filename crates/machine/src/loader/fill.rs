//! Segments written into guest memory.

use std::ops::Range;

use memory::{Gpa, GuestMemory, PAGE_SIZE, Result};

/// The most that is handled at once.
pub(super) const CHUNK: usize = 1 << 16;

/// Writes page by page, but no zeros over zeros: memory that was never written takes none of the host's.
pub(super) fn put(mem: &GuestMemory, at: u64, data: &[u8]) -> Result<()> {
    let mut old = [0; PAGE_SIZE as usize];
    let (mut at, mut data) = (at, data);
    while !data.is_empty() {
        let to_page_end = (PAGE_SIZE - at % PAGE_SIZE) as usize;
        let (page, rest) = data.split_at_checked(to_page_end).unwrap_or((data, &[]));
        let zeros = is_zero(page) && {
            let old = old.get_mut(..page.len()).unwrap_or_default();
            mem.read(Gpa(at), old)?;
            is_zero(old)
        };
        if !zeros {
            mem.write(Gpa(at), page)?;
        }
        at += page.len() as u64;
        data = rest;
    }
    Ok(())
}

/// Clears a range of memory.
pub(super) fn clear(mem: &GuestMemory, range: Range<u64>) -> Result<()> {
    static ZEROS: [u8; CHUNK] = [0; CHUNK];
    let mut at = range.start;
    while at < range.end {
        let len = (CHUNK as u64).min(range.end - at);
        put(mem, at, ZEROS.get(..len as usize).unwrap_or_default())?;
        at += len;
    }
    Ok(())
}

fn is_zero(data: &[u8]) -> bool {
    data.iter().fold(0, |all, byte| all | byte) == 0
}

//! The log of a VHDX: whether it holds something that the image has not ([MS-VHDX] 2.3).

use super::crc32c::crc32c;
use crate::import::{ImportError, Parsed, Source, le32, le64};

const SECTOR: u64 = 4096;
/// A log is read whole; Hyper-V makes them 1 MiB.
const MOST: u64 = 64 << 20;

/// Whether a log that this header names has a valid entry: then the image is not complete without it.
pub(super) fn is_needed(source: &Source, header: &[u8]) -> Parsed<bool> {
    let id = header.get(48..64).unwrap_or_default();
    if id.iter().all(|byte| *byte == 0) {
        return Ok(false);
    }
    let (len, at) = (u64::from(le32(header, 68)), le64(header, 72));
    if len > MOST || !len.is_multiple_of(SECTOR) {
        return Err(ImportError::corrupt(format!("a log of {len} bytes")));
    }
    let mut log = vec![0; len as usize];
    source.read(at, &mut log)?;
    Ok((0..len / SECTOR).any(|sector| is_entry(&log, (sector * SECTOR) as usize, id)))
}

/// Whether a whole and valid entry of this log starts here; it may wrap around the log's end.
fn is_entry(log: &[u8], at: usize, id: &[u8]) -> bool {
    let start = log.get(at..at + 64).unwrap_or_default();
    let len = le32(start, 8) as usize;
    let fits = len >= SECTOR as usize && len <= log.len() && len.is_multiple_of(SECTOR as usize);
    if !start.starts_with(b"loge") || start.get(32..48) != Some(id) || !fits || le64(start, 16) == 0 {
        return false;
    }
    let (first, second) = (&log[at..], &log[..at]);
    let first = &first[..first.len().min(len)];
    crc32c(&[&first[..4], &[0; 4], &first[8..], &second[..len - first.len()]]) == le32(start, 4)
}

//! The work on content: every verb that moves bytes between disks goes through here, several pieces at a time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use disk::qcow2::Qcow2;
use disk::{Erase, Error, Image, Kind, block_on, read_at, write_at};

use super::args::Telling;
use super::progress::Progress;

/// Bytes that a thread works on at a time; a multiple of every cluster.
pub(crate) const PIECE: u64 = 2 << 20;
/// The hosts' file systems have holes of this granularity.
const BLOCK: u64 = 4096;
/// More threads than this only wait for the disk.
const MOST_THREADS: usize = 8;

/// Does work on all pieces of so many bytes, side by side, and stops at the first error.
pub(crate) fn pieces(
    total: u64,
    telling: Telling,
    work: impl Fn(u64, u64) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let next = AtomicU64::new(0);
    let stopped = AtomicBool::new(false);
    let failed = Mutex::new(None);
    let progress = Mutex::new(Progress::new(total, telling));
    let thread = || {
        while !stopped.load(Ordering::Relaxed) {
            let at = next.fetch_add(PIECE, Ordering::Relaxed);
            if at >= total {
                break;
            }
            let len = PIECE.min(total - at);
            if let Err(error) = work(at, len) {
                stopped.store(true, Ordering::Relaxed);
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
            progress.lock().unwrap_or_else(PoisonError::into_inner).add(len);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_THREADS);
    std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(thread)));
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(error) => Err(error),
        None => {
            progress.into_inner().unwrap_or_else(PoisonError::into_inner).finish();
            Ok(())
        }
    }
}

/// What lies in a piece, extent by extent.
pub(crate) fn extents(
    image: &dyn Image,
    at: u64,
    len: u64,
    mut each: impl FnMut(u64, disk::Extent) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut done = 0;
    while done < len {
        let extent = block_on(image.extent(at + done, len - done))?;
        let extent = disk::Extent { len: extent.len.clamp(1, len - done), ..extent };
        each(at + done, extent)?;
        done += extent.len;
    }
    Ok(())
}

/// Where the clusters of a qcow2 have to end: a file reads as zeros behind its end, and a copy of those would look sound.
fn end_of_clusters(info: &disk::Info) -> Option<u64> {
    let elsewhere = info.details.iter().any(|(name, _)| *name == "data file");
    let about = std::fs::metadata(&info.path).ok().filter(|about| about.is_file() && !elsewhere)?;
    // The last cluster may be written in part.
    about.len().checked_next_multiple_of(u64::from(info.cluster?))
}

/// A piece of a disk's content; zeros behind its end.
pub(crate) fn read(image: &dyn Image, at: u64, len: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; len as usize];
    let info = image.info();
    let inside = info.size.saturating_sub(at).min(len);
    if inside > 0 {
        let end = end_of_clusters(&info);
        extents(image, at, inside, |place, extent| {
            if extent.kind != Kind::Data {
                return Ok(());
            }
            let last = extent.at.filter(|_| extent.depth == 0).map(|at| at.saturating_add(extent.len));
            if last.zip(end).is_some_and(|(last, end)| last > end) {
                return Err(Error::damaged(&info.path, info.format, "it is truncated: clusters are behind its end"));
            }
            let from = (place - at) as usize;
            block_on(read_at(image, place, &mut bytes[from..from + extent.len as usize]))
        })?;
    }
    Ok(bytes)
}

fn is_zero(bytes: &[u8]) -> bool {
    let (before, words, behind) = (bytes.len() % 16, bytes.chunks_exact(16), bytes);
    words.into_iter().all(|word| word == [0; 16]) && behind[bytes.len() - before..].iter().all(|byte| *byte == 0)
}

/// How the target of a copy takes what it is given.
#[derive(Clone, Copy)]
pub(crate) enum Into<'a> {
    /// Where nothing is written it reads as zeros.
    Empty(&'a dyn Image),
    /// The same, compressed.
    Packed(&'a Qcow2),
    /// It reads as noise where nothing is written.
    Noise(&'a dyn Image),
}

/// Copies a disk into a new one of the same size or larger.
pub(crate) fn copy(source: &dyn Image, target: Into<'_>, telling: Telling) -> Result<(), Error> {
    let cluster = match target {
        Into::Empty(image) | Into::Noise(image) => image.info().cluster.map_or(BLOCK, u64::from),
        Into::Packed(image) => image.info().cluster.map_or(BLOCK, u64::from),
    };
    pieces(source.info().size, telling, |at, len| {
        let bytes = read(source, at, len)?;
        if let Into::Noise(image) = target {
            return block_on(write_at(image, at, &bytes));
        }
        let mut place = 0;
        while place < bytes.len() {
            let end = (place + cluster as usize).min(bytes.len());
            if is_zero(&bytes[place..end]) {
                place = end;
                continue;
            }
            match target {
                Into::Packed(image) => {
                    block_on(image.write_compressed(at + place as u64, &bytes[place..end]))?;
                    place = end;
                }
                Into::Empty(image) | Into::Noise(image) => {
                    // Neighbours go together.
                    let mut last = end;
                    while last < bytes.len() {
                        let next = (last + cluster as usize).min(bytes.len());
                        if is_zero(&bytes[last..next]) {
                            break;
                        }
                        last = next;
                    }
                    block_on(write_at(image, at + place as u64, &bytes[place..last]))?;
                    place = last;
                }
            }
        }
        Ok(())
    })
}

/// Writes into an overlay those clusters of `source` that differ from `behind`, where `wanted` says so of a stretch of the
/// overlay. `behind` is zeros where it ends, or if there is none.
pub(crate) fn copy_difference(
    source: &dyn Image,
    behind: Option<&dyn Image>,
    target: &dyn Image,
    telling: Telling,
    wanted: impl Fn(&disk::Extent) -> bool + Sync,
) -> Result<(), Error> {
    let info = target.info();
    let cluster = info.cluster.map_or(BLOCK, u64::from);
    let size = info.size;
    pieces(size, telling, |at, len| {
        extents(target, at, len, |at, extent| {
            if !wanted(&extent) {
                return Ok(());
            }
            let own = read(source, at, extent.len)?;
            let theirs = match behind {
                Some(behind) => read(behind, at, extent.len)?,
                None => vec![0; own.len()],
            };
            let mut place = 0;
            while place < own.len() {
                // Up to the end of this cluster of the disk.
                let left = cluster - (at + place as u64) % cluster;
                let end = (place + left as usize).min(own.len());
                let (own, theirs) = (&own[place..end], &theirs[place..end]);
                if own != theirs {
                    let start = at + place as u64;
                    if is_zero(own) {
                        block_on(target.erase(start, own.len() as u64, Erase::Zero))?;
                    } else {
                        block_on(write_at(target, start, own))?;
                    }
                }
                place = end;
            }
            Ok(())
        })
    })
}

/// The first byte in which two disks differ, up to this length; zeros are behind their ends.
pub(crate) fn first_difference(
    first: &dyn Image,
    second: &dyn Image,
    len: u64,
    telling: Telling,
) -> Result<Option<u64>, Error> {
    let found = AtomicU64::new(u64::MAX);
    pieces(len, telling, |at, len| {
        if at > found.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (own, other) = (read(first, at, len)?, read(second, at, len)?);
        if own != other {
            let place = own.iter().zip(&other).position(|(own, other)| own != other).unwrap_or(0);
            found.fetch_min(at + place as u64, Ordering::Relaxed);
        }
        Ok(())
    })?;
    let found = found.into_inner();
    Ok((found != u64::MAX).then_some(found))
}

#[cfg(test)]
mod tests {
    #[test]
    fn zeros_are_known() {
        for len in [0, 1, 15, 16, 17, 4096, 4099] {
            let mut bytes = vec![0; len];
            assert!(super::is_zero(&bytes), "{len}");
            for at in [0, len / 2, len.saturating_sub(1)].into_iter().filter(|at| *at < len) {
                bytes[at] = 1;
                assert!(!super::is_zero(&bytes), "{len} {at}");
                bytes[at] = 0;
            }
        }
    }
}

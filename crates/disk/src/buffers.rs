//! Parts of lists of buffers.

use std::io::{IoSlice, IoSliceMut};

/// Bytes in all.
#[must_use]
pub fn total(buffers: &[IoSlice<'_>]) -> u64 {
    buffers.iter().map(|b| b.len() as u64).sum()
}

/// Bytes in all.
#[must_use]
pub fn total_mut(buffers: &[IoSliceMut<'_>]) -> u64 {
    buffers.iter().map(|b| b.len() as u64).sum()
}

/// `len` bytes from byte `start` of the list, as a list of its own; fewer where the list ends.
#[must_use]
pub fn part<'a>(buffers: &'a [IoSlice<'_>], start: u64, len: u64) -> Vec<IoSlice<'a>> {
    let (mut skip, mut left) = (start, len);
    let mut out = Vec::new();
    for buffer in buffers {
        if left == 0 {
            break;
        }
        let size = buffer.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = left.min(size - skip);
        out.extend(buffer.get(skip as usize..(skip + take) as usize).map(IoSlice::new));
        left -= take;
        skip = 0;
    }
    out
}

/// `len` bytes from byte `start` of the list, as a list of its own; fewer where the list ends.
#[must_use]
pub fn part_mut<'a>(buffers: &'a mut [IoSliceMut<'_>], start: u64, len: u64) -> Vec<IoSliceMut<'a>> {
    let (mut skip, mut left) = (start, len);
    let mut out = Vec::new();
    for buffer in buffers {
        if left == 0 {
            break;
        }
        let size = buffer.len() as u64;
        if skip >= size {
            skip -= size;
            continue;
        }
        let take = left.min(size - skip);
        out.extend(buffer.get_mut(skip as usize..(skip + take) as usize).map(IoSliceMut::new));
        left -= take;
        skip = 0;
    }
    out
}

/// Zeros the list.
pub fn clear(buffers: &mut [IoSliceMut<'_>]) {
    for buffer in buffers {
        buffer.fill(0);
    }
}

/// Fills the list with what `from` has, as far as both go.
pub fn scatter(buffers: &mut [IoSliceMut<'_>], from: &[u8]) {
    let mut rest = from;
    for buffer in buffers {
        let (now, later) = rest.split_at(buffer.len().min(rest.len()));
        buffer[..now.len()].copy_from_slice(now);
        rest = later;
    }
}

/// The list's bytes as one.
#[must_use]
pub fn gather(buffers: &[IoSlice<'_>]) -> Vec<u8> {
    buffers.iter().flat_map(|b| b.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_across_buffers() {
        let list = [IoSlice::new(b"abc"), IoSlice::new(b""), IoSlice::new(b"defg")];
        assert_eq!(total(&list), 7);
        assert_eq!(gather(&part(&list, 2, 3)), b"cde");
        assert_eq!(gather(&part(&list, 5, 30)), b"fg");
        assert!(part(&list, 7, 1).is_empty());
        let (mut a, mut b) = ([0; 3], [0; 4]);
        let mut list = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        scatter(&mut part_mut(&mut list, 1, 4), b"wxyz");
        assert_eq!((&a, &b), (b"\0wx", b"yz\0\0"));
    }
}

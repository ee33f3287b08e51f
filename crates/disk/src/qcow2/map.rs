//! Where a disk's bytes are ("Cluster mapping" and "Extended L2 Entries" of the specification).

use crate::error::Result;
use crate::qcow2::Qcow2;
use crate::qcow2::layout::{COPIED, Entry, OFFSET, ZERO};
use crate::qcow2::meta::Meta;

/// What an image says about a stretch of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing: the backing file's bytes.
    Nothing,
    /// Zeros.
    Zeros,
    /// Bytes at an offset of the file, or of the external data file.
    At(u64),
    /// In a compressed cluster, of this entry.
    Compressed(u64),
}

impl Qcow2 {
    /// What an entry says about a piece of its cluster.
    pub(super) fn place(&self, entry: Entry, cluster: u64, piece: u32) -> Result<Place> {
        let geometry = &self.geometry;
        if entry.is_compressed() {
            if geometry.external {
                return Err(self.damaged("a compressed cluster together with an external data file"));
            }
            return Ok(Place::Compressed(entry.word));
        }
        let at = entry.offset();
        let here = if geometry.external { entry.word & COPIED != 0 || at != 0 } else { at != 0 };
        if !at.is_multiple_of(geometry.cluster()) {
            return Err(self.damaged(format!("cluster {cluster} of the disk is said to be at {at:#x}")));
        }
        if geometry.external && here && at != cluster << geometry.cluster_bits {
            return Err(self.damaged(format!("cluster {cluster} of the disk is elsewhere in the external data file")));
        }
        let piece_at = at + u64::from(piece) * geometry.piece();
        if geometry.extended {
            let (allocated, zero) = (entry.bitmap >> piece & 1 == 1, entry.bitmap >> (32 + piece) & 1 == 1);
            return match (allocated, zero) {
                (true, false) if here => Ok(Place::At(piece_at)),
                (false, true) => Ok(Place::Zeros),
                (false, false) => Ok(Place::Nothing),
                _ => Err(self.damaged(format!("cluster {cluster} of the disk has a bitmap that contradicts itself"))),
            };
        }
        if entry.word & ZERO != 0 {
            if geometry.version < 3 {
                return Err(self.damaged("a cluster of zeros in an image of version 2"));
            }
            return Ok(Place::Zeros);
        }
        Ok(if here { Place::At(piece_at) } else { Place::Nothing })
    }

    /// What the image says about the disk at `offset`, and for how many bytes, `most` at most.
    pub(super) async fn look_up(&self, m: &mut Meta, offset: u64, most: u64) -> Result<(Place, u64)> {
        let geometry = self.geometry;
        let covered = geometry.covered();
        let most = most.min(covered - offset % covered);
        let index = (offset / covered) as usize;
        let table = m.l1.get(index).map_or(0, |e| e & OFFSET);
        if table == 0 {
            // Whole tables that are not there are nothing together.
            return Ok((Place::Nothing, most));
        }
        self.load_l2(m, table).await?;
        let piece_size = geometry.piece();
        let first = self.place_at(m, table, offset)?;
        let mut end = (offset / piece_size + 1) * piece_size;
        while end < offset + most {
            let next = self.place_at(m, table, end)?;
            let same = match (first, next) {
                (Place::At(a), Place::At(b)) => b.checked_sub(a) == Some(end - offset / piece_size * piece_size),
                (Place::Compressed(_), Place::Compressed(_)) => false,
                (a, b) => a == b,
            };
            // The pieces of one compressed cluster are one.
            let same = same || (first == next && (end >> geometry.cluster_bits) == (offset >> geometry.cluster_bits));
            if !same {
                break;
            }
            end += piece_size;
        }
        let place = match first {
            Place::At(at) => Place::At(at + offset % piece_size),
            other => other,
        };
        Ok((place, (end - offset).min(most)))
    }

    fn place_at(&self, m: &mut Meta, table: u64, offset: u64) -> Result<Place> {
        let geometry = self.geometry;
        let cluster = offset >> geometry.cluster_bits;
        let entry = self.entry_in(m, table, cluster % geometry.entries());
        self.place(entry, cluster, ((offset % geometry.cluster()) / geometry.piece()) as u32)
    }
}

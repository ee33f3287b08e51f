//! Zeros and discards.

use std::io::IoSlice;

use crate::error::Result;
use crate::image::Erase;
use crate::qcow2::Qcow2;
use crate::qcow2::layout::{Entry, OFFSET};
use crate::qcow2::map::Place;

/// Zeros are written in pieces of this size at most.
const PIECE: u64 = 256 << 10;

impl Qcow2 {
    /// Erases; whoever calls has the clusters alone and has looked at the bounds.
    pub(super) async fn erase_held(&self, offset: u64, len: u64, how: Erase) -> Result<()> {
        let cluster = self.geometry.cluster();
        let (size, end) = (self.size(), offset + len);
        let mut at = offset;
        while at < end {
            let stop = (at / cluster + 1) * cluster;
            // The last cluster is whole when the disk ends in it.
            let whole = at.is_multiple_of(cluster) && (stop <= end || end == size);
            if whole {
                // Tables that are not there go in one step.
                let next = self.erase_cluster(at, end, how).await?;
                at = next;
                continue;
            }
            let now = stop.min(end);
            if how == Erase::Zero {
                self.zero_part(at, now - at).await?;
            }
            at = now;
        }
        Ok(())
    }

    /// Erases the cluster that begins at `at`; returns where to go on.
    async fn erase_cluster(&self, at: u64, end: u64, how: Erase) -> Result<u64> {
        let geometry = self.geometry;
        let number = at >> geometry.cluster_bits;
        let next = (at + geometry.cluster()).min(end);
        let backed = self.behind > at;
        let mut m = self.meta.take().await;
        self.prepare(&mut m).await?;
        let table = m.l1.get((at / geometry.covered()) as usize).map_or(0, |e| e & OFFSET);
        if table == 0 && (!backed || how == Erase::Discard) {
            return Ok(((at / geometry.covered() + 1) * geometry.covered()).min(end));
        }
        let old = self.entry(&mut m, number).await?;
        let mut nothing = true;
        let mut zeros = true;
        for piece in 0..geometry.pieces() {
            match self.place(old, number, piece)? {
                Place::Nothing => zeros &= !backed,
                Place::Zeros => nothing = false,
                _ => (nothing, zeros) = (false, false),
            }
        }
        if (zeros && old.offset() == 0) || (nothing && how == Erase::Discard) {
            return Ok(next);
        }
        if geometry.external && geometry.raw_external {
            drop(m);
            self.clusters().erase(at, next - at, Erase::Zero).await?;
            return Ok(next);
        }
        let new = match (backed, geometry.version) {
            (true, 2) if how == Erase::Discard => return Ok(next),
            (true, 2) => {
                drop(m);
                self.write_zeros(at, next - at).await?;
                return Ok(next);
            }
            (false, _) if geometry.version == 2 || how == Erase::Discard => Entry::NONE,
            _ => self.zero_entry(old),
        };
        let table = self.l2_to_change(&mut m, number).await?;
        self.set_entry_in(&mut m, table, number % geometry.entries(), new);
        if geometry.external {
            if how == Erase::Discard && new.word == 0 {
                drop(m);
                self.clusters().erase(at, next - at, Erase::Discard).await?;
            }
            return Ok(next);
        }
        self.release(&mut m, old);
        self.settle(&mut m).await?;
        Ok(next)
    }

    /// Makes a part of one cluster zeros, by its pieces' bits where there are any.
    async fn zero_part(&self, at: u64, len: u64) -> Result<()> {
        let geometry = self.geometry;
        let (start, end) = (at.next_multiple_of(geometry.piece()), (at + len) / geometry.piece() * geometry.piece());
        if !geometry.extended || start >= end || geometry.raw_external {
            return self.write_zeros(at, len).await;
        }
        let number = at >> geometry.cluster_bits;
        {
            let mut m = self.meta.take().await;
            self.prepare(&mut m).await?;
            let entry = self.entry(&mut m, number).await?;
            if entry.is_compressed() {
                drop(m);
                return self.write_zeros(at, len).await;
            }
            self.place(entry, number, 0)?;
            let table = self.l2_to_change(&mut m, number).await?;
            // Read again: another table has been made of it, or its flags are told as they are written.
            let index = number % geometry.entries();
            let mut entry = self.entry_in(&mut m, table, index);
            let touched = u64::from(self.pieces_of(start, end));
            entry.bitmap = (entry.bitmap | touched << 32) & !touched;
            self.set_entry_in(&mut m, table, index, entry);
        }
        self.write_zeros(at, start - at).await?;
        self.write_zeros(end, at + len - end).await
    }

    /// Writes zeros where there are none yet.
    async fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let mut at = offset;
        let zeros = vec![0; PIECE.min(len) as usize];
        while at < offset + len {
            let (place, found) = {
                let mut m = self.meta.take().await;
                self.look_up(&mut m, at, offset + len - at).await?
            };
            let zero = match place {
                Place::Zeros => true,
                Place::Nothing => self.behind <= at,
                _ => false,
            };
            let now = if zero { found } else { found.min(PIECE) };
            if !zero {
                self.write_held(at, &[IoSlice::new(zeros.get(..now as usize).unwrap_or_default())]).await?;
            }
            at += now;
        }
        Ok(())
    }
}

//! Writing the disk.
//!
//! A request has its clusters alone. What is allocated and nobody else's is written in place. Everything else gets new
//! clusters: they are written whole, with what was around the request, and only then does the table point to them.

use std::io::IoSlice;

use crate::buffers;
use crate::cipher::SECTOR;
use crate::error::{Error, Result};
use crate::image::write_at;
use crate::qcow2::Qcow2;
use crate::qcow2::layout::{COPIED, Entry, ZERO};
use crate::qcow2::map::Place;
use crate::qcow2::meta::Meta;

/// How the next bytes of a request are written.
#[derive(Clone, Copy, Debug)]
enum Plan {
    /// Over what is there.
    InPlace { host: u64, len: u64 },
    /// Into a cluster that is there and has nothing at some of the bytes: these pieces are filled.
    Fill { host: u64, len: u64 },
    /// Into `count` new clusters from `first` of the file on; `whole` clusters are filled, or pieces only.
    New { first: u64, count: u64, len: u64, whole: bool },
}

impl Qcow2 {
    /// Writes; whoever calls has the clusters alone and has looked at the bounds.
    pub(super) async fn write_held(&self, offset: u64, buffers: &[IoSlice<'_>]) -> Result<()> {
        let total = buffers::total(buffers);
        let mut done = 0;
        while done < total {
            let at = offset + done;
            let plan = {
                let mut m = self.meta.take().await;
                self.prepare(&mut m).await?;
                self.plan(&mut m, at, total - done).await?
            };
            match plan {
                Plan::InPlace { host, len } => {
                    self.write_host(at, host, buffers::part(buffers, done, len)).await?;
                    done += len;
                }
                Plan::Fill { host, len } => {
                    self.write_filled(at, host, &buffers::part(buffers, done, len), false).await?;
                    let mut m = self.meta.take().await;
                    self.link(&mut m, at, len, host, false, false).await?;
                    done += len;
                }
                Plan::New { first, count, len, whole } => {
                    let host = first << self.geometry.cluster_bits;
                    let written = self.write_filled(at, host, &buffers::part(buffers, done, len), whole).await;
                    let mut m = self.meta.take().await;
                    if let Err(error) = written {
                        if !self.geometry.external {
                            self.give_back(&mut m, first, count).await?;
                        }
                        return Err(error);
                    }
                    self.link(&mut m, at, len, host, true, whole).await?;
                    self.settle(&mut m).await?;
                    done += len;
                }
            }
        }
        Ok(())
    }

    /// Decides about the bytes from `at` on, `most` at most, within one L2 table; takes the clusters that are needed.
    async fn plan(&self, m: &mut Meta, at: u64, most: u64) -> Result<Plan> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        let most = most.min(geometry.covered() - at % geometry.covered());
        let cluster = at >> bits;
        let last = (at + most - 1) >> bits;
        let entry = self.entry(m, cluster).await?;
        if self.is_ours(entry) {
            let in_cluster = most.min(geometry.cluster() - at % geometry.cluster());
            if !self.all_here(entry, cluster, at, in_cluster)? {
                self.guard(m, entry.offset() >> bits).await?;
                return Ok(Plan::Fill { host: entry.offset(), len: in_cluster });
            }
            let mut len = in_cluster;
            self.guard(m, entry.offset() >> bits).await?;
            for next in cluster + 1..=last {
                let follower = self.entry(m, next).await?;
                let wanted = entry.offset() + ((next - cluster) << bits);
                let now = (most - len).min(geometry.cluster());
                if !self.is_ours(follower)
                    || follower.offset() != wanted
                    || !self.all_here(follower, next, next << bits, now)?
                {
                    break;
                }
                self.guard(m, wanted >> bits).await?;
                len += now;
            }
            return Ok(Plan::InPlace { host: entry.offset() + at % geometry.cluster(), len });
        }
        // Pieces that stay with the backing file or as zeros need no copy when nothing else is in the cluster.
        let whole = |e: Entry| !geometry.extended || e.is_compressed() || e.bitmap as u32 != 0;
        let mut count = 1;
        for next in cluster + 1..=last {
            let follower = self.entry(m, next).await?;
            if self.is_ours(follower) || whole(follower) != whole(entry) {
                break;
            }
            count += 1;
        }
        let first = if geometry.external {
            cluster
        } else {
            let (first, got) = self.allocate(m, count, false).await?;
            count = got;
            first
        };
        let len = most.min(((cluster + count) << bits) - at);
        Ok(Plan::New { first, count, len, whole: whole(entry) })
    }

    /// Whether the entry's cluster is there and nobody else's.
    fn is_ours(&self, entry: Entry) -> bool {
        let here = entry.offset() != 0 || self.geometry.external;
        !entry.is_compressed() && entry.word & COPIED != 0 && here
    }

    /// Whether all of the bytes are in the entry's cluster as they read.
    fn all_here(&self, entry: Entry, cluster: u64, at: u64, len: u64) -> Result<bool> {
        let (size, piece) = (self.geometry.cluster(), self.geometry.piece());
        let start = at % size;
        for number in start / piece..=(start + len - 1) / piece {
            if !matches!(self.place(entry, cluster, number as u32)?, Place::At(_)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Refuses to write a guest's bytes over metadata.
    async fn guard(&self, m: &mut Meta, cluster: u64) -> Result<()> {
        if !self.geometry.external && m.is_metadata(cluster) {
            let what = format!("cluster {cluster} of the file is the disk's and holds metadata as well");
            return Err(self.corrupt(m, what).await);
        }
        Ok(())
    }

    /// Writes bytes of the disk at `at` into clusters of the file from `host` on (where the cluster of `at` begins), with
    /// what is around them up to the next cluster (`whole`) or piece.
    async fn write_filled(&self, at: u64, host: u64, buffers: &[IoSlice<'_>], whole: bool) -> Result<()> {
        let cluster = self.geometry.cluster();
        let unit = if whole { cluster } else { self.geometry.piece() };
        let end = at + buffers::total(buffers);
        let (start, mut stop) = (at / unit * unit, end.next_multiple_of(unit));
        if self.geometry.external {
            // The file is to be as long as the disk.
            stop = stop.min(self.size().max(end));
        }
        let mut head = vec![0; (at - start) as usize];
        let mut tail = vec![0; (stop - end) as usize];
        self.read_held_at(start, &mut head).await?;
        self.read_held_at(end, &mut tail).await?;
        let mut list = Vec::with_capacity(buffers.len() + 2);
        list.push(IoSlice::new(&head));
        list.extend(buffers.iter().map(|b| IoSlice::new(b)));
        list.push(IoSlice::new(&tail));
        self.write_host(start, host + start % cluster, list).await
    }

    /// Writes bytes of the disk to where they are in the file; encrypted ones in whole sectors.
    async fn write_host(&self, offset: u64, host: u64, list: Vec<IoSlice<'_>>) -> Result<()> {
        let Some(encryption) = &self.encryption else { return self.clusters().write(host, &list, false).await };
        let len = buffers::total(&list);
        let before = host % SECTOR;
        let after = (host + len).next_multiple_of(SECTOR) - (host + len);
        let mut data = vec![0; before as usize];
        self.read_held_at(offset - before, &mut data).await?;
        data.extend(buffers::gather(&list));
        let mut rest = vec![0; after as usize];
        self.read_held_at(offset + len, &mut rest).await?;
        data.extend(rest);
        let by = if encryption.by_host { host - before } else { offset - before };
        encryption.cipher.encrypt(by / SECTOR, &mut data);
        write_at(&**self.clusters(), host - before, &data).await
    }

    /// Makes the table point to what has been written, `len` bytes from `at` in clusters from `host` on; gives up what it
    /// pointed to when the clusters are new.
    async fn link(&self, m: &mut Meta, at: u64, len: u64, host: u64, new: bool, whole: bool) -> Result<()> {
        let geometry = self.geometry;
        let first = at >> geometry.cluster_bits;
        let table = self.l2_to_change(m, first).await?;
        for cluster in first..=(at + len - 1) >> geometry.cluster_bits {
            let index = cluster % geometry.entries();
            let old = self.entry_in(m, table, index);
            let place = host + ((cluster - first) << geometry.cluster_bits);
            let mut entry = Entry { word: place | COPIED, bitmap: 0 };
            if geometry.extended {
                let start = at.max(cluster << geometry.cluster_bits);
                let end = (at + len).min((cluster + 1) << geometry.cluster_bits);
                let touched = if new && whole { u32::MAX } else { self.pieces_of(start, end) };
                let before = if old.is_compressed() { 0 } else { old.bitmap };
                entry.bitmap = (before | u64::from(touched)) & !(u64::from(touched) << 32);
            }
            self.set_entry_in(m, table, index, entry);
            if new {
                self.release(m, old);
            }
        }
        Ok(())
    }

    /// The pieces of one cluster that the bytes from `start` to `end` touch.
    pub(super) fn pieces_of(&self, start: u64, end: u64) -> u32 {
        let (size, piece) = (self.geometry.cluster(), self.geometry.piece());
        let base = start / size * size;
        let (low, high) = ((start - base) / piece, (end - base).div_ceil(piece));
        (((1u64 << high) - 1) & !((1u64 << low) - 1)) as u32
    }

    /// Writes a whole cluster compressed, or as it is where that does not help: `data` begins at a cluster and ends at one
    /// or at the end of the disk. As tools do that make images; what is there already is replaced.
    ///
    /// # Errors
    /// [`Error::Invalid`] for other bounds; what writing has.
    pub async fn write_compressed(&self, offset: u64, data: &[u8]) -> Result<()> {
        let geometry = self.geometry;
        let (cluster, len) = (geometry.cluster(), data.len() as u64);
        let size = self.size();
        crate::image::within(&self.path, size, offset, len)?;
        let ends = len == cluster || offset + len == size;
        if !offset.is_multiple_of(cluster) || len > cluster || len == 0 || !ends {
            return Err(Error::invalid(&self.path, "compressed data must be one whole cluster"));
        }
        let _held = self.stretches.take(offset, offset + cluster, true).await;
        let whole = &mut data.to_vec();
        whole.resize(cluster as usize, 0);
        let packed = if geometry.external || self.encryption.is_some() {
            None
        } else {
            super::compress::pack(self.compression, whole)
        };
        let Some(packed) = packed else { return self.write_held(offset, &[IoSlice::new(data)]).await };
        let word = {
            let mut m = self.meta.take().await;
            self.prepare(&mut m).await?;
            self.room_for_packed(&mut m, packed.len() as u64).await?
        };
        let Some((at, word)) = word else { return self.write_held(offset, &[IoSlice::new(data)]).await };
        // To the end of its last sector, as readers take whole sectors.
        let mut packed = packed;
        let (_, room) = geometry.compressed(word);
        packed.resize(room as usize, 0);
        let written = write_at(&*self.file, at, &packed).await;
        let mut m = self.meta.take().await;
        if let Err(error) = written {
            let (first, last) = geometry.compressed_clusters(word);
            self.give_back(&mut m, first, last + 1 - first).await?;
            return Err(error);
        }
        let number = offset >> geometry.cluster_bits;
        let table = self.l2_to_change(&mut m, number).await?;
        let old = self.entry_in(&mut m, table, number % geometry.entries());
        self.set_entry_in(&mut m, table, number % geometry.entries(), Entry { word, bitmap: 0 });
        self.release(&mut m, old);
        self.settle(&mut m).await
    }

    /// Room for `len` bytes of compressed data, next to what was compressed before where that can be counted: where, and
    /// the entry. `None` when the entry cannot say the place.
    async fn room_for_packed(&self, m: &mut Meta, len: u64) -> Result<Option<(u64, u64)>> {
        let geometry = self.geometry;
        let (bits, cluster) = (geometry.cluster_bits, geometry.cluster());
        let at = m.compressed_at;
        let sectors = len.next_multiple_of(SECTOR);
        if !at.is_multiple_of(cluster) && cluster - at % cluster >= sectors {
            let count = self.refcount(m, at >> bits).await?;
            if count > 0 && count < geometry.most_references() {
                let Some(word) = geometry.compressed_entry(at, len) else { return Ok(None) };
                self.set_refcount(m, at >> bits, count + 1).await?;
                m.compressed_at = at + sectors;
                return Ok(Some((at, word)));
            }
        }
        let at = self.allocate_one(m).await?;
        let Some(word) = geometry.compressed_entry(at, len) else {
            self.give_back(m, at >> bits, 1).await?;
            return Ok(None);
        };
        m.compressed_at = at + sectors;
        Ok(Some((at, word)))
    }

    /// Whether writing zeros to a cluster is a matter of its entry alone.
    pub(super) fn zero_entry(&self, old: Entry) -> Entry {
        let keep = if self.geometry.external { old.word & (COPIED | super::layout::OFFSET) } else { 0 };
        if self.geometry.extended {
            Entry { word: keep, bitmap: u64::from(u32::MAX) << 32 }
        } else {
            Entry { word: keep | ZERO, bitmap: 0 }
        }
    }
}

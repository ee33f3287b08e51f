//! The metadata of an open image in memory, and how it gets to the file.
//!
//! One task at a time has it. What the file holds is sound at every moment, as changes go in this order, with a barrier
//! between the steps that have anything to write:
//!
//! 1. guest data, before its table's entry is even made in memory;
//! 2. refcounts that grow, refcount blocks before the refcount table that points to them;
//! 3. L2 tables, then the L1 entries that point to new ones;
//! 4. refcounts that fall: clusters are free for others only after nothing in the file points to them.
//!
//! Whatever a kill cuts off is a leak at worst: clusters with a refcount that nothing points to.

use std::collections::{BTreeSet, HashSet};

use crate::error::{Error, Result};
use crate::image::{Erase, read_at, write_at};
use crate::qcow2::Qcow2;
use crate::qcow2::header::{self, Header, NAME};
use crate::qcow2::layout::{COPIED, Entry, OFFSET, be64, put};
use crate::qcow2::snapshot::Snapshot;
use crate::qcow2::tables::Tables;

/// Bytes of L2 tables that are kept in memory.
pub(super) const L2_CACHE: u64 = 16 << 20;
/// Bytes of refcount blocks that are kept in memory.
pub(super) const REFCOUNT_CACHE: u64 = 4 << 20;
/// So many references are given up together at most.
const MOST_FREED: usize = 1 << 16;

/// The metadata.
#[derive(Debug)]
pub(super) struct Meta {
    pub(super) header: Header,
    pub(super) l1: Vec<u64>,
    /// L1 entries that differ from the file.
    pub(super) l1_dirty: BTreeSet<usize>,
    pub(super) l2: Tables,
    pub(super) refcount_table: Vec<u64>,
    /// Entries of the refcount table that differ from the file.
    pub(super) refcount_table_dirty: BTreeSet<usize>,
    pub(super) blocks: Tables,
    /// No cluster before this one is free.
    pub(super) first_free: u64,
    /// Clusters of which a reference is gone, not yet in the file.
    pub(super) freed: Vec<u64>,
    pub(super) snapshots: Vec<Snapshot>,
    /// Bytes of their table in the file.
    pub(super) snapshots_len: u64,
    /// Clusters of active L2 tables and refcount blocks: nothing else may be written there.
    pub(super) tables: HashSet<u64>,
    /// Stretches of clusters of other metadata.
    pub(super) reserved: Vec<(u64, u64)>,
    /// Where the next compressed cluster may begin, in the middle of a cluster.
    pub(super) compressed_at: u64,
    /// The first change since the opening has been prepared.
    pub(super) prepared: bool,
    /// Refcounts in the file may be wrong meanwhile, and the dirty bit says so.
    pub(super) late_refcounts: bool,
}

impl Meta {
    /// Says what clusters metadata is in, after it has moved.
    pub(super) fn note_places(&mut self) {
        let bits = self.header.cluster_bits;
        self.tables = self
            .l1
            .iter()
            .chain(&self.refcount_table)
            .filter_map(|e| {
                let at = e & OFFSET;
                (at != 0).then_some(at >> bits)
            })
            .collect();
        let cluster = 1u64 << bits;
        let stretch = |at: u64, len: u64| (at >> bits, (at + len).div_ceil(cluster));
        let h = &self.header;
        self.reserved = vec![
            (0, 1),
            stretch(h.l1_at, u64::from(h.l1_size) * 8),
            stretch(h.refcount_at, u64::from(h.refcount_clusters) << bits),
        ];
        if let Some((at, len)) = h.encryption {
            self.reserved.push(stretch(at, len));
        }
        if let Some(place) = h.bitmaps {
            self.reserved.push(stretch(place.at, place.size));
        }
        if h.snapshots != 0 {
            self.reserved.push(stretch(h.snapshots_at, self.snapshots_len));
        }
        self.reserved.extend(self.snapshots.iter().map(|s| stretch(s.l1_at, u64::from(s.l1_size) * 8)));
        self.reserved.retain(|(start, end)| start < end);
    }

    /// Whether metadata is in the cluster.
    pub(super) fn is_metadata(&self, cluster: u64) -> bool {
        self.tables.contains(&cluster) || self.reserved.iter().any(|(start, end)| (*start..*end).contains(&cluster))
    }
}

impl Qcow2 {
    pub(super) fn damaged(&self, what: impl Into<String>) -> Error {
        Error::damaged(&self.path, NAME, what)
    }

    /// Marks the image as corrupt, so that nobody writes to it before it is repaired.
    pub(super) async fn corrupt(&self, m: &mut Meta, what: String) -> Error {
        if m.header.version == 3 && !self.read_only {
            m.header.incompatible |= header::CORRUPT;
            // The refusal tells what happened; that the mark could not be set adds nothing.
            let _ = self.write_header(m).await;
        }
        self.note_state(m);
        self.damaged(format!("{what}; it has been marked corrupt: repair it by `husk img check --repair`"))
    }

    /// Writes the header.
    pub(super) async fn write_header(&self, m: &Meta) -> Result<()> {
        let bytes = m.header.bytes(&self.path)?;
        write_at(&*self.file, 0, &bytes).await?;
        self.file.flush().await
    }

    /// Before the first change: refuses when none may be, and clears what will not be true any more.
    pub(super) async fn prepare(&self, m: &mut Meta) -> Result<()> {
        if self.read_only {
            return Err(Error::ReadOnly { path: self.path.clone() });
        }
        if m.header.is_corrupt() {
            let what = "the image has been marked corrupt, and is not written to: `husk img check --repair` it";
            return Err(self.damaged(what));
        }
        if m.prepared {
            return Ok(());
        }
        let known = header::BITMAPS_SOUND | header::RAW_EXTERNAL;
        let mut changed = m.header.autoclear & !known != 0;
        m.header.autoclear &= known;
        if m.header.lazy() && !m.header.is_dirty() {
            m.header.incompatible |= header::DIRTY;
            m.late_refcounts = true;
            changed = true;
        }
        self.outdate_bitmaps(m).await?;
        if changed {
            self.write_header(m).await?;
        }
        m.prepared = true;
        self.note_state(m);
        Ok(())
    }

    /// The L2 table at an offset.
    pub(super) async fn load_l2(&self, m: &mut Meta, at: u64) -> Result<()> {
        if m.l2.has(at) {
            return Ok(());
        }
        if !at.is_multiple_of(self.geometry.cluster()) {
            return Err(self.damaged(format!("an L2 table is said to be at {at:#x}, at no cluster's start")));
        }
        // Behind its end a file reads as zeros, which would be holes.
        if at >= self.file.info().size {
            return Err(self.damaged("it is truncated: an L2 table is behind its end"));
        }
        if !m.l2.make_room() {
            self.write_back(m).await?;
            m.l2.make_room();
        }
        let mut data = vec![0; self.geometry.cluster() as usize];
        read_at(&*self.file, at, &mut data).await?;
        m.l2.put(at, data, false);
        Ok(())
    }

    /// The L2 entry of a cluster of the disk.
    pub(super) async fn entry(&self, m: &mut Meta, cluster: u64) -> Result<Entry> {
        let entries = self.geometry.entries();
        let Some(l1) = m.l1.get((cluster / entries) as usize).copied() else { return Ok(Entry::NONE) };
        if l1 & OFFSET == 0 {
            return Ok(Entry::NONE);
        }
        self.load_l2(m, l1 & OFFSET).await?;
        let copied = l1 & COPIED != 0;
        let mut entry = self.entry_in(m, l1 & OFFSET, cluster % entries);
        // In a table that others have too nothing is ours alone.
        if !copied {
            entry.word &= !COPIED;
        }
        Ok(entry)
    }

    /// An entry of an L2 table that has been loaded.
    pub(super) fn entry_in(&self, m: &mut Meta, table: u64, index: u64) -> Entry {
        let Some(table) = m.l2.get(table) else { return Entry::NONE };
        let at = (index * self.geometry.entry()) as usize;
        let bitmap = if self.geometry.extended { be64(&table.data, at + 8) } else { 0 };
        Entry { word: be64(&table.data, at), bitmap }
    }

    /// Sets an entry of an L2 table that has been loaded.
    pub(super) fn set_entry_in(&self, m: &mut Meta, table: u64, index: u64, entry: Entry) {
        let Some(table) = m.l2.get(table) else { return };
        let at = (index * self.geometry.entry()) as usize;
        put(&mut table.data, at, &entry.word.to_be_bytes());
        if self.geometry.extended {
            put(&mut table.data, at + 8, &entry.bitmap.to_be_bytes());
        }
        table.dirty = true;
    }

    /// The L2 table for a cluster of the disk, made when there is none, copied when others have it too; loaded.
    pub(super) async fn l2_to_change(&self, m: &mut Meta, cluster: u64) -> Result<u64> {
        let index = (cluster / self.geometry.entries()) as usize;
        let Some(old) = m.l1.get(index).copied() else {
            return Err(self.damaged("its L1 table is too short for the disk"));
        };
        let at = old & OFFSET;
        if at != 0 && old & COPIED != 0 {
            self.load_l2(m, at).await?;
            return Ok(at);
        }
        let new = self.allocate_one(m).await?;
        let data = if at == 0 {
            vec![0; self.geometry.cluster() as usize]
        } else {
            self.load_l2(m, at).await?;
            m.l2.get(at).map(|t| t.data.clone()).unwrap_or_default()
        };
        if !m.l2.make_room() {
            self.write_back(m).await?;
            m.l2.make_room();
        }
        m.l2.put(new, data, true);
        if let Some(entry) = m.l1.get_mut(index) {
            *entry = new | COPIED;
        }
        m.l1_dirty.insert(index);
        m.tables.insert(new >> self.geometry.cluster_bits);
        if at != 0 {
            m.tables.remove(&(at >> self.geometry.cluster_bits));
            m.l2.forget(at);
            m.freed.push(at >> self.geometry.cluster_bits);
        }
        Ok(new)
    }

    /// Gives up what an entry refers to.
    pub(super) fn release(&self, m: &mut Meta, old: Entry) {
        if old.is_compressed() {
            self.forget_unpacked();
            let (first, last) = self.geometry.compressed_clusters(old.word);
            m.freed.extend(first..=last);
        } else if old.offset() != 0 && !self.geometry.external {
            m.freed.push(old.offset() >> self.geometry.cluster_bits);
        }
    }

    /// Writes a table from a cache, having looked that no other metadata is there.
    async fn write_table(&self, m: &mut Meta, l2: bool, at: u64) -> Result<()> {
        let cluster = at >> self.geometry.cluster_bits;
        if m.reserved.iter().any(|(start, end)| (*start..*end).contains(&cluster)) {
            return Err(self.corrupt(m, format!("a table at {at:#x} lies over other metadata")).await);
        }
        let tables = if l2 { &mut m.l2 } else { &mut m.blocks };
        if let Some(table) = tables.get(at) {
            write_at(&*self.file, at, &table.data).await?;
            table.dirty = false;
        }
        Ok(())
    }

    /// Writes the refcounts of the caches.
    pub(super) async fn write_refcounts(&self, m: &mut Meta) -> Result<()> {
        for at in m.blocks.dirty() {
            self.write_table(m, false, at).await?;
        }
        if !m.refcount_table_dirty.is_empty() {
            self.file.flush().await?;
            while let Some(index) = m.refcount_table_dirty.first().copied() {
                let entry = m.refcount_table.get(index).copied().unwrap_or(0);
                write_at(&*self.file, m.header.refcount_at + index as u64 * 8, &entry.to_be_bytes()).await?;
                m.refcount_table_dirty.remove(&index);
            }
        }
        Ok(())
    }

    /// Brings the file up to date, in the order that the head of this module gives. What has been written is on its way,
    /// and only a flush makes it durable.
    pub(super) async fn write_back(&self, m: &mut Meta) -> Result<()> {
        let tables = m.l2.is_dirty() || !m.l1_dirty.is_empty();
        if !m.late_refcounts {
            self.write_refcounts(m).await?;
        }
        if tables {
            // Step 1 is behind this barrier too: data is written before its entry is made.
            self.file.flush().await?;
            if let Some(data) = &self.data {
                data.flush().await?;
            }
            for at in m.l2.dirty() {
                self.write_table(m, true, at).await?;
            }
        }
        if !m.l1_dirty.is_empty() {
            self.file.flush().await?;
            while let Some(index) = m.l1_dirty.first().copied() {
                let entry = m.l1.get(index).copied().unwrap_or(0);
                write_at(&*self.file, m.header.l1_at + index as u64 * 8, &entry.to_be_bytes()).await?;
                m.l1_dirty.remove(&index);
            }
        }
        if !m.freed.is_empty() {
            self.file.flush().await?;
            self.let_go(m).await?;
        }
        Ok(())
    }

    /// After a change: writes back when much has come together.
    pub(super) async fn settle(&self, m: &mut Meta) -> Result<()> {
        if m.freed.len() >= MOST_FREED { self.write_back(m).await } else { Ok(()) }
    }

    /// Lets the references go that nothing in the file holds any more.
    async fn let_go(&self, m: &mut Meta) -> Result<()> {
        let mut list = std::mem::take(&mut m.freed);
        list.sort_unstable();
        let mut holes: Vec<(u64, u64)> = Vec::new();
        for cluster in list {
            let count = self.refcount(m, cluster).await?;
            if count == 0 {
                let what = format!("cluster {cluster} was in use with a refcount of 0");
                return Err(self.corrupt(m, what).await);
            }
            self.set_refcount(m, cluster, count - 1).await?;
            if count == 1 {
                m.first_free = m.first_free.min(cluster);
                m.l2.forget(cluster << self.geometry.cluster_bits);
                if m.compressed_at >> self.geometry.cluster_bits == cluster {
                    m.compressed_at = 0;
                }
                match holes.last_mut() {
                    Some((_, end)) if *end == cluster => *end += 1,
                    _ => holes.push((cluster, cluster + 1)),
                }
            }
        }
        for (start, end) in holes {
            let bits = self.geometry.cluster_bits;
            self.file.erase(start << bits, (end - start) << bits, Erase::Discard).await?;
        }
        Ok(())
    }

    /// Everything to the file, durably.
    pub(super) async fn flush_all(&self, m: &mut Meta) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.write_back(m).await?;
        if let Some(data) = &self.data {
            data.flush().await?;
        }
        self.file.flush().await
    }

    /// Leaves the image as one that nobody uses.
    pub(super) async fn close_all(&self, m: &mut Meta) -> Result<()> {
        if self.read_only {
            return Ok(());
        }
        self.flush_all(m).await?;
        self.write_refcounts(m).await?;
        self.file.flush().await?;
        if m.prepared && !m.header.is_corrupt() {
            if m.header.is_dirty() {
                m.header.incompatible &= !header::DIRTY;
                self.write_header(m).await?;
            }
            m.late_refcounts = false;
            m.prepared = false;
            self.note_state(m);
        }
        Ok(())
    }
}

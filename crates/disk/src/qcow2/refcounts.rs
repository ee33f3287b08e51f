//! Refcounts, and the clusters of the file that they say are free ("Host cluster management" of the specification).

use crate::error::Result;
use crate::image::{read_at, write_at};
use crate::qcow2::Qcow2;
use crate::qcow2::header::MOST_REFCOUNT_TABLE;
use crate::qcow2::layout::{be64, put};
use crate::qcow2::meta::Meta;

/// Of an entry of the refcount table: the offset in the file.
pub(super) const BLOCK: u64 = !0x1ff;

impl Qcow2 {
    /// Loads the refcount block of a number; `None` where there is none.
    pub(super) async fn load_block(&self, m: &mut Meta, number: u64) -> Result<Option<u64>> {
        let at = usize::try_from(number).ok().and_then(|n| m.refcount_table.get(n)).map_or(0, |e| e & BLOCK);
        if at == 0 {
            return Ok(None);
        }
        if !m.blocks.has(at) {
            if !at.is_multiple_of(self.geometry.cluster()) || at >= 1 << 62 {
                return Err(self.damaged(format!("a refcount block is said to be at {at:#x}")));
            }
            if !m.blocks.make_room() {
                // Refcounts may always go first; falling ones are only made after their barrier.
                self.write_refcounts(m).await?;
                m.blocks.make_room();
            }
            let mut data = vec![0; self.geometry.cluster() as usize];
            read_at(&*self.file, at, &mut data).await?;
            m.blocks.put(at, data, false);
        }
        Ok(Some(at))
    }

    /// The refcount of a cluster of the file.
    pub(super) async fn refcount(&self, m: &mut Meta, cluster: u64) -> Result<u64> {
        let per_block = self.geometry.refcounts();
        let Some(at) = self.load_block(m, cluster / per_block).await? else { return Ok(0) };
        let geometry = self.geometry;
        Ok(m.blocks.get(at).map_or(0, |block| geometry.refcount(&block.data, cluster % per_block)))
    }

    /// Sets the refcount of a cluster whose block is there.
    pub(super) async fn set_refcount(&self, m: &mut Meta, cluster: u64, value: u64) -> Result<()> {
        let per_block = self.geometry.refcounts();
        let Some(at) = self.load_block(m, cluster / per_block).await? else {
            return Err(self.damaged(format!("cluster {cluster} has no refcount block")));
        };
        let geometry = self.geometry;
        if let Some(block) = m.blocks.get(at) {
            geometry.set_refcount(&mut block.data, cluster % per_block, value);
            block.dirty = true;
        }
        Ok(())
    }

    /// One more reference to a cluster.
    pub(super) async fn add_reference(&self, m: &mut Meta, cluster: u64) -> Result<()> {
        let count = self.refcount(m, cluster).await?;
        if count >= self.geometry.most_references() {
            let what = format!(
                "refcounts of {} bits cannot count another reference: convert the image to one with wider refcounts",
                1 << self.geometry.refcount_order
            );
            return Err(crate::Error::unsupported(&self.path, what));
        }
        if count == 0 {
            self.ensure_block(m, cluster).await?;
        }
        self.set_refcount(m, cluster, count + 1).await
    }

    /// Free clusters from `from` on: where they start, and how many there are together, `most` at most. Past all blocks
    /// everything is free.
    async fn free_after(&self, m: &mut Meta, from: u64, most: u64) -> Result<(u64, u64)> {
        let (geometry, per_block) = (self.geometry, self.geometry.refcounts());
        let (mut at, mut start) = (from, None);
        loop {
            let found = at - start.unwrap_or(at);
            if found >= most {
                return Ok((start.unwrap_or(at), most));
            }
            let number = at / per_block;
            let first = at % per_block;
            match self.load_block(m, number).await? {
                None => {
                    let start = *start.get_or_insert(at);
                    if number >= m.refcount_table.len() as u64 {
                        return Ok((start, most));
                    }
                    at = (number + 1) * per_block;
                }
                Some(block) => {
                    let Some(block) = m.blocks.get(block) else { continue };
                    let stop = per_block.min(first + (most - found));
                    for index in first..if start.is_some() { stop } else { per_block } {
                        let used = geometry.refcount(&block.data, index) != 0;
                        match (used, start) {
                            (true, Some(start)) => return Ok((start, at - start)),
                            (false, None) => start = Some(at),
                            _ => {}
                        }
                        at += 1;
                        if start.is_some_and(|s| at - s >= most) {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Takes clusters that lie together: `wanted` of them, or fewer but at least one unless `all` must be. Their refcount
    /// is one each, in memory. Returns the first and how many.
    pub(super) async fn allocate(&self, m: &mut Meta, wanted: u64, all: bool) -> Result<(u64, u64)> {
        let mut from = m.first_free;
        let mut passed_free = false;
        loop {
            let (start, found) = self.free_after(m, from, wanted).await?;
            if found < wanted && all {
                passed_free = true;
                from = start + found;
                continue;
            }
            // A new block may take the very clusters found.
            let mut moved = false;
            let per_block = self.geometry.refcounts();
            for number in start / per_block..=(start + found - 1) / per_block {
                let within = start.max(number * per_block);
                moved |= self.ensure_block(m, within).await?;
            }
            if moved {
                continue;
            }
            if let Some(bad) = (start..start + found).find(|c| m.is_metadata(*c)) {
                let what = format!("cluster {bad} holds metadata and has a refcount of 0");
                return Err(self.corrupt(m, what).await);
            }
            for cluster in start..start + found {
                self.set_refcount(m, cluster, 1).await?;
            }
            if !passed_free {
                m.first_free = start + found;
            }
            return Ok((start, found));
        }
    }

    /// Takes one cluster; returns its offset.
    pub(super) async fn allocate_one(&self, m: &mut Meta) -> Result<u64> {
        let (cluster, _) = self.allocate(m, 1, true).await?;
        Ok(cluster << self.geometry.cluster_bits)
    }

    /// Takes back clusters that nothing has ever pointed to.
    pub(super) async fn give_back(&self, m: &mut Meta, first: u64, count: u64) -> Result<()> {
        for cluster in first..first + count {
            let now = self.refcount(m, cluster).await?;
            self.set_refcount(m, cluster, now.saturating_sub(1)).await?;
        }
        m.first_free = m.first_free.min(first);
        Ok(())
    }

    /// Sees to it that a free cluster's refcount can be set. Whether a block had to be made, which may have taken the
    /// cluster itself.
    pub(super) async fn ensure_block(&self, m: &mut Meta, cluster: u64) -> Result<bool> {
        let per_block = self.geometry.refcounts();
        let number = cluster / per_block;
        if number >= m.refcount_table.len() as u64 {
            self.grow_refcount_table(m, number).await?;
            return Ok(true);
        }
        if self.load_block(m, number).await?.is_some() {
            return Ok(false);
        }
        // Without a block all of its clusters are free: it counts itself, in the first.
        let at = cluster << self.geometry.cluster_bits;
        if m.is_metadata(cluster) {
            return Err(self.corrupt(m, format!("cluster {cluster} holds metadata and has a refcount of 0")).await);
        }
        let mut data = vec![0; self.geometry.cluster() as usize];
        self.geometry.set_refcount(&mut data, cluster % per_block, 1);
        if !m.blocks.make_room() {
            self.write_refcounts(m).await?;
            m.blocks.make_room();
        }
        m.blocks.put(at, data, true);
        if let Some(entry) = m.refcount_table.get_mut(number as usize) {
            *entry = at;
        }
        m.refcount_table_dirty.insert(number as usize);
        m.tables.insert(cluster);
        Ok(true)
    }

    /// Moves the refcount table to where it has room for block `number`, behind everything that it counts so far; its
    /// new place counts itself.
    async fn grow_refcount_table(&self, m: &mut Meta, number: u64) -> Result<()> {
        let (geometry, per_block) = (self.geometry, self.geometry.refcounts());
        let (bits, cluster) = (geometry.cluster_bits, geometry.cluster());
        let old_len = m.refcount_table.len() as u64;
        let entries = (number + 1).max(old_len + old_len / 2) + 1;
        let start = old_len.max(number) * per_block;
        // Blocks need counting as well, by themselves: a few rounds find how many.
        let mut blocks = 1;
        let (table, blocks) = loop {
            let table = (entries + blocks).div_ceil(cluster / 8);
            let needed = (table + blocks).div_ceil(per_block);
            if needed <= blocks {
                break (table, blocks);
            }
            blocks = needed;
        };
        let bytes = table * cluster;
        if bytes > MOST_REFCOUNT_TABLE || (start + table + blocks) >> (55 - bits) != 0 {
            let what =
                "the image's file cannot grow further with these clusters: convert it to one with larger clusters";
            return Err(crate::Error::unsupported(&self.path, what));
        }
        let mut new = m.refcount_table.clone();
        new.resize((bytes / 8) as usize, 0);
        for block in 0..blocks {
            let mut data = vec![0; cluster as usize];
            let taken = (table + blocks).saturating_sub(block * per_block).min(per_block);
            (0..taken).for_each(|index| geometry.set_refcount(&mut data, index, 1));
            let at = (start + block) << bits;
            write_at(&*self.file, at, &data).await?;
            if let Some(entry) = new.get_mut((start / per_block + block) as usize) {
                *entry = at;
            }
        }
        // The old table's entries that are only in memory point to blocks that are only in memory.
        self.write_refcounts(m).await?;
        let mut data = vec![0; bytes as usize];
        new.iter().enumerate().for_each(|(i, e)| put(&mut data, i * 8, &e.to_be_bytes()));
        debug_assert_eq!(be64(&data, 0), new.first().copied().unwrap_or(0));
        let at = (start + blocks) << bits;
        write_at(&*self.file, at, &data).await?;
        self.file.flush().await?;
        let old = (m.header.refcount_at >> bits, u64::from(m.header.refcount_clusters));
        m.header.refcount_at = at;
        m.header.refcount_clusters = table as u32;
        self.write_header(m).await?;
        m.refcount_table = new;
        m.note_places();
        m.freed.extend(old.0..old.0 + old.1);
        Ok(())
    }
}

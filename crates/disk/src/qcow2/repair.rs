//! The repair: refcounts made anew from the references, at a new place, of which the header tells at the end; then flags.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::image::write_at;
use crate::qcow2::Qcow2;
use crate::qcow2::check::{Counts, Report};
use crate::qcow2::header::{DIRTY, MOST_REFCOUNT_TABLE};
use crate::qcow2::layout::put;
use crate::qcow2::meta::Meta;
use crate::qcow2::refcounts::BLOCK;

impl Qcow2 {
    /// Mends refcounts and flags.
    pub(super) async fn mend(&self, m: &mut Meta) -> Result<()> {
        // References of the old refcounts go, as they do themselves; all else stays.
        let (header_at, clusters) = (m.header.refcount_at, std::mem::take(&mut m.header.refcount_clusters));
        let table = std::mem::take(&mut m.refcount_table);
        m.freed.clear();
        m.l1_dirty.clear();
        m.blocks.forget_all();
        m.refcount_table_dirty.clear();
        let counted = self.count_references(m, &mut Report::default()).await;
        m.header.refcount_clusters = clusters;
        m.refcount_table = table;
        let counts = counted?;
        let bits = self.geometry.cluster_bits;
        // Nothing that the old ones need is written over before the header has changed.
        let old_end = m.refcount_table.iter().map(|e| (e & BLOCK) >> bits).filter(|c| c >> (55 - bits) == 0).max();
        let old_end = old_end.map_or(0, |c| c + 1).max((header_at >> bits) + u64::from(clusters));
        let file_end = self.geometry.clusters(self.file.info().size);
        // What is behind the end of the file holds nothing that could be lost.
        let old_end = old_end.min(file_end);
        self.rewrite_refcounts(m, &counts, counts.end.max(old_end).max(file_end)).await?;
        m.first_free = 0;
        m.compressed_at = 0;
        self.forget_unpacked();
        self.set_flags(m).await?;
        self.write_back(m).await?;
        self.write_refcounts(m).await?;
        self.file.flush().await
    }

    /// After a change that failed half way: the counts are made anew, and the image is closed for that matter.
    pub(super) async fn recount(&self, m: &mut Meta) -> Result<()> {
        m.l2.forget_all();
        self.mend(m).await?;
        if m.header.is_dirty() && !m.late_refcounts {
            m.header.incompatible &= !DIRTY;
            self.write_header(m).await?;
        }
        self.note_state(m);
        Ok(())
    }

    /// Writes refcounts of everything in `counts`, and of themselves, from cluster `start` on.
    async fn rewrite_refcounts(&self, m: &mut Meta, counts: &Counts, start: u64) -> Result<()> {
        let geometry = self.geometry;
        let (bits, cluster, per_block) = (geometry.cluster_bits, geometry.cluster(), geometry.refcounts());
        let listed = counts.sorted();
        if let Some((bad, count)) = listed.iter().find(|(_, count)| *count > geometry.most_references()) {
            let what = format!(
                "cluster {bad} has {count} references, which refcounts of {} bits cannot count: convert the image",
                1 << geometry.refcount_order
            );
            return Err(Error::unsupported(&self.path, what));
        }
        let mut regions: BTreeMap<u64, Vec<u8>> = listed.iter().map(|(c, _)| (c / per_block, Vec::new())).collect();
        let mut table = 1;
        loop {
            // First of all, as what a hostile image refers to may be anywhere.
            let last = (start / per_block).max(regions.keys().next_back().copied().unwrap_or(0));
            if (last + 1) * 8 > MOST_REFCOUNT_TABLE || table << bits > MOST_REFCOUNT_TABLE {
                let what =
                    "something in it refers to places so far behind its end that no refcount table can count them";
                return Err(self.damaged(what));
            }
            let before = (regions.len(), table);
            let end = start + table + regions.len() as u64;
            (start / per_block..=end / per_block).for_each(|region| _ = regions.entry(region).or_default());
            let last = regions.keys().next_back().copied().unwrap_or(0);
            table = ((last + 1) * 8).div_ceil(cluster).max(table);
            if (regions.len(), table) == before {
                break;
            }
        }
        let end = start + table + regions.len() as u64;
        let own = (start..end).map(|c| (c, 1));
        for (at, count) in listed.into_iter().chain(own) {
            let block = regions.entry(at / per_block).or_default();
            if block.is_empty() {
                block.resize(cluster as usize, 0);
            }
            geometry.set_refcount(block, at % per_block, count);
        }
        let mut entries = vec![0; ((table << bits) / 8) as usize];
        for ((region, mut block), place) in regions.into_iter().zip(start + table..) {
            block.resize(cluster as usize, 0);
            write_at(&*self.file, place << bits, &block).await?;
            if let Some(entry) = entries.get_mut(region as usize) {
                *entry = place << bits;
            }
        }
        let mut data = vec![0; (table << bits) as usize];
        entries.iter().enumerate().for_each(|(i, e)| put(&mut data, i * 8, &e.to_be_bytes()));
        write_at(&*self.file, start << bits, &data).await?;
        self.file.flush().await?;
        m.header.refcount_at = start << bits;
        m.header.refcount_clusters = table as u32;
        self.write_header(m).await?;
        m.refcount_table = entries;
        m.note_places();
        Ok(())
    }
}

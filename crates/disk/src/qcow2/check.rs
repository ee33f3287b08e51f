//! The check: counts every reference and compares that with the refcounts.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::image::read_at;
use crate::qcow2::layout::{COPIED, Entry, OFFSET, SUBCLUSTERS, ZERO, be64};
use crate::qcow2::meta::Meta;
use crate::qcow2::refcounts::BLOCK;
use crate::qcow2::{Qcow2, numbers};

/// Most findings that are told one by one.
const MOST_LINES: usize = 200;
/// So many entries of an L1 table may point to L2 tables that others of it point to.
const MOST_AGAIN: u32 = 256;
/// Clusters of a page of counts.
const PAGE: u64 = 512;

/// What a check found, with the figures that `qemu-img check` prints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// References that the refcounts do not cover, entries that cannot be, flags that are wrong.
    pub corruptions: u64,
    /// Clusters with a refcount above their references.
    pub leaks: u64,
    /// How many of the corruptions have been repaired.
    pub corruptions_fixed: u64,
    /// How many of the leaks have been repaired.
    pub leaks_fixed: u64,
    /// Clusters of the disk.
    pub total_clusters: u64,
    /// Of them those that have a place in the file.
    pub allocated_clusters: u64,
    /// Of them those that do not follow the one before.
    pub fragmented_clusters: u64,
    /// Of them those that are compressed.
    pub compressed_clusters: u64,
    /// Where the last used cluster of the file ends.
    pub image_end: u64,
    /// The first findings, one line each.
    pub findings: Vec<String>,
}

impl Report {
    /// Nothing was found, or everything has been repaired.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.corruptions == self.corruptions_fixed && self.leaks == self.leaks_fixed
    }

    fn corruption(&mut self, line: impl FnOnce() -> String) {
        self.corruptions += 1;
        if self.findings.len() < MOST_LINES {
            self.findings.push(line());
        }
    }

    fn leak(&mut self, line: impl FnOnce() -> String) {
        self.leaks += 1;
        if self.findings.len() < MOST_LINES {
            self.findings.push(line());
        }
    }
}

/// References by cluster of the file.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pages: HashMap<u64, Vec<u64>>,
    /// Behind the last cluster that has any.
    pub(super) end: u64,
}

impl Counts {
    pub(super) fn add(&mut self, cluster: u64) {
        let page = self.pages.entry(cluster / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
        if let Some(count) = page.get_mut((cluster % PAGE) as usize) {
            *count += 1;
        }
        self.end = self.end.max(cluster + 1);
    }

    pub(super) fn add_all(&mut self, first: u64, count: u64) {
        (first..first + count).for_each(|c| self.add(c));
    }

    pub(super) fn get(&self, cluster: u64) -> u64 {
        self.pages.get(&(cluster / PAGE)).and_then(|p| p.get((cluster % PAGE) as usize)).copied().unwrap_or(0)
    }

    /// The clusters that have any, in order, with how many.
    pub(super) fn sorted(&self) -> Vec<(u64, u64)> {
        let mut pages: Vec<_> = self.pages.iter().collect();
        pages.sort_unstable_by_key(|(number, _)| **number);
        let each = pages.into_iter().flat_map(|(number, page)| (number * PAGE..).zip(page.iter().copied()));
        each.filter(|(_, count)| *count != 0).collect()
    }
}

/// What of the file's end a check takes for possible.
const MOST_OFFSET: u64 = 1 << 56;

impl Qcow2 {
    /// Checks the image, and with `repair` mends it: refcounts are counted anew and written to a new place, of which the
    /// header then tells; flags are set anew; the dirty and the corrupt bit go when nothing bad remains. Entries that
    /// point to places that cannot be stay, and are told.
    ///
    /// # Errors
    /// Refusals of the host; repair of an image that is open for reading; more references than refcounts can count.
    pub async fn check(&self, repair: bool) -> Result<Report> {
        let _all = self.stretches.take(0, u64::MAX, true).await;
        let mut m = self.meta.take().await;
        let m = &mut *m;
        if repair && self.read_only {
            return Err(crate::Error::ReadOnly { path: self.path.clone() });
        }
        if !self.read_only && m.prepared {
            self.flush_all(m).await?;
            self.write_refcounts(m).await?;
        }
        let mut report = Report::default();
        let counts = self.count_references(m, &mut report).await?;
        let sound = self.compare(m, &counts, &mut report).await?;
        self.compare_flags(m, &counts, &mut report).await?;
        let marked = m.header.is_dirty() || m.header.is_corrupt();
        let wrong = report.corruptions != 0 || report.leaks != 0 || !sound;
        if repair && (wrong || marked) {
            if wrong {
                self.mend(m).await?;
            }
            let mut after = Report::default();
            let counts = self.count_references(m, &mut after).await?;
            self.compare(m, &counts, &mut after).await?;
            self.compare_flags(m, &counts, &mut after).await?;
            report.corruptions_fixed = report.corruptions.saturating_sub(after.corruptions);
            report.leaks_fixed = report.leaks.saturating_sub(after.leaks);
            report.image_end = after.image_end;
            if after.corruptions == 0 {
                m.header.incompatible &= !(super::header::DIRTY | super::header::CORRUPT);
                self.write_header(m).await?;
                m.prepared = false;
                m.late_refcounts = false;
            }
            self.note_state(m);
        }
        Ok(report)
    }

    /// Counts what refers to each cluster.
    pub(super) async fn count_references(&self, m: &mut Meta, report: &mut Report) -> Result<Counts> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        let mut counts = Counts::default();
        let header = m.header.clone();
        counts.add(0);
        let mut stretch = |at: u64, len: u64| counts.add_all(at >> bits, geometry.clusters(len));
        stretch(header.l1_at, u64::from(header.l1_size) * 8);
        stretch(header.refcount_at, u64::from(header.refcount_clusters) << bits);
        if let Some((at, len)) = header.encryption {
            stretch(at, len);
        }
        if header.snapshots != 0 {
            stretch(header.snapshots_at, self.snapshot_table_len(m));
        }
        for (first, count) in self.bitmap_clusters(m).await? {
            counts.add_all(first, count);
        }
        for (number, entry) in m.refcount_table.iter().enumerate() {
            let at = entry & BLOCK;
            if at == 0 {
                continue;
            }
            if !at.is_multiple_of(geometry.cluster()) || at >= MOST_OFFSET {
                report.corruption(|| format!("refcount block {number} is said to be at {at:#x}"));
                continue;
            }
            counts.add(at >> bits);
        }
        let l1 = m.l1.clone();
        // As qemu-img counts: whole sectors.
        report.total_clusters = geometry.clusters(header.size / 512 * 512);
        self.count_l1(m, &l1, true, &mut counts, report).await?;
        for snapshot in m.snapshots.clone() {
            let l1 = numbers(&*self.file, snapshot.l1_at, u64::from(snapshot.l1_size)).await?;
            counts.add_all(snapshot.l1_at >> bits, geometry.clusters(l1.len() as u64 * 8));
            self.count_l1(m, &l1, false, &mut counts, report).await?;
        }
        report.image_end = counts.end << bits;
        Ok(counts)
    }

    async fn count_l1(
        &self,
        m: &mut Meta,
        l1: &[u64],
        active: bool,
        counts: &mut Counts,
        report: &mut Report,
    ) -> Result<()> {
        let geometry = self.geometry;
        let mut next_at = 0;
        let (mut seen, mut again) = (HashSet::new(), 0);
        for (index, entry) in l1.iter().enumerate() {
            let table = entry & OFFSET;
            if entry & !(OFFSET | COPIED) != 0 {
                report.corruption(|| format!("L1 entry {index} has bits that must not be set: {entry:#x}"));
            }
            if table == 0 {
                continue;
            }
            if !table.is_multiple_of(geometry.cluster()) {
                report.corruption(|| format!("L1 entry {index} points to {table:#x}, no cluster's start"));
                continue;
            }
            if !seen.insert(table) {
                again += 1;
                // Else a small file could keep a check busy for ever.
                if again > MOST_AGAIN {
                    return Err(self.damaged("too many entries of one L1 table point to the same L2 tables"));
                }
            }
            counts.add(table >> geometry.cluster_bits);
            self.load_l2(m, table).await?;
            let data = m.l2.get(table).map(|t| t.data.clone()).unwrap_or_default();
            for (number, raw) in data.chunks_exact(geometry.entry() as usize).enumerate() {
                let entry = Entry { word: be64(raw, 0), bitmap: be64(raw, 8) };
                if entry == Entry::NONE {
                    continue;
                }
                let cluster = index as u64 * geometry.entries() + number as u64;
                self.count_entry(entry, cluster, active, counts, report, &mut next_at);
            }
        }
        Ok(())
    }

    fn count_entry(
        &self,
        entry: Entry,
        cluster: u64,
        active: bool,
        counts: &mut Counts,
        report: &mut Report,
        next_at: &mut u64,
    ) {
        let geometry = self.geometry;
        if entry.is_compressed() {
            if entry.word & COPIED != 0 {
                report.corruption(|| format!("compressed cluster {cluster} of the disk has the flag of standard ones"));
            }
            let (at, _) = geometry.compressed(entry.word);
            if geometry.external || at >= MOST_OFFSET {
                report.corruption(|| format!("compressed cluster {cluster} of the disk cannot be at {at:#x}"));
                return;
            }
            let (first, last) = geometry.compressed_clusters(entry.word);
            counts.add_all(first, last + 1 - first);
            if active {
                report.allocated_clusters += 1;
                report.compressed_clusters += 1;
                report.fragmented_clusters += 1;
            }
            return;
        }
        let at = entry.offset();
        for piece in 0..if geometry.extended { SUBCLUSTERS } else { 1 } {
            if let Err(error) = self.place(entry, cluster, piece) {
                report.corruption(|| error.to_string());
                return;
            }
        }
        let here = at != 0 || (geometry.external && entry.word & COPIED != 0);
        if !here {
            return;
        }
        if !geometry.external {
            counts.add(at >> geometry.cluster_bits);
        }
        if active {
            report.allocated_clusters += 1;
            if *next_at != 0 && at != *next_at && entry.word & ZERO == 0 {
                report.fragmented_clusters += 1;
            }
            *next_at = at + geometry.cluster();
        }
    }

    /// Compares the refcounts with the references. Whether every block was a block.
    async fn compare(&self, m: &mut Meta, counts: &Counts, report: &mut Report) -> Result<bool> {
        let geometry = self.geometry;
        let per_block = geometry.refcounts();
        let mut seen = HashSet::new();
        let mut sound = true;
        // What is counted behind the end of the file takes no space: no leak.
        let end = counts.end.max(geometry.clusters(self.file.info().size));
        for (number, entry) in m.refcount_table.clone().into_iter().enumerate() {
            let at = entry & BLOCK;
            if at == 0 {
                continue;
            }
            if !at.is_multiple_of(geometry.cluster()) || at >= MOST_OFFSET || !seen.insert(at) {
                sound = false;
                continue;
            }
            let mut block = vec![0; geometry.cluster() as usize];
            match m.blocks.get(at) {
                Some(table) => block.clone_from(&table.data),
                None => read_at(&*self.file, at, &mut block).await?,
            }
            let first = number as u64 * per_block;
            for index in 0..per_block {
                let (cluster, has) = (first + index, geometry.refcount(&block, index));
                let wanted = counts.get(cluster);
                if has < wanted {
                    report.corruption(|| format!("cluster {cluster} has refcount {has}, and {wanted} references"));
                } else if has > wanted && cluster < end {
                    report.leak(|| format!("leaked cluster {cluster}: refcount {has}, and {wanted} references"));
                }
            }
        }
        for (cluster, wanted) in counts.sorted() {
            let number = (cluster / per_block) as usize;
            let block = m.refcount_table.get(number).map_or(0, |e| e & BLOCK);
            if block == 0 || !block.is_multiple_of(geometry.cluster()) || block >= MOST_OFFSET {
                report.corruption(|| format!("cluster {cluster} has no refcount, and {wanted} references"));
            }
        }
        Ok(sound)
    }

    /// Compares the flags of the active tables with the refcounts.
    async fn compare_flags(&self, m: &mut Meta, counts: &Counts, report: &mut Report) -> Result<()> {
        let geometry = self.geometry;
        let bits = geometry.cluster_bits;
        for (index, entry) in m.l1.clone().into_iter().enumerate() {
            let table = entry & OFFSET;
            if table == 0 || !table.is_multiple_of(geometry.cluster()) {
                continue;
            }
            let single = self.refcount_or(m, table >> bits, counts).await == 1;
            if single != (entry & COPIED != 0) {
                report.corruption(|| format!("L1 entry {index} has a wrong flag"));
            }
            self.load_l2(m, table).await?;
            let data = m.l2.get(table).map(|t| t.data.clone()).unwrap_or_default();
            for (number, raw) in data.chunks_exact(geometry.entry() as usize).enumerate() {
                let entry = Entry { word: be64(raw, 0), bitmap: 0 };
                let at = entry.offset();
                if entry.is_compressed() || at == 0 || geometry.external || !at.is_multiple_of(geometry.cluster()) {
                    continue;
                }
                let single = self.refcount_or(m, at >> bits, counts).await == 1;
                if single != (entry.word & COPIED != 0) {
                    let cluster = index as u64 * geometry.entries() + number as u64;
                    report.corruption(|| format!("cluster {cluster} of the disk has a wrong flag"));
                }
            }
        }
        Ok(())
    }

    /// A refcount; where it cannot be read, what it should be.
    async fn refcount_or(&self, m: &mut Meta, cluster: u64, counts: &Counts) -> u64 {
        match self.refcount(m, cluster).await {
            Ok(count) => count,
            Err(_) => counts.get(cluster),
        }
    }
}

//! Pages whose place in host memory is switched while the guest runs: the first megabyte of a PC with its shadow RAM.
//! See [`crate::StoreConfig::switched`].

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Gpa, Kind, PAGE_SIZE, Region};

/// What is at the pages of a switched store's range now. Read without a lock, for CPUs look here at each miss of their TLBs.
pub(crate) struct Table {
    pub(crate) range: Range<u64>,
    /// Where the store starts in the mapping of the guest's memory, and its length.
    store: Range<u64>,
    /// For each page its offset in the mapping and, in the low bits, [`RAM`] or [`ROM`]; [`NOTHING`] for none.
    pages: Box<[AtomicU64]>,
}

const NOTHING: u64 = 0;
const RAM: u64 = 1;
const ROM: u64 = 2;

impl Table {
    pub(crate) fn new(range: Range<u64>, store: Range<u64>) -> Self {
        let count = (range.end - range.start) / PAGE_SIZE;
        Self { range, store, pages: (0..count).map(|_| AtomicU64::new(NOTHING)).collect() }
    }

    /// Kind and offset in the mapping of the byte at `at`, and the bytes left in its page.
    #[inline]
    pub(crate) fn locate(&self, at: u64) -> Option<(Kind, u64, u64)> {
        let page = at.checked_sub(self.range.start)? / PAGE_SIZE;
        let entry = self.pages.get(usize::try_from(page).ok()?)?.load(Ordering::Acquire);
        let inside = at % PAGE_SIZE;
        Some((kind(entry)?, (entry & !(PAGE_SIZE - 1)) + inside, PAGE_SIZE - inside))
    }

    /// Switches the pages of `at` to the store from offset `to` on. Returns false when a page is outside of the range or
    /// of the store, or not a whole one; nothing is then changed.
    pub(crate) fn switch(&self, at: Range<u64>, to: Option<(u64, Kind)>) -> bool {
        let whole = [at.start, at.end, to.map_or(0, |(offset, _)| offset)].iter().all(|n| n % PAGE_SIZE == 0);
        let len = at.end.saturating_sub(at.start);
        let fits = to.is_none_or(|(offset, _)| {
            offset.checked_add(len).is_some_and(|end| end <= self.store.end - self.store.start)
        });
        if !whole || !fits || at.start > at.end || at.start < self.range.start || at.end > self.range.end {
            return false;
        }
        let first = ((at.start - self.range.start) / PAGE_SIZE) as usize;
        let pages = self.pages.iter().skip(first).take((len / PAGE_SIZE) as usize);
        for (page, n) in pages.zip(0u64..) {
            let entry = to.map_or(NOTHING, |(offset, kind)| {
                (self.store.start + offset + n * PAGE_SIZE) | if kind == Kind::Ram { RAM } else { ROM }
            });
            page.store(entry, Ordering::Release);
        }
        true
    }

    /// What is mapped now, neighbours that lie beside each other in the store as one region.
    pub(crate) fn regions(&self) -> Vec<Region> {
        let mut regions: Vec<(Region, u64)> = Vec::new();
        for (at, page) in (self.range.start..).step_by(PAGE_SIZE as usize).zip(&self.pages) {
            let entry = page.load(Ordering::Acquire);
            let Some(kind) = kind(entry) else { continue };
            match regions.last_mut() {
                Some((last, first))
                    if last.start.0 + last.len == at && *first + last.len == entry && last.kind == kind =>
                {
                    last.len += PAGE_SIZE;
                }
                _ => regions.push((Region { start: Gpa(at), len: PAGE_SIZE, kind }, entry)),
            }
        }
        regions.into_iter().map(|(region, _)| region).collect()
    }
}

fn kind(entry: u64) -> Option<Kind> {
    match entry % PAGE_SIZE {
        RAM => Some(Kind::Ram),
        ROM => Some(Kind::Rom),
        _ => None,
    }
}

//! A store that is seen as a whole at the address that the guest chooses: the memory behind a BAR.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Gpa, Kind, PAGE_SIZE, Region};

/// Where a movable store is now. Read without a lock, for CPUs look here at each miss of their TLBs.
pub(crate) struct Movable {
    /// Where it lies in the mapping of the guest's memory.
    span: Range<u64>,
    /// The first address, with [`SEEN`]; zero when it is seen nowhere.
    at: AtomicU64,
}

/// In the bits that the address of a page leaves free.
const SEEN: u64 = 1;

impl Movable {
    pub(crate) fn new(span: Range<u64>) -> Self {
        Self { span, at: AtomicU64::new(0) }
    }

    /// Kind and offset in the mapping of the byte at `at`, and the bytes left in the store.
    #[inline]
    pub(crate) fn locate(&self, at: u64) -> Option<(Kind, u64, u64)> {
        let entry = self.at.load(Ordering::Acquire);
        let inside = at.wrapping_sub(entry & !SEEN);
        let len = self.span.end - self.span.start;
        (entry & SEEN != 0 && inside < len).then(|| (Kind::Ram, self.span.start + inside, len - inside))
    }

    /// What is seen now.
    pub(crate) fn region(&self) -> Option<Region> {
        let entry = self.at.load(Ordering::Acquire);
        let len = self.span.end - self.span.start;
        (entry & SEEN != 0).then_some(Region { start: Gpa(entry & !SEEN), len, kind: Kind::Ram })
    }

    /// The addresses that it would have at `at`, if that is a place for it.
    pub(crate) fn range_at(&self, at: u64) -> Option<Range<u64>> {
        let end = at.checked_add(self.span.end - self.span.start)?;
        at.is_multiple_of(PAGE_SIZE).then_some(at..end)
    }

    /// Moves it.
    pub(crate) fn place(&self, at: Option<u64>) {
        self.at.store(at.map_or(0, |at| at | SEEN), Ordering::Release);
    }
}

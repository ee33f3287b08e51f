//! Memory beside the fixed regions: stores of host memory, parts of which appear at guest-physical addresses while the
//! guest runs.
//!
//! There are two kinds. A *switched* store ([`StoreConfig::switched`]) belongs to a fixed range of addresses whose pages
//! show parts of it, as RAM or as ROM, or nothing: the shadow RAM of the first megabyte, a flash chip at the end of the
//! first 4 GiB. A *movable* store ([`StoreConfig::movable`]) is seen as a whole, as RAM, at the address that the guest
//! chooses, or nowhere: the video memory behind a BAR.
//!
//! All stores are declared when the memory is made ([`crate::GuestMemory::with_stores`]), by name. Who owns the device
//! asks for its own ([`crate::GuestMemory::store`]) and then reads, writes and maps it by the [`Store`]. Their pages are
//! pages of the guest's memory as all others are: they have flags, count in the dirty log while they are seen, and may
//! hold code. Where nothing of a store is seen, accesses go to the bus, and so do writes to what is seen as ROM. After a
//! change the engine has to be told: `engine::Partition::layout_changed`. The vCPU that has caused the change by an
//! access to the bus sees it from its next instruction on, other vCPUs soon.

use std::ops::Range;

use crate::{Error, Gpa, GuestMemory, Kind, Result};

/// A store as it is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// The name, by which [`GuestMemory::store`] finds it; unique within one memory.
    pub name: &'static str,
    /// The amount of host memory in bytes, whole pages, all zero at first.
    pub bytes: u64,
    /// Where it can appear.
    pub place: StorePlace,
}

/// Where a store can appear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StorePlace {
    /// Page by page at these addresses, which nothing else has. Nothing is mapped there at first.
    Pages(Range<u64>),
    /// As a whole, where [`Store::place`] says.
    Anywhere,
}

impl StoreConfig {
    /// A store of `bytes` that the pages of `range` can be switched to.
    #[must_use]
    pub fn switched(name: &'static str, range: Range<u64>, bytes: u64) -> Self {
        Self { name, bytes, place: StorePlace::Pages(range) }
    }

    /// A store of `bytes` whose place is moved.
    #[must_use]
    pub fn movable(name: &'static str, bytes: u64) -> Self {
        Self { name, bytes, place: StorePlace::Anywhere }
    }
}

/// A store of a [`GuestMemory`]. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    memory: GuestMemory,
    /// Where it lies in the mapping of the guest's memory.
    span: Range<u64>,
    index: usize,
}

impl Store {
    pub(crate) fn new(memory: GuestMemory, index: usize, span: Range<u64>) -> Self {
        Self { memory, span, index }
    }

    /// Its size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.span.end - self.span.start
    }

    /// Reads at `offset`, wherever that is mapped.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of the store.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let start = self.inside(offset, data.len())?;
        self.memory.read_mapping(start, data);
        Ok(())
    }

    /// Writes at `offset`, wherever that is mapped.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of the store.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let start = self.inside(offset, data.len())?;
        self.memory.write_mapping(start, data);
        Ok(())
    }

    /// Switches the pages at the addresses `at` to offset `to` of a switched store, as this kind of memory, or to nothing.
    ///
    /// # Errors
    /// [`Error::Layout`] when a page is outside of the range or of the store, or not a whole one, or the store is movable;
    /// nothing is then changed.
    pub fn switch(&self, at: Range<u64>, to: Option<(u64, Kind)>) -> Result<()> {
        let bad = Error::Layout(Gpa(at.start));
        if self.memory.switch_store(self.index, at, to) { Ok(()) } else { Err(bad) }
    }

    /// Has all of a movable store appear as RAM from `at` on, or nowhere.
    ///
    /// # Errors
    /// [`Error::Layout`] when `at` is not the start of a page, something else is there already, or the store is a switched
    /// one. It is then seen nowhere.
    pub fn place(&self, at: Option<Gpa>) -> Result<()> {
        let bad = Error::Layout(at.unwrap_or_default());
        if self.memory.place_store(self.index, at) { Ok(()) } else { Err(bad) }
    }

    fn inside(&self, offset: u64, len: usize) -> Result<usize> {
        let start = self.span.start.checked_add(offset);
        let fits = start.and_then(|start| start.checked_add(len as u64)).is_some_and(|end| end <= self.span.end);
        start.filter(|_| fits).map(|start| start as usize).ok_or(Error::Hole { at: Gpa(offset), len })
    }
}

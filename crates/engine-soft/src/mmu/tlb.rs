//! The first-level TLB: the tables that each access looks into.
//!
//! There is one direct-mapped table for each way of looking at memory: as user code, as the supervisor, as the
//! supervisor with SMAP lifted, and one that is never filled, for accesses that need a closer look each time. An entry
//! holds a tag for reads, one for writes and the host's address of the page; so the fast path is one subtraction and
//! one comparison, which finds the page and an access that leaves it at once.
//!
//! A write tag is a right to write silently: it is there only when the page's D bit is set, the page holds no decoded
//! code and is not watched (see `memory::PageFlags`).
//!
//! The tables hold translations of the current context and global ones. Lists of what has been filled make flushes
//! cost what was used, not what there is room for.

use std::ptr::NonNull;

use super::PAGE;
use super::pages::{PageSet, PageSize};
use super::walk::Walk;

/// The entries of one table.
pub(crate) const SLOTS: usize = 4096;

/// The tables of the TLB.
pub(crate) mod table {
    pub(crate) const USER: u8 = 0;
    pub(crate) const SUPERVISOR: u8 = 1;
    /// Supervisor with access to user pages: SMAP is off, or AC is set.
    pub(crate) const SUPERVISOR_AC: u8 = 2;
    /// User with alignment checks: never filled.
    pub(crate) const CHECKED: u8 = 3;
    pub(crate) const COUNT: usize = 4;
}

/// One translation.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Entry {
    /// The linear address of the page if it may be read, else one that is never looked up here.
    pub(crate) read: u64,
    /// The same for writes.
    pub(crate) write: u64,
    /// The host address of the page.
    pub(crate) host: u64,
    info: u64,
}

/// The entries of all tables, one table after the other.
pub(crate) type Tables = [Entry; SLOTS * table::COUNT];

// In `Entry::info`.
const GLOBAL: u64 = 1;
/// The slot is in [`Tlb::locals`].
const LISTED_LOCAL: u64 = 2;
/// The slot is in [`Tlb::globals`].
const LISTED_GLOBAL: u64 = 4;
/// The slot is in [`Tlb::written`].
const LISTED_WRITTEN: u64 = 8;
const LISTED: u64 = LISTED_LOCAL | LISTED_GLOBAL | LISTED_WRITTEN;
/// Where the page's size stands.
const SIZE_SHIFT: u32 = 4;

impl Entry {
    fn is_global(&self) -> bool {
        self.info & GLOBAL != 0
    }

    fn size(&self) -> PageSize {
        PageSize::from_bits(self.info >> SIZE_SHIFT)
    }

    /// Empties it in its `slot`; it stays on the lists that it is on.
    fn clear(&mut self, slot: usize) {
        *self = Self { info: self.info & LISTED, ..empty(slot) };
    }
}

/// A tag that no look-up in `slot` can match: its page belongs to the next slot.
const fn nowhere(slot: usize) -> u64 {
    1 << 63 | ((slot as u64 + 1) % SLOTS as u64) << 12
}

const fn empty(slot: usize) -> Entry {
    Entry { read: nowhere(slot % SLOTS), write: nowhere(slot % SLOTS), host: 0, info: 0 }
}

#[inline(always)]
fn slot_of(lin: u64) -> usize {
    (lin >> 12) as usize & (SLOTS - 1)
}

/// The first level.
pub(super) struct Tlb {
    /// In the vCPU's lane, so that translated code finds them at a fixed distance.
    tables: NonNull<Tables>,
    /// Slots that may hold a translation of the current context, a global one, and a write tag: each at most once.
    locals: Vec<u16>,
    globals: Vec<u16>,
    written: Vec<u16>,
    /// The large pages that parts of are in the tables.
    large: Box<PageSet>,
}

impl Tlb {
    /// An empty TLB in `tables`.
    ///
    /// # Safety
    /// `tables` must point to memory for the tables that lives as long as the result and is used by nobody else.
    pub(super) unsafe fn new(tables: NonNull<Tables>) -> Self {
        for index in 0..SLOTS * table::COUNT {
            // SAFETY: within the tables, which are the caller's gift.
            unsafe { tables.cast::<Entry>().add(index).write(empty(index)) };
        }
        Self { tables, locals: Vec::new(), globals: Vec::new(), written: Vec::new(), large: Box::new(PageSet::EMPTY) }
    }

    /// The entry that `lin` has to be in, if it is in `table`.
    #[inline(always)]
    pub(super) fn entry(&self, table: u8, lin: u64) -> &Entry {
        // SAFETY: the promise that `new` was given.
        let tables = unsafe { self.tables.as_ref() };
        &tables[(table as usize & 3) * SLOTS + slot_of(lin)]
    }

    /// Enters the page of `lin`, which is at `host`; with the right to write silently if `write`.
    #[inline]
    pub(super) fn fill(&mut self, table: u8, lin: u64, host: u64, walk: &Walk, write: bool) {
        let page = lin & !(PAGE - 1);
        let slot = slot_of(lin);
        let index = (table as usize & 3) * SLOTS + slot;
        // SAFETY: the promise that `new` was given.
        let entry = unsafe { &mut self.tables.as_mut()[index] };
        // A page that has moved without a flush takes no right to write along.
        let same = entry.read == page && entry.host == host;
        let listed = entry.info & LISTED;
        let (list, bit) =
            if walk.global { (&mut self.globals, LISTED_GLOBAL | GLOBAL) } else { (&mut self.locals, LISTED_LOCAL) };
        if listed & bit == 0 {
            list.push(index as u16);
        }
        entry.info = listed | bit | (walk.size as u64) << SIZE_SHIFT;
        entry.read = page;
        entry.host = host;
        if write {
            entry.write = page;
            entry.info |= LISTED_WRITTEN;
            if listed & LISTED_WRITTEN == 0 {
                self.written.push(index as u16);
            }
        } else if !same {
            entry.write = nowhere(slot);
        }
        if walk.size != PageSize::Kib4 {
            self.large.add(lin, walk.size);
        }
    }

    /// Forgets what is not global.
    pub(super) fn flush_locals(&mut self) {
        // SAFETY: the promise that `new` was given.
        let tables = unsafe { self.tables.as_mut() };
        for index in self.locals.drain(..) {
            let entry = &mut tables[index as usize];
            entry.info &= !LISTED_LOCAL;
            if !entry.is_global() {
                entry.clear(index as usize);
            }
        }
    }

    /// Forgets everything.
    pub(super) fn flush_all(&mut self) {
        self.flush_locals();
        // SAFETY: the promise that `new` was given.
        let tables = unsafe { self.tables.as_mut() };
        for index in self.globals.drain(..) {
            let entry = &mut tables[index as usize];
            entry.info &= !LISTED_GLOBAL;
            entry.clear(index as usize);
        }
        self.large.clear();
    }

    /// Forgets the translations of the page that holds `lin`, also where it is part of a large one; global ones only
    /// with `globals`.
    pub(super) fn flush_page(&mut self, lin: u64, globals: bool) {
        // SAFETY: the promise that `new` was given.
        let tables = unsafe { self.tables.as_mut() };
        let page = lin & !(PAGE - 1);
        for table in 0..table::COUNT {
            let index = table * SLOTS + slot_of(lin);
            let entry = &mut tables[index];
            if entry.read == page && (globals || !entry.is_global()) {
                entry.clear(index);
            }
        }
        if !self.large.may_hold(lin) {
            return;
        }
        let lists = [Some(&self.locals), globals.then_some(&self.globals)];
        for index in lists.into_iter().flatten().flatten() {
            let entry = &mut tables[*index as usize];
            let size = entry.size();
            if size != PageSize::Kib4 && (entry.read ^ lin) >> size.shift() == 0 && (globals || !entry.is_global()) {
                entry.clear(*index as usize);
            }
        }
    }

    /// Gives up all rights to write silently.
    pub(super) fn drop_write_tags(&mut self) {
        // SAFETY: the promise that `new` was given.
        let tables = unsafe { self.tables.as_mut() };
        for index in self.written.drain(..) {
            let entry = &mut tables[index as usize];
            entry.write = nowhere(index as usize % SLOTS);
            entry.info &= !LISTED_WRITTEN;
        }
    }
}

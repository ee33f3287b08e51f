//! The TLB of instruction fetches.

use super::pages::{PageSet, PageSize};
use super::spaces::Spaces;
use super::walk::Walk;
use super::{Access, PAGE, table};
use crate::cpu::{Cpu, Exec};

const SLOTS: usize = 512;

#[derive(Clone, Copy)]
struct Fetched {
    /// The page, and the privilege in bit 0.
    tag: u64,
    phys: u64,
    generation: u32,
    size: PageSize,
    global: bool,
}

const NOTHING: Fetched = Fetched { tag: u64::MAX, phys: 0, generation: 0, size: PageSize::Kib4, global: false };

/// Translations of code, tagged by generation as those of the second level.
pub(super) struct FetchTlb {
    entries: Box<[Fetched; SLOTS]>,
    /// The large pages that parts of are in it.
    large: Box<PageSet>,
}

#[inline(always)]
fn slot_of(lin: u64) -> usize {
    (lin >> 12) as usize & (SLOTS - 1)
}

impl FetchTlb {
    pub(super) fn new() -> Self {
        let entries = vec![NOTHING; SLOTS].into_boxed_slice();
        let Ok(entries) = entries.try_into() else { unreachable!("the length is that of the type") };
        Self { entries, large: Box::new(PageSet::EMPTY) }
    }

    /// The physical address of `lin`, if it is known; also notes the fetch.
    #[inline]
    pub(super) fn look_up(&self, lin: u64, user: bool, spaces: &mut Spaces) -> Option<u64> {
        let entry = &self.entries[slot_of(lin)];
        let current = if entry.global { spaces.global } else { spaces.local };
        if entry.tag != (lin & !(PAGE - 1) | u64::from(user)) || entry.generation != current {
            return None;
        }
        spaces.fetched(lin, user, entry.size, entry.global);
        Some(entry.phys | lin & (PAGE - 1))
    }

    pub(super) fn fill(&mut self, lin: u64, user: bool, walk: &Walk, spaces: &mut Spaces) {
        if walk.size != PageSize::Kib4 {
            self.large.add(lin, walk.size);
        }
        self.entries[slot_of(lin)] = Fetched {
            tag: lin & !(PAGE - 1) | u64::from(user),
            phys: walk.phys & !(PAGE - 1),
            generation: if walk.global { spaces.global } else { spaces.local },
            size: walk.size,
            global: walk.global,
        };
        spaces.fetched(lin, user, walk.size, walk.global);
    }

    /// Forgets the translations of the page that holds `lin` in `generation`, and all global ones with `globals`.
    pub(super) fn flush_page(&mut self, lin: u64, generation: u32, globals: bool) {
        let concerned = |entry: &Fetched| {
            let context = if entry.global { globals } else { entry.generation == generation };
            context && (entry.tag ^ lin) >> entry.size.shift() == 0
        };
        let range = if self.large.may_hold(lin) { 0..SLOTS } else { slot_of(lin)..slot_of(lin) + 1 };
        for entry in self.entries[range].iter_mut().filter(|entry| concerned(entry)) {
            *entry = NOTHING;
        }
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.entries.fill(NOTHING);
        self.large.clear();
    }
}

impl Cpu {
    /// Translates `rip` for the fetch of an instruction; gives the physical address.
    pub(crate) fn translate_fetch(&mut self, lin: u64) -> Exec<u64> {
        let user = self.cpl == 3;
        if let Some(phys) = self.mmu.fetch.look_up(lin, user, &mut self.mmu.spaces) {
            return Ok(phys);
        }
        let walk = self.find(lin, Access::Fetch, if user { table::USER } else { table::SUPERVISOR })?;
        self.mmu.fetch.fill(lin, user, &walk, &mut self.mmu.spaces);
        Ok(walk.phys)
    }
}

//! The software TLB and the page walk.
//!
//! An access that misses the tables of the first level (`tlb`) is looked up in a second one that holds translations of
//! several contexts (`second`, `spaces`), then in the page tables (`walk`). Instruction fetches have a TLB of their own
//! (`fetch`).

mod fetch;
mod pages;
mod second;
mod spaces;
mod tlb;
mod walk;

#[cfg(test)]
mod tests;

use std::ptr::NonNull;

use memory::{Gpa, Kind};
use x86::bits::{cr0, cr4, rflags};

use self::fetch::FetchTlb;
use self::pages::PageSize;
use self::second::Second;
use self::spaces::Spaces;
use self::tlb::Tlb;
pub(crate) use self::tlb::{Entry, SLOTS, Tables, table};
use self::walk::Walk;
use crate::cpu::{Cpu, Exec, leave};

/// The width of a physical address: what CPUID tells, and beyond which page-table bits are reserved.
pub(crate) const PHYS_BITS: u8 = 40;

const PHYS_MASK: u64 = (1 << PHYS_BITS) - 1;
const PAGE: u64 = 4096;

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// Where a linear address leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Memory: the host address of the byte, the index of its page, and whether it is RAM; a write never leads to ROM.
    Ram { host: *mut u8, page: usize, writable: bool },
    /// The bus.
    Bus(u64),
}

/// The memory-management unit.
pub(crate) struct Mmu {
    tlb: Tlb,
    second: Second,
    fetch: FetchTlb,
    pub(crate) spaces: Spaces,
    /// A page of 1 GiB has been seen.
    has_giants: bool,
    /// The page-directory-pointer registers of PAE paging.
    pub(crate) pdptes: [u64; 4],
}

/// Whether `lin` is canonical with 48 bits.
#[inline]
pub(crate) fn is_canonical(lin: u64) -> bool {
    (lin as i64) << 16 >> 16 == lin as i64
}

impl Mmu {
    /// An empty TLB in `tables`.
    ///
    /// # Safety
    /// `tables` must point to memory for the tables that lives as long as the result and is used by nobody else.
    pub(crate) unsafe fn new(tables: NonNull<Tables>) -> Self {
        Self {
            // SAFETY: the caller's promise.
            tlb: unsafe { Tlb::new(tables) },
            second: Second::new(),
            fetch: FetchTlb::new(),
            spaces: Spaces::new(),
            has_giants: false,
            pdptes: [0; 4],
        }
    }

    /// The table that data accesses use.
    pub(crate) fn table_for(cpl: u8, cr0: u64, cr4: u64, flags: u64) -> u8 {
        if cpl == 3 {
            let checked = cr0 & cr0::AM != 0 && flags & rflags::AC != 0;
            return if checked { table::CHECKED } else { table::USER };
        }
        if cr4 & cr4::SMAP == 0 || flags & rflags::AC != 0 { table::SUPERVISOR_AC } else { table::SUPERVISOR }
    }

    /// The entry that `lin` has to be in, if it is in `table`.
    #[inline(always)]
    pub(crate) fn entry(&self, table: u8, lin: u64) -> &Entry {
        self.tlb.entry(table, lin)
    }

    /// The number, from 1 to 1023, of the space that code fetches of user mode or the supervisor use now: it stands for
    /// the translations of all code that has been fetched under it. Never used again for others until
    /// [`Mmu::take_wrapped`] says so.
    #[inline(always)]
    pub(crate) fn space(&self, user: bool) -> u16 {
        self.spaces.now[usize::from(user)]
    }

    /// The same without an end: never used again.
    #[inline(always)]
    pub(crate) fn epoch(&self, user: bool) -> u64 {
        self.spaces.epoch(user)
    }

    /// Whether numbers of spaces have started over since the last call: what is tagged by one is void then.
    pub(crate) fn take_wrapped(&mut self) -> bool {
        self.spaces.take_wrapped()
    }

    /// What the second level knows of `lin`, which is canonical.
    #[inline(always)]
    fn known(&self, lin: u64) -> Option<Walk> {
        self.second.look_up(lin, self.spaces.local, self.spaces.global)
    }

    /// Keeps what a walk has found.
    #[inline(always)]
    fn keep(&mut self, lin: u64, walk: &Walk) {
        self.has_giants |= walk.size == PageSize::Gib1;
        let generation = if walk.global { self.spaces.global } else { self.spaces.local };
        self.second.insert(lin, generation, walk);
    }

    /// Takes up a load of CR3 with `pcid`; unless `keep`, what is cached for it is forgotten, but for global pages.
    pub(crate) fn load_context(&mut self, pcid: u16, keep: bool) {
        if keep && pcid == self.spaces.pcid() {
            return;
        }
        self.tlb.flush_locals();
        self.spaces.enter(pcid, keep);
        self.drop_stale();
    }

    /// Forgets everything; `pcid` is the current context.
    pub(crate) fn flush_all(&mut self, pcid: u16) {
        self.tlb.flush_all();
        self.fetch.clear();
        self.second.void();
        self.spaces.reset(pcid);
        self.drop_stale();
    }

    /// Forgets what is not global.
    pub(crate) fn flush_locals(&mut self) {
        self.tlb.flush_locals();
        self.spaces.forget_locals();
        self.drop_stale();
    }

    /// Forgets what is cached for `pcid` but for global pages.
    pub(crate) fn flush_context(&mut self, pcid: u16) {
        if pcid == self.spaces.pcid() {
            self.load_context(pcid, false);
        } else {
            self.spaces.forget(pcid);
        }
    }

    /// Forgets the translations of the page that holds `lin` in the current context and, with `globals`, its global
    /// ones; also where it is part of a large page.
    pub(crate) fn flush_page(&mut self, lin: u64, pcid: u16, globals: bool) {
        if pcid == self.spaces.pcid() {
            self.tlb.flush_page(lin, globals);
        }
        if let Some(generation) = self.spaces.generation(pcid) {
            self.second.remove(lin, generation, false);
            self.fetch.flush_page(lin, generation, globals);
        }
        if globals {
            self.second.remove(lin, self.spaces.global, true);
        }
        self.spaces.forget_page(lin, pcid, globals);
    }

    /// Generations that start over must not find what their forerunners have left.
    fn drop_stale(&mut self) {
        if self.spaces.take_stale() {
            self.second.clear();
            self.fetch.clear();
        }
    }

    /// Gives up all rights to write silently.
    pub(crate) fn drop_write_tags(&mut self) {
        self.tlb.drop_write_tags();
    }
}

impl Cpu {
    /// The current process-context identifier: zero where there are none.
    pub(crate) fn pcid(&self) -> u16 {
        let on = self.cr4 & cr4::PCIDE != 0 && self.long_mode();
        if on { (self.cr3 & 0xfff) as u16 } else { 0 }
    }

    /// Flushes all translations, global ones too.
    pub(crate) fn mmu_flush_all(&mut self) {
        self.stats.tlb_flushes += 1;
        self.mmu.flush_all(self.pcid());
        self.forget_shortcuts();
        self.leave |= leave::BLOCK;
    }

    /// After a load of CR3: flushes the translations of its context but those of global pages, or, with `keep`, only
    /// switches to it.
    pub(crate) fn mmu_load_context(&mut self, keep: bool) {
        self.stats.tlb_flushes += u64::from(!keep);
        self.mmu.load_context(self.pcid(), keep);
        self.forget_shortcuts();
        self.leave |= leave::BLOCK;
    }

    /// Flushes the translations of one page in the current context, and global ones of it.
    pub(crate) fn mmu_flush_page(&mut self, lin: u64) {
        self.mmu.flush_page(lin, self.pcid(), true);
        self.forget_shortcuts_near(lin, if self.mmu.has_giants { 30 } else { 21 });
        self.leave |= leave::BLOCK;
    }

    /// Translates `lin` for an access through `table`, filling the TLB where that is allowed.
    #[inline(never)]
    pub(crate) fn translate(&mut self, lin: u64, access: Access, table: u8) -> Exec<Target> {
        self.stats.tlb_misses += 1;
        let walk = self.find(lin, access, table)?;
        let Some(page) = self.shared.memory.host_page(Gpa(walk.phys)) else { return self.on_the_bus(walk.phys) };
        if self.is_lapic_page(walk.phys) {
            return self.on_the_bus(walk.phys);
        }
        let ram = page.kind == Kind::Ram;
        if access == Access::Write && !ram {
            return self.on_the_bus(walk.phys);
        }
        if let Some(journal) = &mut self.journal
            && access == Access::Write
            && ram
        {
            // SAFETY: a page of guest RAM, which lives as long as the partition.
            unsafe { journal.save(page.index, page.ptr) };
        }
        if table != table::CHECKED && !self.watch.covers(lin & !(PAGE - 1)) {
            let flags = self.shared.memory.flags();
            let may_write = ram && walk.dirty && (walk.writable || self.ignores_rw(table));
            // A reader gets the right to write where that marks nothing that is not marked already.
            let silent = may_write
                && match access {
                    Access::Write => flags.cache_write(page.index),
                    _ => self.journal.is_none() && flags.is_write_cached(page.index),
                };
            self.mmu.tlb.fill(table, lin, page.ptr as u64, &walk, silent);
            // If another vCPU has just made it an ordinary page, the code that is running may have been in it.
            if silent && self.code_mail_waits() {
                self.leave |= leave::BLOCK;
            }
        }
        // SAFETY: the offset is within the page.
        let host = unsafe { page.ptr.add((walk.phys & (PAGE - 1)) as usize) };
        Ok(Target::Ram { host, page: page.index, writable: ram })
    }

    /// An access that reaches the bus, unless a journal is open: what a device does cannot be taken back.
    fn on_the_bus(&mut self, at: u64) -> Exec<Target> {
        match &mut self.journal {
            None => Ok(Target::Bus(at)),
            Some(journal) => {
                journal.refused = true;
                Err(self.gp(0))
            }
        }
    }
}

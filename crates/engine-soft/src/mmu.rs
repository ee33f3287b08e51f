//! The software TLB and the page walk.
//!
//! The TLB has one direct-mapped table for each way of looking at memory: as user code, as the supervisor, as the
//! supervisor with SMAP lifted, and one that is never filled, for accesses that need a closer look each time. An entry
//! holds a tag for reads, one for writes and what to add to a linear address to get the host's; so the fast path is
//! one subtraction and one comparison, which finds the page and an access that leaves it at once.
//!
//! A write tag is a right to write silently: it is there only when the page's D bit is set, the page holds no decoded
//! code and is not watched (see `memory::PageFlags`).

use memory::{Gpa, Kind};
use x86::Feature;
use x86::bits::{cr0, cr4, efer, pfec, pte, rflags, vector};

use crate::cpu::{Cpu, Exec, Raised, leave};

/// The width of a physical address: what CPUID tells, and beyond which page-table bits are reserved.
pub(crate) const PHYS_BITS: u8 = 46;

const SLOTS: usize = 1024;
const FETCH_SLOTS: usize = 512;
const PAGE: u64 = 4096;

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

/// What an access does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    Fetch,
}

/// One translation.
#[derive(Clone, Copy)]
#[repr(C, align(32))]
pub(crate) struct Entry {
    /// The linear address of the page if it may be read, else one that is never looked up here.
    pub(crate) read: u64,
    /// The same for writes.
    pub(crate) write: u64,
    /// Host address minus linear address.
    pub(crate) to_host: u64,
    info: u64,
}

/// In [`Mmu::global_epoch`]: makes it different from any epoch.
const GLOBAL_EPOCH: u64 = 1 << 40;

/// Whether `lin` is in the upper half, where kernels of 64 bits live.
fn is_upper(lin: u64) -> bool {
    lin >> 63 != 0
}

const GLOBAL: u64 = 1;
const LARGE: u64 = 2;
/// The slot is in [`Mmu::filled`].
const LISTED: u64 = 4;
/// The slot is in [`Mmu::written`].
const WRITE_LISTED: u64 = 8;

#[derive(Clone, Copy)]
struct FetchEntry {
    tag: u64,
    phys: u64,
    global: bool,
}

/// Where a linear address leads.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    /// Memory: the host address of the byte, the index of its page, and whether writes go to memory.
    Ram { host: *mut u8, page: usize, writable: bool },
    /// The bus.
    Bus(u64),
}

/// A translation found by a walk.
#[derive(Debug, Clone, Copy)]
struct Walk {
    phys: u64,
    writable: bool,
    dirty: bool,
    global: bool,
    large: bool,
}

/// The memory-management unit.
pub(crate) struct Mmu {
    tables: Box<[Entry; SLOTS * table::COUNT]>,
    fetch: Box<[FetchEntry; FETCH_SLOTS]>,
    /// Slots that have been filled since the last flush, and those with a write tag.
    filled: Vec<u16>,
    written: Vec<u16>,
    /// The range of linear addresses with translations from large pages.
    large: (u64, u64),
    /// Counts flushes; what depends on translations of code is valid for one epoch only.
    pub(crate) epoch: u64,
    /// The same for global pages of the upper half of the address space, which most flushes leave alone. Told from
    /// `epoch` by [`GLOBAL_EPOCH`].
    pub(crate) global_epoch: u64,
    /// The page-directory-pointer registers of PAE paging.
    pub(crate) pdptes: [u64; 4],
}

/// A tag that no look-up in `slot` can match: its page belongs to the next slot.
const fn nowhere(slot: usize) -> u64 {
    1 << 63 | ((slot as u64 + 1) % SLOTS as u64) << 12
}

const fn empty(slot: usize) -> Entry {
    Entry { read: nowhere(slot % SLOTS), write: nowhere(slot % SLOTS), to_host: 0, info: 0 }
}

/// Whether `lin` is canonical with 48 bits.
#[inline]
pub(crate) fn is_canonical(lin: u64) -> bool {
    (lin as i64) << 16 >> 16 == lin as i64
}

impl Mmu {
    pub(crate) fn new() -> Self {
        let tables: Vec<Entry> = (0..SLOTS * table::COUNT).map(empty).collect();
        let fetch = vec![FetchEntry { tag: u64::MAX, phys: 0, global: false }; FETCH_SLOTS];
        let (Ok(tables), Ok(fetch)) = (tables.into_boxed_slice().try_into(), fetch.into_boxed_slice().try_into())
        else {
            unreachable!("the lengths are those of the types")
        };
        Self {
            tables,
            fetch,
            filled: Vec::new(),
            written: Vec::new(),
            large: (u64::MAX, 0),
            epoch: 1,
            global_epoch: GLOBAL_EPOCH,
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
        &self.tables[(table as usize & 3) * SLOTS + ((lin >> 12) as usize & (SLOTS - 1))]
    }

    fn fill(&mut self, table: u8, lin: u64, host: u64, walk: &Walk, write: bool) {
        let page = lin & !(PAGE - 1);
        let slot = (lin >> 12) as usize & (SLOTS - 1);
        let index = table as usize * SLOTS + slot;
        let entry = &mut self.tables[index];
        if entry.info & LISTED == 0 {
            self.filled.push(index as u16);
        }
        // A page that has moved without a flush takes no right to write along.
        let same = entry.read == page && entry.to_host == host.wrapping_sub(page);
        let kind = if walk.global { GLOBAL } else { 0 } | if walk.large { LARGE } else { 0 };
        let write_listed = entry.info & WRITE_LISTED;
        entry.info = LISTED | write_listed | kind;
        entry.read = page;
        entry.to_host = host.wrapping_sub(page);
        if write {
            entry.write = page;
            entry.info |= WRITE_LISTED;
            if write_listed == 0 {
                self.written.push(index as u16);
            }
        } else if !same {
            entry.write = nowhere(slot);
        }
        if walk.large {
            self.large = (self.large.0.min(page), self.large.1.max(page));
        }
    }

    /// Forgets all translations but, unless `globals`, those of global pages.
    fn flush(&mut self, globals: bool) {
        self.epoch += 1;
        self.global_epoch += u64::from(globals);
        let mut kept = Vec::new();
        for index in std::mem::take(&mut self.filled) {
            let entry = &mut self.tables[index as usize];
            if !globals && entry.info & GLOBAL != 0 {
                kept.push(index);
            } else {
                *entry = Entry { info: entry.info & WRITE_LISTED, ..empty(index as usize) };
            }
        }
        self.filled = kept;
        if globals {
            self.large = (u64::MAX, 0);
        }
        for entry in self.fetch.iter_mut().filter(|e| globals || !e.global) {
            entry.tag = u64::MAX;
        }
    }

    /// Forgets the translations of the page that holds `lin`, also where it is part of a large one.
    fn flush_page(&mut self, lin: u64) {
        self.epoch += 1;
        self.global_epoch += u64::from(is_upper(lin));
        for table in 0..table::COUNT {
            let slot = (lin >> 12) as usize & (SLOTS - 1);
            let index = table * SLOTS + slot;
            // The slot stays on the list of filled ones.
            self.tables[index] = Entry { info: self.tables[index].info & (LISTED | WRITE_LISTED), ..empty(index) };
        }
        let page = lin & !(PAGE - 1);
        // A large page is up to 1 GiB.
        let near = |tag: u64| (tag ^ page) >> 30 == 0;
        if self.large.0 >> 30 <= page >> 30 && page >> 30 <= self.large.1 >> 30 {
            for index in &self.filled {
                let entry = &mut self.tables[*index as usize];
                if entry.info & LARGE != 0 && near(entry.read) {
                    *entry = Entry { info: entry.info & (LISTED | WRITE_LISTED), ..empty(*index as usize) };
                }
            }
        }
        for entry in self.fetch.iter_mut().filter(|e| near(e.tag)) {
            entry.tag = u64::MAX;
        }
    }

    /// The epoch for which the translation of `lin` that was just fetched is good.
    pub(crate) fn epoch_of(&self, lin: u64) -> u64 {
        let entry = &self.fetch[(lin >> 12) as usize & (FETCH_SLOTS - 1)];
        let global = is_upper(lin) && entry.global && (entry.tag ^ lin) >> 12 == 0;
        if global { self.global_epoch } else { self.epoch }
    }

    /// Gives up all rights to write silently.
    pub(crate) fn drop_write_tags(&mut self) {
        for index in self.written.drain(..) {
            let entry = &mut self.tables[index as usize];
            entry.write = nowhere(index as usize % SLOTS);
            entry.info &= !WRITE_LISTED;
        }
    }
}

impl Cpu {
    /// Flushes all translations, global ones too.
    pub(crate) fn mmu_flush_all(&mut self) {
        self.stats.tlb_flushes += 1;
        self.mmu.flush(true);
        self.leave |= leave::BLOCK;
    }

    /// Flushes all translations but those of global pages.
    pub(crate) fn mmu_flush(&mut self) {
        self.stats.tlb_flushes += 1;
        self.mmu.flush(self.cr4 & cr4::PGE == 0);
        self.leave |= leave::BLOCK;
    }

    /// Flushes the translations of one page.
    pub(crate) fn mmu_flush_page(&mut self, lin: u64) {
        self.mmu.flush_page(lin);
        self.leave |= leave::BLOCK;
    }

    /// Translates `lin` for an access through `table`, filling the TLB where that is allowed.
    #[cold]
    #[inline(never)]
    pub(crate) fn translate(&mut self, lin: u64, access: Access, table: u8) -> Exec<Target> {
        self.stats.tlb_misses += 1;
        let walk = self.walk(lin, access, table)?;
        let write = access == Access::Write;
        let Some(page) = self.shared.memory.host_page(Gpa(walk.phys)) else { return Ok(Target::Bus(walk.phys)) };
        if self.is_lapic_page(walk.phys) {
            return Ok(Target::Bus(walk.phys));
        }
        let ram = page.kind == Kind::Ram;
        if !self.watch.covers(lin & !(PAGE - 1)) && table != table::CHECKED {
            let silent =
                write && ram && walk.writable && walk.dirty && self.shared.memory.flags().cache_write(page.index);
            self.mmu.fill(table, lin, page.ptr as u64, &walk, silent);
        }
        // SAFETY: the offset is within the page.
        let host = unsafe { page.ptr.add((walk.phys & (PAGE - 1)) as usize) };
        Ok(Target::Ram { host, page: page.index, writable: ram })
    }

    /// Translates `rip` for the fetch of an instruction; gives the physical address.
    pub(crate) fn translate_fetch(&mut self, lin: u64) -> Exec<u64> {
        let user = self.cpl == 3;
        // The page number leaves room for the privilege in the tag.
        let tag = lin & !(PAGE - 1) | u64::from(user);
        let slot = (lin >> 12) as usize & (FETCH_SLOTS - 1);
        let entry = self.mmu.fetch[slot];
        if entry.tag == tag {
            return Ok(entry.phys | lin & (PAGE - 1));
        }
        let table = if user { table::USER } else { table::SUPERVISOR };
        let walk = self.walk(lin, Access::Fetch, table)?;
        self.mmu.fetch[slot] = FetchEntry { tag, phys: walk.phys & !(PAGE - 1), global: walk.global };
        Ok(walk.phys)
    }

    fn walk(&mut self, lin: u64, access: Access, table: u8) -> Exec<Walk> {
        if self.cr0 & cr0::PG == 0 {
            let phys = lin & 0xffff_ffff;
            return Ok(Walk { phys, writable: true, dirty: true, global: false, large: false });
        }
        if self.long_mode() {
            if !is_canonical(lin) {
                return Err(self.gp(0));
            }
            return self.walk_levels(
                lin,
                self.cr3 & phys_mask() & !(PAGE - 1),
                4,
                access,
                table,
                pte::P | pte::RW | pte::US,
            );
        }
        if self.cr4 & cr4::PAE != 0 {
            let pdpte = self.mmu.pdptes[(lin >> 30) as usize & 3];
            if pdpte & pte::P == 0 {
                return Err(self.page_fault(lin, access, table, 0));
            }
            return self.walk_levels(
                lin,
                pdpte & phys_mask() & !(PAGE - 1),
                2,
                access,
                table,
                pte::P | pte::RW | pte::US,
            );
        }
        self.walk_32(lin, access, table)
    }

    /// PAE and 4-level paging (SDM vol. 3A, 4.4 and 4.5): entries of 8 bytes, 9 bits a level.
    fn walk_levels(&mut self, lin: u64, root: u64, levels: u32, access: Access, table: u8, start: u64) -> Exec<Walk> {
        let nx = self.msrs.efer & efer::NXE != 0;
        'again: loop {
            let (mut base, mut rights, mut xd) = (root, start, false);
            let mut level = levels;
            loop {
                let at = base + (lin >> (12 + 9 * (level - 1)) & 511) * 8;
                let entry = self.read_table::<8>(at);
                if entry & pte::P == 0 {
                    return Err(self.page_fault(lin, access, table, 0));
                }
                let large = level > 1 && entry & pte::PS != 0;
                let mut reserved = !phys_mask() & 0x000f_ffff_ffff_f000;
                if levels == 2 {
                    // PAE: bits 62:52 are reserved too.
                    reserved |= 0x7ff0_0000_0000_0000;
                }
                if !nx {
                    reserved |= pte::XD;
                }
                if large {
                    // The bits between PAT (12) and the page's size.
                    reserved |= ((1 << (12 + 9 * (level - 1))) - 1) & !0x1fff;
                }
                let too_large = level == 4 || level == 3 && !self.model.has(Feature::Pdpe1gb);
                if too_large && entry & pte::PS != 0 {
                    reserved |= pte::PS;
                }
                if entry & reserved != 0 {
                    return Err(self.page_fault(lin, access, table, pfec::P | pfec::RSVD));
                }
                rights &= entry;
                xd |= entry & pte::XD != 0;
                if level > 1 && !large {
                    if !self.set_table_bits::<8>(at, entry, pte::A) {
                        continue 'again;
                    }
                    base = entry & phys_mask() & !(PAGE - 1);
                    level -= 1;
                    continue;
                }
                self.check_rights(lin, access, table, rights, xd)?;
                let bits = if access == Access::Write { pte::A | pte::D } else { pte::A };
                if !self.set_table_bits::<8>(at, entry, bits) {
                    continue 'again;
                }
                let size = 1u64 << (12 + 9 * (level - 1));
                return Ok(Walk {
                    phys: entry & phys_mask() & !(size - 1) & !(PAGE - 1) | lin & (size - 1),
                    writable: rights & pte::RW != 0 || self.ignores_rw(table),
                    dirty: (entry | bits) & pte::D != 0,
                    global: entry & pte::G != 0 && self.cr4 & cr4::PGE != 0,
                    large,
                });
            }
        }
    }

    /// 32-bit paging (SDM vol. 3A, 4.3): entries of 4 bytes, 10 bits a level, large pages of 4 MiB with PSE-36.
    fn walk_32(&mut self, lin: u64, access: Access, table: u8) -> Exec<Walk> {
        loop {
            let at = (self.cr3 & 0xffff_f000) + (lin >> 22 & 1023) * 4;
            let pde = self.read_table::<4>(at);
            if pde & pte::P == 0 {
                return Err(self.page_fault(lin, access, table, 0));
            }
            let large = pde & pte::PS != 0 && self.cr4 & cr4::PSE != 0;
            let (at, entry, rights) = if large {
                if pde & 1 << 21 != 0 {
                    return Err(self.page_fault(lin, access, table, pfec::P | pfec::RSVD));
                }
                (at, pde, pde)
            } else {
                if !self.set_table_bits::<4>(at, pde, pte::A) {
                    continue;
                }
                let at = (pde & 0xffff_f000) + (lin >> 12 & 1023) * 4;
                let entry = self.read_table::<4>(at);
                if entry & pte::P == 0 {
                    return Err(self.page_fault(lin, access, table, 0));
                }
                (at, entry, pde & entry)
            };
            self.check_rights(lin, access, table, rights, false)?;
            let bits = if access == Access::Write { pte::A | pte::D } else { pte::A };
            if !self.set_table_bits::<4>(at, entry, bits) {
                continue;
            }
            let phys = if large {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32 | lin & 0x3f_ffff
            } else {
                entry & 0xffff_f000 | lin & 0xfff
            };
            return Ok(Walk {
                phys,
                writable: rights & pte::RW != 0 || self.ignores_rw(table),
                dirty: (entry | bits) & pte::D != 0,
                global: entry & pte::G != 0 && self.cr4 & cr4::PGE != 0,
                large,
            });
        }
    }

    fn ignores_rw(&self, table: u8) -> bool {
        !is_user(table) && self.cr0 & cr0::WP == 0
    }

    /// SDM vol. 3A, 4.6.1.
    fn check_rights(&mut self, lin: u64, access: Access, table: u8, rights: u64, xd: bool) -> Exec {
        let user_page = rights & pte::US != 0;
        let writable = rights & pte::RW != 0 || self.ignores_rw(table);
        let allowed = if is_user(table) {
            user_page
        } else if access == Access::Fetch {
            !(user_page && self.cr4 & cr4::SMEP != 0)
        } else {
            !user_page || table == table::SUPERVISOR_AC
        };
        let ok = match access {
            Access::Read => allowed,
            Access::Write => allowed && writable,
            Access::Fetch => allowed && !xd,
        };
        if ok { Ok(()) } else { Err(self.page_fault(lin, access, table, pfec::P)) }
    }

    #[cold]
    fn page_fault(&mut self, lin: u64, access: Access, table: u8, mut code: u32) -> Raised {
        if access == Access::Write {
            code |= pfec::W;
        }
        if is_user(table) {
            code |= pfec::U;
        }
        let nx = self.msrs.efer & efer::NXE != 0 && self.cr4 & cr4::PAE != 0;
        if access == Access::Fetch && (nx || self.cr4 & cr4::SMEP != 0) {
            code |= pfec::I;
        }
        self.cr2 = lin;
        self.raise_code(vector::PF, code)
    }

    /// Reads a page-table entry of `N` bytes; ones where there is no memory.
    fn read_table<const N: usize>(&self, at: u64) -> u64 {
        let Some(host) = self.table_entry(at) else { return u64::MAX >> (64 - 8 * N) };
        // SAFETY: a page-table entry is aligned, so it lies in one page of guest memory.
        unsafe {
            if N == 8 {
                (*host.cast::<std::sync::atomic::AtomicU64>()).load(std::sync::atomic::Ordering::Relaxed)
            } else {
                (*host.cast::<std::sync::atomic::AtomicU32>()).load(std::sync::atomic::Ordering::Relaxed).into()
            }
        }
    }

    /// Sets `bits` in a page-table entry unless it has changed since it was read as `seen`.
    fn set_table_bits<const N: usize>(&self, at: u64, seen: u64, bits: u64) -> bool {
        use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
        if seen & bits == bits {
            return true;
        }
        let Some(page) = self.shared.memory.host_page(Gpa(at)) else { return true };
        let Some(host) = self.table_entry(at) else { return true };
        if page.kind != Kind::Ram {
            return true;
        }
        // SAFETY: as in `read_table`.
        let done = unsafe {
            if N == 8 {
                (*host.cast::<AtomicU64>()).compare_exchange(seen, seen | bits, SeqCst, SeqCst).is_ok()
            } else {
                (*host.cast::<AtomicU32>()).compare_exchange(seen as u32, (seen | bits) as u32, SeqCst, SeqCst).is_ok()
            }
        };
        self.shared.memory.flags().written(page.index);
        done
    }

    fn table_entry(&self, at: u64) -> Option<*mut u8> {
        let page = self.shared.memory.host_page(Gpa(at))?;
        // SAFETY: the offset is within the page.
        Some(unsafe { page.ptr.add((at & (PAGE - 1)) as usize) })
    }
}

fn is_user(table: u8) -> bool {
    matches!(table, table::USER | table::CHECKED)
}

const fn phys_mask() -> u64 {
    (1 << PHYS_BITS) - 1
}

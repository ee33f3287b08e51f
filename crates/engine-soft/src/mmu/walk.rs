//! The page walk (SDM vol. 3A, chapter 4).

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memory::{Gpa, HostPage, Kind};
use x86::Feature;
use x86::bits::{cr0, cr4, efer, pfec, pte, vector};

use super::pages::PageSize;
use super::{Access, PAGE, PHYS_MASK, is_canonical, table};
use crate::cpu::{Cpu, Exec, Raised};

/// A translation: where it leads, and what the page tables allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Walk {
    pub(super) phys: u64,
    /// R/W in all entries on the way.
    pub(super) writable: bool,
    /// U/S in all entries on the way.
    pub(super) user: bool,
    /// XD in one of them.
    pub(super) xd: bool,
    pub(super) dirty: bool,
    pub(super) global: bool,
    pub(super) size: PageSize,
}

/// A place in a page table.
#[derive(Clone, Copy)]
struct Place {
    page: HostPage,
    offset: usize,
}

impl Place {
    fn host(self) -> *mut u8 {
        // SAFETY: the offset is within the page.
        unsafe { self.page.ptr.add(self.offset) }
    }
}

impl Cpu {
    /// The translation of `lin` for an access through `table`, from the second-level TLB or the page tables.
    #[inline]
    pub(super) fn find(&mut self, lin: u64, access: Access, table: u8) -> Exec<Walk> {
        if self.cr0 & cr0::PG == 0 {
            let phys = lin & 0xffff_ffff;
            let (writable, user, xd, dirty, global, size) = (true, true, false, true, false, PageSize::Kib4);
            return Ok(Walk { phys, writable, user, xd, dirty, global, size });
        }
        if self.long_mode() && !is_canonical(lin) {
            return Err(self.gp(0));
        }
        if let Some(walk) = self.mmu.known(lin)
            && self.allows(&walk, access, table)
            && (walk.dirty || access != Access::Write)
        {
            return Ok(walk);
        }
        let walk = self.walk(lin, access, table)?;
        self.mmu.keep(lin, &walk);
        Ok(walk)
    }

    #[inline(never)]
    fn walk(&mut self, lin: u64, access: Access, table: u8) -> Exec<Walk> {
        self.stats.tlb_walks += 1;
        if self.long_mode() {
            return self.walk_levels::<4>(lin, self.cr3, access, table);
        }
        if self.cr4 & cr4::PAE != 0 {
            let pdpte = self.mmu.pdptes[(lin >> 30) as usize & 3];
            if pdpte & pte::P == 0 {
                return Err(self.page_fault(lin, access, table, 0));
            }
            return self.walk_levels::<2>(lin, pdpte, access, table);
        }
        self.walk_32(lin, access, table)
    }

    /// PAE and 4-level paging (SDM vol. 3A, 4.4 and 4.5): entries of 8 bytes, 9 bits a level.
    fn walk_levels<const LEVELS: u32>(&mut self, lin: u64, root: u64, access: Access, table: u8) -> Exec<Walk> {
        let mut always = !PHYS_MASK & 0x000f_ffff_ffff_f000;
        if LEVELS == 2 {
            // PAE: bits 62:52 are reserved too.
            always |= 0x7ff0_0000_0000_0000;
        }
        if self.msrs.efer & efer::NXE == 0 {
            always |= pte::XD;
        }
        'again: loop {
            let (mut base, mut rights, mut xd) = (root & PHYS_MASK & !(PAGE - 1), pte::RW | pte::US, 0);
            let mut level = LEVELS;
            loop {
                let at = base + (lin >> (12 + 9 * (level - 1)) & 511) * 8;
                let (entry, place) = self.read_table::<8>(at);
                if entry & pte::P == 0 {
                    return Err(self.page_fault(lin, access, table, 0));
                }
                let mut reserved = always;
                let large = level > 1 && entry & pte::PS != 0;
                if large {
                    // The bits between PAT (12) and the page's size.
                    reserved |= ((1 << (12 + 9 * (level - 1))) - 1) & !0x1fff;
                    if level == 4 || level == 3 && !self.model.has(Feature::Pdpe1gb) {
                        reserved |= pte::PS;
                    }
                }
                if entry & reserved != 0 {
                    return Err(self.page_fault(lin, access, table, pfec::P | pfec::RSVD));
                }
                rights &= entry;
                xd |= entry & pte::XD;
                if level > 1 && !large {
                    if !self.set_table_bits::<8>(place, entry, pte::A) {
                        continue 'again;
                    }
                    base = entry & PHYS_MASK & !(PAGE - 1);
                    level -= 1;
                    continue;
                }
                let size = match level {
                    1 => PageSize::Kib4,
                    2 => PageSize::Mib2,
                    _ => PageSize::Gib1,
                };
                let offset = (1u64 << size.shift()) - 1;
                let phys = entry & PHYS_MASK & !offset | lin & offset;
                let Some(walk) =
                    self.finish::<8>(lin, access, table, Leaf { place, entry, rights, xd: xd != 0, phys, size })?
                else {
                    continue 'again;
                };
                return Ok(walk);
            }
        }
    }

    /// 32-bit paging (SDM vol. 3A, 4.3): entries of 4 bytes, 10 bits a level, large pages of 4 MiB with PSE-36.
    fn walk_32(&mut self, lin: u64, access: Access, table: u8) -> Exec<Walk> {
        loop {
            let at = (self.cr3 & 0xffff_f000) + (lin >> 22 & 1023) * 4;
            let (pde, place) = self.read_table::<4>(at);
            if pde & pte::P == 0 {
                return Err(self.page_fault(lin, access, table, 0));
            }
            let leaf = if pde & pte::PS != 0 && self.cr4 & cr4::PSE != 0 {
                if pde & 1 << 21 != 0 {
                    return Err(self.page_fault(lin, access, table, pfec::P | pfec::RSVD));
                }
                let phys = pde & 0xffc0_0000 | (pde >> 13 & 0xff) << 32 | lin & 0x3f_ffff;
                Leaf { place, entry: pde, rights: pde, xd: false, phys, size: PageSize::Mib4 }
            } else {
                if !self.set_table_bits::<4>(place, pde, pte::A) {
                    continue;
                }
                let at = (pde & 0xffff_f000) + (lin >> 12 & 1023) * 4;
                let (entry, place) = self.read_table::<4>(at);
                if entry & pte::P == 0 {
                    return Err(self.page_fault(lin, access, table, 0));
                }
                let phys = entry & 0xffff_f000 | lin & 0xfff;
                Leaf { place, entry, rights: pde & entry, xd: false, phys, size: PageSize::Kib4 }
            };
            if let Some(walk) = self.finish::<4>(lin, access, table, leaf)? {
                return Ok(walk);
            }
        }
    }

    /// Checks the rights and sets A and D; `None` when the entry has changed meanwhile.
    #[inline(always)]
    fn finish<const N: usize>(&mut self, lin: u64, access: Access, table: u8, leaf: Leaf) -> Exec<Option<Walk>> {
        let mut walk = Walk {
            phys: leaf.phys,
            writable: leaf.rights & pte::RW != 0,
            user: leaf.rights & pte::US != 0,
            xd: leaf.xd,
            dirty: leaf.entry & pte::D != 0,
            global: leaf.entry & pte::G != 0 && self.cr4 & cr4::PGE != 0,
            size: leaf.size,
        };
        if !self.allows(&walk, access, table) {
            return Err(self.page_fault(lin, access, table, pfec::P));
        }
        let bits = if access == Access::Write { pte::A | pte::D } else { pte::A };
        walk.dirty |= access == Access::Write;
        Ok(self.set_table_bits::<N>(leaf.place, leaf.entry, bits).then_some(walk))
    }

    /// Whether writes through `table` ignore R/W.
    #[inline(always)]
    pub(super) fn ignores_rw(&self, table: u8) -> bool {
        !is_user(table) && self.cr0 & cr0::WP == 0
    }

    /// SDM vol. 3A, 4.6.1.
    #[inline(always)]
    fn allows(&self, walk: &Walk, access: Access, table: u8) -> bool {
        let reach = if is_user(table) {
            walk.user
        } else if access == Access::Fetch {
            !(walk.user && self.cr4 & cr4::SMEP != 0)
        } else {
            !walk.user || table == table::SUPERVISOR_AC
        };
        reach
            && match access {
                Access::Read => true,
                Access::Write => walk.writable || self.ignores_rw(table),
                Access::Fetch => !walk.xd,
            }
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
    #[inline(always)]
    fn read_table<const N: usize>(&self, at: u64) -> (u64, Option<Place>) {
        let Some(page) = self.shared.memory.host_page(Gpa(at)) else { return (u64::MAX >> (64 - 8 * N), None) };
        let place = Place { page, offset: (at & (PAGE - 1)) as usize };
        // SAFETY: a page-table entry is aligned, so it lies in one page of guest memory.
        let entry = unsafe {
            if N == 8 {
                (*place.host().cast::<AtomicU64>()).load(Ordering::Relaxed)
            } else {
                (*place.host().cast::<AtomicU32>()).load(Ordering::Relaxed).into()
            }
        };
        (entry, Some(place))
    }

    /// Sets `bits` in a page-table entry unless it has changed since it was read as `seen`.
    #[inline(always)]
    fn set_table_bits<const N: usize>(&self, place: Option<Place>, seen: u64, bits: u64) -> bool {
        seen & bits == bits || place.is_none_or(|place| self.mark_entry::<N>(place, seen, bits))
    }

    #[cold]
    fn mark_entry<const N: usize>(&self, place: Place, seen: u64, bits: u64) -> bool {
        if place.page.kind != Kind::Ram {
            return true;
        }
        let (new, order) = (seen | bits, Ordering::SeqCst);
        // SAFETY: as in `read_table`.
        let done = unsafe {
            if N == 8 {
                (*place.host().cast::<AtomicU64>()).compare_exchange(seen, new, order, order).is_ok()
            } else {
                (*place.host().cast::<AtomicU32>()).compare_exchange(seen as u32, new as u32, order, order).is_ok()
            }
        };
        self.shared.memory.flags().written(place.page.index, place.offset, N);
        done
    }
}

/// The entry that maps the page.
struct Leaf {
    place: Option<Place>,
    entry: u64,
    /// R/W and U/S of all entries on the way.
    rights: u64,
    xd: bool,
    phys: u64,
    size: PageSize,
}

#[inline(always)]
fn is_user(table: u8) -> bool {
    matches!(table, table::USER | table::CHECKED)
}

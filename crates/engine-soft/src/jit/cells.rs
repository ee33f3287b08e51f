//! Cells: what an access of user code remembers of the page that it has last been to.
//!
//! A look into the TLB waits for the address before it can fetch the entry. Most accesses stay in one page for long, so
//! each has a cell of its own at a fixed place, which is fetched while the address is still being worked out. A miss
//! fills the cell from the TLB; one that misses all the time goes back to the TLB for good.

use super::asm::{Asm, Label, cc, r};
use super::emit::SCRATCH;
use super::layout as l;
use super::stubs::{self, Stubs};
use crate::cpu::Cpu;
use crate::mmu::{SLOTS, table};
use crate::stats::ticks;

/// The number of cells.
pub(crate) const CELLS: usize = 32768;
/// The sizes of accesses: 1 to 32 bytes.
pub(super) const SIZES: usize = 6;
/// No page: a tag that no canonical address matches, with a host's address that is none either. If the guest uses that
/// page nevertheless, the host raises #GP, and the interpreter does it for the guest. Odd, which no page is.
const EMPTY: u64 = super::context::NO_WINDOW | 1;
/// After so many misses it is looked at how fast they came.
const MISSES: u32 = 64;
/// Misses that follow each other faster than this, in ticks, are too many.
const TOO_FAST: u64 = 600;

/// The page of one access.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Cell {
    /// The linear address of the page.
    tag: u64,
    /// The host's address of it.
    host: u64,
    /// How many misses are left until they are looked at.
    left: u32,
    /// When that was last done, in ticks: the lower half.
    since: u32,
    _unused: u64,
}

/// The place of an access's tag.
pub(super) fn place(cell: u32) -> i32 {
    l::CELLS + cell as i32 * size_of::<Cell>() as i32
}

/// The index of `size` in [`Stubs::fill`], if accesses of that size have cells.
pub(super) fn size_index(size: usize) -> Option<usize> {
    (size.is_power_of_two() && size <= 1 << (SIZES - 1)).then(|| size.trailing_zeros() as usize)
}

/// Writes the stubs that fill cells from the TLB.
pub(super) fn write_stubs(asm: &mut Asm, stubs: &mut Stubs, demote: u64, called: Label) {
    let (read_tag, write_tag, page) = l::tlb(table::USER);
    let demoted = asm.label();
    let slow = stubs.slow;
    for size in 0..SIZES {
        for write in [false, true] {
            for (which, at) in SCRATCH.into_iter().enumerate() {
                let mut others = SCRATCH.into_iter().filter(|reg| *reg != at);
                let (Some(a), Some(b)) = (others.next(), others.next()) else { continue };
                let tag = if write { write_tag } else { read_tag };
                while !asm.hot_len().is_multiple_of(16) {
                    asm.byte(0xcc);
                }
                stubs.fill[size][usize::from(write)][which] = asm.hot_len() as u32;
                asm.gs_store(l::LINEAR, at);
                stubs::store_scratch(asm);
                asm.mov(a, at);
                asm.shift(5, a, 7);
                asm.and32_imm(a, (SLOTS as u32 - 1) << 5);
                asm.gs_indexed(0x2b, at, a, tag);
                asm.alu_imm(7, at, 4096 - (1 << size));
                let missed = asm.label();
                asm.jcc(cc::A, missed);
                fill(asm, (at, a, b), tag, page, demoted);
                stubs::load_scratch(asm);
                asm.gs_jmp(l::TARGET);
                asm.bind(missed);
                stubs::load_scratch(asm);
                asm.jmp_out(slow[which][usize::from(write)]);
            }
        }
    }
    write_group_stubs(asm, stubs, demoted);
    asm.bind(demoted);
    stubs::store_guest(asm);
    stubs::call(asm, demote);
    stubs::resume(asm, called);
}

/// Fills the noted cell from the TLB's entry that `index` is the place of, and puts the place of the access into
/// `target`. Clobbers all three registers.
fn fill(asm: &mut Asm, (at, index, cell): (u8, u8, u8), tag: i32, page: i32, demoted: Label) {
    let known = asm.label();
    asm.gs_load32(cell, l::CELL);
    // An empty one goes on the list.
    asm.gs_test_indexed_odd(cell);
    asm.jcc(cc::E, known);
    asm.gs_load(at, l::NEXT_FILLED);
    asm.gs_store32_indexed(at, cell);
    asm.alu_imm(0, at, 4);
    asm.gs_store(l::NEXT_FILLED, at);
    asm.bind(known);
    asm.gs_indexed(0x8b, at, index, tag);
    asm.gs_indexed(0x89, at, cell, 0);
    asm.gs_indexed(0x8b, at, index, page);
    asm.gs_indexed(0x89, at, cell, 8);
    asm.gs_decrement_indexed(cell, 16);
    asm.jcc(cc::E, demoted);
    asm.gs_load32(cell, l::SITE);
    asm.gs(0x03, cell, l::CODE_BASE);
    asm.gs_store(l::TARGET, cell);
}

/// Writes the stubs for groups of accesses, with the start of the range in R11 and its size in R10.
fn write_group_stubs(asm: &mut Asm, stubs: &mut Stubs, demoted: Label) {
    let (read_tag, write_tag, page) = l::tlb(table::USER);
    let group = stubs.group;
    for (write, tag) in [(false, read_tag), (true, write_tag)] {
        while !asm.hot_len().is_multiple_of(16) {
            asm.byte(0xcc);
        }
        stubs.fill_group[usize::from(write)] = asm.hot_len() as u32;
        let missed = asm.label();
        asm.gs_store(l::LINEAR, r::R11);
        stubs::store_scratch(asm);
        asm.mov(r::R15, r::R11);
        asm.shift(5, r::R15, 7);
        asm.and32_imm(r::R15, (SLOTS as u32 - 1) << 5);
        asm.gs_indexed(0x2b, r::R11, r::R15, tag);
        // neg r10; add r10, 4096; cmp r11, r10: an empty entry's tag may be just above the address.
        asm.bytes(&[0x49, 0xf7, 0xda]);
        asm.alu_imm(0, r::R10, 4096);
        asm.bytes(&[0x4d, 0x39, 0xd3]);
        asm.jcc(cc::A, missed);
        fill(asm, (r::R11, r::R15, r::R10), tag, page, demoted);
        stubs::load_scratch(asm);
        asm.gs_jmp(l::TARGET);
        asm.bind(missed);
        stubs::load_scratch(asm);
        asm.lea(r::R10, Some(r::R10), Some((r::R10, 0)), i32::from(write), false);
        asm.jmp_out(group);
    }
}

impl Cpu {
    /// Makes cell `index`, if there is one, that of a new access.
    pub(super) fn new_cell(&mut self, index: usize) {
        let lane = self.lane();
        // SAFETY: the lane's cells, which only this thread uses, and not while this runs.
        if let Some(cell) = unsafe { &mut (*lane).cells }.get_mut(index) {
            *cell = Cell { tag: EMPTY, host: EMPTY, left: MISSES, since: 0, _unused: 0 };
        }
    }

    /// Forgets what was remembered of pages: the stack's and those of cells.
    pub(crate) fn forget_shortcuts(&mut self) {
        self.jit.close_window();
        if self.jit.next_filled > l::FILLED as u64 {
            self.empty_cells(|_| true);
        }
    }

    fn empty_cells(&mut self, which: impl Fn(u64) -> bool) {
        let lane = self.lane();
        let count = (self.jit.next_filled - l::FILLED as u64) as usize / 4;
        // SAFETY: as in `new_cell`.
        let (cells, filled) = unsafe { (&mut (*lane).cells, &mut (*lane).filled) };
        let mut kept = 0;
        for i in 0..count.min(CELLS) {
            let place = filled[i];
            let Some(cell) = cells.get_mut((place as i32 - l::CELLS) as usize / size_of::<Cell>()) else { continue };
            if which(cell.tag) {
                (cell.tag, cell.host) = (EMPTY, EMPTY);
            } else {
                filled[kept] = place;
                kept += 1;
            }
        }
        self.jit.next_filled = l::FILLED as u64 + 4 * kept as u64;
    }

    /// Forgets what was remembered of pages within the same `1 << shift` bytes as `lin`.
    pub(crate) fn forget_shortcuts_near(&mut self, lin: u64, shift: u32) {
        self.jit.close_window();
        if self.jit.next_filled > l::FILLED as u64 {
            self.empty_cells(|tag| (tag ^ lin) >> shift == 0);
        }
    }

    /// An access has missed its cell many times: if that was fast, it uses the TLB from now on.
    pub(super) fn demote_cell(&mut self) -> *const u8 {
        let place = self.jit.cell;
        let index = (place as i32 - l::CELLS) as usize / size_of::<Cell>();
        let lane = self.lane();
        // SAFETY: as in `new_cell`.
        let Some(cell) = (unsafe { &mut (*lane).cells }).get_mut(index) else { return self.site() };
        let now = ticks() as u32;
        let took = u64::from(now.wrapping_sub(cell.since));
        cell.left = MISSES;
        cell.since = now;
        if took < TOO_FAST * u64::from(MISSES) {
            self.demote_site();
        }
        self.site()
    }

    /// Has the access that is running use the TLB, the next time its block is translated, which is soon.
    fn demote_site(&mut self) {
        let site = self.jit.site;
        let jit = self.translator();
        let Some(block) = jit.block_at(site) else { return };
        let (rip, ..) = jit.instruction_at(block, site);
        jit.demoted.insert(rip);
        self.forget_block(block);
    }

    /// Whether the noted cell, if there is one, remembers `page`.
    pub(super) fn cell_has(&self, page: u64) -> bool {
        let index = (self.jit.cell as i32 - l::CELLS) as usize / size_of::<Cell>();
        // SAFETY: as in `new_cell`.
        let cells = unsafe { &(*self.lane()).cells };
        self.jit.cell == 0 || cells.get(index).is_some_and(|cell| cell.tag == page)
    }

    /// Fills the noted cell, if there is one, with `page`, which is at `host`, and goes on at the noted place.
    pub(super) fn fill_cell(&mut self, page: u64, host: u64) -> *const u8 {
        let place = self.jit.cell;
        if place == 0 {
            return self.site();
        }
        let index = (place as i32 - l::CELLS) as usize / size_of::<Cell>();
        let lane = self.lane();
        // SAFETY: as in `new_cell`.
        let (cells, filled) = unsafe { (&mut (*lane).cells, &mut (*lane).filled) };
        let Some(cell) = cells.get_mut(index) else { return self.site() };
        if cell.tag == EMPTY {
            let next = (self.jit.next_filled - l::FILLED as u64) as usize / 4;
            if let Some(entry) = filled.get_mut(next) {
                *entry = place;
                self.jit.next_filled += 4;
            }
        }
        (cell.tag, cell.host) = (page, host);
        cell.left -= 1;
        if cell.left == 0 { self.demote_cell() } else { self.site() }
    }
}

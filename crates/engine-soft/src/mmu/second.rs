//! The second-level TLB: what walks have found, for all contexts that are remembered.
//!
//! It keeps physical addresses and the rights of the page tables, whatever their use; a large page takes one entry.
//! Entries carry the generation of their context (see `spaces`), so that a flush costs nothing: its generation is
//! never looked for again.

use super::pages::{PageSize, sizes};
use super::spaces::GENERATION_BITS;
use super::walk::Walk;

const WAYS: usize = 4;
const SETS_SHIFT: u32 = 11;
const SETS: usize = 1 << SETS_SHIFT;

/// Page numbers of 48-bit addresses.
const PAGE_BITS: u32 = 36;
const SIZE_BITS: u32 = 2;
const _: () = assert!(PAGE_BITS + SIZE_BITS + GENERATION_BITS == 64);

// In `Way::data`, below the physical address of the page.
const WRITABLE: u64 = 1;
const USER: u64 = 2;
const NO_EXECUTE: u64 = 4;
const DIRTY: u64 = 8;
const FLAGS: u64 = 0xfff;

#[derive(Clone, Copy)]
struct Way {
    /// Page number, size and generation; zero is nobody's, as there is no generation zero.
    tag: u64,
    data: u64,
}

/// One line of the host's cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Set([Way; WAYS]);

const NOTHING: Way = Way { tag: 0, data: 0 };

/// The second level.
pub(super) struct Second {
    sets: Box<[Set; SETS]>,
    /// The sizes of pages that are in it for contexts and for all.
    local_sizes: u8,
    global_sizes: u8,
    /// Which way makes room next.
    turn: usize,
}

#[inline(always)]
fn tag(lin: u64, size: PageSize, generation: u32) -> u64 {
    let page = (lin & 0xffff_ffff_ffff) >> size.shift();
    page | (size as u64) << PAGE_BITS | u64::from(generation) << (PAGE_BITS + SIZE_BITS)
}

#[inline(always)]
fn set_of(tag: u64) -> usize {
    (tag.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SETS_SHIFT)) as usize & (SETS - 1)
}

impl Second {
    pub(super) fn new() -> Self {
        let sets = vec![Set([NOTHING; WAYS]); SETS].into_boxed_slice();
        let Ok(sets) = sets.try_into() else { unreachable!("the length is that of the type") };
        Self { sets, local_sizes: 0, global_sizes: 0, turn: 0 }
    }

    /// What is known of `lin`, which is canonical, in the generations of a context and of all.
    #[inline]
    pub(super) fn look_up(&self, lin: u64, local: u32, global: u32) -> Option<Walk> {
        let both = [(local, self.local_sizes, false), (global, self.global_sizes, true)];
        // Global pages are kernels', in the upper half.
        let upper = usize::from(lin >> 63 != 0);
        for (generation, mask, global) in [both[upper], both[1 - upper]] {
            for size in sizes(mask) {
                let tag = tag(lin, size, generation);
                let found = self.sets[set_of(tag)].0.iter().find(|way| way.tag == tag);
                if let Some(Way { data, .. }) = found {
                    return Some(Walk {
                        phys: data & !FLAGS | lin & ((1 << size.shift()) - 1),
                        writable: data & WRITABLE != 0,
                        user: data & USER != 0,
                        xd: data & NO_EXECUTE != 0,
                        dirty: data & DIRTY != 0,
                        global,
                        size,
                    });
                }
            }
        }
        None
    }

    /// Keeps what a walk for `lin` has found, in its generation.
    pub(super) fn insert(&mut self, lin: u64, generation: u32, walk: &Walk) {
        let mask = if walk.global { &mut self.global_sizes } else { &mut self.local_sizes };
        *mask |= walk.size.bit();
        let bit = |on, bit| if on { bit } else { 0 };
        let data = walk.phys & !((1 << walk.size.shift()) - 1)
            | bit(walk.writable, WRITABLE)
            | bit(walk.user, USER)
            | bit(walk.xd, NO_EXECUTE)
            | bit(walk.dirty, DIRTY);
        let tag = tag(lin, walk.size, generation);
        let ways = &mut self.sets[set_of(tag)].0;
        let old = ways.iter().position(|way| way.tag == tag).or_else(|| ways.iter().position(|way| way.tag == 0));
        let at = old.unwrap_or_else(|| {
            self.turn += 1;
            self.turn % WAYS
        });
        ways[at] = Way { tag, data };
    }

    /// Forgets the page of each size that holds `lin` in a context's generation, or in that of all if `global`.
    pub(super) fn remove(&mut self, lin: u64, generation: u32, global: bool) {
        for size in sizes(if global { self.global_sizes } else { self.local_sizes }) {
            let tag = tag(lin, size, generation);
            for way in self.sets[set_of(tag)].0.iter_mut().filter(|way| way.tag == tag) {
                *way = NOTHING;
            }
        }
    }

    /// Notes that nothing of any generation is looked for any more.
    pub(super) fn void(&mut self) {
        (self.local_sizes, self.global_sizes) = (0, 0);
    }

    /// Empties it.
    pub(super) fn clear(&mut self) {
        self.void();
        self.sets.fill(Set([NOTHING; WAYS]));
    }
}

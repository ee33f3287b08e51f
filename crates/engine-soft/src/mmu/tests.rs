//! What survives which flush, and when spaces change their numbers.

use std::ptr::NonNull;

use super::pages::PageSize;
use super::spaces::{GENERATION_BITS, LAST_SPACE};
use super::tlb::SLOTS;
use super::*;

/// An MMU with tables of its own.
struct Rig {
    mmu: Mmu,
    tables: NonNull<Tables>,
}

impl Drop for Rig {
    fn drop(&mut self) {
        // SAFETY: from a box, and the MMU is not used any more.
        drop(unsafe { Box::from_raw(self.tables.as_ptr()) });
    }
}

const CODE: u64 = 0x40_0000;
const DATA: u64 = 0x7f12_3456_7000;
const KERNEL: u64 = 0xffff_ffff_8100_0000;

impl Rig {
    fn new() -> Self {
        let tables = Box::into_raw(Box::<Tables>::new_uninit()).cast::<Tables>();
        let tables = NonNull::new(tables).unwrap();
        // SAFETY: a box of that size, freed with the rig.
        Self { mmu: unsafe { Mmu::new(tables) }, tables }
    }

    fn page(lin: u64, global: bool, size: PageSize) -> Walk {
        let phys = lin & 0xff_f000;
        Walk { phys, writable: true, user: true, xd: false, dirty: true, global, size }
    }

    /// As after a walk for data.
    fn fill(&mut self, lin: u64, global: bool, size: PageSize) {
        let walk = Self::page(lin, global, size);
        self.mmu.keep(lin, &walk);
        self.mmu.tlb.fill(table::USER, lin, walk.phys + (1 << 40), &walk, true);
    }

    fn data(&mut self, lin: u64) {
        self.fill(lin, false, PageSize::Kib4);
    }

    /// As after a fetch.
    fn fetch(&mut self, lin: u64, user: bool, global: bool, size: PageSize) {
        let walk = Self::page(lin, global, size);
        self.mmu.keep(lin, &walk);
        self.mmu.fetch.fill(lin, user, &walk, &mut self.mmu.spaces);
    }

    fn user_code(&mut self, lin: u64) {
        self.fetch(lin, true, false, PageSize::Kib4);
    }

    fn in_first(&self, lin: u64) -> bool {
        self.mmu.entry(table::USER, lin).read == lin & !0xfff
    }

    fn in_second(&self, lin: u64) -> bool {
        self.mmu.known(lin).is_some()
    }

    fn is_fetched(&mut self, lin: u64, user: bool) -> bool {
        self.mmu.fetch.look_up(lin, user, &mut self.mmu.spaces).is_some()
    }

    /// The space of user code and that of the supervisor.
    fn spaces(&self) -> (u16, u16) {
        (self.mmu.space(true), self.mmu.space(false))
    }
}

#[test]
fn a_context_comes_back_with_all_it_had() {
    let mut rig = Rig::new();
    rig.mmu.load_context(1, false);
    rig.data(DATA);
    rig.user_code(CODE);
    rig.fetch(KERNEL, false, true, PageSize::Mib2);
    let (user, supervisor) = rig.spaces();
    rig.mmu.load_context(2, false);
    assert!(!rig.in_first(DATA) && !rig.in_second(DATA) && !rig.is_fetched(CODE, true));
    assert!(rig.is_fetched(KERNEL, false));
    rig.user_code(CODE);
    assert_ne!(rig.mmu.space(true), user);
    assert_eq!(rig.mmu.space(false), supervisor);
    rig.mmu.load_context(1, true);
    assert!(!rig.in_first(DATA) && rig.in_second(DATA) && rig.in_second(CODE));
    // Its slot among the fetches has been taken by the other.
    assert!(!rig.is_fetched(CODE, true));
    assert_eq!(rig.spaces(), (user, supervisor));
    // A load without the bit forgets its own context, and only that.
    rig.mmu.load_context(1, false);
    assert!(!rig.in_second(DATA) && !rig.is_fetched(CODE, true));
    assert_ne!(rig.mmu.space(true), user);
    rig.mmu.load_context(2, true);
    assert!(rig.is_fetched(CODE, true) && rig.in_second(CODE));
}

#[test]
fn the_same_context_without_a_flush_keeps_the_first_level() {
    let mut rig = Rig::new();
    rig.data(DATA);
    rig.mmu.load_context(0, true);
    assert!(rig.in_first(DATA));
    rig.mmu.load_context(0, false);
    assert!(!rig.in_first(DATA) && !rig.in_second(DATA));
}

#[test]
fn global_pages_survive_all_but_a_full_flush() {
    let mut rig = Rig::new();
    rig.fill(KERNEL, true, PageSize::Mib2);
    rig.mmu.load_context(3, false);
    rig.mmu.flush_locals();
    rig.mmu.flush_context(3);
    // INVPCID of one address spares global pages, too.
    rig.mmu.flush_page(KERNEL, 3, false);
    assert!(rig.in_first(KERNEL) && rig.in_second(KERNEL + 0x1f_f000));
    rig.mmu.flush_all(3);
    assert!(!rig.in_first(KERNEL) && !rig.in_second(KERNEL));
}

#[test]
fn a_slot_that_changes_hands_is_flushed_as_what_it_holds() {
    let mut rig = Rig::new();
    let other = DATA + ((SLOTS as u64) << 12);
    rig.data(DATA);
    rig.fill(other, true, PageSize::Kib4);
    rig.mmu.load_context(1, false);
    assert!(rig.in_first(other));
    rig.data(DATA);
    rig.mmu.load_context(2, false);
    assert!(!rig.in_first(DATA));
    rig.data(DATA);
    rig.mmu.drop_write_tags();
    assert_ne!(rig.mmu.entry(table::USER, DATA).write, DATA);
    rig.mmu.flush_all(2);
    assert!(!rig.in_first(DATA));
}

#[test]
fn single_pages_go_where_they_are_asked_to() {
    let mut rig = Rig::new();
    for pcid in [1, 2] {
        rig.mmu.load_context(pcid, false);
        rig.data(DATA);
        rig.data(DATA + 0x1000);
        rig.user_code(CODE);
        rig.user_code(CODE + 0x1000);
    }
    let second = rig.mmu.space(true);
    // Of another context: neither level of this one notices.
    rig.mmu.flush_page(DATA, 1, false);
    rig.mmu.flush_page(CODE, 1, false);
    assert!(rig.in_first(DATA) && rig.in_second(DATA) && rig.is_fetched(CODE, true));
    assert_eq!(rig.mmu.space(true), second);
    rig.mmu.load_context(1, true);
    assert!(!rig.in_second(DATA) && rig.in_second(DATA + 0x1000) && rig.in_second(CODE + 0x1000));
    assert!(!rig.in_second(CODE) && !rig.is_fetched(CODE, true));
    // Of this one.
    rig.data(DATA);
    rig.mmu.flush_page(DATA, 1, true);
    assert!(!rig.in_first(DATA) && !rig.in_second(DATA));
    rig.mmu.load_context(2, true);
    assert!(rig.in_second(DATA) && rig.is_fetched(CODE, true));
    assert_eq!(rig.mmu.space(true), second);
}

#[test]
fn contexts_go_alone_or_together() {
    let mut rig = Rig::new();
    for pcid in 1..=3 {
        rig.mmu.load_context(pcid, false);
        rig.data(DATA);
    }
    rig.mmu.flush_context(1);
    assert!(rig.in_first(DATA) && rig.in_second(DATA));
    rig.mmu.flush_context(3);
    assert!(!rig.in_first(DATA) && !rig.in_second(DATA));
    rig.mmu.load_context(1, true);
    assert!(!rig.in_second(DATA));
    rig.mmu.load_context(2, true);
    assert!(rig.in_second(DATA));
    rig.mmu.flush_locals();
    rig.mmu.load_context(2, true);
    assert!(!rig.in_second(DATA));
}

#[test]
fn a_large_page_goes_as_a_whole() {
    let mut rig = Rig::new();
    for (size, base) in [(PageSize::Mib2, 0x20_0000), (PageSize::Mib4, 0x1000_0000), (PageSize::Gib1, 1 << 38)] {
        for global in [false, true] {
            let last = (1u64 << size.shift()) - 0x1000;
            rig.fill(base, global, size);
            rig.fill(base + last, global, size);
            rig.fetch(base + last, true, global, size);
            rig.data(base + last + 0x1000);
            rig.mmu.flush_page(base + 0x3000, 0, true);
            assert!(!rig.in_first(base) && !rig.in_first(base + last) && !rig.in_second(base), "{size:?}");
            assert!(!rig.is_fetched(base + last, true), "{size:?}");
            assert!(rig.in_first(base + last + 0x1000) && rig.in_second(base + last + 0x1000), "{size:?}");
        }
    }
}

#[test]
fn spaces_change_when_their_code_may_have_moved() {
    let mut rig = Rig::new();
    rig.fetch(KERNEL, false, true, PageSize::Mib2);
    rig.user_code(CODE);
    let all = rig.spaces();
    // Data pages, known or not.
    rig.data(DATA);
    rig.mmu.flush_page(DATA, 0, true);
    rig.mmu.flush_page(DATA + 0x1000, 0, true);
    rig.mmu.flush_page(KERNEL + 0x20_0000, 0, true);
    assert_eq!(rig.spaces(), all);
    // A page that user code has come from.
    rig.mmu.flush_page(CODE + 0x10, 0, true);
    let (user, supervisor) = rig.spaces();
    assert!(user != all.0 && supervisor == all.1);
    // Another part of the supervisor's large page.
    rig.mmu.flush_page(KERNEL + 0x1f_f000, 0, true);
    assert!(rig.mmu.space(true) == user && rig.mmu.space(false) != supervisor);
    // What was fetched before counts when it is fetched again.
    rig.user_code(CODE + 0x1000);
    rig.mmu.flush_page(CODE + 0x1000, 0, true);
    rig.user_code(CODE);
    let user = rig.mmu.space(true);
    assert!(rig.is_fetched(CODE, true));
    rig.mmu.flush_page(CODE, 0, true);
    assert_ne!(rig.mmu.space(true), user);
}

#[test]
fn a_fetch_from_the_tlb_counts_for_the_space_of_the_day() {
    let mut rig = Rig::new();
    rig.user_code(CODE);
    rig.user_code(CODE + 0x1000);
    rig.mmu.flush_page(CODE, 0, true);
    let user = rig.mmu.space(true);
    rig.mmu.flush_page(CODE + 0x2000, 0, true);
    assert_eq!(rig.mmu.space(true), user);
    assert!(rig.is_fetched(CODE + 0x1000, true));
    rig.mmu.flush_page(CODE + 0x1000, 0, true);
    assert_ne!(rig.mmu.space(true), user);
}

#[test]
fn the_supervisor_keeps_its_space_over_contexts_as_long_as_its_code_is_global() {
    let mut rig = Rig::new();
    rig.fetch(KERNEL, false, true, PageSize::Mib2);
    let space = rig.mmu.space(false);
    rig.mmu.load_context(1, false);
    rig.mmu.flush_context(1);
    rig.mmu.flush_locals();
    assert_eq!(rig.mmu.space(false), space);
    rig.fetch(CODE, false, false, PageSize::Kib4);
    rig.mmu.load_context(1, true);
    assert_eq!(rig.mmu.space(false), space);
    rig.mmu.load_context(2, true);
    let next = rig.mmu.space(false);
    assert_ne!(next, space);
    rig.mmu.load_context(1, true);
    assert_eq!(rig.mmu.space(false), next);
    rig.fetch(KERNEL, false, true, PageSize::Mib2);
    rig.mmu.flush_all(1);
    assert_ne!(rig.mmu.space(false), next);
}

#[test]
fn global_user_code_moves_for_all_contexts() {
    let mut rig = Rig::new();
    rig.mmu.load_context(1, false);
    rig.fetch(KERNEL, true, true, PageSize::Kib4);
    let user = rig.mmu.space(true);
    rig.mmu.load_context(2, false);
    rig.mmu.flush_page(KERNEL, 2, false);
    rig.mmu.load_context(1, true);
    assert_eq!(rig.mmu.space(true), user);
    rig.mmu.load_context(2, true);
    rig.mmu.flush_page(KERNEL, 2, true);
    rig.mmu.load_context(1, true);
    assert_ne!(rig.mmu.space(true), user);
}

#[test]
fn contexts_beyond_the_room_for_them_are_forgotten() {
    let mut rig = Rig::new();
    let mut ids = Vec::new();
    for pcid in 0..40 {
        rig.mmu.load_context(pcid, true);
        assert!(!rig.in_second(DATA) && !rig.is_fetched(CODE, true));
        rig.data(DATA);
        rig.user_code(CODE);
        assert!(!ids.contains(&rig.mmu.space(true)));
        ids.push(rig.mmu.space(true));
    }
    rig.mmu.load_context(39 - 5, true);
    assert!(rig.in_second(DATA) && rig.mmu.space(true) == ids[34]);
    rig.mmu.load_context(0, true);
    assert!(!rig.in_second(DATA) && !ids.contains(&rig.mmu.space(true)));
}

#[test]
fn numbers_of_spaces_start_over_and_tell() {
    let mut rig = Rig::new();
    rig.mmu.load_context(7, false);
    rig.user_code(CODE);
    rig.fetch(KERNEL, false, true, PageSize::Mib2);
    let (mut seen, mut last) = (std::collections::HashSet::new(), rig.spaces().0);
    rig.mmu.load_context(8, false);
    let mut wraps = 0;
    for _ in 0..5000 {
        rig.user_code(CODE);
        rig.mmu.load_context(8, false);
        let (user, supervisor) = rig.spaces();
        assert!((1..=LAST_SPACE).contains(&user) && (1..=LAST_SPACE).contains(&supervisor) && user != supervisor);
        if rig.mmu.take_wrapped() {
            wraps += 1;
            assert!(user < last);
        } else {
            assert!(user > last);
        }
        last = user;
        assert!(seen.insert(rig.mmu.epoch(true)) && rig.mmu.epoch(false) != rig.mmu.epoch(true));
    }
    assert_eq!(wraps, 4);
    // A context that was away meanwhile has no old number.
    rig.mmu.load_context(7, true);
    assert!(rig.in_second(CODE) && seen.insert(rig.mmu.epoch(true)));
}

#[test]
fn generations_start_over_without_a_trace() {
    for full in [false, true] {
        let mut rig = Rig::new();
        rig.mmu.load_context(1, false);
        rig.data(DATA);
        rig.user_code(CODE);
        rig.fill(KERNEL, true, PageSize::Mib2);
        rig.mmu.load_context(2, false);
        rig.mmu.spaces.age((1 << GENERATION_BITS) - 2);
        for _ in 0..4 {
            if full {
                rig.mmu.flush_all(2);
            } else {
                rig.mmu.load_context(2, false);
            }
            assert!(!rig.in_second(DATA) && !rig.is_fetched(CODE, true));
            rig.data(CODE);
        }
        assert!(rig.in_second(CODE) && rig.mmu.spaces.local < 100);
        rig.mmu.load_context(1, true);
        assert!(!rig.in_second(DATA) && !rig.is_fetched(CODE, true) && !rig.in_second(CODE));
    }
}

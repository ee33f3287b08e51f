//! The log of written pages. It tells of each page that was written; of one that was only read it may tell as well, for
//! KVM gives the right to write along with that to read.

mod common;

use std::path::Path;

use common::Machine;
use engine_kvm::probe;
use iced_x86::code_asm::*;
use memory::{Gpa, Kind, Region};
use testkit::bare::{Bare, CODE};

fn collect(machine: &Machine) -> Vec<u64> {
    let mut pages = Vec::new();
    machine.partition.dirty().collect(&mut |page| pages.push(page));
    assert!(pages.is_sorted_by(|a, b| a < b), "in order, each once: {pages:x?}");
    pages
}

/// Where the guest has not been.
const ELSEWHERE: [u64; 2] = [0x30_0000, 0x1000_1000];

#[test]
fn each_page_is_told_once_per_write() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        let mut again = a.create_label();
        a.set_label(&mut again)?;
        a.mov(dword_ptr(0x20_0000), eax)?;
        a.mov(byte_ptr(0x20_3fff), al)?;
        a.mov(dword_ptr(0x1000_0000), eax)?;
        common::exit(a)?;
        a.mov(dword_ptr(0x20_7ffe), eax)?;
        common::exit(a)?;
        a.jmp(again)
    });
    let more = Region { start: Gpa(0x1000_0000), len: 0x3000, kind: Kind::Ram };
    let mut machine = Machine::with(&engine, &bare, 1, &[more]);
    let check = |machine: &Machine, written: &[u64]| {
        let pages = collect(machine);
        assert!(written.iter().all(|page| pages.contains(page)), "{pages:x?}");
        assert!(ELSEWHERE.iter().all(|page| !pages.contains(page)), "{pages:x?}");
        assert_eq!(collect(machine), Vec::<u64>::new());
    };
    machine.partition.dirty().start();
    assert_eq!(collect(&machine), Vec::<u64>::new());
    for _ in 0..3 {
        machine.run();
        check(&machine, &[0x20_0000, 0x20_3000, 0x1000_0000]);
        machine.run();
        // What devices write is told as well.
        machine.memory.write(Gpa(0x20_7000), &[0; 4]).unwrap();
        machine.memory.write(Gpa(0x1000_2ffc), &[0; 4]).unwrap();
        check(&machine, &[0x20_7000, 0x20_8000, 0x1000_2000]);
    }
    machine.partition.dirty().stop();
    machine.run();
    machine.partition.dirty().start();
    assert_eq!(collect(&machine), Vec::<u64>::new(), "a new log begins with nothing");
}

#[test]
fn many_pages_while_the_guest_runs() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        let (mut again, mut over) = (a.create_label(), a.create_label());
        a.mov(edi, 0x10_0000)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(edi), edi)?;
        a.add(edi, 0x1000)?;
        a.cmp(edi, 0x40_0000)?;
        a.jae(over)?;
        a.jmp(again)?;
        a.set_label(&mut over)?;
        common::out(a, 1, 1)?;
        common::exit(a)
    });
    let mut machine = Machine::new(&engine, &bare);
    machine.partition.dirty().start();
    let mut seen = std::collections::BTreeSet::new();
    machine.run_while(|outside| {
        for _ in 0..50 {
            outside.partition.dirty().collect(&mut |page| {
                seen.insert(page);
            });
        }
        outside.wait_for_out(1, 1);
    });
    machine.partition.dirty().collect(&mut |page| {
        seen.insert(page);
    });
    let expected: Vec<u64> = (0x10_0000..0x40_0000).step_by(0x1000).collect();
    assert!(expected.iter().all(|page| seen.contains(page)), "{seen:x?}");
}

/// More fresh pages than a ring holds, in one run.
#[test]
fn a_full_log_does_not_stop_the_guest() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        let (mut again, mut over) = (a.create_label(), a.create_label());
        a.mov(edi, 0x1000_0000)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(edi), edi)?;
        a.add(edi, 0x1000)?;
        a.cmp(edi, 0x1300_0000)?;
        a.jae(over)?;
        a.jmp(again)?;
        a.set_label(&mut over)?;
        common::exit(a)
    });
    // A KVM that interprets the guest does so for thousands of instructions before it looks at its rings.
    if let Some(problem) = probe::recall(Path::new(probe::DEVICE), None, false).problem() {
        eprintln!("SKIPPED, and so not tested: full dirty rings ({problem})");
        return;
    }
    let more = Region { start: Gpa(0x1000_0000), len: 0x400_0000, kind: Kind::Ram };
    let mut machine = Machine::with(&engine, &bare, 1, &[more]);
    machine.partition.dirty().start();
    machine.run();
    let pages = collect(&machine);
    let written = (0x1000_0000..0x1300_0000).step_by(0x1000);
    assert!(pages.into_iter().filter(|page| *page >= 0x1000_0000).eq(written), "not the pages that were written");
    let full = |stat: &engine::Stat| stat.name == "dirty ring full" && !stat.amount.is_zero();
    if engine.capabilities().dirty_ring_bytes > 0 {
        assert!(machine.cpus[0].stats().iter().any(full), "the ring was never full");
    }
}

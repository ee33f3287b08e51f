//! Hardware task switches.

use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, GDT, IDT, TSS, gate32, segment, selector, system};

const OTHER: u64 = 0x5_0000;
const OTHER_SELECTOR: u16 = 0x50;
const TASK_CODE: u64 = 0x4_0000;

/// A second task of privilege 0 at `TASK_CODE`.
fn two_tasks() -> Bare {
    let bare = Bare::protected();
    bare.descriptor(OTHER_SELECTOR, system(OTHER as u32, 0x67, 0x89));
    bare.write32(OTHER + 0x20, TASK_CODE as u32);
    bare.write32(OTHER + 0x24, 2);
    bare.write32(OTHER + 0x28, 0x1111);
    bare.write32(OTHER + 0x38, 0xc000);
    for (at, value) in [(0x48, 0x10), (0x4c, 8), (0x50, 0x10), (0x54, 0x10)] {
        bare.write32(OTHER + at, value);
    }
    bare
}

fn access(out: &bare::Outcome, selector: u16) -> u64 {
    out.read64(GDT + u64::from(selector)) >> 40 & 0xff
}

#[test]
fn call_nests_and_iret_returns() {
    let bare = two_tasks();
    bare.code(32, CODE, |a| {
        a.mov(ebx, 0x2222)?;
        a.db(&[0x9a, 0, 0, 0, 0, 0x50, 0])?;
        a.mov(eax, ebx)?;
        bare::report(a, 3)?;
        a.pushfd()?;
        a.pop(eax)?;
        bare::report(a, 4)?;
        a.str(eax)?;
        bare::report(a, 5)?;
        bare::exit(a)
    });
    bare.code(32, TASK_CODE, |a| {
        bare::report(a, 1)?;
        a.pushfd()?;
        a.pop(eax)?;
        bare::report(a, 2)?;
        a.mov(eax, cr0)?;
        bare::report(a, 6)?;
        a.mov(ebx, 0x3333)?;
        a.iretd()
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0x1111]);
    assert_eq!(out.port(2)[0] & 0x4000, 0x4000);
    assert_eq!(out.port(6)[0] & 8, 8);
    assert_eq!(out.port(3), [0x2222]);
    assert_eq!(out.port(4)[0] & 0x4000, 0);
    assert_eq!(out.port(5), [u32::from(selector::TSS)]);
    assert_eq!((access(&out, selector::TSS), access(&out, OTHER_SELECTOR)), (0x8b, 0x89));
    assert_eq!(out.read32(OTHER) & 0xffff, u32::from(selector::TSS));
    assert_eq!(out.read32(OTHER + 0x34), 0x3333);
}

#[test]
fn jump_leaves_the_old_task() {
    let bare = two_tasks();
    bare.code(32, CODE, |a| a.db(&[0xea, 0, 0, 0, 0, 0x50, 0]));
    bare.code(32, TASK_CODE, |a| {
        a.pushfd()?;
        a.pop(eax)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1)[0] & 0x4000, 0);
    assert_eq!((access(&out, selector::TSS), access(&out, OTHER_SELECTOR)), (0x89, 0x8b));
    assert_eq!(out.read32(TSS + 0x20), CODE as u32 + 7);
    assert_eq!(out.state.tr.selector, OTHER_SELECTOR);
}

#[test]
fn busy_and_short_tasks_are_refused() {
    let jump = |a: &mut CodeAssembler| a.db(&[0xea, 0, 0, 0, 0, 0x50, 0]);
    for (descriptor, expected) in [
        (system(OTHER as u32, 0x67, 0x8b), (13, 0x50)),
        (system(OTHER as u32, 0x67, 0x09), (11, 0x50)),
        (system(OTHER as u32, 0x66, 0x89), (10, 0x50)),
    ] {
        let bare = two_tasks();
        bare.descriptor(OTHER_SELECTOR, descriptor);
        bare.code(32, CODE, jump);
        let e = bare.run().exception();
        assert_eq!((e.vector, e.error, e.ip), (expected.0, expected.1, CODE as u32));
    }
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_code() {
    let bare = two_tasks();
    bare.write64(IDT + 13 * 8, gate32(OTHER_SELECTOR, 0, 0x85));
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x108)?;
        a.mov(ds, eax)
    });
    bare.code(32, TASK_CODE, |a| {
        a.pop(eax)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0x108]);
    assert_eq!(out.read32(TSS + 0x20), CODE as u32 + 5);
    assert_eq!(out.read32(TSS + 0x24) & 0x1_0000, 0x1_0000);
}

#[test]
fn a_bad_segment_faults_in_the_new_task() {
    let bare = two_tasks();
    bare.descriptor(0x58, segment(0, 0xfffff, 0x13, 0xc));
    bare.write32(OTHER + 0x54, 0x58);
    bare.code(32, CODE, |a| a.db(&[0xea, 0, 0, 0, 0, 0x50, 0]));
    let e = bare.run().exception();
    assert_eq!((e.vector, e.error, e.ip), (11, 0x58, TASK_CODE as u32));
    // A bad LDT: #TS comes before CS and SS are loaded, so only another task can handle it; here the one that was left.
    let bare = two_tasks();
    bare.write32(OTHER + 0x60, 0x10);
    bare.write64(IDT + 10 * 8, gate32(selector::TSS, 0, 0x85));
    bare.code(32, CODE, |a| {
        a.db(&[0xea, 0, 0, 0, 0, 0x50, 0])?;
        a.pop(eax)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0x10]);
}

#[test]
fn the_trap_bit_raises_debug() {
    let bare = two_tasks();
    bare.write32(OTHER + 0x64, 1);
    bare.code(32, CODE, |a| a.db(&[0xea, 0, 0, 0, 0, 0x50, 0]));
    let out = bare.run();
    let e = out.exception();
    assert_eq!((e.vector, e.ip), (1, TASK_CODE as u32));
    assert_eq!(out.state.dr[4] & 0x8000, 0x8000);
}

#[test]
fn tasks_of_16_bits() {
    let bare = two_tasks();
    bare.descriptor(OTHER_SELECTOR, system(OTHER as u32, 0x2b, 0x81));
    bare.descriptor(0x58, segment(TASK_CODE as u32, 0xffff, 0x9b, 0));
    let words: [u16; 22] = [0, 0, 0, 0, 0, 0, 0, 0x10, 2, 0xaaaa, 0, 0, 0, 0xc000, 0, 0, 0, 0x10, 0x58, 0x10, 0x10, 0];
    for (i, word) in words.iter().enumerate() {
        bare.write(OTHER + 2 * i as u64, &word.to_le_bytes());
    }
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x5555_0000)?;
        a.db(&[0xea, 0, 0, 0, 0, 0x50, 0])
    });
    bare.code(16, TASK_CODE + 0x10, |a| {
        a.movzx(eax, ax)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0xaaaa]);
}

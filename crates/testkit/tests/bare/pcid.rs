//! Process-context identifiers (SDM vol. 3A, 4.10.1 and 4.10.4).

use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, Outcome, USER_CODE, USER_STACK, selector};
use x86::bits::{cr0, cr4, pte};

/// The page that the tests play with, and its entry in the page table.
const PAGE: u64 = 0x6_0000;
const ENTRY: u64 = 0x10_3000 + (PAGE >> 12) * 8;
const ROOT: u64 = 0x10_0000;
const NO_FLUSH: u64 = 1 << 63;
/// Where descriptors for INVPCID lie.
const DESCRIPTOR: u64 = 0x7_0000;
const OPEN: u64 = pte::P | pte::RW | pte::US;

type Built = Result<(), iced_x86::IcedError>;

/// Whether the engine that is tested has PCIDs: a host's KVM may not.
fn has_pcids() -> bool {
    let has = testkit::choice::chosen().open().limits().ceiling.has(x86::Feature::Pcid);
    if !has {
        eprintln!("SKIPPED, and so not tested: this engine has no PCIDs here");
    }
    has
}

/// Long mode with PCIDs, PCID 0; the pages behind [`PAGE`] hold their numbers.
fn with_pcids(build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let mut bare = Bare::long();
    bare.state.cr4 |= cr4::PCIDE | cr4::PGE;
    for i in 0..4 {
        bare.write32(PAGE + 0x1000 * i, i as u32);
    }
    bare.code(64, CODE, |a| {
        a.mov(rbx, PAGE)?;
        a.mov(rsi, ENTRY)?;
        a.mov(rdi, DESCRIPTOR)?;
        build(a)?;
        bare::exit(a)
    });
    bare
}

fn load_cr3(a: &mut CodeAssembler, value: u64) -> Built {
    a.mov(rax, ROOT | value)?;
    a.mov(cr3, rax)
}

/// Maps [`PAGE`] to the page `number` behind it; the TLB is not told.
fn map(a: &mut CodeAssembler, number: u64, bits: u64) -> Built {
    a.mov(rax, (PAGE + 0x1000 * number) | OPEN | bits)?;
    a.mov(qword_ptr(rsi), rax)
}

/// Reports what [`PAGE`] holds.
fn look(a: &mut CodeAssembler) -> Built {
    a.mov(eax, dword_ptr(rbx))?;
    a.mov(dx, 1)?;
    a.out(dx, eax)
}

fn invpcid(a: &mut CodeAssembler, kind: u64, pcid: u64, lin: u64) -> Built {
    a.mov(rax, pcid)?;
    a.mov(qword_ptr(rdi), rax)?;
    a.mov(rax, lin)?;
    a.mov(qword_ptr(rdi + 8), rax)?;
    a.mov(rax, kind)?;
    a.invpcid(rax, xmmword_ptr(rdi))
}

/// Fills PCID 1 with page 1 and PCID 2 with page 2, runs `flush` under PCID 2 with page 3 in the tables, and gives what
/// the two see then, PCID 2 first.
fn after(bits: u64, flush: impl FnOnce(&mut CodeAssembler) -> Built) -> Vec<u32> {
    let out = with_pcids(|a| {
        for pcid in [1, 2] {
            load_cr3(a, pcid)?;
            map(a, pcid, bits)?;
            look(a)?;
        }
        map(a, 3, bits)?;
        flush(a)?;
        look(a)?;
        load_cr3(a, 1 | NO_FLUSH)?;
        look(a)
    })
    .run();
    out.assert_clean();
    out.port(1)[2..].to_vec()
}

#[test]
fn each_context_keeps_its_translations() {
    if !has_pcids() {
        return;
    }
    assert_eq!(after(0, |_| Ok(())), [2, 1]);
    assert_eq!(after(0, |a| load_cr3(a, 2 | NO_FLUSH)), [2, 1]);
    assert_eq!(after(0, |a| load_cr3(a, 2)), [3, 1]);
    assert_eq!(after(0, |a| a.invlpg(ptr(rbx))), [3, 1]);
    // An address that is not canonical has no translation.
    assert_eq!(
        after(0, |a| {
            a.mov(rax, PAGE | 1 << 48)?;
            a.invlpg(ptr(rax))
        }),
        [2, 1]
    );
}

#[test]
fn global_pages_are_everybodys() {
    if !has_pcids() {
        return;
    }
    // The second context finds what the first has left.
    let out = with_pcids(|a| {
        load_cr3(a, 1)?;
        map(a, 1, pte::G)?;
        look(a)?;
        map(a, 2, pte::G)?;
        load_cr3(a, 2)?;
        look(a)?;
        a.invlpg(ptr(rbx))?;
        look(a)?;
        map(a, 3, pte::G)?;
        load_cr3(a, 1)?;
        look(a)?;
        // CR4.PGE off and on forgets them.
        a.mov(rax, cr4)?;
        a.xor(rax, cr4::PGE as i32)?;
        a.mov(cr4, rax)?;
        look(a)
    })
    .run();
    out.assert_clean();
    assert_eq!(out.port(1), [1, 1, 2, 2, 3]);
}

#[test]
fn invpcid_by_type() {
    if !has_pcids() {
        return;
    }
    // One address: of the current context, of another, of one that has nothing, and of another page.
    assert_eq!(after(0, |a| invpcid(a, 0, 2, PAGE + 5)), [3, 1]);
    assert_eq!(after(0, |a| invpcid(a, 0, 1, PAGE)), [2, 3]);
    assert_eq!(after(0, |a| invpcid(a, 0, 9, PAGE)), [2, 1]);
    assert_eq!(after(0, |a| invpcid(a, 0, 2, PAGE + 0x1000)), [2, 1]);
    // One context.
    assert_eq!(after(0, |a| invpcid(a, 1, 2, 0)), [3, 1]);
    assert_eq!(after(0, |a| invpcid(a, 1, 1, 1 << 63)), [2, 3]);
    // All, with and without global pages.
    assert_eq!(after(0, |a| invpcid(a, 2, 0, 0)), [3, 3]);
    assert_eq!(after(0, |a| invpcid(a, 3, 0, 0)), [3, 3]);
    for (kind, seen) in [(0, 1), (1, 1), (2, 3), (3, 1)] {
        assert_eq!(after(pte::G, |a| invpcid(a, kind, 2, PAGE)), [seen, seen], "type {kind}");
    }
}

fn refused(out: &Outcome) -> bool {
    out.fault() == (13, 0)
}

#[test]
fn what_invpcid_refuses() {
    if !has_pcids() {
        return;
    }
    let run = |kind, pcid, lin| with_pcids(|a| invpcid(a, kind, pcid, lin)).run();
    assert!(refused(&run(4, 0, 0)));
    for kind in 0..4 {
        assert!(refused(&run(kind, 1 << 12, 0)), "type {kind}");
    }
    assert!(refused(&run(0, 1, 1 << 47)));
    run(3, 1, 1 << 47).assert_clean();
    // Without CR4.PCIDE there is only PCID 0.
    let without = |kind, pcid| {
        let mut bare = with_pcids(|a| invpcid(a, kind, pcid, PAGE));
        bare.state.cr4 &= !cr4::PCIDE;
        bare.run()
    };
    assert!(refused(&without(0, 1)) && refused(&without(1, 1)));
    (0..4).for_each(|kind| without(kind, 0).assert_clean());
    without(2, 1).assert_clean();
    // User code.
    let bare = with_pcids(|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.push(USER_STACK as i32)?;
        a.push(2)?;
        a.push(i32::from(selector::USER_CODE64))?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    });
    bare.code(64, USER_CODE, |a| invpcid(a, 2, 0, 0));
    assert!(refused(&bare.run()));
}

#[test]
fn control_registers_with_pcids() {
    if !has_pcids() {
        return;
    }
    // Bit 63 is not kept, the PCID is.
    let out = with_pcids(|a| {
        load_cr3(a, 5 | NO_FLUSH)?;
        a.mov(rax, cr3)?;
        bare::report(a, 1)?;
        a.shr(rax, 32)?;
        bare::report(a, 1)
    })
    .run();
    out.assert_clean();
    assert_eq!(out.port(1), [ROOT as u32 | 5, 0]);
    // Without PCIDs bit 63 is reserved.
    let mut bare = with_pcids(|a| load_cr3(a, NO_FLUSH));
    bare.state.cr4 &= !cr4::PCIDE;
    assert!(refused(&bare.run()));
    // CR4.PCIDE is set with PCID 0 only, and cleared with any.
    let flip = |a: &mut CodeAssembler| {
        a.mov(rax, cr4)?;
        a.xor(rax, cr4::PCIDE as i32)?;
        a.mov(cr4, rax)
    };
    for (low, fails) in [(0, false), (1, true), (0x18, true)] {
        let mut bare = with_pcids(flip);
        bare.state.cr4 &= !cr4::PCIDE;
        bare.state.cr3 |= low;
        let out = bare.run();
        if fails {
            assert!(refused(&out), "{low:#x}");
        } else {
            out.assert_clean();
        }
    }
    let out = with_pcids(|a| {
        load_cr3(a, 5)?;
        map(a, 1, 0)?;
        look(a)?;
        map(a, 2, 0)?;
        flip(a)?;
        look(a)
    })
    .run();
    out.assert_clean();
    assert_eq!(out.port(1), [1, 2]);
    // Paging cannot be left with them, not from compatibility mode either.
    let bare = with_pcids(|a| {
        a.push(i32::from(selector::CODE32))?;
        a.push(USER_CODE as i32)?;
        a.db(&[0x48, 0xcb])
    });
    bare.code(32, USER_CODE, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, !cr0::PG as i32)?;
        a.mov(cr0, eax)
    });
    assert!(refused(&bare.run()));
}

#[test]
fn code_moves_with_its_context() {
    if !has_pcids() {
        return;
    }
    // A function at PAGE that gives another number in each context.
    let bare = with_pcids(|a| {
        for (pcid, number) in [(1, 1), (2, 2)] {
            load_cr3(a, pcid)?;
            map(a, number, 0)?;
            a.call(rbx)?;
            bare::report(a, 1)?;
        }
        map(a, 3, 0)?;
        for pcid in [1, 2, 1 | NO_FLUSH] {
            load_cr3(a, pcid ^ NO_FLUSH)?;
            a.call(rbx)?;
            bare::report(a, 1)?;
        }
        a.invlpg(ptr(rbx))?;
        a.call(rbx)?;
        bare::report(a, 1)
    });
    for i in 1..4u32 {
        bare.code(64, PAGE + 0x1000 * u64::from(i), |a| {
            a.mov(eax, 10 * i)?;
            a.ret()
        });
    }
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [10, 20, 10, 20, 30, 30]);
}

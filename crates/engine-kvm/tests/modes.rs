//! Guests of a few instructions in each mode of the CPU, on the `/dev/kvm` of this host.

mod common;

use engine::Stop;
use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, USER_CODE};

#[test]
fn real_mode() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::real();
    bare.code(16, 0x6000, |a| {
        a.mov(ax, 0x1234u32)?;
        a.mov(bx, 0x8000u32)?;
        a.mov(word_ptr(bx), ax)?;
        a.add(word_ptr(bx), 1)?;
        a.movzx(eax, word_ptr(bx))?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run_on(&engine);
    out.assert_clean();
    assert_eq!(out.port(1), [0x1235]);
    assert_eq!(out.stop, Stop::Kicked);
}

#[test]
fn protected_mode() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, 7)?;
        a.push(eax)?;
        a.pop(ebx)?;
        a.lea(eax, ebx + ebx * 4)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run_on(&engine);
    out.assert_clean();
    assert_eq!(out.port(1), [35]);
}

#[test]
fn long_mode() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::long();
    bare.code(64, CODE, |a| {
        a.mov(r9, 0x1_0000_0003u64)?;
        a.imul_2(r9, r9)?;
        a.mov(rax, r9)?;
        bare::report(a, 1)?;
        a.shr(rax, 32)?;
        bare::report(a, 2)?;
        bare::exit(a)
    });
    let out = bare.run_on(&engine);
    out.assert_clean();
    assert_eq!((out.port(1), out.port(2)), (vec![9], vec![6]));
    assert_eq!(out.state.gpr[9], 0x6_0000_0009);
}

#[test]
fn a_fault_goes_through_its_gate() {
    let Some(engine) = common::engine() else { return };
    let bare = Bare::long();
    bare.code(64, CODE, |a| {
        a.mov(rax, 0x4000_0000u64)?;
        a.mov(rbx, qword_ptr(rax))
    });
    let out = bare.run_on(&engine);
    assert_eq!(out.fault(), (14, 0));
    assert_eq!(out.state.cr2, 0x4000_0000);
}

#[test]
fn a_triple_fault_stops_the_machine() {
    let Some(engine) = common::engine() else { return };
    let mut bare = Bare::protected();
    bare.state.idt.limit = 0;
    bare.code(32, CODE, |a| a.ud2());
    assert_eq!(bare.run_on(&engine).stop, Stop::TripleFault);
    let _ = USER_CODE;
}

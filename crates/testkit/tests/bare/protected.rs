//! Protected mode: segments, gates, privilege.

use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, IDT, TSS, USER_CODE, USER_STACK, call_gate, gate32, segment, selector, system};

type Built = Result<(), iced_x86::IcedError>;

/// Runs code at privilege 0 to its exception.
fn fault(build: impl FnOnce(&mut CodeAssembler) -> Built) -> (u32, u32) {
    fault_with(|_| {}, build)
}

fn fault_with(prepare: impl FnOnce(&mut Bare), build: impl FnOnce(&mut CodeAssembler) -> Built) -> (u32, u32) {
    let mut bare = Bare::protected();
    prepare(&mut bare);
    bare.code(32, CODE, build);
    bare.run().fault()
}

/// Goes to privilege 3.
fn to_user(a: &mut CodeAssembler) -> Built {
    a.push(i32::from(selector::USER_DATA))?;
    a.push(USER_STACK as i32)?;
    a.push(2)?;
    a.push(i32::from(selector::USER_CODE32))?;
    a.push(USER_CODE as i32)?;
    a.iretd()
}

/// A guest that runs `build` at privilege 3.
fn user(build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = Bare::protected();
    bare.code(32, CODE, to_user);
    bare.code(32, USER_CODE, build);
    bare
}

fn load(segment: AsmRegisterSegment, value: u16) -> impl FnOnce(&mut CodeAssembler) -> Built {
    move |a| {
        a.mov(eax, u32::from(value))?;
        a.mov(segment, eax)
    }
}

#[test]
fn loads_of_data_segments() {
    // Beyond the table; code that cannot be read; a system descriptor; not present.
    assert_eq!(fault(load(ds, 0x108)), (13, 0x108));
    assert_eq!(fault_with(|b| b.descriptor(0x50, segment(0, 0xfffff, 0x99, 0xc)), load(es, 0x50)), (13, 0x50));
    assert_eq!(fault(load(fs, selector::TSS)), (13, 0x40));
    assert_eq!(fault_with(|b| b.descriptor(0x50, segment(0, 0xfffff, 0x13, 0xc)), load(gs, 0x53)), (13, 0x50));
    assert_eq!(fault_with(|b| b.descriptor(0x50, segment(0, 0xfffff, 0x13, 0xc)), load(gs, 0x50)), (11, 0x50));
    // The local table is not there.
    assert_eq!(fault(load(ds, 0x0c)), (13, 0x0c));
}

#[test]
fn loads_of_the_stack_segment() {
    assert_eq!(fault(load(ss, 0)), (13, 0));
    assert_eq!(fault(load(ss, selector::CODE32)), (13, 8));
    assert_eq!(fault(load(ss, selector::USER_DATA)), (13, 0x20));
    assert_eq!(fault_with(|b| b.descriptor(0x50, segment(0, 0xfffff, 0x13, 0xc)), load(ss, 0x50)), (12, 0x50));
}

#[test]
fn a_null_segment_faults_when_used() {
    let e = fault(|a| {
        a.xor(eax, eax)?;
        a.mov(es, eax)?;
        a.mov(eax, dword_ptr(0x100).es())
    });
    assert_eq!(e, (13, 0));
}

#[test]
fn limits_and_rights() {
    let small = |b: &mut Bare| b.descriptor(0x50, segment(0x4000, 0xfff, 0x93, 0x4));
    let at = |offset: u32, write: bool| {
        move |a: &mut CodeAssembler| {
            load(fs, 0x50)(a)?;
            if write { a.mov(dword_ptr(offset).fs(), eax) } else { a.mov(eax, dword_ptr(offset).fs()) }?;
            bare::report(a, 1)?;
            bare::exit(a)
        }
    };
    assert_eq!(fault_with(small, at(0xffd, false)), (13, 0));
    let mut bare = Bare::protected();
    small(&mut bare);
    bare.write32(0x4ffc, 0xdead_beef);
    bare.code(32, CODE, at(0xffc, false));
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0xdead_beef]);
    // The load has set the accessed bit of a descriptor without it.
    let expand_down = |b: &mut Bare| b.descriptor(0x50, segment(0, 0xfff, 0x96, 0x4));
    assert_eq!(fault_with(expand_down, at(0xfff, false)), (13, 0));
    let mut bare = Bare::protected();
    expand_down(&mut bare);
    bare.code(32, CODE, at(0x1000, true));
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.read64(bare::GDT + 0x50) >> 40 & 0xff, 0x97);
    // Read-only data, and code.
    assert_eq!(fault_with(|b| b.descriptor(0x50, segment(0, 0xfffff, 0x91, 0xc)), at(0, true)), (13, 0));
    assert_eq!(fault(|a| a.mov(dword_ptr(0).cs(), eax)), (13, 0));
    // The stack.
    let bare = user(|a| {
        a.mov(eax, 0x53)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x102)?;
        a.push(eax)
    });
    bare.descriptor(0x50, segment(0x8000, 0xff, 0xf3, 0x4));
    assert_eq!(bare.run().fault(), (12, 0));
    // At privilege 0 neither the handler nor that of #DF finds a stack.
    let bare = Bare::protected();
    bare.descriptor(0x50, segment(0x8000, 0xff, 0x93, 0x4));
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x50)?;
        a.mov(ss, eax)?;
        a.mov(esp, 0x200)?;
        a.push(eax)
    });
    assert_eq!(bare.run().stop, engine::Stop::TripleFault);
}

#[test]
fn software_interrupts_check_the_gate() {
    let bare = user(|a| a.int(0x20));
    bare.write64(IDT + 0x20 * 8, gate32(selector::CODE32, 0x3000, 0x8e));
    assert_eq!(bare.run().fault(), (13, 0x20 * 8 + 2));
    // Not there; beyond the table.
    let bare = user(|a| a.int(0x20));
    bare.write64(IDT + 0x20 * 8, gate32(selector::CODE32, 0x3000, 0x6e));
    assert_eq!(bare.run().fault(), (11, 0x20 * 8 + 2));
    let mut bare = user(|a| a.int(0xff));
    bare.state.idt.limit = 0x3ff;
    assert_eq!(bare.run().fault(), (13, 0xff * 8 + 2));
    // INT3 from privilege 3 needs a gate that allows it, too.
    assert_eq!(user(|a| a.int3()).run().fault(), (13, 3 * 8 + 2));
}

#[test]
fn faults_are_pushed_with_rf_traps_without() {
    let e = user(|a| a.ud2()).run().exception();
    assert_eq!((e.vector, e.ip, e.cs), (6, USER_CODE as u32, u32::from(selector::USER_CODE32)));
    assert_eq!(e.flags & 0x1_0000, 0x1_0000);
    let bare = user(|a| a.int3());
    bare.write64(IDT + 3 * 8, gate32(selector::CODE32, 0x3000 + 3 * 64, 0xee));
    let e = bare.run().exception();
    assert_eq!((e.vector, e.ip, e.flags & 0x1_0000), (3, USER_CODE as u32 + 1, 0));
}

#[test]
fn privileged_instructions_at_privilege_3() {
    let cases: [fn(&mut CodeAssembler) -> Built; 8] = [
        |a| a.hlt(),
        |a| a.cli(),
        |a| a.mov(eax, cr0),
        |a| a.mov(dr0, eax),
        |a| a.rdmsr(),
        |a| a.wbinvd(),
        |a| a.lgdt(ptr(0x100)),
        |a| a.clts(),
    ];
    for case in cases {
        let e = user(case).run().exception();
        assert_eq!((e.vector, e.error, e.ip), (13, 0, USER_CODE as u32));
    }
}

#[test]
fn ports_at_privilege_3_go_by_the_bitmap() {
    let bare = user(|a| {
        a.in_(eax, 0x20)?;
        bare::report(a, 1)?;
        a.out(0x80, al)
    });
    bare.write(TSS + 0x68 + 16, &[1]);
    let out = bare.run();
    assert_eq!(out.port(1), [0x2322_2120]);
    assert_eq!(out.fault(), (13, 0));
    // A bitmap beyond the limit allows nothing.
    let mut bare = user(|a| a.in_(al, 0x20));
    bare.state.tr.limit = 0x67;
    assert_eq!(bare.run().fault(), (13, 0));
}

#[test]
fn call_gate_switches_stacks_and_copies_parameters() {
    let bare = user(|a| {
        a.push(0x111)?;
        a.push(0x222)?;
        // call far 0x53:0
        a.db(&[0x9a, 0, 0, 0, 0, 0x53, 0])?;
        a.mov(eax, esp)?;
        bare::report(a, 2)?;
        a.mov(eax, ds)?;
        bare::report(a, 3)?;
        bare::exit(a)
    });
    bare.descriptor(0x50, call_gate(selector::CODE32, 0x3_0000, 0xec, 2));
    bare.code(32, 0x3_0000, |a| {
        for i in 0..6u32 {
            a.mov(eax, dword_ptr(esp + 4 * i).ss())?;
            bare::report(a, 1)?;
        }
        a.mov(eax, esp)?;
        bare::report(a, 1)?;
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, eax)?;
        a.retf_1(8)
    });
    let out = bare.run();
    out.assert_clean();
    let back = USER_CODE as u32 + 4 + 10 + 7 - 4;
    let frame = out.port(1);
    assert_eq!(frame[0], back);
    assert_eq!(&frame[1..], [0x1b, 0x222, 0x111, USER_STACK as u32 - 8, 0x23, 0x8000 - 24]);
    assert_eq!(out.port(2), [USER_STACK as u32]);
    // DS was of privilege 0.
    assert_eq!(out.port(3), [0]);
}

#[test]
fn call_gates_check_privilege_and_presence() {
    let call = |a: &mut CodeAssembler| a.db(&[0x9a, 0, 0, 0, 0, 0x53, 0]);
    for (gate, expected) in [
        (call_gate(selector::CODE32, 0x3_0000, 0x8c, 0), (13, 0x50)),
        (call_gate(selector::CODE32, 0x3_0000, 0x6c, 0), (11, 0x50)),
        (call_gate(0, 0x3_0000, 0xec, 0), (13, 0)),
        (call_gate(selector::DATA, 0x3_0000, 0xec, 0), (13, 0x10)),
    ] {
        let bare = user(call);
        bare.descriptor(0x50, gate);
        assert_eq!(bare.run().fault(), expected, "{gate:#x}");
    }
    // The stack of the inner level is bad.
    let bare = user(call);
    bare.descriptor(0x50, call_gate(selector::CODE32, 0x3_0000, 0xec, 0));
    bare.descriptor(0x58, segment(0, 0xfffff, 0xb3, 0xc));
    bare.write32(TSS + 8, 0x58);
    let out = bare.run();
    // #TS cannot be delivered on that stack either.
    assert_eq!(out.stop, engine::Stop::TripleFault);
}

#[test]
fn far_returns_to_outer_code_only() {
    let ret = |cs_: u16, ip: i32| {
        move |a: &mut CodeAssembler| {
            a.push(i32::from(selector::USER_DATA))?;
            a.push(USER_STACK as i32)?;
            a.push(i32::from(cs_))?;
            a.push(ip)?;
            a.retf()
        }
    };
    assert_eq!(fault(ret(0, 0)), (13, 0));
    assert_eq!(fault(ret(selector::DATA, 0)), (13, 0x10));
    // RPL 3 with code of DPL 0.
    assert_eq!(fault(ret(selector::CODE32 | 3, 0)), (13, 8));
    let bare = Bare::protected();
    bare.code(32, CODE, ret(selector::USER_CODE32, USER_CODE as i32));
    bare.code(32, USER_CODE, |a| {
        a.push(0)?;
        a.push(8)?;
        a.push(0x100)?;
        a.retf()
    });
    let e = bare.run().exception();
    assert_eq!((e.vector, e.error, e.cs), (13, 8, 0x1b));
}

#[test]
fn conforming_code_keeps_the_privilege() {
    let bare = user(|a| a.db(&[0xea, 0, 0, 3, 0, 0x50, 0]));
    bare.descriptor(0x50, segment(0, 0xfffff, 0x9f, 0xc));
    bare.code(32, 0x3_0000, |a| {
        a.mov(eax, cs)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0x53]);
}

#[test]
fn local_descriptors_and_questions() {
    let bare = Bare::protected();
    bare.descriptor(0x50, system(0x5000, 0xf, 0x82));
    bare.write64(0x5008, segment(0x6000, 0x123, 0x91, 0x4));
    bare.write32(0x6010, 0x7777);
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x50)?;
        a.lldt(ax)?;
        a.sldt(eax)?;
        bare::report(a, 1)?;
        a.mov(eax, 0x0c)?;
        a.mov(es, eax)?;
        a.lsl(ecx, eax)?;
        a.lar(edx, eax)?;
        a.verw(ax)?;
        a.setz(bl)?;
        a.verr(ax)?;
        a.setz(bh)?;
        a.mov(eax, dword_ptr(0x10).es())?;
        for register in [eax, ecx, edx] {
            a.mov(eax, register)?;
            bare::report(a, 1)?;
        }
        a.movzx(eax, bx)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [0x50, 0x7777, 0x123, 0x0040_9100, 0x100]);
}

#[test]
fn single_step_and_breakpoints() {
    let bare = user(|a| {
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.nop()?;
        a.nop()
    });
    bare.write64(IDT + 8, gate32(selector::CODE32, 0x3040, 0x8e));
    let out = bare.run();
    let e = out.exception();
    // After the first instruction behind POPF.
    assert_eq!((e.vector, e.ip), (1, USER_CODE as u32 + 10));
    assert_eq!(out.state.dr[4] & 0x4000, 0x4000);
    // On execution, before the instruction; on a write, behind it.
    let mut bare = Bare::protected();
    bare.state.dr[0] = CODE + 1;
    bare.state.dr[5] = 0x401;
    bare.code(32, CODE, |a| {
        a.nop()?;
        a.nop()
    });
    let out = bare.run();
    let e = out.exception();
    assert_eq!((e.vector, e.ip, e.flags & 0x1_0000), (1, CODE as u32 + 1, 0x1_0000));
    assert_eq!(out.state.dr[4] & 0xf, 1);
    let mut bare = Bare::protected();
    bare.state.dr[1] = 0x700;
    bare.state.dr[5] = 0x404 | 0xd0_0000;
    bare.code(32, CODE, |a| {
        a.mov(dword_ptr(0x702), eax)?;
        a.nop()
    });
    let out = bare.run();
    let e = out.exception();
    assert_eq!((e.vector, e.ip), (1, CODE as u32 + 5));
    assert_eq!(out.state.dr[4] & 0xf, 2);
}

#[test]
fn breakpoints_on_ports_need_de() {
    // DR2 watches two ports from 40h.
    let watch = |features: u64| {
        let mut bare = Bare::protected();
        bare.state.dr[2] = 0x40;
        bare.state.dr[5] = 0x410 | 0x600_0000;
        bare.state.cr4 |= features;
        bare.code(32, CODE, |a| {
            a.in_(al, 0x41)?;
            a.ud2()
        });
        bare.run()
    };
    let out = watch(x86::bits::cr4::DE);
    let e = out.exception();
    assert_eq!((e.vector, e.ip), (1, CODE as u32 + 2));
    assert_eq!(out.state.dr[4] & 0xf, 4);
    assert_eq!(watch(0).exception().vector, 6);
}

#[test]
fn general_detect_guards_the_debug_registers() {
    let mut bare = Bare::protected();
    bare.state.dr[5] = 0x2400;
    bare.code(32, CODE, |a| a.mov(eax, dr6));
    let out = bare.run();
    assert_eq!(out.exception().vector, 1);
    assert_eq!(out.state.dr[4] & 0x2000, 0x2000);
    assert_eq!(out.state.dr[5], 0x400);
}

#[test]
fn a_load_of_ss_holds_the_trap_back() {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.mov(ss, eax)?;
        a.nop()?;
        a.nop()
    });
    let out = bare.run();
    let e = out.exception();
    let code: [u8; 32] = out.memory.read_array(memory::Gpa(CODE)).expect("the code");
    let nop = code.iter().position(|b| *b == 0x90).expect("NOP") as u32;
    assert_eq!((e.vector, e.ip), (1, CODE as u32 + nop + 1));
}

#[test]
fn software_interrupts_are_not_stepped_into() {
    let bare = user(|a| {
        a.pushfd()?;
        a.or(dword_ptr(esp), 0x100)?;
        a.popfd()?;
        a.int(0x20)
    });
    bare.write64(IDT + 0x20 * 8, gate32(selector::CODE32, 0x3_0000, 0xee));
    bare.code(32, 0x3_0000, |a| {
        a.pushfd()?;
        a.pop(eax)?;
        bare::report(a, 1)?;
        a.mov(eax, dword_ptr(esp + 8))?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!((out.port(1)[0] & 0x100, out.port(1)[1] & 0x100), (0, 0x100));
}

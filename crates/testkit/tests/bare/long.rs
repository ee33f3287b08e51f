//! Long mode: interrupts, SYSCALL, segment bases.

use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, IDT, KERNEL_STACK, TSS, TSS_STACK, USER_CODE, USER_STACK, gate64, selector};
use x86::msr;

type Built = Result<(), iced_x86::IcedError>;

fn kernel(build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = Bare::long();
    bare.code(64, CODE, build);
    bare
}

fn user(build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = kernel(|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.push(USER_STACK as i32)?;
        a.push(2)?;
        a.push(i32::from(selector::USER_CODE64))?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    });
    bare.code(64, USER_CODE, build);
    bare
}

fn gate(bare: &Bare, vector: u64, offset: u64, access: u8, ist: u8) {
    let [low, high] = gate64(selector::CODE64, offset, access, ist);
    bare.write64(IDT + 16 * vector, low);
    bare.write64(IDT + 16 * vector + 8, high);
}

/// A handler at 0x30000 that reports `count` words of its stack, then RSP and SS.
fn frame_reporter(bare: &Bare, count: i32) {
    bare.code(64, 0x3_0000, |a| {
        for i in 0..count {
            a.mov(rax, qword_ptr(rsp + 8 * i))?;
            bare::report(a, 1)?;
        }
        a.mov(eax, esp)?;
        bare::report(a, 2)?;
        a.mov(eax, ss)?;
        bare::report(a, 3)?;
        bare::exit(a)
    });
}

#[test]
fn interrupts_from_user_code_switch_stacks() {
    let bare = user(|a| a.int(0x80));
    gate(&bare, 0x80, 0x3_0000, 0xee, 0);
    frame_reporter(&bare, 5);
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [USER_CODE as u32 + 2, 0x33, 2, USER_STACK as u32, 0x23]);
    assert_eq!(out.port(2), [TSS_STACK as u32 - 40]);
    assert_eq!(out.port(3), [0]);
}

#[test]
fn interrupts_align_the_stack_and_use_the_ist() {
    let bare = kernel(|a| {
        a.sub(rsp, 4)?;
        a.int(0x80)
    });
    gate(&bare, 0x80, 0x3_0000, 0x8e, 0);
    frame_reporter(&bare, 5);
    let out = bare.run();
    assert_eq!(out.port(1)[3], KERNEL_STACK as u32 - 4);
    assert_eq!(out.port(2), [KERNEL_STACK as u32 - 16 - 40]);
    let bare = kernel(|a| a.int(0x80));
    gate(&bare, 0x80, 0x3_0000, 0x8e, 3);
    bare.write64(TSS + 36 + 16, 0xd000);
    frame_reporter(&bare, 5);
    let out = bare.run();
    assert_eq!(out.port(2), [0xd000 - 40]);
    assert_eq!(out.port(3), [0x10]);
}

#[test]
fn addresses_that_are_not_canonical() {
    let far = 0x8000_0000_0000u64;
    assert_eq!(
        kernel(|a| {
            a.mov(rbx, far)?;
            a.mov(rax, qword_ptr(rbx))
        })
        .run()
        .fault(),
        (13, 0)
    );
    assert_eq!(
        kernel(|a| {
            a.mov(rbp, far)?;
            a.mov(rax, qword_ptr(rbp))
        })
        .run()
        .fault(),
        (12, 0)
    );
    let e = kernel(|a| {
        a.mov(rbx, far)?;
        a.jmp(rbx)
    })
    .run()
    .exception();
    assert_eq!((e.vector, e.error, e.ip), (13, 0, CODE as u32 + 10));
    // RSP is bad: the handler has no stack, and then neither has that of #DF.
    let out = kernel(|a| {
        a.mov(rsp, far)?;
        a.push(rax)
    })
    .run();
    assert_eq!(out.stop, engine::Stop::TripleFault);
    // IRETQ to such an address faults in the kernel.
    let e = kernel(|a| {
        a.mov(rcx, far)?;
        a.push(0x10)?;
        a.push(rsp)?;
        a.push(2)?;
        a.push(0x28)?;
        a.push(rcx)?;
        a.iretq()
    })
    .run()
    .exception();
    assert_eq!((e.vector, e.error, e.cs), (13, 0, 0x28));
}

fn with_syscall(build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let mut bare = user(build);
    // Kernel code 0x28, stack 0x30 by STAR; user code for SYSRET at 0x20 + 16.
    bare.state.msrs.star = 0x0020_0028 << 32;
    bare.state.msrs.lstar = 0x3_0000;
    bare.state.msrs.sfmask = 0x200 | 0x400;
    bare
}

#[test]
fn syscall_and_sysret() {
    let bare = with_syscall(|a| {
        a.std()?;
        a.syscall()?;
        a.pushfq()?;
        a.pop(rax)?;
        bare::report(a, 5)?;
        a.mov(eax, cs)?;
        bare::report(a, 6)?;
        a.mov(eax, ss)?;
        bare::report(a, 6)?;
        bare::exit(a)
    });
    bare.code(64, 0x3_0000, |a| {
        a.pushfq()?;
        a.pop(rax)?;
        bare::report(a, 1)?;
        a.mov(eax, ecx)?;
        bare::report(a, 2)?;
        a.mov(eax, r11d)?;
        bare::report(a, 3)?;
        a.mov(eax, cs)?;
        bare::report(a, 4)?;
        a.mov(eax, ss)?;
        bare::report(a, 4)?;
        a.sysretq()
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1), [2]);
    assert_eq!(out.port(2), [USER_CODE as u32 + 3]);
    assert_eq!(out.port(3), [0x402]);
    assert_eq!(out.port(4), [0x28, 0x30]);
    assert_eq!(out.port(5), [0x402]);
    assert_eq!(out.port(6), [0x33, 0x2b]);
}

#[test]
fn sysret_to_an_address_that_is_not_canonical_faults_at_privilege_0() {
    let bare = with_syscall(|a| a.syscall());
    bare.code(64, 0x3_0000, |a| {
        a.mov(rcx, 0x8000_0000_0000u64)?;
        a.sysretq()
    });
    let e = bare.run().exception();
    assert_eq!((e.vector, e.error, e.cs, e.ip), (13, 0, 0x28, 0x3_000a));
}

#[test]
fn syscall_needs_sce_and_64_bit_code() {
    let mut bare = user(|a| a.syscall());
    bare.state.msrs.efer &= !1;
    assert_eq!(bare.run().fault(), (6, 0));
}

#[test]
fn swapgs_and_bases() {
    let mut bare = kernel(|a| {
        bare::write_msr(a, msr::IA32_GS_BASE, 0x5000)?;
        bare::write_msr(a, msr::IA32_KERNEL_GS_BASE, 0x6000)?;
        a.mov(eax, dword_ptr(8).gs())?;
        bare::report(a, 1)?;
        a.swapgs()?;
        a.mov(eax, dword_ptr(8).gs())?;
        bare::report(a, 1)?;
        a.mov(ecx, msr::IA32_KERNEL_GS_BASE)?;
        a.rdmsr()?;
        bare::report(a, 1)?;
        // A null selector leaves no base.
        a.xor(eax, eax)?;
        a.mov(gs, eax)?;
        a.mov(ecx, msr::IA32_GS_BASE)?;
        a.rdmsr()?;
        bare::report(a, 1)?;
        bare::write_msr(a, msr::IA32_GS_BASE, 0x8000_0000_0000)
    });
    bare.state.gpr[3] = 0;
    bare.write32(0x5008, 0x55);
    bare.write32(0x6008, 0x66);
    let out = bare.run();
    assert_eq!(out.port(1), [0x55, 0x66, 0x5000, 0]);
    assert_eq!(out.fault(), (13, 0));
}

#[test]
fn compatibility_code_and_back() {
    let bare = kernel(|a| {
        a.push(i32::from(selector::USER_DATA))?;
        a.push(USER_STACK as i32)?;
        a.push(2)?;
        a.push(i32::from(selector::USER_CODE32))?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    });
    bare.code(32, USER_CODE, |a| {
        // Decodes as DEC EAX here, as a prefix in 64-bit code.
        a.mov(eax, 5)?;
        a.db(&[0x48])?;
        bare::report(a, 1)?;
        a.int(0x80)
    });
    gate(&bare, 0x80, 0x3_0000, 0xee, 0);
    frame_reporter(&bare, 5);
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1)[0], 4);
    assert_eq!(out.port(1)[2..], [0x1b, 2, USER_STACK as u32, 0x23]);
}

#[test]
fn null_stack_segments() {
    // Allowed at privilege 0, refused for 3.
    let out = kernel(|a| {
        a.xor(eax, eax)?;
        a.mov(ss, eax)?;
        a.push(rax)?;
        bare::exit(a)
    })
    .run();
    out.assert_clean();
    let e = kernel(|a| {
        a.push(3)?;
        a.push(USER_STACK as i32)?;
        a.push(2)?;
        a.push(i32::from(selector::USER_CODE64))?;
        a.push(USER_CODE as i32)?;
        a.iretq()
    })
    .run()
    .exception();
    assert_eq!((e.vector, e.error, e.cs), (13, 0, 0x28));
}

#[test]
fn unknown_msrs_are_refused() {
    for number in [0xc1u32, 0x1234_5678, 0x480] {
        assert_eq!(
            kernel(|a| {
                a.mov(ecx, number)?;
                a.rdmsr()
            })
            .run()
            .fault(),
            (13, 0)
        );
    }
}

#[test]
fn sti_holds_interrupts_back_for_one_instruction() {
    // HLT behind STI wakes up by the timer of the local APIC, and returns behind the HLT.
    let bare = kernel(|a| {
        a.mov(rbx, 0xfee0_0000u64)?;
        a.mov(dword_ptr(rbx + 0xf0), 0x1ff)?;
        a.mov(dword_ptr(rbx + 0x320), 0x80)?;
        a.mov(dword_ptr(rbx + 0x3e0), 0xb)?;
        a.mov(dword_ptr(rbx + 0x380), 1000)?;
        a.sti()?;
        a.hlt()?;
        a.nop()
    });
    // The page of the APIC lies in a large page of its own.
    bare.write64(0x10_1000 + 3 * 8, 0x10_4003);
    bare.write64(0x10_4000 + 0x1f7 * 8, 0xfee0_0083);
    gate(&bare, 0x80, 0x3_0000, 0x8e, 0);
    frame_reporter(&bare, 3);
    let out = bare.run();
    out.assert_clean();
    let code: [u8; 64] = out.memory.read_array(memory::Gpa(CODE)).expect("the code");
    let hlt = code.windows(2).position(|w| w == [0xfb, 0xf4]).expect("STI, HLT") as u32 + 1;
    assert_eq!(out.port(1)[0], CODE as u32 + hlt + 1);
    assert_eq!(out.port(1)[2] & 0x200, 0x200);
}

#[test]
fn alignment_checks_concern_user_code_only() {
    let code = |a: &mut CodeAssembler| {
        a.pushfq()?;
        a.or(dword_ptr(rsp), 0x4_0000)?;
        a.popfq()?;
        a.mov(rbx, 0x5001u64)?;
        a.nop()
    };
    // The stack pointer in the TSS is not aligned to 8, and is read nevertheless.
    let mut bare = user(|a| {
        code(a)?;
        a.mov(eax, dword_ptr(rbx))
    });
    bare.state.cr0 |= x86::bits::cr0::AM;
    assert_eq!(bare.run().fault(), (17, 0));
    let mut bare = user(|a| {
        code(a)?;
        a.mov(al, byte_ptr(rbx))?;
        a.int(0x80)
    });
    bare.state.cr0 |= x86::bits::cr0::AM;
    gate(&bare, 0x80, 0x3_0000, 0xee, 0);
    frame_reporter(&bare, 5);
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.port(1)[2], 0x4_0002);
}

#[test]
fn sysenter_and_sysexit() {
    let mut bare = user(|a| {
        a.sysenter()?;
        a.hlt()
    });
    // Code at 0x28 for the kernel; SYSEXIT to 64-bit code takes 0x28 + 32 and + 40.
    bare.state.msrs.sysenter_cs = 0x28;
    bare.state.msrs.sysenter_esp = 0x7000;
    bare.state.msrs.sysenter_eip = 0x3_0000;
    bare.code(64, 0x3_0000, |a| {
        a.mov(eax, esp)?;
        bare::report(a, 1)?;
        a.mov(eax, ss)?;
        bare::report(a, 1)?;
        a.mov(rdx, 0x4_0000u64)?;
        a.mov(rcx, 0x6000u64)?;
        a.sysexitq()
    });
    bare.code(64, 0x4_0000, |a| {
        a.mov(eax, esp)?;
        bare::report(a, 1)?;
        a.mov(eax, cs)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    // IOPL is 0: ports by the bitmap, which allows all.
    out.assert_clean();
    assert_eq!(out.port(1), [0x7000, 0x30, 0x6000, 0x4b]);
    // Without a selector it is refused.
    assert_eq!(user(|a| a.sysenter()).run().fault(), (13, 0));
}

#[test]
fn xcr0_keeps_its_rules() {
    let set = |value: u32| {
        move |a: &mut CodeAssembler| {
            a.mov(eax, 0x4_0220u32 as i32)?;
            a.mov(cr4, rax)?;
            a.xor(ecx, ecx)?;
            a.xor(edx, edx)?;
            a.mov(eax, value)?;
            a.xsetbv()?;
            a.xgetbv()?;
            bare::report(a, 1)?;
            bare::exit(a)
        }
    };
    for bad in [0, 2, 5, 0x11] {
        assert_eq!(kernel(set(bad)).run().fault(), (13, 0), "{bad}");
    }
    let out = kernel(set(3)).run();
    out.assert_clean();
    assert_eq!(out.port(1), [3]);
    // Without OSXSAVE.
    assert_eq!(kernel(|a| a.xgetbv()).run().fault(), (6, 0));
}

#[test]
fn user_mode_instruction_prevention() {
    let mut bare = user(|a| a.sgdt(ptr(0x5000)));
    bare.state.cr4 |= x86::bits::cr4::UMIP;
    assert_eq!(bare.run().fault(), (13, 0));
    let out = user(|a| {
        a.sgdt(ptr(0x5000))?;
        a.mov(eax, dword_ptr(0x5002))?;
        bare::report(a, 1)?;
        bare::exit(a)
    })
    .run();
    out.assert_clean();
    assert_eq!(out.port(1), [bare::GDT as u32]);
}

#[test]
fn strings_to_and_from_ports() {
    let bare = kernel(|a| {
        a.mov(edi, 0x5000)?;
        a.mov(ecx, 3)?;
        a.mov(dx, 0x21u32)?;
        a.cld()?;
        a.rep().insw()?;
        a.mov(esi, 0x5004)?;
        a.mov(ecx, 2)?;
        a.std()?;
        a.rep().outsw()?;
        a.mov(eax, esi)?;
        bare::report(a, 1)?;
        a.mov(eax, edi)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.read64(0x5000) & 0xffff_ffff_ffff, 0x2221_2221_2221);
    assert_eq!(out.port(0x21), [0x2221, 0x2221]);
    assert_eq!(out.port(1), [0x5000, 0x5006]);
}

#[test]
fn reserved_bits_of_msrs() {
    for (number, value) in [
        (msr::IA32_PAT, 0x0200),
        (msr::IA32_FMASK, 1 << 32),
        (msr::IA32_LSTAR, 0x8000_0000_0000),
        (msr::IA32_MTRR_DEF_TYPE, 2),
        (msr::IA32_APIC_BASE, 0xfee0_0400),
        (msr::IA32_MC0_STATUS, 1),
        (msr::IA32_FEATURE_CONTROL, 0),
        (msr::IA32_X2APIC_TPR, 0),
    ] {
        let e = kernel(|a| bare::write_msr(a, number, value)).run();
        assert_eq!(e.fault(), (13, 0), "{number:#x}");
    }
}

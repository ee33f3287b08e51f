//! Real mode, the ways between the modes, virtual-8086 mode, and the end of all.

use engine::Stop;
use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, GDT, IDT, TSS, USER_CODE, gate32, gate64, segment, selector};
use x86::DescriptorTable;

#[test]
fn real_mode_interrupts_push_and_return() {
    let bare = Bare::real();
    bare.write32(0x21 * 4, 0x0100_6000); // 0100:6000
    bare.code(16, 0x6000, |a| {
        a.sti()?;
        a.nop()?;
        a.int(0x21)?;
        a.pushf()?;
        a.pop(ax)?;
        a.and(eax, 0x200)?;
        bare::report(a, 1)?;
        bare::exit(a)
    });
    bare.code(16, 0x7000, |a| {
        a.mov(bp, sp)?;
        for i in 0..3u32 {
            a.movzx(eax, word_ptr(bp + 2 * i))?;
            bare::report(a, 2)?;
        }
        a.pushf()?;
        a.pop(ax)?;
        a.and(eax, 0x200)?;
        bare::report(a, 3)?;
        a.iret()
    });
    let out = bare.run();
    out.assert_clean();
    let frame = out.port(2);
    assert_eq!(&frame[..2], [0x6004, 0]);
    assert_eq!(frame[2] & 0x200, 0x200);
    assert_eq!((out.port(3), out.port(1)), (vec![0], vec![0x200]));
}

#[test]
fn real_mode_faults_go_through_the_table() {
    let bare = Bare::real();
    bare.write32(13 * 4, 0x7000);
    bare.write32(0, 0x7100);
    for (at, port) in [(0x7000, 13u16), (0x7100, 14)] {
        bare.code(16, at, |a| {
            a.pop(ax)?;
            a.movzx(eax, ax)?;
            bare::report(a, port)?;
            a.mov(ax, 0x6100u32)?;
            a.cmp(word_ptr(0x500), 0)?;
            a.mov(word_ptr(0x500), 1)?;
            let mut again = a.create_label();
            a.je(again)?;
            bare::exit(a)?;
            a.set_label(&mut again)?;
            a.jmp(ax)
        });
    }
    bare.code(16, 0x6000, |a| {
        a.mov(bx, 0xffffu32)?;
        // A word at the last byte of the segment.
        a.mov(cx, word_ptr(bx))
    });
    bare.code(16, 0x6100, |a| {
        a.xor(cx, cx)?;
        a.div(cl)
    });
    let out = bare.run();
    assert_eq!(out.port(13), [0x6003]);
    assert_eq!(out.port(14), [0x6102]);
}

#[test]
fn from_real_to_protected_to_long_mode_and_back() {
    let bare = Bare::long();
    let mut bare = Bare { state: Bare::real().state, memory: bare.memory };
    bare.state.gdt = DescriptorTable { base: 0, limit: 0 };
    bare.write(0x500, &0xffu16.to_le_bytes());
    bare.write32(0x502, GDT as u32);
    bare.code(16, 0x6000, |a| {
        a.lgdt(ptr(0x500))?;
        a.mov(eax, cr0)?;
        a.or(eax, 1)?;
        a.mov(cr0, eax)?;
        // jmp far 08:00006100, with a prefix for the size of the operand.
        a.db(&[0x66, 0xea, 0x00, 0x61, 0x00, 0x00, 0x08, 0x00])
    });
    bare.code(32, 0x6100, |a| {
        a.mov(eax, u32::from(selector::DATA))?;
        a.mov(ds, ax)?;
        a.mov(ss, ax)?;
        a.mov(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x10_0000)?;
        a.mov(cr3, eax)?;
        bare::write_msr(a, x86::msr::IA32_EFER, 0x100)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, x86::msr::IA32_EFER)?;
        a.rdmsr()?;
        bare::report(a, 1)?;
        a.db(&[0xea, 0x00, 0x62, 0x00, 0x00, 0x28, 0x00])
    });
    bare.code(64, 0x6200, |a| {
        a.mov(rax, 0x1234_5678_9abc_def0u64)?;
        a.shr(rax, 32)?;
        bare::report(a, 2)?;
        a.mov(esp, 0x5000)?;
        // Back to compatibility mode.
        a.push(i32::from(selector::CODE32))?;
        a.push(0x6300)?;
        a.db(&[0x48, 0xcb])
    });
    bare.code(32, 0x6300, |a| {
        a.mov(eax, cr0)?;
        a.and(eax, 0x7fff_ffff)?;
        a.mov(cr0, eax)?;
        a.mov(ecx, x86::msr::IA32_EFER)?;
        a.rdmsr()?;
        bare::report(a, 3)?;
        bare::exit(a)
    });
    let out = bare.run();
    out.assert_clean();
    assert_eq!((out.port(1), out.port(2), out.port(3)), (vec![0x500], vec![0x1234_5678], vec![0x100]));
    assert_eq!(out.state.msrs.efer, 0x100);
}

/// A guest in protected mode that goes to virtual-8086 mode at 0200:0000 with this IOPL and these bits of CR4.
fn v86(iopl: u32, features: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) -> Bare {
    let mut bare = Bare::protected();
    bare.state.cr4 |= features;
    bare.code(32, CODE, |a| {
        for value in [0x33, 0x44, 0x55, 0x66, 0x700, 0x0ffe] {
            a.push(value)?;
        }
        a.push((0x2_0002 | iopl << 12) as i32)?;
        a.push((USER_CODE >> 4) as i32)?;
        a.push(0)?;
        a.iretd()
    });
    bare.code(16, USER_CODE, build);
    bare
}

#[test]
fn v86_faults_push_the_data_segments() {
    // GS, FS, DS, ES were pushed first: 0x33, 0x44, 0x55, 0x66; SS 0x700, ESP 0xffe.
    let bare = v86(0, 0, |a| a.int(0x20));
    bare.code(32, 0x3000 + 13 * 64, |a| {
        for i in 0..10u32 {
            a.mov(eax, dword_ptr(esp + 4 * i))?;
            bare::report(a, 1)?;
        }
        a.mov(ax, ds)?;
        a.movzx(eax, ax)?;
        bare::report(a, 2)?;
        bare::exit(a)
    });
    let out = bare.run();
    assert_eq!(out.port(1), [0, 0, 0x2000, 0x3_0002, 0xffe, 0x700, 0x66, 0x55, 0x44, 0x33]);
    assert_eq!(out.port(2), [0]);
}

#[test]
fn v86_privileged_instructions() {
    assert_eq!(v86(0, 0, |a| a.cli()).run().fault(), (13, 0));
    assert_eq!(v86(0, 0, |a| a.pushf()).run().fault(), (13, 0));
    assert_eq!(v86(3, 0, |a| a.hlt()).run().fault(), (13, 0));
    assert_eq!(v86(3, 0, |a| a.str(ax)).run().fault(), (6, 0));
    // With IOPL 3 they work.
    let out = v86(3, 0, |a| {
        a.sti()?;
        a.pushf()?;
        a.pop(ax)?;
        a.movzx(eax, ax)?;
        bare::report(a, 1)?;
        bare::exit(a)
    })
    .run();
    out.assert_clean();
    assert_eq!(out.port(1)[0] & 0x3200, 0x3200);
}

#[test]
fn v86_ports_go_by_the_bitmap() {
    let bare = v86(3, 0, |a| {
        a.in_(al, 0x40)?;
        a.in_(ax, 0x41)
    });
    bare.write(TSS + 0x68 + 8, &[0b100]);
    let e = bare.run().exception();
    assert_eq!((e.vector, e.error, e.ip), (13, 0, 2));
}

#[test]
fn v86_extensions_redirect_interrupts() {
    // The redirection bitmap lies below the I/O bitmap: move that up.
    let bare = v86(0, x86::bits::cr4::VME, |a| {
        a.sti()?;
        a.int(0x21)?;
        a.pushf()?;
        a.pop(ax)?;
        a.movzx(eax, ax)?;
        bare::report(a, 2)?;
        bare::exit(a)
    });
    bare.write(TSS + 0x66, &0x88u16.to_le_bytes());
    bare.write32(0x21 * 4, 0x0700_0000);
    bare.code(16, 0x7000, |a| {
        a.mov(bp, sp)?;
        a.movzx(eax, word_ptr(bp + 4))?;
        bare::report(a, 1)?;
        a.iret()
    });
    let out = bare.run();
    out.assert_clean();
    // IF in the image is VIF, IOPL reads as 3.
    assert_eq!(out.port(1)[0] & 0x3200, 0x3200);
    assert_eq!(out.port(2)[0] & 0x3200, 0x3200);
}

#[test]
fn no_table_no_handler_triple_fault() {
    let mut bare = Bare::protected();
    bare.state.idt.limit = 0;
    bare.code(32, CODE, |a| a.ud2());
    let out = bare.run();
    assert_eq!(out.stop, Stop::TripleFault);
    assert!(!out.exited);
}

#[test]
fn contributory_faults_make_a_double_fault() {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| {
        a.xor(ecx, ecx)?;
        a.div(ecx)
    });
    // The handler of #DE lies in a segment that is not present.
    bare.descriptor(selector::FREE, segment(0, 0xf_ffff, 0x1b, 0xc));
    bare.write64(IDT, gate32(selector::FREE, 0x3000, 0x8e));
    let e = bare.run().exception();
    assert_eq!((e.vector, e.error, e.ip), (8, 0, CODE as u32 + 2));
}

#[test]
fn a_benign_exception_gives_way_to_the_second() {
    let bare = Bare::protected();
    bare.code(32, CODE, |a| a.ud2());
    bare.write64(IDT + 6 * 8, gate32(selector::CODE32, 0x3000, 0x0e));
    // #NP with the gate's index, IDT and EXT.
    assert_eq!(bare.run().fault(), (11, 6 * 8 + 3));
}

#[test]
fn long_mode_needs_its_conditions() {
    // Paging with LME but without PAE.
    let mut bare = Bare::protected();
    bare.state.msrs.efer = x86::bits::efer::LME;
    bare.code(32, CODE, |a| {
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)
    });
    assert_eq!(bare.run().fault(), (13, 0));
    // PAE cannot be cleared in long mode, nor LME, nor a reserved bit set.
    for (code, value) in [("cr4", 0u64), ("efer", 0), ("cr4", 1 << 15 | 0x20), ("efer", 0x2000 | 0x501)] {
        let bare = Bare::long();
        bare.code(64, CODE, |a| {
            if code == "cr4" {
                a.mov(rax, value)?;
                a.mov(cr4, rax)
            } else {
                bare::write_msr(a, x86::msr::IA32_EFER, value)
            }
        });
        assert_eq!(bare.run().fault(), (13, 0), "{code} {value:#x}");
    }
}

#[test]
fn gates_of_32_bits_have_no_meaning_in_long_mode() {
    let bare = Bare::long();
    bare.code(64, CODE, |a| a.int(0x20));
    let [low, high] = gate64(selector::CODE64, 0x3000, 0x85, 0);
    bare.write64(IDT + 16 * 0x20, low);
    bare.write64(IDT + 16 * 0x20 + 8, high);
    assert_eq!(bare.run().fault(), (13, 0x20 * 8 + 2));
}

//! Page tables: accessed and dirty bits, rights, error codes.

use iced_x86::code_asm::*;
use testkit::bare::{self, Bare, CODE, USER_CODE, USER_STACK, selector};
use x86::bits::{cr0, cr4, pte};

/// The page that the tests play with.
const PAGE: u64 = 0x6_0000;
/// Its entry in the page table of long mode.
const ENTRY: u64 = 0x10_3000 + (PAGE >> 12) * 8;

type Built = Result<(), iced_x86::IcedError>;

fn with_entry(bits: u64, build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = Bare::long();
    bare.write64(ENTRY, PAGE | bits);
    bare.code(64, CODE, |a| {
        build(a)?;
        bare::exit(a)
    });
    bare
}

fn read(a: &mut CodeAssembler) -> Built {
    a.mov(rbx, PAGE)?;
    a.mov(rax, qword_ptr(rbx + 8))
}

fn write(a: &mut CodeAssembler) -> Built {
    a.mov(rbx, PAGE)?;
    a.mov(qword_ptr(rbx + 8), rax)
}

fn execute(a: &mut CodeAssembler) -> Built {
    a.mov(rbx, PAGE)?;
    a.jmp(rbx)
}

/// Runs `build` at privilege 3.
fn user(bits: u64, build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = with_entry(bits, |a| {
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

fn page_fault(bare: Bare) -> (u32, u64) {
    let out = bare.run();
    let (vector, error) = out.fault();
    assert_eq!(vector, 14);
    (error, out.state.cr2)
}

#[test]
fn accessed_and_dirty() {
    let out = with_entry(pte::P | pte::RW, read).run();
    out.assert_clean();
    assert_eq!(out.read64(ENTRY) & (pte::A | pte::D), pte::A);
    let out = with_entry(pte::P | pte::RW, write).run();
    out.assert_clean();
    assert_eq!(out.read64(ENTRY) & (pte::A | pte::D), pte::A | pte::D);
    // First read, then written: the write is seen although the translation is known.
    let out = with_entry(pte::P | pte::RW, |a| {
        read(a)?;
        write(a)
    })
    .run();
    assert_eq!(out.read64(ENTRY) & (pte::A | pte::D), pte::A | pte::D);
    // The tables above have A.
    assert_eq!(out.read64(0x10_0000) & pte::A, pte::A);
}

#[test]
fn error_codes() {
    assert_eq!(page_fault(with_entry(0, read)), (0, PAGE + 8));
    assert_eq!(page_fault(with_entry(0, write)), (2, PAGE + 8));
    assert_eq!(page_fault(with_entry(pte::P, write)), (3, PAGE + 8));
    assert_eq!(page_fault(user(pte::P | pte::RW, read)), (5, PAGE + 8));
    assert_eq!(page_fault(user(pte::P | pte::US, write)), (7, PAGE + 8));
    assert_eq!(page_fault(user(0, read)), (4, PAGE + 8));
    assert_eq!(page_fault(with_entry(pte::P | pte::XD, execute)), (0x11, PAGE));
    assert_eq!(page_fault(user(pte::P | pte::US | pte::XD, execute)), (0x15, PAGE));
    // A reserved bit: beyond the width of physical addresses.
    assert_eq!(page_fault(with_entry(pte::P | 1 << 51, read)), (9, PAGE + 8));
}

#[test]
fn an_access_across_pages_faults_on_the_second() {
    let bare = with_entry(0, |a| {
        a.mov(rbx, PAGE - 4)?;
        a.mov(qword_ptr(rbx), rax)
    });
    bare.write64(PAGE - 8, 0x1122_3344_5566_7788);
    let out = bare.run();
    assert_eq!((out.fault(), out.state.cr2), ((14, 2), PAGE));
    assert_eq!(out.read64(PAGE - 8), 0x1122_3344_5566_7788);
}

#[test]
fn write_protection_of_the_supervisor() {
    let mut bare = with_entry(pte::P, write);
    bare.state.cr0 &= !cr0::WP;
    let out = bare.run();
    out.assert_clean();
    assert_eq!(out.read64(ENTRY) & pte::D, pte::D);
}

#[test]
fn smep_and_smap() {
    let on = |bits: u64, cr4_bits: u64, build: fn(&mut CodeAssembler) -> Built| {
        // The code itself is in user pages by default.
        let mut bare = with_entry(bits, build);
        for page in (0..0x10_0000u64 >> 12).filter(|page| *page != PAGE >> 12) {
            bare.write64(0x10_3000 + page * 8, page << 12 | pte::P | pte::RW);
        }
        bare.state.cr4 |= cr4_bits;
        bare
    };
    let open = pte::P | pte::RW | pte::US;
    assert_eq!(page_fault(on(open, cr4::SMEP, execute)), (0x11, PAGE));
    assert_eq!(page_fault(on(open, cr4::SMAP, read)), (1, PAGE + 8));
    assert_eq!(page_fault(on(open, cr4::SMAP, write)), (3, PAGE + 8));
    let out = on(open, cr4::SMAP, |a| {
        a.stac()?;
        read(a)?;
        a.clac()?;
        read(a)
    })
    .run();
    let code: [u8; 64] = out.memory.read_array(memory::Gpa(CODE)).expect("the code");
    let clac = code.windows(3).position(|w| w == [0x0f, 0x01, 0xca]).expect("CLAC");
    assert_eq!(out.fault(), (14, 1));
    assert!(out.exception().ip > CODE as u32 + clac as u32);
}

#[test]
fn a_stale_translation_goes_with_invlpg() {
    let out = with_entry(pte::P | pte::RW, |a| {
        read(a)?;
        a.mov(rcx, ENTRY)?;
        a.mov(rax, (PAGE + 0x1000) | pte::P | pte::RW)?;
        a.mov(qword_ptr(rcx), rax)?;
        a.invlpg(ptr(rbx))?;
        read(a)?;
        bare::report(a, 1)
    });
    out.write64(PAGE + 8, 1);
    out.write64(PAGE + 0x1008, 2);
    let out = out.run();
    out.assert_clean();
    assert_eq!(out.port(1), [2]);
}

#[test]
fn paging_of_32_bits() {
    let entry = 0x10_1000 + (PAGE >> 12) * 4;
    let bare = Bare::paged();
    bare.code(32, CODE, |a| {
        a.mov(dword_ptr(PAGE), 5)?;
        a.mov(eax, dword_ptr(PAGE + 0x1000))?;
        bare::exit(a)
    });
    bare.write32(entry + 4, 0);
    let out = bare.run();
    assert_eq!((out.fault(), out.state.cr2), ((14, 0), PAGE + 0x1000));
    assert_eq!(u64::from(out.read32(entry)) & (pte::A | pte::D), pte::A | pte::D);
}

/// Protected mode with PAE paging under way: three levels, 2 MiB pages.
fn pae(first_entry: u64, build: impl FnOnce(&mut CodeAssembler) -> Built) -> Bare {
    let bare = Bare::protected();
    bare.write64(0x10_0000, first_entry);
    for page in 0..2 {
        bare.write64(0x10_1000 + 8 * page, page << 21 | 0x83);
    }
    bare.code(32, CODE, |a| {
        a.mov(eax, 0x20)?;
        a.mov(cr4, eax)?;
        a.mov(eax, 0x10_0000)?;
        a.mov(cr3, eax)?;
        a.mov(eax, cr0)?;
        a.or(eax, 0x8000_0000u32 as i32)?;
        a.mov(cr0, eax)?;
        build(a)?;
        bare::exit(a)
    });
    bare
}

#[test]
fn paging_with_pae_keeps_its_pointers_in_registers() {
    // Reserved bits are found when they are loaded.
    let e = pae(0x10_1003, |a| a.nop()).run();
    assert_eq!(e.fault(), (13, 0));
    // A change in memory counts only after CR3 is written.
    let out = pae(0x10_1001, |a| {
        a.mov(dword_ptr(0x10_0000), 0)?;
        a.invlpg(ptr(PAGE))?;
        a.mov(eax, dword_ptr(PAGE))?;
        bare::report(a, 1)?;
        a.mov(eax, dword_ptr(0x4000_0000))
    });
    out.write32(PAGE, 7);
    let out = out.run();
    assert_eq!(out.port(1), [7]);
    // The second pointer is not present; bit 63 of none matters.
    assert_eq!((out.fault(), out.state.cr2), ((14, 0), 0x4000_0000));
}

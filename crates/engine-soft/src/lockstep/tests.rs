//! The interpreter in lock-step with itself, and with itself and a fault.

use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, efer, pte, vector};
use x86::{CpuModel, CpuState, Segment};

use super::{Ran, Verdict};
use crate::SoftOptions;
use crate::bench::Bench;
use crate::cpu::{Cpu, reg};

const CODE: u64 = 0x8000;
const DATA: u64 = 0x9000;
/// The same page as [`DATA`].
const ALIAS: u64 = 0xa000;
const HOLE: u64 = 0xb000;
/// Many times the same page as [`DATA`].
const LONG: u64 = 0x10_0000;
const LONG_PAGES: u64 = 128;
/// Not memory.
const DEVICE: u64 = 0xc000;

/// A CPU in ring 0 of 64-bit mode at `code`, RDI at [`DATA`].
fn bench(code: &[u8]) -> (Bench, GuestMemory) {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram }]).unwrap();
    let put = |at: u64, entry: u64| memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
    put(0x1000, 0x2000 | pte::P | pte::RW);
    put(0x2000, 0x3000 | pte::P | pte::RW);
    put(0x3000, 0x4000 | pte::P | pte::RW);
    for (lin, phys) in [(CODE, CODE), (DATA, DATA), (ALIAS, DATA), (DEVICE, 0xfed0_0000)] {
        put(0x4000 + lin / 0x1000 * 8, phys | pte::P | pte::RW);
    }
    for page in 0..LONG_PAGES {
        put(0x4000 + (LONG / 0x1000 + page) * 8, DATA | pte::P | pte::RW);
    }
    memory.write(Gpa(CODE), code).unwrap();
    let model = CpuModel::named("x86-64-v2").unwrap();
    let mut bench = Bench::new(&memory, &model, SoftOptions::interpreter()).unwrap();
    let mut state = CpuState::power_on(0, model.signature());
    let attr = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::GRANULARITY;
    state.seg = [Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: attr | Segment::DB }; 6];
    state.seg[1] = Segment { selector: 8, attr: attr | Segment::CODE | Segment::LONG, ..state.seg[0] };
    state.cr0 = cr0::PE | cr0::PG | cr0::WP;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE | cr4::OSFXSR;
    state.msrs.efer = efer::LME | efer::LMA;
    state.rip = CODE;
    state.gpr[reg::RDI] = DATA;
    state.gpr[reg::RSP] = DATA + 0x800;
    bench.set_state(&state).unwrap();
    (bench, memory)
}

/// Runs `most` instructions, one after the other, undelivered faults and all.
fn interpret(cpu: &mut Cpu, most: u64) -> Ran {
    for instructions in 0..most {
        if cpu.run_one().is_err() {
            return Ran { instructions, fault: Some(cpu.fault), dead: 0 };
        }
    }
    Ran { instructions: most, fault: None, dead: 0 }
}

fn steps(code: &[u8], most: u64) -> (Verdict, Bench, GuestMemory) {
    let (mut bench, memory) = bench(code);
    let verdict = bench.cpu().lock_step(|cpu| interpret(cpu, most));
    (verdict, bench, memory)
}

fn same(instructions: u64) -> Verdict {
    Verdict::Same(Ran { instructions, fault: None, dead: 0 })
}

#[test]
fn the_interpreter_agrees_with_itself_and_runs_once() {
    // mov [rdi], rdi; add dword [rdi], 5; push rdi; inc rax; add [rdi+1000h], al (the alias); jmp $
    let code =
        [0x48, 0x89, 0x3f, 0x83, 0x07, 0x05, 0x57, 0x48, 0xff, 0xc0, 0x00, 0x87, 0x00, 0x10, 0x00, 0x00, 0xeb, 0xfe];
    let (verdict, mut bench, memory) = steps(&code, 6);
    assert_eq!(verdict, same(6));
    assert_eq!(memory.read_array(Gpa(DATA)).unwrap(), (DATA + 6).to_le_bytes());
    assert_eq!(memory.read_array(Gpa(DATA + 0x7f8)).unwrap(), DATA.to_le_bytes());
    let state = bench.state().unwrap();
    assert_eq!((state.gpr[reg::RAX], state.rip, state.gpr[reg::RSP]), (1, CODE + 16, DATA + 0x7f8));
    // And again from there, the TLB being warm.
    assert_eq!(bench.cpu().lock_step(|cpu| interpret(cpu, 3)), same(3));
}

#[test]
fn faults_are_part_of_it() {
    // mov [rdi], al; mov [rdi+2000h], al: a hole
    let (verdict, mut bench, _) = steps(&[0x88, 0x07, 0x88, 0x87, 0x00, 0x20, 0x00, 0x00], 9);
    let Verdict::Same(Ran { instructions: 1, fault: Some(fault), dead: 0 }) = verdict else { panic!("{verdict:?}") };
    assert_eq!((fault.vector, fault.error_code), (vector::PF, Some(2)));
    let state = bench.state().unwrap();
    assert_eq!((state.rip, state.cr2), (CODE + 2, HOLE));
}

#[test]
fn code_that_rewrites_itself_runs_twice_the_same() {
    // mov byte [rip+1], 0c0h; inc eax, which becomes inc eax again from dec eax: ff c8 -> ff c0
    let code = [0xc6, 0x05, 0x01, 0x00, 0x00, 0x00, 0xc0, 0xff, 0xc8, 0x90];
    let (verdict, mut bench, _) = steps(&code, 3);
    assert_eq!(verdict, same(3));
    assert_eq!(bench.state().unwrap().gpr[reg::RAX], 1);
}

#[test]
fn devices_are_not_asked_twice() {
    // inc eax; mov [rdi+3000h], al: not memory
    let (verdict, mut bench, _) = steps(&[0xff, 0xc0, 0x88, 0x87, 0x00, 0x30, 0x00, 0x00], 5);
    assert_eq!(verdict, same(1));
    assert_eq!(bench.cpu().stats.mmio, 0);
    assert_eq!(bench.rip(), CODE + 2);
    assert_eq!(bench.cpu().lock_step(|cpu| interpret(cpu, 5)), Verdict::Nothing);
    assert_eq!(bench.rip(), CODE + 2);
    assert!(bench.cpu().run_one().is_ok());
    assert_eq!(bench.cpu().stats.mmio, 1);
}

#[test]
fn undefined_flags_do_not_count_until_they_are_read() {
    // and eax, eax leaves AF open; the second code goes on with pushfq.
    for (code, most) in [(&[0x21u8, 0xc0][..], 1), (&[0x21, 0xc0, 0x9c][..], 2)] {
        let (mut bench, _) = bench(code);
        let verdict = bench.cpu().lock_step(|cpu| {
            let ran = interpret(cpu, 1);
            let flags = cpu.rflags();
            cpu.set_rflags(flags ^ 0x10);
            Ran { instructions: ran.instructions + interpret(cpu, most - 1).instructions, fault: None, dead: 0 }
        });
        assert_eq!(verdict, same(most));
    }
}

/// Has the run of `most` instructions of `code` changed by `plant`, and gives the report.
fn planted(code: &[u8], most: u64, plant: impl FnOnce(&mut Cpu)) -> String {
    let (mut bench, _) = bench(code);
    let verdict = bench.cpu().lock_step(|cpu| {
        let ran = interpret(cpu, most);
        plant(cpu);
        ran
    });
    let Verdict::Different(report) = verdict else { panic!("{verdict:?}") };
    report
}

#[test]
fn a_planted_difference_is_found() {
    // add [rdi], al; inc rax; nop
    let code = [0x00, 0x07, 0x48, 0xff, 0xc0, 0x90];
    let report = planted(&code, 3, |cpu| cpu.regs[reg::RBX] ^= 1);
    assert!(report.contains("rbx 0x1 and 0x0") && report.contains("inc rax") && report.contains("0007"), "{report}");
    assert!(planted(&code, 3, |cpu| cpu.rip += 1).contains("rip 0x8007 and 0x8006"));
    // ZF, which INC defines.
    assert!(planted(&code, 3, |cpu| cpu.set_rflags(cpu.rflags() ^ 0x40)).contains("rflags"));
    assert!(planted(&code, 3, |cpu| cpu.cr2 = 5).contains("cr2 0x5 and 0x0"));
    assert!(planted(&code, 3, |cpu| cpu.fpu.ymm[3][7] = 1).contains("xmm3"));
    assert!(planted(&code, 3, |cpu| cpu.seg[4].base = 1).contains("fs "));
    assert!(planted(&code, 3, |cpu| cpu.msrs.lstar = 1).contains("msrs"));
    // A byte in the page that the code has written, and a wild one.
    let at = |lin: u64, cpu: &mut Cpu| assert!(cpu.write_lin(lin, 1u8).is_ok());
    assert!(planted(&code, 3, |cpu| at(DATA + 0x123, cpu)).contains("page 0x9 of memory at 0x120"));
    assert!(planted(&[0x90, 0x90], 2, |cpu| at(CODE + 0xff0, cpu)).contains("page 0x8 of memory at 0xff0"));
    // One that has not run, and an exception that is none.
    let (mut bench, _) = bench(&code);
    let verdict =
        bench.cpu().lock_step(|cpu| Ran { instructions: interpret(cpu, 2).instructions + 1, fault: None, dead: 0 });
    assert!(matches!(verdict, Verdict::Different(report) if report.contains("rip 0x8005 and 0x8006")));
    let (mut bench, _) = self::bench(&code);
    let verdict = bench.cpu().lock_step(|cpu| {
        let ran = interpret(cpu, 2);
        cpu.fault = crate::cpu::Fault { vector: 6, error_code: None };
        Ran { fault: Some(cpu.fault), ..ran }
    });
    assert!(matches!(verdict, Verdict::Different(report) if report.contains("exception 6 and")));
}

#[test]
fn long_string_instructions_are_compared_in_parts() {
    // rep stosb, with more than the interpreter does at once
    let (mut bench, _) = bench(&[0xf3, 0xaa, 0x90]);
    let mut state = bench.state().unwrap();
    state.gpr[reg::RDI] = LONG;
    state.gpr[reg::RCX] = LONG_PAGES * 0x1000;
    bench.set_state(&state).unwrap();
    let mut parts = 0;
    while bench.rip() == CODE {
        parts += 1;
        let verdict = bench.cpu().lock_step(|cpu| {
            assert!(cpu.run_one().is_ok());
            Ran { instructions: u64::from(cpu.rip != CODE), fault: None, dead: 0 }
        });
        // A part is not an instruction, so there may be nothing to compare.
        if verdict == Verdict::Nothing {
            assert!(bench.cpu().run_one().is_ok());
        } else {
            assert_eq!(verdict, same(1));
        }
    }
    assert!(parts > 2, "{parts}");
    assert_eq!(bench.state().unwrap().gpr[reg::RCX], 0);
    // And with an instruction before the part.
    let (mut bench, _) = self::bench(&[0x90, 0xf3, 0xaa, 0x90]);
    bench.set_state(&state).unwrap();
    let verdict = bench.cpu().lock_step(|cpu| {
        assert!(cpu.run_one().is_ok() && cpu.run_one().is_ok());
        assert!(cpu.rip == CODE + 1 && cpu.regs[reg::RCX] < LONG_PAGES * 0x1000);
        Ran { instructions: 1, fault: None, dead: 0 }
    });
    assert_eq!(verdict, same(1));
}

#[test]
fn what_reaches_out_may_not_run_twice() {
    use iced_x86::{Decoder, DecoderOptions};
    let may = |bytes: &[u8]| super::may_run_twice(&Decoder::new(64, bytes, DecoderOptions::NONE).decode());
    // in, out, cpuid, rdtsc, rdmsr, wrmsr, hlt, mov cr3, invlpg, int 80h, ud2, lgdt, xsetbv, retf
    let no: [&[u8]; 14] = [
        &[0xec],
        &[0xee],
        &[0x0f, 0xa2],
        &[0x0f, 0x31],
        &[0x0f, 0x32],
        &[0x0f, 0x30],
        &[0xf4],
        &[0x0f, 0x22, 0xd8],
        &[0x0f, 0x01, 0x38],
        &[0xcd, 0x80],
        &[0x06],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x01, 0xd1],
        &[0xcb],
    ];
    no.iter().for_each(|bytes| assert!(!may(bytes), "{bytes:02x?}"));
    // add, call, ret, syscall, sysretq, swapgs, mov rax cr3, lock cmpxchg, popf, iretq, fxsave
    let yes: [&[u8]; 11] = [
        &[0x01, 0xc0],
        &[0xe8, 0, 0, 0, 0],
        &[0xc3],
        &[0x0f, 0x05],
        &[0x48, 0x0f, 0x07],
        &[0x0f, 0x01, 0xf8],
        &[0x0f, 0x20, 0xd8],
        &[0xf0, 0x0f, 0xb1, 0x0f],
        &[0x9d],
        &[0x48, 0xcf],
        &[0x0f, 0xae, 0x00],
    ];
    yes.iter().for_each(|bytes| assert!(may(bytes), "{bytes:02x?}"));
}

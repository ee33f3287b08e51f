//! The system's instructions that translated code does in place, against the interpreter.

use engine::Stop;
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, efer, pte, rflags};
use x86::{CpuModel, CpuState, Segment};

use crate::SoftOptions;
use crate::bench::Bench;
use crate::cpu::reg;
use crate::pending::Pending;

const CODE: u64 = 0x8000;
const DATA: u64 = 0x9000;
/// A page that belongs to user mode.
const USER: u64 = 0xa000;

/// A CPU in ring 0 of 64-bit mode with SMAP, at `code`; RDI at [`DATA`], RSI at [`USER`].
fn bench(code: &[u8], options: SoftOptions) -> (Bench, GuestMemory) {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram }]).unwrap();
    let put = |at: u64, entry: u64| memory.write(Gpa(at), &(entry | pte::P | pte::RW).to_le_bytes()).unwrap();
    put(0x1000, 0x2000 | pte::US);
    put(0x2000, 0x3000 | pte::US);
    put(0x3000, 0x4000 | pte::US);
    for (page, rights) in [(CODE, 0), (DATA, 0), (USER, pte::US)] {
        put(0x4000 + page / 0x1000 * 8, page | rights);
    }
    memory.write(Gpa(CODE), code).unwrap();
    let model = CpuModel::named("x86-64-v3").unwrap();
    let mut bench = Bench::new(&memory, &model, options).unwrap();
    let mut state = CpuState::power_on(0, model.signature());
    let attr = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::GRANULARITY;
    state.seg = [Segment { base: 0, limit: u32::MAX, selector: 0x10, attr: attr | Segment::DB }; 6];
    state.seg[1] = Segment { selector: 8, attr: attr | Segment::CODE | Segment::LONG, ..state.seg[0] };
    state.seg[5].base = 0x1234_5000;
    state.msrs.kernel_gs_base = 0x5432_1000;
    state.cr0 = cr0::PE | cr0::PG | cr0::WP | cr0::NE;
    state.cr3 = 0x1000;
    state.cr4 = cr4::PAE | cr4::OSFXSR | cr4::SMAP;
    state.msrs.efer = efer::LME | efer::LMA | efer::SCE;
    state.rip = CODE;
    state.gpr[reg::RDI] = DATA;
    state.gpr[reg::RSI] = USER;
    state.gpr[reg::RSP] = DATA + 0x800;
    state.idt.limit = 0;
    bench.set_state(&state).unwrap();
    (bench, memory)
}

/// What came of running `code` until it halts or shuts down.
fn run(code: &[u8], options: SoftOptions, posted: u32, long: bool) -> (Option<Stop>, CpuState, Vec<u8>) {
    let (mut bench, memory) = bench(code, options);
    if !long {
        let mut state = bench.state().unwrap();
        state.seg[1].attr ^= Segment::LONG | Segment::DB;
        bench.set_state(&state).unwrap();
    }
    if posted != 0 {
        bench.cpu().slot.post(posted);
    }
    let stop = bench.run_blocks(10_000);
    let mut bytes = vec![0; 0x2000];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    (stop, bench.state().unwrap(), bytes)
}

/// Runs `code` in both and compares.
fn both(code: &[u8], posted: u32) -> (Option<Stop>, CpuState, Vec<u8>) {
    both_as(code, posted, true)
}

/// The same for 64-bit code or, if it is not `long`, 32-bit code.
fn both_as(code: &[u8], posted: u32, long: bool) -> (Option<Stop>, CpuState, Vec<u8>) {
    let translated = run(code, SoftOptions::default(), posted, long);
    let interpreted = run(code, SoftOptions::interpreter(), posted, long);
    assert_eq!(translated.1.gpr, interpreted.1.gpr);
    assert_eq!(translated.1.rip, interpreted.1.rip);
    assert_eq!(translated.1.rflags, interpreted.1.rflags);
    assert_eq!(translated.1.cr2, interpreted.1.cr2);
    assert_eq!(translated.1.seg, interpreted.1.seg);
    assert_eq!(translated.1.msrs.kernel_gs_base, interpreted.1.msrs.kernel_gs_base);
    assert_eq!(translated.2, interpreted.2);
    assert_eq!(format!("{:?}", translated.0), format!("{:?}", interpreted.0));
    translated
}

#[rustfmt::skip]
const ALL: &[u8] = &[
    0xb9, 3, 0, 0, 0,                               // mov ecx, 3
    0x9c, 0x58, 0x48, 0x01, 0x07,                   // pushfq; pop rax; add [rdi], rax
    0x0f, 0x01, 0xcb, 0x48, 0x89, 0x0e,             // stac; mov [rsi], rcx
    0x48, 0x8b, 0x56, 0x08, 0x0f, 0x01, 0xca,       // mov rdx, [rsi+8]; clac
    0xfa, 0x9c, 0x5d, 0x48, 0x01, 0x6f, 0x08,       // cli; pushfq; pop rbp; add [rdi+8], rbp
    0xfb, 0x90, 0x9c, 0x5d, 0x48, 0x01, 0x6f, 0x10, // sti; nop; pushfq; pop rbp; add [rdi+16], rbp
    0x83, 0xf9, 0x02, 0x9c, 0xfa, 0x31, 0xc0, 0x9d, // cmp ecx, 2; pushfq; cli; xor eax, eax; popfq
    0x0f, 0x94, 0xc0, 0x48, 0x01, 0x47, 0x18,       // sete al; add [rdi+24], rax
    0x0f, 0x01, 0xf8, 0x0f, 0x20, 0xc5,             // swapgs; mov rbp, cr0
    0x8c, 0xcd, 0x4d, 0x8c, 0xd3, 0x4c, 0x01, 0x5f, 0x28, // mov ebp, cs; mov r11, ss; add [rdi+40], r11
    0x01, 0x6f, 0x30, 0xf3, 0x90,                   // add [rdi+48], ebp; pause
    0x41, 0x0f, 0x20, 0xda, 0x4c, 0x01, 0x57, 0x20, // mov r10, cr3; add [rdi+32], r10
    0x6a, 0x44, 0x9d, 0x9c, 0x41, 0x5b,             // push 44h; popfq; pushfq; pop r11
    0xf0, 0x48, 0x0f, 0xc7, 0x8f, 0, 1, 0, 0,       // lock cmpxchg16b [rdi+100h]
    0x9c, 0x41, 0x5f, 0xfc,                         // pushfq; pop r15; cld
    0xff, 0xc9, 0x0f, 0x85, 0x99, 0xff, 0xff, 0xff, // dec ecx; jnz to the first pushfq
    0xf4,                                           // hlt
];

#[test]
fn what_is_done_in_place_is_what_the_interpreter_does() {
    let back = i32::from_le_bytes([0x99, 0xff, 0xff, 0xff]);
    assert_eq!(ALL.len() as i32 - 1 + back, 5, "the loop's start");
    let (stop, state, bytes) = both(ALL, 0);
    assert!(stop.is_none());
    assert_eq!((state.gpr[reg::RCX], state.rip), (0, CODE + ALL.len() as u64));
    // An odd number of times.
    assert_eq!((state.seg[5].base, state.msrs.kernel_gs_base), (0x5432_1000, 0x1234_5000));
    assert_eq!(bytes[24], 1, "the comparison was equal once");
    assert_eq!(bytes[0x1000], 1, "the last count in the user's page");
}

#[test]
fn an_interrupt_that_waits_changes_nothing_else() {
    // Posted, but the APIC has none when it is asked.
    let (stop, state, _) = both(ALL, Pending::LAPIC);
    assert!(stop.is_none());
    assert_eq!(state.gpr[reg::RCX], 0);
}

#[test]
fn the_users_page_is_closed_again_behind_clac() {
    // mov ecx, 20; stac; mov [rsi], rcx; clac; dec ecx; jnz to stac; mov [rsi], rcx
    let code = [
        0xb9, 20, 0, 0, 0, 0x0f, 0x01, 0xcb, 0x48, 0x89, 0x0e, 0x0f, 0x01, 0xca, 0xff, 0xc9, 0x75, 0xf3, 0x48, 0x89,
        0x0e, 0xf4,
    ];
    let (stop, state, bytes) = both(&code, 0);
    assert!(matches!(stop, Some(Stop::TripleFault)));
    assert_eq!((state.cr2, state.gpr[reg::RCX]), (USER, 0));
    assert_eq!(bytes[0x1000], 1);
    // With the stack in the user's page: mov rsp, rsi; add rsp, 80h; stac; push rcx; pop rax; clac; push rcx
    let code =
        [0x48, 0x89, 0xf4, 0x48, 0x81, 0xc4, 0x80, 0, 0, 0, 0x0f, 0x01, 0xcb, 0x51, 0x58, 0x0f, 0x01, 0xca, 0x51, 0xf4];
    let (stop, state, _) = both(&code, 0);
    assert!(matches!(stop, Some(Stop::TripleFault)));
    assert_eq!((state.cr2, state.rip), (USER + 0x78, CODE + 18));
}

#[test]
fn the_users_page_is_opened_and_closed_in_32_bit_code() {
    // In a loop, and two accesses side by side each time, which look up their range together.
    #[rustfmt::skip]
    let code = [
        0xb9, 20, 0, 0, 0,                      // mov ecx, 20
        0xfa, 0x0f, 0x01, 0xcb, 0x89, 0x4e, 4,  // cli; stac; mov [esi+4], ecx
        0x89, 0x4e, 0xf4 + 8, 0x0f, 0x01, 0xca, // mov [esi-4], ecx: the next page down; clac
        0x49, 0x75, 0xf0,                       // dec ecx; jnz to cli
        0x8b, 0x06, 0xf4,                       // mov eax, [esi]; hlt
    ];
    let (stop, state, bytes) = both_as(&code, 0, false);
    assert!(matches!(stop, Some(Stop::TripleFault)));
    assert_eq!((state.cr2, state.gpr[reg::RCX]), (USER, 0));
    assert_eq!((bytes[0x1004], bytes[0xffc]), (1, 1));
    // Opened by POPF, which is the interpreter's, between accesses to what is the user's.
    #[rustfmt::skip]
    let code = [
        0xb9, 20, 0, 0, 0,                                     // mov ecx, 20
        0x9c, 0x81, 0x0c, 0x24, 0, 0, 4, 0, 0x9d,              // pushfd; or dword [esp], 40000h; popfd
        0x89, 0x4e, 8, 0x01, 0x4e, 12,                         // mov [esi+8], ecx; add [esi+12], ecx
        0x9c, 0x81, 0x24, 0x24, 0xff, 0xff, 0xfb, 0xff, 0x9d,  // pushfd; and dword [esp], ~40000h; popfd
        0x49, 0x75, 0xe5,                                      // dec ecx; jnz to the first pushfd
        0x8b, 0x46, 8, 0x8b, 0x5e, 12, 0xf4,                   // mov eax, [esi+8]; mov ebx, [esi+12]; hlt
    ];
    let (stop, state, bytes) = both_as(&code, 0, false);
    assert!(matches!(stop, Some(Stop::TripleFault)));
    assert_eq!((state.cr2, state.gpr[reg::RCX]), (USER + 8, 0));
    assert_eq!((bytes[0x1008], bytes[0x100c]), (1, 210));
}

/// What system calls and strings have left behind.
fn ring_3(options: SoftOptions) -> (Option<Stop>, CpuState, Vec<u8>) {
    #[rustfmt::skip]
    let start = [
        0x48, 0x89, 0xf1, 0x41, 0xbb, 0x57, 0x0a, 0, 0, // mov rcx, rsi; mov r11d, 0a57h
        0x48, 0x0f, 0x07,                               // sysretq
    ];
    #[rustfmt::skip]
    let entry = [
        0x9c, 0x5d, 0x48, 0x01, 0x6f, 0x20,             // pushfq; pop rbp; add [rdi+32], rbp
        0x4c, 0x01, 0x5f, 0x08, 0x48, 0x01, 0x4f, 0x10, // add [rdi+8], r11; add [rdi+16], rcx
        0x9c, 0x5d, 0x48, 0x01, 0x6f, 0x18,             // pushfq; pop rbp; add [rdi+24], rbp
        0xff, 0x07, 0x83, 0x3f, 0x0c, 0x74, 0x03,       // inc dword [rdi]; cmp dword [rdi], 12; je
        0x48, 0x0f, 0x07, 0xf4,                         // sysretq; hlt
    ];
    #[rustfmt::skip]
    let user = [
        0x05, 0xff, 0xff, 0xff, 0x7f, 0x0f, 0x05,       // add eax, 7fffffffh; syscall
        0x9f, 0x49, 0x01, 0xc4, 0xfd, 0x0f, 0x05,       // lahf; add r12, rax; std; syscall
        0xfc, 0xeb, 0xef,                               // cld; jmp to the start
    ];
    let (mut bench, memory) = bench(&start, options);
    memory.write(Gpa(CODE + 0x100), &entry).unwrap();
    memory.write(Gpa(USER), &user).unwrap();
    let mut state = bench.state().unwrap();
    state.msrs.star = 0x0033_0010 << 32;
    state.msrs.lstar = CODE + 0x100;
    state.msrs.sfmask = rflags::TF | rflags::IF | rflags::DF | rflags::AC | rflags::PF | rflags::CF | rflags::OF;
    bench.set_state(&state).unwrap();
    let stop = bench.run_blocks(10_000);
    let mut bytes = vec![0; 0x100];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    (stop, bench.state().unwrap(), bytes)
}

#[test]
fn system_calls_change_what_the_interpreters_change() {
    let translated = ring_3(SoftOptions::default());
    let interpreted = ring_3(SoftOptions::interpreter());
    assert!(translated.0.is_none() && interpreted.0.is_none());
    assert_eq!(translated.1.gpr, interpreted.1.gpr);
    assert_eq!(translated.1.seg, interpreted.1.seg);
    assert_eq!(translated.1.rip, interpreted.1.rip);
    assert_eq!(translated.1.rflags, interpreted.1.rflags);
    assert_eq!(translated.2, interpreted.2);
    assert_eq!((translated.2[0], translated.1.seg[1].selector, translated.1.seg[2].selector), (12, 0x10, 0x18));
}

#[test]
fn strings_and_far_bits_go_where_the_interpreters_go() {
    #[rustfmt::skip]
    let code = [
        0xb8, 0x78, 0x56, 0x34, 0x12, 0x49, 0x89, 0xf8, // mov eax, 12345678h; mov r8, rdi
        0xab, 0xaa, 0x66, 0xab, 0x48, 0xab,             // stosd; stosb; stosw; stosq
        0xfd, 0xab, 0x48, 0xaf, 0xfc,                   // std; stosd; scasq; cld
        0x4c, 0x89, 0xc6, 0xac, 0x66, 0xad,             // mov rsi, r8; lodsb; lodsw
        0x48, 0xa5, 0xa4, 0x66, 0xa5, 0xa5,             // movsq; movsb; movsw; movsd
        0xa6, 0x9c, 0x41, 0x5c, 0x48, 0xa7,             // cmpsb; pushfq; pop r12; cmpsq
        0x9c, 0x41, 0x5d, 0xae, 0x9c, 0x41, 0x5e,       // pushfq; pop r13; scasb; pushfq; pop r14
        0x48, 0xc7, 0xc1, 0xfd, 0xff, 0xff, 0xff,       // mov rcx, -3
        0x49, 0x0f, 0xab, 0x88, 0, 2, 0, 0,             // bts [r8+200h], rcx
        0x66, 0x41, 0x0f, 0xbb, 0x88, 2, 2, 0, 0,       // btc [r8+202h], cx
        0x41, 0xba, 0x34, 0x12, 0, 0,                   // mov r10d, 1234h
        0xf0, 0x4d, 0x0f, 0xab, 0x10,                   // lock bts [r8], r10
        0x4d, 0x0f, 0xa3, 0x10, 0x41, 0x0f, 0x92, 0xc1, // bt [r8], r10; setb r9b
        0x41, 0xbb, 0x35, 0x12, 0, 0,                   // mov r11d, 1235h
        0x45, 0x0f, 0xab, 0x18, 0x4d, 0x0f, 0xb3, 0x10, // bts [r8], r11d; btr [r8], r10
        0x0f, 0x92, 0xc3, 0xf4,                         // setb bl; hlt
    ];
    let (stop, state, bytes) = both(&code, 0);
    assert!(stop.is_none());
    assert_eq!((state.gpr[9] & 0xff, state.gpr[reg::RBX] & 0xff), (1, 1));
    assert_eq!((bytes[0x1ff], bytes[0x201], bytes[0x246]), (0x20, 0x20, 0x20));
}

#[test]
fn translations_that_are_out_of_date_stay_until_none_of_them_runs() {
    // inc qword [rdi]; jmp to the start
    let (mut bench, memory) = bench(&[0x48, 0xff, 0x07, 0xeb, 0xfb], SoftOptions::default());
    let limit = std::time::Duration::from_millis(1);
    // However busy the host is: until there is something.
    while bench.cpu().translator().blocks.is_empty() {
        assert_eq!(bench.run_for(usize::MAX, limit), Some(Stop::Kicked));
    }
    let cpu = bench.cpu();
    let (flushes, blocks) = (cpu.translator().flushes, cpu.translator().blocks.len());
    // As in a call out of translated code, whose block is asked for what it was.
    cpu.jit.inside = true;
    cpu.outdate_translations();
    assert!(cpu.find_block_number(cpu.translation_mode().unwrap()).is_ok());
    assert_eq!(cpu.translator().flushes, flushes);
    assert!(cpu.translator().blocks.len() > blocks, "what is out of date is not found");
    cpu.jit.inside = false;
    // inc qword [rdi+8]; hlt
    memory.write(Gpa(CODE), &[0x48, 0xff, 0x47, 0x08, 0xf4]).unwrap();
    cpu.rip = CODE;
    assert_eq!(bench.run_blocks(100), None);
    assert!(bench.is_halted());
    assert_eq!(bench.cpu().translator().flushes, flushes + 1);
    let mut bytes = [0; 16];
    memory.read(Gpa(DATA), &mut bytes).unwrap();
    assert_eq!(bytes[8], 1);
}

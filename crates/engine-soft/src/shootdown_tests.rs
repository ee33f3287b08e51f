//! Code that is written while it is decoded or translated, and data beside it.

use std::sync::atomic::Ordering;

use engine::{EngineConfig, Stop, Vcpu};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::cr0;
use x86::{CpuModel, CpuState, Segment};

use crate::code_mail::CodeWrites;
use crate::options::{SoftOptions, Translator};
use crate::partition::SoftPartition;
use crate::pending::Pending;
use crate::run::Nowhere;
use crate::vcpu::SoftVcpu;

/// Memory of 16 pages with `code` at 0x1000, and `n` vCPUs in real mode that are about to run it.
fn machine(code: &[u8], n: u32) -> (GuestMemory, Vec<SoftVcpu>) {
    machine_with(code, n, SoftOptions::interpreter(), false)
}

/// The same with these options; `flat`: in protected mode with flat segments of 32 bits.
fn machine_with(code: &[u8], n: u32, options: SoftOptions, flat: bool) -> (GuestMemory, Vec<SoftVcpu>) {
    let mem = GuestMemory::new(&[Region { start: Gpa(0), len: 0x10000, kind: Kind::Ram }]).unwrap();
    mem.write(Gpa(0x1000), code).unwrap();
    let model = CpuModel::named("x86-64-v2").unwrap();
    let config = EngineConfig { vcpus: n, name: "test".into() };
    let partition =
        SoftPartition::new(&config, &mem, &engine::Clock::start().unwrap(), model.clone(), options).unwrap();
    let vcpus = (0..n).map(|id| {
        let mut vcpu = partition.soft_vcpu(id, &model).unwrap();
        let mut state = CpuState::power_on(0, model.signature());
        state.seg = [Segment::real(0); 6];
        state.rip = 0x1000;
        if flat {
            state.cr0 |= cr0::PE;
            let attr = Segment::PRESENT | Segment::S | Segment::DB | Segment::WRITABLE_OR_READABLE | 1;
            for (segment, code) in state.seg.iter_mut().zip([0, Segment::CODE, 0, 0, 0, 0]) {
                *segment = Segment { limit: u32::MAX, attr: attr | code, ..*segment };
            }
        }
        vcpu.set_state(&state).unwrap();
        vcpu
    });
    let vcpus = vcpus.collect();
    (mem, vcpus)
}

/// Runs `blocks` blocks, or until the CPU halts.
fn run(vcpu: &mut SoftVcpu, blocks: usize) {
    for _ in 0..blocks {
        if !vcpu.cpu.halted {
            assert_eq!(vcpu.cpu.run_blocks(1), None);
        }
    }
}

const AX: usize = 0;
const CX: usize = 1;
const BX: usize = 3;
const SI: usize = 6;
const DI: usize = 7;

/// mov [bx], al; jmp $-2
const STORES: [u8; 4] = [0x88, 0x07, 0xeb, 0xfc];

#[test]
fn data_on_a_page_of_code_do_not_touch_the_code() {
    let (mem, mut vcpus) = machine(&STORES, 1);
    let vcpu = &mut vcpus[0];
    vcpu.cpu.regs[BX] = 0x1040;
    vcpu.cpu.regs[AX] = 0x55;
    run(vcpu, 60);
    assert_eq!((vcpu.cpu.stats.revalidations, vcpu.cpu.stats.blocks_decoded), (0, 1));
    assert_eq!(mem.read_array(Gpa(0x1040)).unwrap(), [0x55]);
    assert_eq!(mem.flags().marked(1), 1);
    assert!(mem.flags().take_dirty(1));
    run(vcpu, 1);
    assert!(mem.flags().take_dirty(1));
    // Now and then the page is taken for one of data, and found to be one of code again.
    run(vcpu, 2000);
    assert!((1..10).contains(&vcpu.cpu.stats.revalidations), "{}", vcpu.cpu.stats.revalidations);
    // The second one is the jump, after the store that did it.
    assert_eq!(vcpu.cpu.stats.blocks_decoded, 2);
}

#[test]
fn a_write_to_a_line_of_code_has_its_blocks_compared() {
    let (_, mut vcpus) = machine(&STORES, 1);
    let vcpu = &mut vcpus[0];
    vcpu.cpu.regs[BX] = 0x103f;
    run(vcpu, 10);
    // Each store ends the block that it is in.
    assert!((4..=10).contains(&vcpu.cpu.stats.revalidations), "{}", vcpu.cpu.stats.revalidations);
    assert_eq!(vcpu.cpu.stats.blocks_decoded, 2);
}

#[test]
fn bulk_stores_beside_code_do_not_touch_it() {
    // rep movsb; mov cx, 200; mov di, 0x1100; mov si, 0x1200; jmp to the start
    let code = [0xf3, 0xa4, 0xb9, 200, 0, 0xbf, 0, 0x11, 0xbe, 0, 0x12, 0xeb, 0xf3];
    let (mem, mut vcpus) = machine(&code, 1);
    let text: Vec<u8> = (0..200).collect();
    mem.write(Gpa(0x1200), &text).unwrap();
    let vcpu = &mut vcpus[0];
    run(vcpu, 8);
    assert_eq!(vcpu.cpu.stats.revalidations, 0);
    let mut copy = vec![0; 200];
    mem.read(Gpa(0x1100), &mut copy).unwrap();
    assert_eq!(copy, text);
    assert_eq!(mem.flags().marked(1), 1);
}

#[test]
fn the_next_instruction_is_already_the_new_one() {
    // mov byte [0x1006], 0x77; mov al, 0x11; hlt
    let (_, mut vcpus) = machine(&[0xc6, 0x06, 0x06, 0x10, 0x77, 0xb0, 0x11, 0xf4], 1);
    run(&mut vcpus[0], 3);
    assert_eq!(vcpus[0].cpu.regs[AX], 0x77);
    // rep stosb over: mov ah, 0x11; hlt
    let (_, mut vcpus) = machine(&[0xf3, 0xaa, 0xb4, 0x11, 0xf4], 1);
    let cpu = &mut vcpus[0].cpu;
    (cpu.regs[AX], cpu.regs[CX], cpu.regs[DI]) = (0xf4, 2, 0x1003);
    run(&mut vcpus[0], 3);
    assert_eq!(vcpus[0].cpu.regs[AX], 0xf4f4);
    // The same by rep movsb, from behind the code.
    let (_, mut vcpus) = machine(&[0xf3, 0xa4, 0xb4, 0x11, 0xf4, 0x22, 0xf4], 1);
    let cpu = &mut vcpus[0].cpu;
    (cpu.regs[SI], cpu.regs[CX], cpu.regs[DI]) = (0x1005, 2, 0x1003);
    run(&mut vcpus[0], 3);
    assert_eq!(vcpus[0].cpu.regs[AX], 0x2200);
    // Half of it on the page before: mov word [0xfff], 0xb8f4, then int 0x20 that has become mov ax, 0x77; hlt.
    let (mem, mut vcpus) = machine(&[0xcd, 0x77, 0x00, 0xf4], 1);
    mem.write(Gpa(0xffa), &[0xc7, 0x06, 0xff, 0x0f, 0x90, 0xb8]).unwrap();
    vcpus[0].cpu.rip = 0xffa;
    run(&mut vcpus[0], 4);
    assert_eq!((vcpus[0].cpu.regs[AX], vcpus[0].cpu.rip), (0x77, 0x1004));
}

#[test]
fn both_pages_of_an_instruction_are_looked_at() {
    let (mem, mut vcpus) = machine(&[], 1);
    // mov ax, 0x1234 with its last byte in page 2; jmp back to it.
    mem.write(Gpa(0x1ffe), &[0xb8, 0x34, 0x12, 0xeb, 0xfb]).unwrap();
    let vcpu = &mut vcpus[0];
    vcpu.cpu.rip = 0x1ffe;
    run(vcpu, 4);
    assert_eq!(vcpu.cpu.regs[AX], 0x1234);
    assert_eq!((mem.flags().marked(1), mem.flags().marked(2)), (1 << 63, 1));
    let decoded = vcpu.cpu.stats.blocks_decoded;
    mem.write(Gpa(0x1f00), &[0; 0xc0]).unwrap();
    mem.write(Gpa(0x2040), &[0; 0xfc0]).unwrap();
    run(vcpu, 4);
    assert_eq!(vcpu.cpu.stats.blocks_decoded, decoded);
    mem.write(Gpa(0x2000), &[0x56]).unwrap();
    run(vcpu, 4);
    assert_eq!(vcpu.cpu.regs[AX], 0x5634);
    mem.write(Gpa(0x1fff), &[0x78]).unwrap();
    run(vcpu, 4);
    assert_eq!(vcpu.cpu.regs[AX], 0x5678);
}

#[test]
fn every_vcpu_is_told_of_a_write_to_code() {
    let (mem, mut vcpus) = machine(&STORES, 2);
    let [first, second] = &mut vcpus[..] else { unreachable!() };
    // jmp $, and the second vCPU writes behind it.
    mem.write(Gpa(0x2000), &[0xeb, 0xfe]).unwrap();
    first.cpu.rip = 0x2000;
    second.cpu.regs[BX] = 0x2008;
    run(first, 3);
    let told = |vcpu: &SoftVcpu| vcpu.cpu.slot.pending().load(Ordering::SeqCst) & Pending::CODE != 0;
    assert!(!told(first) && !told(second));
    run(second, 1);
    // The writer knows at once.
    assert!(told(first) && !told(second));
    assert_eq!(first.cpu.slot.take_code_writes(), CodeWrites::Lines(vec![(2, 1)]));
    assert!(!told(first));
    // The first vCPU finds out for itself, and marks its code again.
    let before = first.cpu.stats.revalidations;
    run(first, 3);
    assert_eq!(first.cpu.stats.revalidations, before + 1);
    // A device.
    mem.write(Gpa(0x1f80), &[0; 0x100]).unwrap();
    assert!(told(first) && told(second));
    assert_eq!(first.cpu.slot.take_code_writes(), CodeWrites::Lines(vec![(2, 1)]));
    // It is read between blocks.
    run(second, 1);
    assert!(!told(second));
    // Nobody is told of data.
    mem.write(Gpa(0x2040), &[0; 0xfc0]).unwrap();
    assert!(!told(first) && !told(second));
}

/// Who runs the code.
fn both() -> [SoftOptions; 2] {
    [SoftOptions::interpreter(), SoftOptions::default()]
}

/// Waits until there is `value` at 0x5000, but not for ever.
fn comes(mem: &GuestMemory, value: u32) -> bool {
    (0..10_000_000).any(|_| {
        std::thread::yield_now();
        mem.read_array(Gpa(0x5000)).unwrap() == value.to_le_bytes()
    })
}

/// Runs `vcpu` on a thread of its own while `meanwhile` runs. Gives what it gives.
fn alongside<T>(vcpu: &mut SoftVcpu, meanwhile: impl FnOnce() -> T) -> T {
    let kicker = vcpu.kicker();
    std::thread::scope(|scope| {
        let running = scope.spawn(|| vcpu.run(&Nowhere).unwrap());
        let result = meanwhile();
        kicker.kick();
        assert_eq!(running.join().unwrap(), Stop::Kicked);
        result
    })
}

#[test]
fn code_that_another_thread_changes_is_the_new_code_in_the_end() {
    for options in both() {
        // 0x1003: mov eax, imm32; mov [0x5000], eax; jmp 0x1003
        let code = [0x90, 0x90, 0x90, 0xb8, 0, 0, 0, 0, 0xa3, 0, 0x50, 0, 0, 0xeb, 0xf4];
        let (mem, mut vcpus) = machine_with(&code, 1, options, true);
        let lost = alongside(&mut vcpus[0], || {
            (1..2000u32).find(|value| {
                mem.write(Gpa(0x1004), &value.to_le_bytes()).unwrap();
                !comes(&mem, *value)
            })
        });
        assert_eq!(lost, None, "{options:?}");
        assert_eq!(vcpus[0].cpu.stats.jit.entries > 0, options.translator == Translator::On);
    }
}

#[test]
fn code_that_changes_the_next_instruction_sees_the_new_one_each_time() {
    for options in both() {
        // 0x1000: inc byte [0x1007]; mov al, 0; cmp [0x1007], al; jne $; inc dword [0x5000]; jmp 0x1000
        let code = [
            0xfe, 0x05, 0x07, 0x10, 0, 0, 0xb0, 0, 0x38, 0x05, 0x07, 0x10, 0, 0, 0x75, 0xfe, 0xff, 0x05, 0, 0x50, 0, 0,
            0xeb, 0xe8,
        ];
        let (mem, mut vcpus) = machine_with(&code, 1, options, true);
        let went_on = alongside(&mut vcpus[0], || {
            (0..10_000_000).any(|_| {
                std::thread::yield_now();
                u32::from_le_bytes(mem.read_array(Gpa(0x5000)).unwrap()) > 2000
            })
        });
        assert!(went_on, "{options:?}");
        assert_eq!(vcpus[0].cpu.stats.jit.entries > 0, options.translator == Translator::On);
    }
}

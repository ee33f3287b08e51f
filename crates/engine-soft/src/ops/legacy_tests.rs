//! What 64-bit mode does not have: 16- and 32-bit code, run in unpaged flat memory.

use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, rflags, vector};
use x86::{CpuModel, CpuState, Segment};

use crate::SoftOptions;
use crate::bench::{Bench, UserExit};

const CODE: u64 = 0x1000;
const STACK: u64 = 0x3000;

/// The state before and after, and the memory.
struct Run {
    exit: UserExit,
    state: CpuState,
    memory: GuestMemory,
}

impl Run {
    fn word(&self, at: u64) -> u32 {
        u32::from_le_bytes(self.memory.read_array(Gpa(at)).unwrap())
    }
}

/// Runs `count` instructions of `code` in flat protected mode of `bits`, from a state that `setup` has changed.
fn run(bits: u32, code: &[u8], count: usize, setup: impl Fn(&mut CpuState, &GuestMemory)) -> Run {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1_0000, kind: Kind::Ram }]).unwrap();
    memory.write(Gpa(CODE), code).unwrap();
    let model = CpuModel::named(CpuModel::NAMES[0]).unwrap();
    let mut bench = Bench::new(&memory, &model, SoftOptions::default()).unwrap();
    let mut state = CpuState::power_on(0, model.signature());
    let size = if bits == 32 { Segment::DB } else { 0 };
    let data = Segment {
        base: 0,
        limit: u32::MAX,
        selector: 0x10,
        attr: Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED | size,
    };
    let cs = Segment { selector: 8, attr: data.attr | Segment::CODE, ..data };
    state.seg = [data, cs, data, data, data, data];
    state.cr0 = cr0::PE | cr0::ET;
    state.gpr = std::array::from_fn(|i| 0x0101_0101 * i as u64);
    state.gpr[4] = STACK;
    state.rip = CODE;
    state.rflags = rflags::ONE;
    setup(&mut state, &memory);
    bench.set_state(&state).unwrap();
    let exit = bench.run_user(u64::MAX, count);
    Run { exit, state: bench.state().unwrap(), memory }
}

#[test]
fn pusha_and_popa_keep_all_but_esp() {
    let pushed = run(32, &[0x60], 1, |_, _| {});
    assert_eq!(pushed.state.gpr[4], STACK - 32);
    for (i, at) in (0..8u64).rev().zip((STACK - 32..).step_by(4)) {
        let expected = if i == 4 { STACK as u32 } else { 0x0101_0101 * i as u32 };
        assert_eq!(pushed.word(at), expected, "register {i}");
    }
    let both = run(32, &[0x60, 0x31, 0xc0, 0x31, 0xff, 0x61], 4, |_, _| {});
    assert_eq!(both.state.gpr, run(32, &[0x90], 1, |_, _| {}).state.gpr);
}

#[test]
fn enter_copies_the_outer_frames() {
    // ENTER 16, 2
    let entered = run(32, &[0xc8, 16, 0, 2], 1, |state, memory| {
        state.gpr[5] = 0x2000;
        memory.write(Gpa(0x1ffc), &0x1234_5678u32.to_le_bytes()).unwrap();
    });
    let frame = STACK - 4;
    assert_eq!((entered.word(frame), entered.word(frame - 4)), (0x2000, 0x1234_5678));
    assert_eq!(u64::from(entered.word(frame - 8)), frame);
    assert_eq!((entered.state.gpr[5], entered.state.gpr[4]), (frame, frame - 8 - 16));
}

#[test]
fn enter_beyond_memory_that_can_be_written_changes_nothing() {
    // ENTER 0x4000, 0 with a stack segment that ends at the frame.
    let refused = run(32, &[0xc8, 0, 0x40, 0], 1, |state, _| state.seg[2].limit = 0x3fff);
    assert_eq!(refused.exit, UserExit::Exception { vector: vector::SS, error_code: Some(0), cr2: 0 });
    assert_eq!((refused.state.gpr[4], refused.state.rip), (STACK, CODE));
}

#[test]
fn sixteen_bit_stack_pointers_wrap_and_keep_the_upper_half() {
    let pushed = run(16, &[0x50], 1, |state, _| state.gpr[4] = 0xabcd_0000);
    assert_eq!(pushed.state.gpr[4], 0xabcd_fffe);
}

#[test]
fn segment_registers_are_pushed_as_two_bytes() {
    // PUSH DS with a 32-bit operand.
    let pushed = run(32, &[0x1e], 1, |_, memory| memory.write(Gpa(STACK - 4), &[0xff; 4]).unwrap());
    assert_eq!((pushed.state.gpr[4], pushed.word(STACK - 4)), (STACK - 4, 0xffff_0010));
}

#[test]
fn bound_raises_outside_of_its_bounds() {
    // BOUND EAX, [0x2000] with -1 and 5.
    let at = |value: u64| {
        run(32, &[0x62, 0x05, 0, 0x20, 0, 0], 1, move |state, memory| {
            state.gpr[0] = value;
            memory.write(Gpa(0x2000), &[0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0]).unwrap();
        })
        .exit
    };
    let outside = UserExit::Exception { vector: vector::BR, error_code: None, cr2: 0 };
    assert_eq!((at(5), at(6), at(0xffff_ffff)), (UserExit::Ran, outside, UserExit::Ran));
    assert_eq!(at(0xffff_fffe), outside);
}

#[test]
fn the_loop_counter_has_the_address_size() {
    // LOOP with a 16-bit counter, to itself: once more, CX is then 0x0001.
    let looped = run(32, &[0x67, 0xe2, 0xfd], 1, |state, _| state.gpr[1] = 0xffff_0002);
    assert_eq!((looped.state.gpr[1], looped.state.rip), (0xffff_0001, CODE));
    // JECXZ is not taken, JCXZ is.
    let taken = |code: &[u8]| run(32, code, 1, |state, _| state.gpr[1] = 0xffff_0000).state.rip;
    assert_eq!((taken(&[0xe3, 0x10]), taken(&[0x67, 0xe3, 0x10])), (CODE + 2, CODE + 0x13));
}

#[test]
fn jumps_stay_in_the_code_segment() {
    // JMP +0x10 beyond the limit.
    let refused = run(32, &[0xeb, 0x10], 1, |state, _| state.seg[1].limit = CODE as u32 + 0x11);
    assert_eq!(refused.exit, UserExit::Exception { vector: vector::GP, error_code: Some(0), cr2: 0 });
    // A jump of a 16-bit operand in 32-bit code cuts EIP.
    let cut = run(32, &[0x66, 0xe9, 0xfc, 0xef], 1, |_, _| {});
    assert_eq!(cut.state.rip, 0);
}

#[test]
fn popf_changes_what_the_privilege_allows() {
    let popped = |cpl: u8, iopl: u64| {
        run(32, &[0x9d], 1, move |state, memory| {
            state.seg[1].attr |= u16::from(cpl) << 5;
            state.seg[2].attr |= u16::from(cpl) << 5;
            state.seg[1].selector |= u16::from(cpl);
            state.seg[2].selector |= u16::from(cpl);
            state.rflags |= iopl << 12;
            memory.write(Gpa(STACK), &u32::MAX.to_le_bytes()).unwrap();
        })
        .state
        .rflags
    };
    let always = rflags::STATUS | rflags::ONE | rflags::TF | rflags::DF | rflags::NT | rflags::AC | rflags::ID;
    assert_eq!(popped(0, 0), always | rflags::IF | rflags::IOPL);
    assert_eq!(popped(3, 3), always | rflags::IF | rflags::IOPL);
    assert_eq!(popped(3, 0), always);
}

#[test]
fn flags_of_virtual_8086_mode_follow_vme() {
    let in_v86 = |code: &[u8], vme: bool, image: u16| {
        run(16, code, 1, move |state, memory| {
            for segment in &mut state.seg {
                *segment = Segment { base: 0, limit: 0xffff, selector: 0, attr: 0xf3 };
            }
            state.rflags |= rflags::VM | rflags::VIF;
            state.cr4 = u64::from(vme);
            memory.write(Gpa(STACK), &image.to_le_bytes()).unwrap();
        })
    };
    let refused = UserExit::Exception { vector: vector::GP, error_code: Some(0), cr2: 0 };
    assert_eq!((in_v86(&[0x9c], false, 0).exit, in_v86(&[0x9d], false, 0).exit), (refused, refused));
    let pushed = in_v86(&[0x9c], true, 0);
    assert_eq!(pushed.exit, UserExit::Ran);
    assert_eq!(pushed.word(STACK - 2) as u16, (rflags::ONE | rflags::IF | rflags::IOPL) as u16);
    let popped = in_v86(&[0x9d], true, rflags::CF as u16);
    assert_eq!(popped.state.rflags, rflags::ONE | rflags::VM | rflags::CF);
    assert_eq!(in_v86(&[0x9d], true, rflags::TF as u16).exit, refused);
}

#[test]
fn strings_wrap_with_the_address_size() {
    // REP STOSB of two bytes at the end of a 64 KiB address space.
    let stored = run(16, &[0xf3, 0xaa], 1, |state, _| {
        (state.gpr[0], state.gpr[1], state.gpr[7]) = (0x5a, 0x7_0002, 0x9_ffff);
    });
    assert_eq!(stored.exit, UserExit::Ran);
    assert_eq!((stored.word(0xfffc) >> 24, stored.word(0) & 0xff), (0x5a, 0x5a));
    assert_eq!((stored.state.gpr[1], stored.state.gpr[7]), (0x7_0000, 0x9_0001));
}

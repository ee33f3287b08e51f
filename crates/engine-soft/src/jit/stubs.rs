//! The fixed pieces of code: the way into translated code, out of it, and the calls that it makes.
//!
//! Translated code has the guest's registers in the host's, R10, R11 and R15 excepted, whose places in the host are
//! free for the translator; also RSP, so nothing is ever pushed.

use super::asm::{Asm, Label, cc, r};
use super::context::NO_WINDOW;
use super::emit::SCRATCH;
use super::layout as l;
use crate::mmu::SLOTS;

/// Why translated code has come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Exit {
    /// A direct jump that leads nowhere yet; the number of the exit is in `site`.
    Link = 0,
    /// An indirect jump to what is not in the table; the target is in RIP.
    Indirect = 1,
    /// Somebody wants attention, at a direct jump: as `Link`.
    Poll = 2,
    /// What was called out to has settled where to go on.
    Called = 3,
    /// The host has raised an exception in translated code; its address is in `target`.
    Fault = 4,
    /// The source of the block with the number in `site` has changed.
    Stale = 5,
}

impl Exit {
    pub(super) fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Link,
            1 => Self::Indirect,
            2 => Self::Poll,
            4 => Self::Fault,
            5 => Self::Stale,
            _ => Self::Called,
        }
    }
}

/// The parts of the floating-point state that are in the host's registers while translated code runs: bits of
/// [`super::Context::units`].
pub(super) mod unit {
    /// The vector registers and MXCSR.
    pub(crate) const VECTOR: u8 = 1;
    /// The x87 unit, whose status word may be newer than the interpreter's.
    pub(crate) const X87: u8 = 2;
}

/// Where the routine is that puts the units into memory, as far as they are in the host's registers.
const SAVE: u32 = 0;
/// Where the one is that brings back into the host's registers what `units` says.
const LOAD: u32 = 512;
const BEHIND: usize = 1536;

/// Offsets of the stubs in the code memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stubs {
    pub(super) enter: u32,
    pub(super) link: u32,
    pub(super) indirect: u32,
    pub(super) poll: u32,
    pub(super) fault: u32,
    pub(super) stale: u32,
    /// By the register with the linear address (R11, R10, R15), for reads and writes.
    pub(super) slow: [[u32; 2]; 3],
    /// With the address of an `Op` in R11: for handlers that leave the flags alone, and for others.
    pub(super) call: u32,
    pub(super) call_flags: u32,
    /// The same where no unit is needed afterwards.
    pub(super) call_last: u32,
    pub(super) call_flags_last: u32,
    pub(super) slow_last: [[u32; 2]; 3],
    /// By unit: brings it into the host's registers and goes back to `site`. Leaves all but R10 and the flags.
    pub(super) load_unit: [u32; 2],
    /// With the RIP to go to in R11 and an exit's number in `site`: looks into the table of jumps.
    pub(super) dispatch: u32,
    /// Goes on at `after` with the flags from memory and the window in R15.
    pub(super) resume: u32,
    /// By the table of the TLB, with the linear address in R11: brings its page into the stack window.
    pub(super) window: [u32; 3],
    /// With the start of a range in R11, and in R10 twice its size and whether it is written to: looks it up.
    pub(super) group: u32,
    /// With the start of a range in R11 and its size in R10, for reads and writes: brings its cell up to date.
    pub(super) fill_group: [u32; 2],
    /// By size (1, 2, 4 ... bytes), for reads and writes, by the register with the linear address: brings a cell up to
    /// date.
    pub(super) fill: [[[u32; 3]; 2]; super::cells::SIZES],
}

/// What stubs call.
pub(super) struct Callees {
    pub(super) slow_read: u64,
    pub(super) slow_write: u64,
    pub(super) call: u64,
    pub(super) call_flags: u64,
    pub(super) window: u64,
    pub(super) demote: u64,
    pub(super) group: u64,
}

/// The registers that are the guest's in translated code; RSP comes apart.
const GUEST: [u8; 12] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14];
/// Registers of the host that the calling convention preserves.
const PRESERVED: [u8; 6] = [r::RBX, r::RBP, r::R12, r::R13, r::R14, r::R15];

pub(super) fn store_guest(asm: &mut Asm) {
    for reg in GUEST {
        asm.gs_store(l::reg(reg), reg);
    }
    asm.gs_store(l::reg(r::RSP), r::RSP);
}

fn load_guest(asm: &mut Asm) {
    for reg in GUEST {
        asm.gs_load(reg, l::reg(reg));
    }
    asm.gs_load(r::RSP, l::reg(r::RSP));
}

pub(super) fn store_scratch(asm: &mut Asm) {
    for (i, reg) in SCRATCH.into_iter().enumerate() {
        asm.gs_store(l::SCRATCH + 8 * i as i32, reg);
    }
}

pub(super) fn load_scratch(asm: &mut Asm) {
    for (i, reg) in SCRATCH.into_iter().enumerate() {
        asm.gs_load(reg, l::SCRATCH + 8 * i as i32);
    }
}

/// `call target`, on the host's stack, with the CPU as first argument.
pub(super) fn call(asm: &mut Asm, target: u64) {
    asm.gs_load(r::RSP, l::HOST_RSP);
    save_units(asm);
    asm.gs_load(r::RDI, l::SELF);
    asm.mov_imm(r::RAX, target);
    asm.bytes(&[0xff, 0xd0]);
}

/// Goes back to who has entered, with `code`.
fn leave(asm: &mut Asm, code: Exit) {
    asm.gs_load(r::RSP, l::HOST_RSP);
    if code != Exit::Called {
        save_units(asm);
    }
    forget_units(asm);
    asm.mov_imm(r::RAX, code as u64);
    asm.bytes(&[0x48, 0x83, 0xc4, 0x08]);
    for reg in PRESERVED.into_iter().rev() {
        if reg >= 8 {
            asm.byte(0x41);
        }
        asm.byte(0x58 | reg & 7);
    }
    asm.byte(0xc3);
}

/// Writes the stubs, to be put at the start of the code memory.
pub(super) fn write(asm: &mut Asm, callees: &Callees) -> Stubs {
    let mut stubs = Stubs::default();
    let here = |asm: &Asm| asm.hot_len() as u32;
    let aligned = |asm: &mut Asm| {
        while !asm.hot_len().is_multiple_of(16) {
            asm.byte(0xcc);
        }
        here(asm)
    };

    write_units(asm);
    // extern "C" fn(code) -> exit; GS is the lane. An odd number of pushes and 8 bytes keep the stack aligned for calls.
    stubs.enter = here(asm);
    for reg in PRESERVED {
        if reg >= 8 {
            asm.byte(0x41);
        }
        asm.byte(0x50 | reg & 7);
    }
    asm.bytes(&[0x48, 0x83, 0xec, 0x08]);
    asm.gs_store(l::HOST_RSP, r::RSP);
    asm.gs_store(l::TARGET, r::RDI);
    load_guest(asm);
    asm.gs_jmp(l::TARGET);

    for (code, place) in [
        (Exit::Link, &mut stubs.link),
        (Exit::Indirect, &mut stubs.indirect),
        (Exit::Poll, &mut stubs.poll),
        (Exit::Stale, &mut stubs.stale),
        (Exit::Fault, &mut stubs.fault),
    ] {
        *place = aligned(asm);
        store_guest(asm);
        leave(asm, code);
    }

    let called = asm.label();
    for (i, address) in [r::R11, r::R10, r::R15].into_iter().enumerate() {
        for (write, callee) in [callees.slow_read, callees.slow_write].into_iter().enumerate() {
            stubs.slow[i][write] = aligned(asm);
            asm.gs_store(l::LINEAR, address);
            store_guest(asm);
            store_scratch(asm);
            call(asm, callee);
            resume(asm, called);
        }
    }
    for (i, address) in [r::R11, r::R10, r::R15].into_iter().enumerate() {
        for (write, callee) in [callees.slow_read, callees.slow_write].into_iter().enumerate() {
            stubs.slow_last[i][write] = aligned(asm);
            asm.gs_store(l::LINEAR, address);
            store_guest(asm);
            store_scratch(asm);
            asm.gs_load(r::RSP, l::HOST_RSP);
            save_units(asm);
            forget_units(asm);
            call(asm, callee);
            resume(asm, called);
        }
    }
    for (place, callee, last) in [
        (&mut stubs.call, callees.call, false),
        (&mut stubs.call_flags, callees.call_flags, false),
        (&mut stubs.call_last, callees.call, true),
        (&mut stubs.call_flags_last, callees.call_flags, true),
    ] {
        *place = aligned(asm);
        store_guest(asm);
        if last {
            asm.gs_load(r::RSP, l::HOST_RSP);
            save_units(asm);
            forget_units(asm);
        }
        asm.mov(r::RSI, r::R11);
        asm.gs_store(l::SCRATCH + 16, r::R15);
        call(asm, callee);
        resume(asm, called);
    }
    let refused = asm.label();
    for (table, place) in stubs.window.iter_mut().enumerate() {
        *place = aligned(asm);
        open_window(asm, table as u8, refused);
    }
    asm.bind(refused);
    asm.gs_store(l::LINEAR, r::R11);
    store_guest(asm);
    call(asm, callees.window);
    resume(asm, called);

    stubs.group = aligned(asm);
    asm.gs_store(l::LINEAR, r::R11);
    store_guest(asm);
    store_scratch(asm);
    asm.mov(r::RSI, r::R10);
    call(asm, callees.group);
    resume(asm, called);

    asm.bind(called);
    leave(asm, Exit::Called);

    stubs.resume = aligned(asm);
    asm.mov(r::R10, r::RAX);
    // movzx eax, word gs:[flags]; add al, 7fh; sahf
    asm.bytes(&[0x65, 0x0f, 0xb7, 0x04, 0x25]);
    asm.imm32(l::FLAGS as u32);
    asm.bytes(&[0x04, 0x7f, 0x9e]);
    asm.mov(r::RAX, r::R10);
    asm.gs_load(r::R15, l::WINDOW_DELTA);
    asm.gs_jmp(l::AFTER);

    for (bit, place) in stubs.load_unit.iter_mut().enumerate() {
        *place = aligned(asm);
        asm.gs_store(l::reg(r::RSP), r::RSP);
        asm.gs_load(r::RSP, l::HOST_RSP);
        // What FXRSTOR overwrites must be in memory first.
        save_units(asm);
        // or byte gs:[units], bit
        asm.gs_absolute(&[0x80], 1, l::UNITS);
        asm.byte(1 << bit);
        asm.call_to(LOAD);
        asm.gs_load(r::RSP, l::reg(r::RSP));
        asm.gs_load32(r::R10, l::SITE);
        asm.gs(0x03, r::R10, l::CODE_BASE);
        // jmp r10
        asm.bytes(&[0x41, 0xff, 0xe2]);
    }

    stubs.dispatch = aligned(asm);
    let missed = asm.label();
    // A loop across pages may go through here each time.
    asm.gs_cmp_imm8(l::ATTENTION, 0);
    asm.jcc(cc::NE, missed);
    look_up(asm, missed);
    asm.bind(missed);
    store_guest(asm);
    leave(asm, Exit::Link);
    super::cells::write_stubs(asm, &mut stubs, callees.demote, called);
    stubs
}

/// On the host's stack: puts the units that are in the host's registers into memory. Leaves all but the flags.
fn save_units(asm: &mut Asm) {
    let none = asm.label();
    asm.gs_test8(l::UNITS, 0xff);
    asm.jcc(cc::E, none);
    asm.call_to(SAVE);
    asm.bind(none);
}

/// Notes that no unit is in the host's registers.
fn forget_units(asm: &mut Asm) {
    // mov byte gs:[units], 0
    asm.gs_absolute(&[0xc6], 0, l::UNITS);
    asm.byte(0);
}

/// The width of vector registers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Sse,
    Avx128,
    Avx256,
}

/// Moves all vector registers: opcode 10 loads, 11 stores.
fn move_vectors(asm: &mut Asm, opcode: u8, width: Width) {
    for register in 0..16u8 {
        let at = l::YMM + 32 * i32::from(register);
        let high = (register >> 3 ^ 1) << 7;
        match width {
            Width::Sse => asm.gs_absolute(&[0x40 | register >> 3 << 2, 0x0f, opcode], register, at),
            Width::Avx128 => asm.gs_absolute(&[0xc5, high | 0x78, opcode], register, at),
            Width::Avx256 => asm.gs_absolute(&[0xc5, high | 0x7c, opcode], register, at),
        }
    }
}

/// Writes what is at [`SAVE`] and [`LOAD`].
fn write_units(asm: &mut Asm) {
    let avx = std::arch::is_x86_feature_detected!("avx");
    let widest = if avx { Width::Avx256 } else { Width::Sse };
    let pad = |asm: &mut Asm, to: usize| {
        while asm.hot_len() < to {
            asm.byte(0xcc);
        }
    };
    let (no_vectors, no_x87) = (asm.label(), asm.label());
    asm.gs_test8(l::UNITS, unit::VECTOR);
    asm.jcc(cc::E, no_vectors);
    move_vectors(asm, 0x11, widest);
    // stmxcsr, ldmxcsr: Rust code needs the host's.
    asm.gs_absolute(&[0x0f, 0xae], 3, l::MXCSR);
    asm.gs_absolute(&[0x0f, 0xae], 2, l::HOST_MXCSR);
    if avx {
        // vzeroupper: the SSE code that follows is slow otherwise.
        asm.bytes(&[0xc5, 0xf8, 0x77]);
    }
    asm.bind(no_vectors);
    asm.gs_test8(l::UNITS, unit::X87);
    asm.jcc(cc::E, no_x87);
    // fnstsw
    asm.gs_absolute(&[0xdd], 7, l::FSW);
    asm.bind(no_x87);
    asm.byte(0xc3);

    pad(asm, LOAD as usize);
    let (vectors, done) = (asm.label(), asm.label());
    asm.gs_test8(l::UNITS, unit::X87);
    asm.jcc(cc::E, vectors);
    asm.gs_test8(l::X87_RESIDENT, 0xff);
    asm.jcc(cc::NE, vectors);
    // fxrstor64; mov byte gs:[resident], 1
    asm.gs_absolute(&[0x48, 0x0f, 0xae], 1, l::X87);
    asm.gs_absolute(&[0xc6], 0, l::X87_RESIDENT);
    asm.byte(1);
    asm.bind(vectors);
    asm.gs_test8(l::UNITS, unit::VECTOR);
    asm.jcc(cc::E, done);
    asm.gs_absolute(&[0x0f, 0xae], 2, l::MXCSR);
    if avx {
        // SSE code is slow while upper halves are in use, even with zeros: those are not loaded then.
        let wide = asm.label();
        asm.gs_absolute(&[0xc5, 0xf8, 0x10], 0, l::YMM + 16);
        for register in 1..16 {
            // vorps xmm0, xmm0, gs:[...]
            asm.gs_absolute(&[0xc5, 0xf8, 0x56], 0, l::YMM + 32 * register + 16);
        }
        // vptest xmm0, xmm0
        asm.bytes(&[0xc4, 0xe2, 0x79, 0x17, 0xc0]);
        asm.jcc(cc::NE, wide);
        asm.bytes(&[0xc5, 0xf8, 0x77]);
        move_vectors(asm, 0x10, Width::Avx128);
        asm.byte(0xc3);
        asm.bind(wide);
    }
    move_vectors(asm, 0x10, widest);
    asm.bind(done);
    asm.byte(0xc3);
    pad(asm, BEHIND);
}

/// Brings the page of the address in R11 into the stack window if the first-level TLB has it and it is not there yet,
/// and tries again; else goes to `refused` with the page in R11.
fn open_window(asm: &mut Asm, table: u8, refused: Label) {
    let (read, write, host) = l::tlb(table);
    asm.mov(r::R10, r::R11);
    asm.shift(5, r::R10, 7);
    asm.and32_imm(r::R10, (SLOTS as u32 - 1) << 5);
    asm.alu_imm(4, r::R11, -4096);
    asm.gs_indexed(0x3b, r::R11, r::R10, read);
    asm.jcc(cc::NE, refused);
    asm.gs(0x3b, r::R11, l::WINDOW_READ);
    asm.jcc(cc::E, refused);
    asm.gs_store(l::WINDOW_READ, r::R11);
    asm.gs_indexed(0x8b, r::R15, r::R10, host);
    // sub r15, r11
    asm.bytes(&[0x4d, 0x29, 0xdf]);
    asm.gs_store(l::WINDOW_DELTA, r::R15);
    let writable = asm.label();
    asm.gs_indexed(0x3b, r::R11, r::R10, write);
    asm.jcc(cc::E, writable);
    asm.mov_imm(r::R11, NO_WINDOW);
    asm.bind(writable);
    asm.gs_store(l::WINDOW_WRITE, r::R11);
    asm.gs_load32(r::R10, l::TARGET);
    asm.gs(0x03, r::R10, l::CODE_BASE);
    // jmp r10
    asm.bytes(&[0x41, 0xff, 0xe2]);
}

/// Goes on where the callee says, or leaves if it says nowhere.
pub(super) fn resume(asm: &mut Asm, called: Label) {
    asm.bytes(&[0x48, 0x85, 0xc0]);
    asm.jcc(cc::E, called);
    asm.gs_store(l::TARGET, r::RAX);
    let none = asm.label();
    asm.gs_test8(l::UNITS, 0xff);
    asm.jcc(cc::E, none);
    asm.call_to(LOAD);
    asm.bind(none);
    load_guest(asm);
    load_scratch(asm);
    asm.gs_jmp(l::TARGET);
}

/// Jumps to the code of the RIP in R11 if the table of jumps has it, else to `missed` with R11 as the table has it: with
/// the space's tag added.
pub(super) fn look_up(asm: &mut Asm, missed: Label) {
    asm.mov32(r::R10, r::R11);
    asm.gs(0x33, r::R10, l::JUMP_MIX);
    asm.and32_imm(r::R10, super::JUMP_SLOTS as u32 - 1);
    asm.shift(4, r::R10, 4);
    asm.gs(0x03, r::R11, l::SPACE_TAG);
    asm.gs_indexed(0x3b, r::R11, r::R10, l::JUMPS);
    asm.jcc(cc::NE, missed);
    asm.gs_jmp_indexed(r::R10, l::JUMPS + 8);
}

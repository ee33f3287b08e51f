//! The fixed pieces of code: the way into translated code, out of it, and the calls that it makes.
//!
//! Translated code has the guest's registers in the host's, R10, R11 and R15 excepted, whose places in the host are
//! free for the translator; also RSP, so nothing is ever pushed.

use super::asm::{Asm, Label, cc, r};
use super::context::NO_WINDOW;
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
}

impl Exit {
    pub(super) fn from_code(code: u32) -> Self {
        match code {
            0 => Self::Link,
            1 => Self::Indirect,
            2 => Self::Poll,
            4 => Self::Fault,
            _ => Self::Called,
        }
    }
}

/// Offsets of the stubs in the code memory.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Stubs {
    pub(super) enter: u32,
    pub(super) link: u32,
    pub(super) indirect: u32,
    pub(super) poll: u32,
    pub(super) fault: u32,
    /// By the register with the linear address (R11, R10, R15), for reads and writes.
    pub(super) slow: [[u32; 2]; 3],
    /// With the address of an `Op` in R11: for handlers that leave the flags alone, and for others.
    pub(super) call: u32,
    pub(super) call_flags: u32,
    /// With the RIP to go to in R11 and an exit's number in `site`: looks into the table of jumps.
    pub(super) dispatch: u32,
    /// Goes on at `after` with the flags from memory and the window in R15.
    pub(super) resume: u32,
    /// By the table of the TLB, with the linear address in R11: brings its page into the stack window.
    pub(super) window: [u32; 3],
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
}

/// The registers that are the guest's in translated code; RSP comes apart.
const GUEST: [u8; 12] = [0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14];
/// Registers of the host that the calling convention preserves.
const PRESERVED: [u8; 6] = [r::RBX, r::RBP, r::R12, r::R13, r::R14, r::R15];
pub(super) const SCRATCH: [u8; 3] = [r::R10, r::R11, r::R15];

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

fn load_scratch(asm: &mut Asm) {
    for (i, reg) in SCRATCH.into_iter().enumerate() {
        asm.gs_load(reg, l::SCRATCH + 8 * i as i32);
    }
}

/// `call target`, on the host's stack, with the CPU as first argument.
pub(super) fn call(asm: &mut Asm, target: u64) {
    asm.gs_load(r::RSP, l::HOST_RSP);
    asm.gs_load(r::RDI, l::SELF);
    asm.mov_imm(r::RAX, target);
    asm.bytes(&[0xff, 0xd0]);
}

/// Goes back to who has entered, with `code`.
fn leave(asm: &mut Asm, code: Exit) {
    asm.gs_load(r::RSP, l::HOST_RSP);
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
    for (place, callee) in [(&mut stubs.call, callees.call), (&mut stubs.call_flags, callees.call_flags)] {
        *place = aligned(asm);
        store_guest(asm);
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

    stubs.dispatch = aligned(asm);
    let missed = asm.label();
    // A loop across pages may go through here each time.
    asm.gs_load(r::R10, l::ATTENTION);
    // cmp dword [r10], 0
    asm.bytes(&[0x41, 0x83, 0x3a, 0x00]);
    asm.jcc(cc::NE, missed);
    look_up(asm, missed);
    asm.bind(missed);
    store_guest(asm);
    leave(asm, Exit::Link);
    super::cells::write_stubs(asm, &mut stubs, callees.demote, called);
    stubs
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
    load_guest(asm);
    load_scratch(asm);
    asm.gs_jmp(l::TARGET);
}

/// Jumps to the code of the RIP in R11 if the table of jumps has it, else to `missed` with R11 as the table has it: with
/// the space's tag added.
pub(super) fn look_up(asm: &mut Asm, missed: Label) {
    asm.mov32(r::R10, r::R11);
    asm.and32_imm(r::R10, super::JUMP_SLOTS as u32 - 1);
    asm.shift(4, r::R10, 4);
    asm.gs(0x03, r::R11, l::SPACE_TAG);
    asm.gs_indexed(0x3b, r::R11, r::R10, l::JUMPS);
    asm.jcc(cc::NE, missed);
    asm.gs_jmp_indexed(r::R10, l::JUMPS + 8);
}

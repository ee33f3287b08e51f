//! What a program has executed: where its flags are undefined, and a listing.

use std::fmt::Write as _;

use iced_x86::{
    Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind, Register,
};

use super::machine::{Code, Machine};
use super::program::Program;
use crate::oracle::case::Case;
use crate::oracle::undefined::{self, rflags_of};

/// More instructions than are looked at.
const MOST: usize = 200_000;
/// The status flags in RFLAGS.
const STATUS: u64 = 0x8d5;
/// How many instructions ahead are looked at for who reads a flag; half of that behind each branch.
const DEPTH: usize = 128;

/// What a program's end is free to be.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Bits of RFLAGS.
    pub(crate) flags: u64,
    /// An instruction has read an undefined flag, or its result is undefined: all that comes after may be.
    pub(crate) anything: bool,
}

/// What is undefined when `program` has run. Unless it is to be `exact`, so are flags that the code behind a store into
/// itself has not read before the store, and reads after it.
pub(crate) fn open(machine: &mut Machine, program: &Program, exact: bool) -> Open {
    let mut open = Open::default();
    let (mut before, mut done): (Option<Code>, _) = (None, (!0, 0));
    let mut last = 0;
    step(machine, program, |code, instruction, rcx| {
        // What the one before has done: it has raised no exception.
        open.flags = open.flags & done.0 | done.1;
        if before.as_ref() != Some(code) {
            if let Some(before) = &before
                && !exact
            {
                open.flags |= dead_in(before, program, instruction.ip());
            }
            before = Some(code.clone());
        }
        let reads = rflags_of(instruction.rflags_read()) & STATUS;
        open.anything |= reads & open.flags != 0 || is_open(instruction, rcx);
        done = after(instruction, rcx);
        last = instruction.ip();
    });
    // The last one may have stored into the code before it has raised its exception.
    if let Some(before) = &before
        && !exact
    {
        open.flags |= dead_in(before, program, last);
    }
    open
}

/// The flags that `instruction` leaves as they are, and those that it leaves undefined.
fn after(instruction: &Instruction, rcx: u64) -> (u64, u64) {
    let modified = rflags_of(instruction.rflags_modified());
    if !undefined::may_keep_flags(instruction) {
        return (!modified, undefined::flags(instruction));
    }
    if instruction.has_rep_prefix() || instruction.has_repne_prefix() {
        // With RCX = 0 nothing happens; how wide it is matters little.
        return if instruction.is_string_instruction() && rcx as u32 != 0 { (!modified, 0) } else { (!0, 0) };
    }
    let mut case = Case::empty();
    case.gpr[1] = rcx;
    let undefined = undefined::of_single(instruction, &case).flags;
    let last = instruction.op_count() - 1;
    let wide = instruction.op0_register().size() == 8 || instruction.memory_size().size() == 8;
    let count = match instruction.op_kind(last) {
        OpKind::Immediate8 => u64::from(instruction.immediate8()),
        _ if instruction.op_register(last) == Register::CL => rcx,
        _ => 1,
    };
    if count & if wide { 63 } else { 31 } == 0 { (!0, 0) } else { (!modified, undefined) }
}

/// The flags that no instruction from `rip` on reads before another one has written them: translated code need not have
/// them when an exception ends it there.
pub(crate) fn dead_flags(machine: &Machine, program: &Program, rip: u64) -> u64 {
    dead_in(&machine.code(), program, rip)
}

/// The same, in this code.
fn dead_in(code: &Code, program: &Program, rip: u64) -> u64 {
    STATUS & !live_flags(code, program, rip, STATUS, DEPTH, &mut Vec::new())
}

/// Those of `wanted` that are read from `rip` on, or may be for all that is seen in `depth` instructions. Nothing more is
/// read by going round in a loop than on the first way through it: its branches have been `seen` then.
fn live_flags(
    code: &Code,
    program: &Program,
    rip: u64,
    mut wanted: u64,
    depth: usize,
    seen: &mut Vec<(u64, u64)>,
) -> u64 {
    let (mut live, mut rip) = (0, rip);
    for left in (0..depth).rev() {
        let bits = if program.mode.long { 64 } else { 32 };
        let bytes = code.at(rip);
        let instruction = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
        live |= rflags_of(instruction.rflags_read()) & wanted;
        if !undefined::may_keep_flags(&instruction) || shifts_surely(&instruction) {
            wanted &= !rflags_of(instruction.rflags_modified());
        }
        wanted &= !live;
        if wanted == 0 {
            return live;
        }
        match instruction.flow_control() {
            FlowControl::Next => rip = instruction.next_ip(),
            FlowControl::UnconditionalBranch if instruction.is_jmp_short_or_near() => {
                rip = instruction.near_branch_target();
            }
            FlowControl::Call if instruction.is_call_near() => rip = instruction.near_branch_target(),
            FlowControl::ConditionalBranch => {
                if seen.contains(&(rip, wanted)) {
                    return live;
                }
                seen.push((rip, wanted));
                let target = instruction.near_branch_target();
                return live
                    | live_flags(code, program, target, wanted, left / 2, seen)
                    | live_flags(code, program, instruction.next_ip(), wanted, left / 2, seen);
            }
            _ => break,
        }
    }
    live | wanted
}

/// Whether `instruction` shifts by a number that is there and is not zero.
fn shifts_surely(instruction: &Instruction) -> bool {
    let last = instruction.op_count().wrapping_sub(1);
    let wide = instruction.op0_register().size() == 8 || instruction.memory_size().size() == 8;
    instruction.op_count() > 1
        && instruction.op_kind(last) == OpKind::Immediate8
        && instruction.immediate8() & if wide { 63 } else { 31 } != 0
}

/// Whether the result of `instruction` may be this or that, or is another one each time.
fn is_open(instruction: &Instruction, rcx: u64) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Rdtsc | M::Rdtscp | M::Rdrand | M::Rdseed | M::Rdpmc => true,
        // SDM vol. 2, SHLD: a count greater than the operand's size.
        M::Shld | M::Shrd if instruction.op1_register().size() == 2 => {
            let count =
                if instruction.op2_kind() == OpKind::Immediate8 { instruction.immediate8().into() } else { rcx };
            count & 31 > 16
        }
        _ => false,
    }
}

/// The last `count` instructions of `program`.
pub(crate) fn tail(machine: &mut Machine, program: &Program, count: usize) -> String {
    let mut list = Vec::new();
    step(machine, program, |_, instruction, _| list.push(*instruction));
    let mut formatter = IntelFormatter::new();
    let mut text = format!("the last of {} instructions:\n", list.len());
    for instruction in &list[list.len().saturating_sub(count)..] {
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        let _ = writeln!(text, "{:x}: {line}", instruction.ip());
    }
    text
}

/// Runs `program` instruction by instruction and calls `each` with the code, it and RCX before it runs.
fn step(machine: &mut Machine, program: &Program, mut each: impl FnMut(&Code, &Instruction, u64)) {
    machine.start(program);
    let bits = if program.mode.long { 64 } else { 32 };
    for _ in 0..MOST {
        let (rip, rcx) = machine.position();
        let code = machine.code();
        let bytes = code.at(rip);
        let instruction = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
        each(&code, &instruction, rcx);
        if !machine.step() {
            return;
        }
    }
}

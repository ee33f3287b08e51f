//! What a program has executed: where its flags are undefined, and a listing.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, OpKind};

use super::machine::Machine;
use super::program::Program;
use crate::oracle::undefined::{self, rflags_of};

/// More instructions than are looked at.
const MOST: usize = 200_000;
/// The status flags in RFLAGS.
const STATUS: u64 = 0x8d5;

/// What a program's end is free to be.
#[derive(Debug, Default)]
pub(crate) struct Open {
    /// Bits of RFLAGS.
    pub(crate) flags: u64,
    /// An instruction has read an undefined flag, or its result is undefined: all that comes after may be.
    pub(crate) anything: bool,
}

/// What is undefined when `program` has run.
pub(crate) fn open(machine: &mut Machine, program: &Program) -> Open {
    let mut open = Open::default();
    step(machine, program, |instruction, rcx| {
        open.anything |= rflags_of(instruction.rflags_read()) & open.flags != 0 || is_open(instruction, rcx);
        let undefined = undefined::flags(instruction);
        if undefined::may_keep_flags(instruction) {
            // By how much is not looked at here: CF, AF and OF at worst.
            open.flags |= undefined | 0x811;
        } else {
            let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
            open.flags = open.flags & !rflags_of(defined) | undefined;
        }
    });
    open
}

/// The flags that no instruction from `rip` on reads before another one has written them: translated code need not have
/// them when an exception ends it there.
pub(crate) fn dead_flags(machine: &Machine, program: &Program, rip: u64) -> u64 {
    STATUS & !live_flags(machine, program, rip, STATUS, 40)
}

/// Those of `wanted` that are read from `rip` on, or may be for all that is seen in `depth` instructions.
fn live_flags(machine: &Machine, program: &Program, rip: u64, mut wanted: u64, depth: usize) -> u64 {
    let (mut live, mut rip) = (0, rip);
    for left in (0..depth).rev() {
        let bits = if program.mode.long { 64 } else { 32 };
        let bytes = machine.code_at(rip);
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
                let target = instruction.near_branch_target();
                return live
                    | live_flags(machine, program, target, wanted, left / 2)
                    | live_flags(machine, program, instruction.next_ip(), wanted, left / 2);
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
    !instruction.has_rep_prefix()
        && !instruction.has_repne_prefix()
        && instruction.op_count() > 1
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
    step(machine, program, |instruction, _| list.push(*instruction));
    let mut formatter = IntelFormatter::new();
    let mut text = format!("the last of {} instructions:\n", list.len());
    for instruction in &list[list.len().saturating_sub(count)..] {
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        let _ = writeln!(text, "{:x}: {line}", instruction.ip());
    }
    text
}

/// Runs `program` instruction by instruction and calls `each` with it and RCX before it runs.
fn step(machine: &mut Machine, program: &Program, mut each: impl FnMut(&Instruction, u64)) {
    machine.start(program);
    let bits = if program.mode.long { 64 } else { 32 };
    for _ in 0..MOST {
        let (rip, rcx) = machine.position();
        let bytes = machine.code_at(rip);
        let instruction = Decoder::with_ip(bits, &bytes, rip, DecoderOptions::NONE).decode();
        each(&instruction, rcx);
        if !machine.step() {
            return;
        }
    }
}

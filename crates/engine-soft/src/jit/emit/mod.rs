//! Writing the code of a block.
//!
//! Each of the guest's instructions is copied, its memory operand replaced by the host's address that a look into the
//! TLB has given. The guest's status flags are the host's; where a check would overwrite flags that are still needed
//! they are put into memory first, and at the end of a block they are there, or dead.

mod call_out;
mod fast_calls;
mod flags;
mod group;
mod jumps;
mod memory;
mod registers;
mod source;
mod stack;
mod strings;
mod system;
mod vector;

use iced_x86::{Instruction, OpKind, Register};

use self::group::Group;
pub(super) use self::stack::stack_operand;
pub(super) use self::strings::is_plain_string;

use super::asm::{Asm, Label, r};
use super::layout as l;
use super::scan::{Ins, Kind, STATUS, Scan};
use super::stubs::Stubs;
use crate::op::Op;

/// A direct way out of a block.
pub(super) struct Way {
    /// Its number among all exits.
    pub(super) exit: u32,
    /// The guest's address that it leads to.
    pub(super) rip: u64,
    /// The jump to be led to the next block: the end of its distance.
    pub(super) jump: Label,
    /// Where it leads as long as it is not.
    pub(super) stub: Label,
    /// The space number that it is compared with, if it leaves the page: the end of the immediate.
    pub(super) space: Option<Label>,
    /// It leads to this block's plain form.
    pub(super) variant: bool,
    /// If it leads to this block it may lead to its [`Progress::head`].
    pub(super) round: bool,
    /// How many instructions come before it, and the flags that are needed behind it.
    pub(super) after: u16,
    pub(super) live: u32,
}

/// What the writing of a block needs.
pub(super) struct Emitter<'a> {
    pub(super) asm: &'a mut Asm,
    pub(super) stubs: &'a Stubs,
    pub(super) scan: &'a Scan,
    pub(super) bytes: &'a [u8],
    pub(super) rip: u64,
    pub(super) long: bool,
    /// The table of the TLB.
    pub(super) table: u8,
    /// RORX is there.
    pub(super) bmi2: bool,
    /// Instructions and blocks are counted.
    pub(super) count: bool,
    /// The number that this block will have.
    pub(super) block: u32,
    /// The number of the first exit.
    pub(super) first_exit: u32,
    /// Stack accesses go through the window, which covers these distances from RSP at the block's start.
    pub(super) window: Option<(i32, i32, bool)>,
    /// Where the interpreter's form of a called-out instruction is kept.
    pub(super) lower: &'a mut dyn FnMut(&Instruction) -> *const Op,
    /// Gives the number of a cell, if the access of the instruction at an address is to have one.
    pub(super) cell: &'a mut dyn FnMut(u64) -> Option<u32>,
    /// Where the source is, if nobody watches it.
    pub(super) own: Option<*mut u8>,
    /// There is one CPU.
    pub(super) alone: bool,
    /// Each access is checked by itself.
    pub(super) plain: bool,
    pub(super) now: Progress,
}

/// How far the writing of a block has come.
pub(super) struct Progress {
    /// The units that instructions of the block use in place.
    units: u8,
    /// The upper half of the x87 instruction pointer, as far as it is known.
    fip_high: Option<u32>,
    /// For each instruction, bits of [`Point::live`](super::cache::Point::live).
    pub(super) faults: Vec<u8>,
    /// What R11 holds.
    group: Option<Group>,
    /// The address of the instruction that is being written.
    current: u64,
    pub(super) ways: Vec<Way>,
    /// Behind what is checked at the start of the block.
    pub(super) head: Option<Label>,
    /// The start of each instruction's code.
    pub(super) starts: Vec<Label>,
    /// The flags in the host's register are the guest's.
    in_host: bool,
    /// The flags in memory are the guest's.
    in_memory: bool,
    /// What the flags in the host's register surely are, in the form of those in memory.
    constant: Option<u16>,
}

impl Progress {
    /// At the start of a block at `rip`: the flags are in memory.
    pub(super) fn start(scan: &Scan, rip: u64) -> Self {
        Self {
            units: scan.list.iter().fold(0, |all, ins| all | ins.units),
            fip_high: None,
            faults: Vec::new(),
            group: None,
            current: rip,
            ways: Vec::new(),
            head: None,
            starts: Vec::new(),
            in_host: false,
            in_memory: true,
            constant: None,
        }
    }
}

/// The host's registers that are free for the translator, in the order of [`Stubs::slow`].
pub(super) const SCRATCH: [u8; 3] = [r::R11, r::R10, r::R15];

/// General-purpose registers that are not in the host's, as a mask of those among the register operands.
fn resident_mask(instr: &Instruction) -> u16 {
    let mut mask = 0;
    for i in 0..instr.op_count() {
        if instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_gpr() {
            mask |= in_memory_bit(instr.op_register(i));
        }
    }
    mask
}

fn in_memory_bit(register: Register) -> u16 {
    match register.full_register() {
        Register::R10 => 1 << 10,
        Register::R11 => 1 << 11,
        Register::R15 => 1 << 15,
        _ => 0,
    }
}

fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}

impl Emitter<'_> {
    /// Writes the block.
    pub(super) fn block(&mut self) {
        if let Some(own) = self.own {
            self.check_source(own);
        }
        if let Some((low, high, write)) = self.window {
            self.check_window(low, high, write);
        }
        self.bring_units();
        self.now.head = Some(self.asm.here());
        if self.count {
            self.add(l::BLOCKS_RUN, 1);
        }
        let mut counted = 0;
        for (i, ins) in self.scan.list.iter().enumerate() {
            if self.count && i == counted {
                // As far as nothing leaves the block.
                let stretch = self.scan.list[i..].iter().position(|ins| ins.kind == Kind::Branch);
                let end = stretch.map_or(self.scan.list.len(), |n| i + n + 1);
                self.add(l::INSTRUCTIONS, (end - i) as i32);
                counted = end;
            }
            let start = self.asm.here();
            self.now.starts.push(start);
            self.now.faults.push(if ins.units != 0 { super::cache::Point::UNIT } else { 0 });
            self.now.current = ins.instr.ip();
            self.instruction(ins);
            self.after_instruction(ins);
        }
        let end = self.asm.here();
        self.now.starts.push(end);
        if !self.scan.ends {
            let next = self.scan.list.last().map_or(self.rip, |ins| ins.instr.next_ip());
            let live = self.scan.list.last().map_or(STATUS, |ins| ins.live_after);
            self.go(next, live, None);
        }
        self.write_stubs();
    }

    /// Adds to a counter; leaves the flags.
    fn add(&mut self, counter: i32, n: i32) {
        self.asm.gs_load(r::R10, counter);
        self.asm.lea(r::R10, Some(r::R10), None, n, false);
        self.asm.gs_store(counter, r::R10);
    }

    fn instruction(&mut self, ins: &Ins) {
        match ins.kind {
            Kind::Nothing => {}
            Kind::Verbatim if self.with_live_immediate(ins) => {}
            Kind::Verbatim => self.verbatim(ins),
            Kind::Memory { write } => {
                if !self.memory(ins, write) {
                    self.now.group = None;
                    self.call_out(ins);
                }
            }
            Kind::Lea => self.lea(ins),
            Kind::Push => self.push(ins),
            Kind::Pop => self.pop(ins),
            Kind::Leave => self.leave(ins),
            Kind::Jump => self.go(ins.instr.near_branch_target(), ins.live_after, Some(ins)),
            Kind::Branch => self.branch(ins),
            Kind::Call => self.call(ins),
            Kind::JumpIndirect => self.jump_indirect(ins),
            Kind::CallIndirect => self.call_indirect(ins),
            Kind::Ret => self.ret(ins),
            Kind::ShortIncDec => self.short_inc_dec(ins),
            Kind::String => self.string(ins),
            Kind::FarBit => self.far_bit(ins),
            Kind::FastCall => self.fast_call(ins),
            Kind::FastReturn => self.fast_return(ins),
            Kind::System => self.system(ins),
            Kind::Switch => self.switch(ins),
            Kind::CallOut => self.call_out(ins),
        }
        if ins.kind == Kind::CallOut {
            self.now.fip_high = None;
        }
    }
}

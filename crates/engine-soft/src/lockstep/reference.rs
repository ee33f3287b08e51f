//! The interpreter as the reference: which instructions may run twice, running them, and what they leave open.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Formatter, Instruction, IntelFormatter, Mnemonic, RflagsBits};
use x86::bits::rflags;

use super::Ran;
use super::snapshot::Snapshot;
use crate::cpu::{CodeSize, Cpu, leave, reg};
use crate::op::{Op, has};

/// The longest instruction.
const MOST_BYTES: usize = 15;

/// Whether `instruction` changes nothing but registers and memory, so that it can run, be taken back, and run again.
pub(crate) fn may_run_twice(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    // Not privileged, but they ask the machine, the clock or chance, or go through gates.
    let reaches_out = matches!(
        mnemonic,
        M::In
            | M::Insb
            | M::Insw
            | M::Insd
            | M::Out
            | M::Outsb
            | M::Outsw
            | M::Outsd
            | M::Cpuid
            | M::Rdtsc
            | M::Rdtscp
            | M::Rdpmc
            | M::Rdrand
            | M::Rdseed
            | M::Int
            | M::Int1
            | M::Int3
            | M::Into
            | M::Retf
            | M::Monitor
            | M::Mwait
            | M::Hlt
    );
    let far = instruction.is_jmp_far()
        || instruction.is_call_far()
        || instruction.is_jmp_far_indirect()
        || instruction.is_call_far_indirect();
    // Privileged, but registers only: the fast ways into the kernel and out of it, and reading what is not a device's.
    let harmless = match mnemonic {
        M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq | M::Swapgs | M::Clac | M::Stac | M::Cli | M::Sti => true,
        M::Mov => !is_control(instruction.op0_register()),
        _ => !instruction.is_privileged(),
    };
    harmless
        && !reaches_out
        && !far
        && !matches!(mnemonic, M::Xsetbv | M::Lgdt | M::Lidt | M::Lldt | M::Ltr | M::Lmsw)
        && instruction.flow_control() != FlowControl::Interrupt
        && instruction.flow_control() != FlowControl::XbeginXabortXend
        && !instruction.is_invalid()
}

/// A control or debug register: what is cached of the page tables and the watched addresses depends on them.
fn is_control(register: iced_x86::Register) -> bool {
    register.is_cr() || register.is_dr() || register.is_tr()
}

/// What the interpreter has run.
#[derive(Default)]
pub(super) struct Trace(Vec<Step>);

struct Step {
    rip: u64,
    bytes: [u8; MOST_BYTES],
    len: u8,
}

/// The flags that a trace leaves undefined.
pub(super) struct Open {
    /// Bits of RFLAGS.
    pub(super) flags: u64,
    /// An instruction has read one.
    pub(super) read: bool,
}

impl Trace {
    fn note(&mut self, op: &Op, code: &[u8]) {
        let mut bytes = [0; MOST_BYTES];
        let len = code.len().min(MOST_BYTES);
        bytes[..len].copy_from_slice(&code[..len]);
        self.0.push(Step { rip: op.rip(), bytes, len: len as u8 });
    }

    fn instructions(&self, size: CodeSize) -> impl Iterator<Item = (&Step, Instruction)> {
        self.0.iter().map(move |step| {
            let bytes = &step.bytes[..step.len.into()];
            (step, Decoder::with_ip(size as u32, bytes, step.rip, DecoderOptions::NONE).decode())
        })
    }

    /// What is undefined behind the trace.
    pub(super) fn undefined_flags(&self, size: CodeSize) -> Open {
        let mut open = Open { flags: 0, read: false };
        for (_, instruction) in self.instructions(size) {
            open.read |= in_rflags(instruction.rflags_read()) & open.flags != 0;
            // A count of zero in CL, or in RCX of a repeated one, changes no flag.
            if !keeps_flags(&instruction) {
                open.flags &= !in_rflags(instruction.rflags_modified());
            }
            open.flags |= in_rflags(instruction.rflags_undefined());
        }
        open
    }

    /// A line for each instruction.
    pub(super) fn disassemble(&self, size: CodeSize) -> String {
        let mut formatter = IntelFormatter::new();
        let mut text = String::new();
        for (step, instruction) in self.instructions(size) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            let bytes: String = step.bytes[..step.len.into()].iter().map(|byte| format!("{byte:02x}")).collect();
            text.push_str(&format!("  {:x}: {bytes:<24} {line}\n", step.rip));
        }
        text
    }
}

/// Whether the flags may be left alone.
fn keeps_flags(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    let shifts = matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd | M::Rol | M::Ror | M::Rcl | M::Rcr
    );
    shifts || instruction.has_rep_prefix() || instruction.has_repne_prefix()
}

/// iced's flags at their places in RFLAGS.
fn in_rflags(bits: u32) -> u64 {
    let pairs = [
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::OF, rflags::OF),
    ];
    pairs.into_iter().filter(|(iced, _)| bits & iced != 0).fold(0, |all, (_, bit)| all | bit)
}

impl Cpu {
    /// Runs as many instructions as `goal` says, and one more if that has raised an exception there; of a repeated
    /// string instruction after those as many rounds as `state` has done.
    pub(super) fn run_reference(&mut self, goal: Ran, state: &Snapshot, trace: &mut Trace) -> Ran {
        let most = goal.instructions + u64::from(goal.fault.is_some());
        let mut ran = 0;
        while ran < most || self.is_within_repeat(state) {
            self.leave = 0;
            let Ok(block) = self.find_block() else {
                return Ran { instructions: ran, fault: Some(self.fault), dead: 0 };
            };
            // SAFETY: blocks are freed by `find_block` only.
            let block = unsafe { &*block };
            let mut at = 0;
            for op in &block.ops {
                trace.note(op, block.bytes.get(at..at + usize::from(op.len)).unwrap_or_default());
                at += usize::from(op.len);
                self.rip = op.next;
                if (op.run)(self, op).is_err() {
                    self.rip = self.wrap_rip(op.rip());
                    return Ran { instructions: ran, fault: Some(self.fault), dead: 0 };
                }
                // One that makes way for interrupts has not been retired.
                let retired = !(op.has(has::REP | has::REPNE) && self.rip == op.rip());
                ran += u64::from(retired);
                if ran >= most || !retired || self.leave != 0 {
                    break;
                }
            }
            if self.leave & !leave::BLOCK != 0 {
                break;
            }
        }
        Ran { instructions: ran, fault: None, dead: 0 }
    }

    /// Whether `state` is at the same repeated string instruction, some rounds ahead.
    fn is_within_repeat(&mut self, state: &Snapshot) -> bool {
        if self.rip != state.rip || self.regs[reg::RCX] <= state.regs[reg::RCX] {
            return false;
        }
        let Ok(block) = self.find_block() else { return false };
        // SAFETY: blocks are freed by `find_block` only.
        unsafe { &(*block).ops }.first().is_some_and(|op| op.has(has::REP | has::REPNE))
    }
}

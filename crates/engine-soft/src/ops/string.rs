//! MOVS, STOS, LODS, CMPS and SCAS, with and without a repeat prefix.
//!
//! A repeated instruction can be interrupted between elements: the registers always say how far it has come, and
//! running it again goes on from there (SDM vol. 2, REP).

use iced_x86::{CodeSize as CodeBits, Instruction, Mnemonic, OpKind, Register};
use x86::bits::rflags;

use crate::cpu::{CodeSize, Cpu, Exec, leave, reg, sreg};
use crate::mem::Word;
use crate::op::{Handler, Op, has};

use super::alu::{Binary, Sub};
use super::string_bulk::{CompareStrings, CopyString, FillString, Pass, ScanString};

const SI: u8 = reg::RSI as u8;
const DI: u8 = reg::RDI as u8;
const CX: u8 = reg::RCX as u8;
const AX: u8 = reg::RAX as u8;

/// Elements between two looks at waiting interrupts: a page of bytes.
const BATCH: u64 = 4096;

/// The distance from one element to the next, by DF.
#[inline(always)]
fn step<T: Word>(cpu: &Cpu) -> u64 {
    if cpu.system_flags & rflags::DF == 0 { T::SIZE } else { T::SIZE.wrapping_neg() }
}

/// Moves an index register, which is as wide as addresses.
#[inline(always)]
fn advance<A: Word>(cpu: &mut Cpu, index: u8, by: u64) {
    let value = A::get(cpu, index).to_u64().wrapping_add(by);
    A::set(cpu, index, A::from_u64(value));
}

/// Reads the element at `seg`:(R/E)SI.
#[inline(always)]
fn read_source<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec<T> {
    let offset = A::get(cpu, SI).to_u64();
    let at = cpu.seg_address(usize::from(op.seg), offset, T::SIZE, false)?;
    cpu.read_lin(at)
}

/// The address of the element at ES:(R/E)DI.
#[inline(always)]
fn target<T: Word, A: Word>(cpu: &mut Cpu, write: bool) -> Exec<u64> {
    let offset = A::get(cpu, DI).to_u64();
    cpu.seg_address(sreg::ES, offset, T::SIZE, write)
}

/// One of the five operations.
pub(super) trait Element {
    /// Whether the instruction ends early by ZF: CMPS and SCAS.
    const COMPARES: bool;

    /// The registers whose upper halves a repetition with 32-bit addresses clears in 64-bit mode, whatever it does
    /// else.
    const CUTS: &[u8] = &[CX];

    /// Does one element and moves the index registers; on `Err` nothing has changed.
    fn one<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec;

    /// As [`Element::one`], of a repetition.
    #[inline(always)]
    fn one_repeated<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
        Self::one::<T, A>(cpu, op)
    }

    /// Does as many elements as are quick to do at once, at most `limit` of them, forward; 0 if there is no such way.
    fn bulk<T: Word, A: Word>(_: &mut Cpu, _: &Op, _limit: u64) -> Exec<Pass> {
        Ok(Pass::default())
    }
}

struct Movs;
struct Stos;
struct Lods;
struct Cmps;
struct Scas;

impl Element for Movs {
    const COMPARES: bool = false;
    const CUTS: &[u8] = &[CX, SI, DI];

    #[inline(always)]
    fn one<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
        let value: T = read_source::<T, A>(cpu, op)?;
        let to = target::<T, A>(cpu, true)?;
        cpu.write_lin(to, value)?;
        let by = step::<T>(cpu);
        advance::<A>(cpu, SI, by);
        advance::<A>(cpu, DI, by);
        Ok(())
    }

    fn bulk<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        CopyString::run::<T, A>(cpu, op, limit)
    }
}

impl Element for Stos {
    const COMPARES: bool = false;
    const CUTS: &[u8] = &[CX, DI];

    #[inline(always)]
    fn one<T: Word, A: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
        let to = target::<T, A>(cpu, true)?;
        let value = T::get(cpu, AX);
        cpu.write_lin(to, value)?;
        let by = step::<T>(cpu);
        advance::<A>(cpu, DI, by);
        Ok(())
    }

    fn bulk<T: Word, A: Word>(cpu: &mut Cpu, _: &Op, limit: u64) -> Exec<Pass> {
        FillString::run::<T, A>(cpu, limit)
    }
}

impl Element for Lods {
    const COMPARES: bool = false;

    #[inline(always)]
    fn one<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
        let value: T = read_source::<T, A>(cpu, op)?;
        T::set(cpu, AX, value);
        let by = step::<T>(cpu);
        advance::<A>(cpu, SI, by);
        Ok(())
    }
}

impl Cmps {
    #[inline(always)]
    fn finish<T: Word, A: Word>(cpu: &mut Cpu, a: T, b: T) {
        Sub::run(&mut cpu.flags, a, b);
        let by = step::<T>(cpu);
        advance::<A>(cpu, SI, by);
        advance::<A>(cpu, DI, by);
    }
}

impl Element for Cmps {
    const COMPARES: bool = true;

    #[inline(always)]
    fn one<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
        // The operand at DI is read first: it is the one to blame if both fault.
        let from = target::<T, A>(cpu, false)?;
        let b: T = cpu.read_lin(from)?;
        let a: T = read_source::<T, A>(cpu, op)?;
        Cmps::finish::<T, A>(cpu, a, b);
        Ok(())
    }

    /// In a repetition the operand at SI is read first.
    #[inline(always)]
    fn one_repeated<T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
        let a: T = read_source::<T, A>(cpu, op)?;
        let from = target::<T, A>(cpu, false)?;
        let b: T = cpu.read_lin(from)?;
        Cmps::finish::<T, A>(cpu, a, b);
        Ok(())
    }

    fn bulk<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        CompareStrings::run::<T, A>(cpu, op, limit)
    }
}

impl Element for Scas {
    const COMPARES: bool = true;

    #[inline(always)]
    fn one<T: Word, A: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
        let from = target::<T, A>(cpu, false)?;
        let b: T = cpu.read_lin(from)?;
        let a = T::get(cpu, AX);
        Sub::run(&mut cpu.flags, a, b);
        let by = step::<T>(cpu);
        advance::<A>(cpu, DI, by);
        Ok(())
    }

    fn bulk<T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64) -> Exec<Pass> {
        ScanString::run::<T, A>(cpu, op, limit)
    }
}

fn single<E: Element, T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    E::one::<T, A>(cpu, op)
}

/// Leaves the instruction between two elements; it is run again later.
fn interrupt(cpu: &mut Cpu, op: &Op) {
    cpu.rip = match cpu.code_size {
        CodeSize::Bits64 => op.rip(),
        CodeSize::Bits32 => op.rip() & 0xffff_ffff,
        CodeSize::Bits16 => op.rip() & 0xffff,
    };
    cpu.leave |= leave::BLOCK;
}

/// Whether a comparison ends the repetition.
#[inline(always)]
fn is_over(cpu: &Cpu, op: &Op) -> bool {
    // REPE goes on while equal, REPNE while not.
    cpu.flags.zf() == op.has(has::REPNE)
}

/// Takes `done` elements off the counter.
#[inline(always)]
fn count<A: Word>(cpu: &mut Cpu, done: u64) {
    let left = A::get(cpu, CX).to_u64().wrapping_sub(done);
    A::set(cpu, CX, A::from_u64(left));
}

fn repeated<E: Element, T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    if A::BITS == 32 {
        for index in E::CUTS {
            let value = A::get(cpu, *index);
            A::set(cpu, *index, value);
        }
    }
    let flags = cpu.flags;
    // On a fault the flags are those of before, however far the comparison has come.
    repeat::<E, T, A>(cpu, op).inspect_err(|_| cpu.flags = flags)
}

fn repeat<E: Element, T: Word, A: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let forward = cpu.system_flags & rflags::DF == 0;
    let single_step = cpu.system_flags & rflags::TF != 0;
    let mut since_look = 0;
    loop {
        let left = A::get(cpu, CX).to_u64();
        if left == 0 {
            return Ok(());
        }
        let limit = if single_step { 1 } else { left.min(BATCH) };
        let done = some_elements::<E, T, A>(cpu, op, limit, forward)?;
        if done.ends {
            return Ok(());
        }
        since_look += done.elements;
        // A write to the code that runs, a watched address and a waiting interrupt all have to be seen in time: the
        // run loop looks at them, and no instruction runs for longer than a batch.
        if single_step || since_look >= BATCH {
            if done.elements < left {
                interrupt(cpu, op);
            }
            return Ok(());
        }
    }
}

/// Does at least one element and at most `limit`, the quick way if there is one.
#[inline(always)]
fn some_elements<E: Element, T: Word, A: Word>(cpu: &mut Cpu, op: &Op, limit: u64, forward: bool) -> Exec<Pass> {
    if forward && limit > 1 {
        let pass = E::bulk::<T, A>(cpu, op, limit)?;
        if pass.elements != 0 {
            count::<A>(cpu, pass.elements);
            return Ok(pass);
        }
    }
    // A few by hand before the quick way is tried again: at the end of a page, backward, or a device.
    let some = if forward { limit.min(16) } else { limit };
    let mut elements = 0;
    while elements < some {
        E::one_repeated::<T, A>(cpu, op)?;
        count::<A>(cpu, 1);
        elements += 1;
        if E::COMPARES && is_over(cpu, op) {
            return Ok(Pass { elements, ends: true });
        }
    }
    Ok(Pass { elements, ends: false })
}

/// Where the source is read from.
fn fill_source(instr: &Instruction, op: &mut Op) -> Option<()> {
    let mut segment = instr.memory_segment();
    if instr.code_size() == CodeBits::Code64 && !matches!(segment, Register::FS | Register::GS) {
        // The other prefixes mean nothing in 64-bit mode.
        segment = Register::DS;
    }
    if segment.is_segment_register() {
        op.seg = crate::decode::sreg(segment);
        return Some(());
    }
    None
}

fn pick<E: Element, A: Word>(bits: u32, repeats: bool) -> Handler {
    match (bits, repeats) {
        (8, false) => single::<E, u8, A>,
        (16, false) => single::<E, u16, A>,
        (32, false) => single::<E, u32, A>,
        (_, false) => single::<E, u64, A>,
        (8, true) => repeated::<E, u8, A>,
        (16, true) => repeated::<E, u16, A>,
        (32, true) => repeated::<E, u32, A>,
        (_, true) => repeated::<E, u64, A>,
    }
}

fn pick_address<E: Element>(address_bits: u32, bits: u32, repeats: bool) -> Handler {
    match address_bits {
        16 => pick::<E, u16>(bits, repeats),
        32 => pick::<E, u32>(bits, repeats),
        _ => pick::<E, u64>(bits, repeats),
    }
}

/// The address size, from the kind of either memory operand; `None` if there is no such operand.
fn address_bits(instr: &Instruction) -> Option<u32> {
    instr.op_kinds().find_map(|kind| match kind {
        OpKind::MemorySegSI | OpKind::MemoryESDI => Some(16),
        OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(32),
        OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(64),
        _ => None,
    })
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    // MOVSD and CMPSD are SSE instructions too: those have no string operands.
    let Some(address) = address_bits(instr) else { return false };
    let repeats = instr.has_rep_prefix() || instr.has_repne_prefix();
    let bits = instr.memory_size().size() as u32 * 8;
    let mnemonic = instr.mnemonic();
    op.has &= !(has::REP | has::REPNE);
    op.has |= if instr.has_repne_prefix() {
        has::REPNE
    } else if repeats {
        has::REP
    } else {
        0
    };
    op.run = match mnemonic {
        M::Stosb | M::Stosw | M::Stosd | M::Stosq => pick_address::<Stos>(address, bits, repeats),
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => pick_address::<Scas>(address, bits, repeats),
        _ => {
            if fill_source(instr, op).is_none() {
                return false;
            }
            match mnemonic {
                M::Movsb | M::Movsw | M::Movsd | M::Movsq => pick_address::<Movs>(address, bits, repeats),
                M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => pick_address::<Lods>(address, bits, repeats),
                M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => pick_address::<Cmps>(address, bits, repeats),
                _ => return false,
            }
        }
    };
    true
}

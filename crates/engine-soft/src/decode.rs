//! From bytes to decoded blocks.

use std::ptr::NonNull;

use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, OpKind, Register};
use memory::{Gpa, code_lines};
use x86::CpuModel;

use crate::block::{Block, Source};
use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::op::{HIGH_BYTE, Op, has};
use crate::{features, fpu, ops, system};

const PAGE: u64 = 4096;
/// The longest instruction.
const MOST_BYTES: usize = 15;
const MOST_OPS: usize = 64;
/// How often a block is decoded while others write to it.
const MOST_TRIES: usize = 4;

/// What the families need to know to lower an instruction.
pub(crate) struct LowerCtx<'a> {
    /// The code size in bits: 16, 32 or 64.
    pub(crate) bits: u32,
    pub(crate) model: &'a CpuModel,
    /// Where thunks for the host's unit are kept.
    pub(crate) thunks: &'a fpu::Thunks,
}

/// The number of a general-purpose register, with [`HIGH_BYTE`] for AH to BH; RIP and none are `reg::NONE`.
pub(crate) fn gpr(register: Register) -> u8 {
    match register {
        Register::AH | Register::CH | Register::DH | Register::BH => HIGH_BYTE + (register as u8 - Register::AH as u8),
        r if r.is_gpr() => r.full_register().number() as u8,
        _ => reg::NONE as u8,
    }
}

/// The number of a segment register.
pub(crate) fn sreg(register: Register) -> u8 {
    match register {
        Register::ES => sreg::ES as u8,
        Register::CS => sreg::CS as u8,
        Register::SS => sreg::SS as u8,
        Register::FS => sreg::FS as u8,
        Register::GS => sreg::GS as u8,
        _ => sreg::DS as u8,
    }
}

/// What an invalid instruction does.
fn undefined(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.ud())
}

/// An instruction of more than 15 bytes.
fn too_long(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.gp(0))
}

/// The block ended at a limit, not at a jump.
fn beyond_limit(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.gp(0))
}

/// Instructions and where they came from.
struct Decoded {
    ops: Vec<Op>,
    bytes: Vec<u8>,
    /// Where the bytes lie: address and length in one page, or two.
    pieces: [(u64, usize); 2],
}

impl Cpu {
    /// The linear address of RIP.
    pub(crate) fn fetch_address(&mut self) -> Exec<u64> {
        if self.is64() {
            return Ok(self.rip);
        }
        let cs = &self.seg[sreg::CS];
        if self.rip > u64::from(cs.limit) {
            return Err(self.gp(0));
        }
        Ok(cs.base.wrapping_add(self.rip) & 0xffff_ffff)
    }

    /// Decodes the block at RIP, which is at linear address `lin` and physical address `phys`. Whether it may be kept.
    pub(crate) fn decode_block(&mut self, lin: u64, phys: u64) -> Exec<(Block, bool)> {
        for _ in 0..MOST_TRIES {
            let Decoded { ops, bytes, pieces } = self.read_and_decode(lin, phys)?;
            // Only changes of what is read after it is marked are told of, and which lines to mark is known only now:
            // so the bytes are read again.
            let source = pieces.map(|(phys, len)| if len == 0 { None } else { self.source(phys, len) });
            let keep = pieces.iter().zip(&source).all(|((_, len), source)| *len == 0 || source.is_some());
            if !keep || self.are_there(&pieces, &bytes) {
                return Ok((Block::new(ops, &bytes, source), keep));
            }
        }
        // Somebody writes there all the time, so there is no telling which bytes an instruction is made of, nor what it
        // does to the next one.
        let Decoded { mut ops, bytes, .. } = self.read_and_decode(lin, phys)?;
        ops.truncate(1);
        Ok((Block::new(ops, &bytes, [None; 2]), false))
    }

    /// Decodes what is at physical address `phys` now.
    fn read_and_decode(&mut self, lin: u64, phys: u64) -> Exec<Decoded> {
        let in_page = (PAGE - (phys & (PAGE - 1))) as usize;
        let mut bytes = vec![0xff; in_page.min(MOST_OPS * MOST_BYTES)];
        // Where there is no memory, the bus reads as ones.
        let _ = self.shared.memory.read(Gpa(phys), &mut bytes);
        let (mut decoded, mut used, truncated) = self.decode_bytes(&bytes);
        let mut next = 0;
        if decoded.is_empty() && truncated {
            // The first instruction crosses into the next page.
            next = self.translate_fetch_at(lin.wrapping_add(in_page as u64))?;
            let mut tail = [0xff; MOST_BYTES];
            let _ = self.shared.memory.read(Gpa(next), &mut tail);
            bytes.extend_from_slice(&tail);
            (decoded, used, _) = self.decode_bytes(&bytes);
            decoded.truncate(1);
            // One that is not valid may be so by any of its bytes.
            used = decoded.first().map_or(used, |op| usize::from(op.len).max(in_page + 1));
        }
        bytes.truncate(used);
        let first = used.min(in_page);
        Ok(Decoded { ops: decoded, bytes, pieces: [(phys, first), (next, used - first)] })
    }

    /// Whether `pieces` of memory hold `bytes`, one after the other.
    fn are_there(&self, pieces: &[(u64, usize)], bytes: &[u8]) -> bool {
        let mut rest = bytes;
        pieces.iter().all(|(phys, len)| {
            let (expected, behind) = rest.split_at((*len).min(rest.len()));
            rest = behind;
            let mut now = vec![0; expected.len()];
            self.shared.memory.read(Gpa(*phys), &mut now).is_ok() && now == expected
        })
    }

    pub(crate) fn translate_fetch_at(&mut self, lin: u64) -> Exec<u64> {
        let lin = if self.long_mode() { lin } else { lin & 0xffff_ffff };
        self.translate_fetch(lin)
    }

    /// The piece of memory at `phys`, its lines marked as code: what is read after this and changes later changes its
    /// generation.
    fn source(&mut self, phys: u64, len: usize) -> Option<Source> {
        let page = self.shared.memory.host_page(Gpa(phys))?.index;
        let generation = self.guard_code(page, code_lines((phys & (PAGE - 1)) as usize, len));
        let cell = NonNull::from(self.shared.memory.flags().generation_cell(page));
        Some(Source { phys, page, len, generation, cell })
    }

    /// Lowers one instruction of the current mode.
    pub(crate) fn lower_one(&self, instr: &Instruction) -> Op {
        let bits = self.code_size as u32;
        let ctx = LowerCtx { bits, model: &self.model, thunks: &self.shared.thunks };
        let mut op = prefill(instr, bits);
        if instr.is_invalid() || !features::offered(instr, ctx.model) || !lower(instr, &ctx, &mut op) {
            op.run = undefined;
            op.has |= has::ENDS;
        }
        op
    }

    /// Decodes and lowers as much of `bytes` as makes a block. Gives the instructions, the bytes they take and whether
    /// the bytes ended within an instruction.
    fn decode_bytes(&mut self, bytes: &[u8]) -> (Vec<Op>, usize, bool) {
        let shared = std::sync::Arc::clone(&self.shared);
        let bits = self.code_size as u32;
        let ctx = LowerCtx { bits, model: &self.model, thunks: &shared.thunks };
        let mut decoder = Decoder::with_ip(bits, bytes, self.rip, features::decoding(&self.model));
        let mut list = Vec::new();
        let mut instruction = Instruction::default();
        let limit = if self.is64() { u64::MAX } else { u64::from(self.seg[sreg::CS].limit) };
        while list.len() < MOST_OPS && decoder.can_decode() {
            let start = decoder.position();
            decoder.decode_out(&mut instruction);
            let invalid = instruction.is_invalid();
            if invalid && decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() - start < MOST_BYTES {
                return (list, start, true);
            }
            let mut op = prefill(&instruction, bits);
            if op.next.wrapping_sub(1) > limit && op.next != 0 {
                if !list.is_empty() {
                    return (list, start, false);
                }
                op.run = beyond_limit;
                op.has |= has::ENDS;
            } else if invalid {
                let too_many =
                    decoder.last_error() == DecoderError::NoMoreBytes || is_unfinished(bits, &bytes[start..]);
                op.run = if too_many { too_long } else { undefined };
                op.has |= has::ENDS;
            } else if !features::offered(&instruction, ctx.model) || !lower(&instruction, &ctx, &mut op) {
                op.run = undefined;
                op.has |= has::ENDS;
            }
            list.push(op);
            if op.has(has::ENDS) {
                break;
            }
        }
        (list, decoder.position(), false)
    }
}

/// Whether an instruction is invalid because it is longer than 15 bytes, which is #GP, not #UD: one byte less than
/// that is not the whole of it either.
fn is_unfinished(bits: u32, bytes: &[u8]) -> bool {
    let mut decoder = Decoder::new(bits, &bytes[..bytes.len().min(MOST_BYTES - 1)], DecoderOptions::NONE);
    decoder.decode().is_invalid() && bytes.len() >= MOST_BYTES && decoder.last_error() == DecoderError::NoMoreBytes
}

fn lower(instruction: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    ops::lower(instruction, ctx, op) || system::lower(instruction, ctx, op) || fpu::lower(instruction, ctx, op)
}

/// An [`Op`] with everything that is the same for all families.
fn prefill(instruction: &Instruction, bits: u32) -> Op {
    let mut op = Op {
        run: undefined,
        next: match bits {
            16 => instruction.next_ip() & 0xffff,
            32 => instruction.next_ip() & 0xffff_ffff,
            _ => instruction.next_ip(),
        },
        imm: 0,
        disp: 0,
        len: instruction.len().clamp(1, MOST_BYTES) as u8,
        dst: 0,
        src: 0,
        base: reg::NONE as u8,
        index: reg::NONE as u8,
        scale: 0,
        seg: sreg::DS as u8,
        has: if bits == 64 { 0 } else { has::SEGMENTED },
    };
    if instruction.has_lock_prefix() {
        op.has |= has::LOCK;
    }
    if instruction.has_rep_prefix() {
        op.has |= has::REP;
    }
    if instruction.has_repne_prefix() {
        op.has |= has::REPNE;
    }
    if (0..instruction.op_count()).any(|i| instruction.op_kind(i) == OpKind::Memory) {
        op.disp = instruction.memory_displacement64();
        // For RIP-relative operands iced gives the whole address.
        if !instruction.is_ip_rel_memory_operand() {
            op.base = gpr(instruction.memory_base());
        }
        if instruction.memory_index().is_gpr() {
            op.index = gpr(instruction.memory_index());
        }
        op.scale = instruction.memory_index_scale().trailing_zeros() as u8;
        op.seg = match instruction.memory_segment() {
            segment @ (Register::FS | Register::GS) => sreg(segment),
            // In 64-bit mode the other prefixes mean nothing, and the segment only decides between #SS and #GP.
            _ if bits == 64 && matches!(op.base as usize, reg::RSP | reg::RBP) => sreg::SS as u8,
            _ if bits == 64 => sreg::DS as u8,
            segment => sreg(segment),
        };
        op.has |= address_size(instruction);
    }
    op
}

/// How the addresses of `instruction` are cut.
fn address_size(instruction: &Instruction) -> u8 {
    let size = |r: Register| r.size() * 8;
    let by_register =
        [instruction.memory_base(), instruction.memory_index()].into_iter().find(|r| r.is_gpr() || r.is_ip());
    let width = match by_register {
        Some(r) => size(r),
        // Only a displacement: its size is the address size.
        None if instruction.memory_displ_size() == 2 => 16,
        None if instruction.memory_displ_size() == 8 => 64,
        None => 32,
    };
    match width {
        16 => has::ADDR16,
        32 => has::ADDR32,
        _ => 0,
    }
}

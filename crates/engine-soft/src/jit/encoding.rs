//! An instruction's bytes taken apart, and put together again with another memory operand.
//!
//! The translated instruction is the guest's own, byte for byte, but for its memory operand (SDM vol. 2A, chapter 2).

use iced_x86::{ConstantOffsets, Instruction, OpKind, Register};

use super::asm::{Asm, r};

/// A memory operand of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HostMemory {
    /// `[register]`, one of R8 to R15 but R12 and R13.
    At(u8),
    /// `[r11 + displacement]`.
    Beside(i32),
    /// `[rsp + r15 + displacement]`: through the stack window.
    Stack(i32),
}

/// How the opcode is escaped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// Legacy: bytes of 0F, 0F 38, 0F 3A before the opcode, with REX before them.
    Legacy { rex: u8 },
    /// VEX: the last two bytes of the three-byte form, with R, X, B and the map in the first of them.
    Vex { second: u8, third: u8 },
}

/// An instruction's encoding.
pub(super) struct Encoding<'a> {
    /// 66, F2, F3 and F0 as far as they are there.
    prefixes: [u8; 4],
    prefix_count: usize,
    escape: Escape,
    /// The escape bytes, if legacy, and the opcode.
    opcode: &'a [u8],
    modrm: Option<u8>,
    immediate: &'a [u8],
    /// There is a REX prefix, if only an empty one.
    has_rex: bool,
}

impl<'a> Encoding<'a> {
    /// Takes `bytes` apart, which are `instr`, of code of 64 or 32 bits; `None` for encodings that are not handled.
    pub(super) fn parse(
        bytes: &'a [u8],
        instr: &Instruction,
        offsets: &ConstantOffsets,
        long: bool,
    ) -> Option<Encoding<'a>> {
        let mut prefixes = [0; 4];
        let mut prefix_count = 0;
        let mut at = 0;
        loop {
            match *bytes.get(at)? {
                prefix @ (0x66 | 0xf2 | 0xf3 | 0xf0) => {
                    // A repeated prefix says nothing new.
                    if !prefixes[..prefix_count].contains(&prefix) {
                        prefixes[prefix_count] = prefix;
                        prefix_count += 1;
                    }
                }
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
                _ => break,
            }
            at += 1;
        }
        let mut rex = 0;
        let mut has_rex = false;
        if long && bytes.get(at)? & 0xf0 == 0x40 {
            rex = bytes[at] & 15;
            has_rex = true;
            at += 1;
            // Before another prefix it means nothing.
            if matches!(bytes.get(at)?, 0x40..=0x4f | 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3) {
                return None;
            }
        }
        let vex = match *bytes.get(at)? {
            first @ (0xc4 | 0xc5) if long || bytes.get(at + 1)? & 0xc0 == 0xc0 => Some(first),
            _ => None,
        };
        let (escape, from) = match vex {
            Some(0xc5) => {
                let second = *bytes.get(at + 1)?;
                at += 2;
                (Escape::Vex { second: second & 0x80 | 0x61, third: second & 0x7f }, at)
            }
            Some(_) => {
                let (second, third) = (*bytes.get(at + 1)?, *bytes.get(at + 2)?);
                at += 3;
                (Escape::Vex { second, third }, at)
            }
            None => {
                let from = at;
                if bytes[at] == 0x0f {
                    at += if matches!(bytes.get(at + 1)?, 0x38 | 0x3a) { 2 } else { 1 };
                }
                (Escape::Legacy { rex }, from)
            }
        };
        if vex.is_some() && (has_rex || prefix_count != 0) {
            return None;
        }
        at += 1;
        let opcode = bytes.get(from..at)?;
        let mut immediates = offsets.immediate_size() + offsets.immediate_size2();
        let left = bytes.len().checked_sub(at)?;
        // The fourth register of VEX follows like an immediate.
        let memory = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
        if matches!(escape, Escape::Vex { .. }) && immediates == 0 && memory {
            let sib = usize::from(bytes.get(at)? & 7 == 4);
            immediates = usize::from(left == 2 + sib + offsets.displacement_size());
        }
        // Which of the two counts, the last one, is said by their order.
        if prefixes[..prefix_count].contains(&0xf2) && prefixes[..prefix_count].contains(&0xf3) {
            return None;
        }
        let tail = immediates + offsets.displacement_size();
        let modrm = (left > tail).then(|| bytes[at]);
        let immediate = bytes.get(bytes.len() - immediates..)?;
        // What is no immediate for the decoder, but follows the operand (3DNow!).
        if modrm.is_some() {
            let memory = (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Memory);
            let sib = usize::from(memory && bytes[at] & 7 == 4);
            if left != 1 + sib + tail {
                return None;
            }
        } else if left != tail {
            return None;
        }
        Some(Self { prefixes, prefix_count, escape, opcode, modrm, immediate, has_rex })
    }

    /// Leaves the LOCK prefix out.
    pub(super) fn without_lock(mut self) -> Self {
        let locks = self.prefixes[..self.prefix_count].iter().position(|prefix| *prefix == 0xf0);
        if let Some(at) = locks {
            self.prefixes.copy_within(at + 1.., at);
            self.prefix_count -= 1;
        }
        self
    }

    /// The opcode with its escape bytes.
    pub(super) fn opcode(&self) -> &[u8] {
        self.opcode
    }

    /// Writes the instruction with `memory` in place of its memory operand. `false` if that cannot be said: AH to DH
    /// cannot be named beside R8 to R15.
    pub(super) fn emit(&self, asm: &mut Asm, instr: &Instruction, memory: HostMemory) -> bool {
        let high = |i| matches!(instr.op_register(i), Register::AH | Register::BH | Register::CH | Register::DH);
        if !self.has_rex && (0..instr.op_count()).any(|i| instr.op_kind(i) == OpKind::Register && high(i)) {
            return false;
        }
        let Some(modrm) = self.modrm else { return self.emit_absolute(asm, memory) };
        self.head(asm, memory, self.opcode);
        operand(asm, modrm >> 3 & 7, memory);
        asm.bytes(self.immediate);
        true
    }

    /// Writes XCHG of a register and `memory` as three moves by way of `free`, a register above R7: for who need not have
    /// the lock that XCHG implies. `false` if the bytes are another instruction's, or the register is AH to DH.
    pub(super) fn emit_exchange(&self, asm: &mut Asm, memory: HostMemory, free: u8) -> bool {
        let ([opcode @ (0x86 | 0x87)], Some(modrm), Escape::Legacy { rex }) = (self.opcode, self.modrm, self.escape)
        else {
            return false;
        };
        let (narrow, low) = (*opcode == 0x86, modrm >> 3 & 7);
        if narrow && !self.has_rex && low > 3 {
            return false;
        }
        let way = |escape| Self { escape, ..*self };
        way(Escape::Legacy { rex: rex | 4 }).head(asm, memory, &[if narrow { 0x8a } else { 0x8b }]);
        operand(asm, free, memory);
        self.head(asm, memory, &[if narrow { 0x88 } else { 0x89 }]);
        operand(asm, low, memory);
        // mov register, free
        asm.bytes(&self.prefixes[..self.prefix_count]);
        asm.bytes(&[0x44 | rex & 8 | rex >> 2 & 1, if narrow { 0x88 } else { 0x89 }, 0xc0 | (free & 7) << 3 | low]);
        true
    }

    /// Prefixes, REX or VEX for `memory`, and `opcode`.
    fn head(&self, asm: &mut Asm, memory: HostMemory, opcode: &[u8]) {
        asm.bytes(&self.prefixes[..self.prefix_count]);
        let (x, b) = match memory {
            HostMemory::At(_) | HostMemory::Beside(_) => (0, 1),
            HostMemory::Stack(_) => (1, 0),
        };
        match self.escape {
            Escape::Legacy { rex } => asm.byte(0x40 | rex & 0xc | x << 1 | b),
            Escape::Vex { second, third } => {
                asm.bytes(&[0xc4, second & 0x9f | (x ^ 1) << 6 | (b ^ 1) << 5, third]);
            }
        }
        asm.bytes(opcode);
    }

    /// MOV between the accumulator and an absolute address has no ModRM: it becomes the form that has one.
    fn emit_absolute(&self, asm: &mut Asm, memory: HostMemory) -> bool {
        let [opcode @ 0xa0..=0xa3] = *self.opcode else { return false };
        let plain = [0x8a, 0x8b, 0x88, 0x89][usize::from(opcode & 3)];
        // REX.R means nothing without ModRM, and would make R8 of the accumulator.
        let escape = match self.escape {
            Escape::Legacy { rex } => Escape::Legacy { rex: rex & 8 },
            vex @ Escape::Vex { .. } => vex,
        };
        Self { escape, ..*self }.head(asm, memory, &[plain]);
        operand(asm, r::RAX, memory);
        true
    }
}

fn operand(asm: &mut Asm, reg: u8, memory: HostMemory) {
    match memory {
        HostMemory::At(base) => asm.address(reg, Some(base), None, 0),
        HostMemory::Beside(disp) => asm.address(reg, Some(r::R11), None, disp),
        HostMemory::Stack(disp) => asm.address(reg, Some(r::RSP), Some((r::R15, 0)), disp),
    }
}

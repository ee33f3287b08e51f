//! Operands for an instruction code: registers, immediates and memory in all addressing modes.

use iced_x86::{Code, Instruction, MemorySize, OpCodeOperandKind, OpKind, Register};

use super::case::{Case, arena};
use super::random::{Lanes, Random};
use super::undefined::gpr_index;

/// A case while it is made.
pub(crate) struct Forge<'a> {
    /// Where its numbers come from.
    pub(crate) random: &'a mut Random,
    /// What is made.
    pub(crate) case: &'a mut Case,
    /// The general registers (by bit) whose values carry an address and stay as they are.
    pub(crate) fixed: u16,
    /// Whether the instruction is one of a sequence, which leaves the registers that carry addresses alone.
    pub(crate) in_sequence: bool,
    /// The address of the memory operand.
    pub(crate) address: Option<u64>,
}

/// In sequences these carry addresses; R15 is a small index.
pub(crate) const BASES: [usize; 8] = [3, 5, 6, 7, 12, 13, 14, 4];
/// In sequences, the number of the register that is an index.
pub(crate) const INDEX: usize = 15;
/// In sequences these are computed with.
const WORK: [usize; 7] = [0, 1, 2, 8, 9, 10, 11];

/// The 64-bit general register of number `index`.
pub(crate) fn gpr64(index: usize) -> Register {
    Register::RAX + index as u32
}

impl Forge<'_> {
    /// Sets general register `index` unless it carries an address.
    pub(crate) fn set(&mut self, index: usize, value: u64) {
        if self.fixed & 1 << index == 0 {
            self.case.gpr[index] = value;
        }
    }

    /// Sets general register `index` to an address.
    pub(crate) fn set_address(&mut self, index: usize, value: u64) {
        self.set(index, value);
        self.fixed |= 1 << index;
    }

    /// The instruction `code` with operands; `None` where there are none to be had.
    pub(crate) fn operands(&mut self, code: Code) -> Option<Instruction> {
        use OpCodeOperandKind as K;
        let op = code.op_code();
        let mut instruction = Instruction::default();
        instruction.set_code(code);
        let kinds = op.op_kinds();
        let has_memory = |kind: &K| {
            matches!(
                kind,
                K::r8_or_mem
                    | K::r16_or_mem
                    | K::r32_or_mem
                    | K::r64_or_mem
                    | K::mm_or_mem
                    | K::xmm_or_mem
                    | K::ymm_or_mem
            )
        };
        let use_memory = kinds.iter().any(has_memory) && self.random.chance(55);
        let mut immediates = 0;
        for (index, kind) in kinds.iter().enumerate() {
            let index = index as u32;
            let memory = use_memory && has_memory(kind);
            let register = match kind {
                _ if memory => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    self.memory(&mut instruction, op.memory_size())?;
                    continue;
                }
                K::mem => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    self.memory(&mut instruction, op.memory_size())?;
                    continue;
                }
                K::mem_offs => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    let at = self.address_for(op.memory_size().size() as u64, false);
                    let short = self.random.chance(20);
                    let at = if short { at & 0xffff_ffff } else { at };
                    instruction.set_memory_displ_size(if short { 4 } else { 8 });
                    instruction.set_memory_displacement64(at);
                    self.address = Some(at);
                    continue;
                }
                K::mem_vsib32x | K::mem_vsib64x => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    self.vsib(&mut instruction, Register::XMM0, *kind == K::mem_vsib64x);
                    continue;
                }
                K::mem_vsib32y | K::mem_vsib64y => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    self.vsib(&mut instruction, Register::YMM0, *kind == K::mem_vsib64y);
                    continue;
                }
                K::r8_or_mem | K::r8_reg | K::r8_opcode => self.gpr8(),
                K::r16_or_mem | K::r16_reg | K::r16_reg_mem | K::r16_rm | K::r16_opcode => Register::AX + self.gpr(),
                K::r32_or_mem | K::r32_reg | K::r32_reg_mem | K::r32_rm | K::r32_opcode | K::r32_vvvv => {
                    Register::EAX + self.gpr()
                }
                K::r64_or_mem | K::r64_reg | K::r64_reg_mem | K::r64_rm | K::r64_opcode | K::r64_vvvv => {
                    Register::RAX + self.gpr()
                }
                K::mm_or_mem | K::mm_reg | K::mm_rm => Register::MM0 + self.random.below(8) as u32,
                K::xmm_or_mem | K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 => {
                    Register::XMM0 + self.random.below(16) as u32
                }
                K::ymm_or_mem | K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 => {
                    Register::YMM0 + self.random.below(16) as u32
                }
                K::cr_reg => {
                    self.random.pick(&[Register::CR0, Register::CR2, Register::CR3, Register::CR4, Register::CR8])
                }
                K::dr_reg => self.random.pick(&[Register::DR0, Register::DR3, Register::DR6, Register::DR7]),
                K::al => Register::AL,
                K::cl => Register::CL,
                K::ax => Register::AX,
                K::dx => Register::DX,
                K::eax => Register::EAX,
                K::rax => Register::RAX,
                K::st0 => Register::ST0,
                K::sti_opcode => Register::ST0 + self.random.below(8) as u32,
                K::imm8_const_1 => {
                    instruction.set_op_kind(index, OpKind::Immediate8);
                    instruction.set_immediate8(1);
                    continue;
                }
                K::imm8 => {
                    let value = self.immediate() as u8;
                    if immediates == 0 {
                        let second = index > 0 && instruction.op_kind(index - 1) == OpKind::Immediate16;
                        if second {
                            instruction.set_op_kind(index, OpKind::Immediate8_2nd);
                            instruction.set_immediate8_2nd(value);
                        } else {
                            instruction.set_op_kind(index, OpKind::Immediate8);
                            instruction.set_immediate8(value);
                        }
                    } else {
                        instruction.set_op_kind(index, OpKind::Immediate8_2nd);
                        instruction.set_immediate8_2nd(value);
                    }
                    immediates += 1;
                    continue;
                }
                K::imm8sex16 => {
                    instruction.set_op_kind(index, OpKind::Immediate8to16);
                    instruction.set_immediate8to16(i16::from(self.immediate() as i8));
                    continue;
                }
                K::imm8sex32 => {
                    instruction.set_op_kind(index, OpKind::Immediate8to32);
                    instruction.set_immediate8to32(i32::from(self.immediate() as i8));
                    continue;
                }
                K::imm8sex64 => {
                    instruction.set_op_kind(index, OpKind::Immediate8to64);
                    instruction.set_immediate8to64(i64::from(self.immediate() as i8));
                    continue;
                }
                K::imm16 => {
                    instruction.set_op_kind(index, OpKind::Immediate16);
                    instruction.set_immediate16(self.immediate() as u16);
                    continue;
                }
                K::imm32 => {
                    instruction.set_op_kind(index, OpKind::Immediate32);
                    instruction.set_immediate32(self.immediate() as u32);
                    continue;
                }
                K::imm32sex64 => {
                    instruction.set_op_kind(index, OpKind::Immediate32to64);
                    instruction.set_immediate32to64(i64::from(self.immediate() as i32));
                    continue;
                }
                K::imm64 => {
                    instruction.set_op_kind(index, OpKind::Immediate64);
                    instruction.set_immediate64(self.immediate());
                    continue;
                }
                K::seg_rSI => {
                    let short = self.string_is_short(&instruction);
                    instruction.set_op_kind(index, if short { OpKind::MemorySegESI } else { OpKind::MemorySegRSI });
                    self.string_pointer(6, op.memory_size(), short);
                    continue;
                }
                K::es_rDI => {
                    let short = self.string_is_short(&instruction);
                    instruction.set_op_kind(index, if short { OpKind::MemoryESEDI } else { OpKind::MemoryESRDI });
                    self.string_pointer(7, op.memory_size(), short);
                    continue;
                }
                K::seg_rDI => {
                    let short = self.random.chance(20);
                    instruction.set_op_kind(index, if short { OpKind::MemorySegEDI } else { OpKind::MemorySegRDI });
                    self.string_pointer(7, op.memory_size(), short);
                    continue;
                }
                K::seg_rBX_al => {
                    instruction.set_op_kind(index, OpKind::Memory);
                    let short = self.random.chance(20);
                    instruction.set_memory_base(if short { Register::EBX } else { Register::RBX });
                    instruction.set_memory_index(Register::AL);
                    let at = self.address_for(1, false);
                    let al = self.case.gpr[0] & 0xff;
                    self.point(3, at.wrapping_sub(al), short);
                    self.address = Some(at);
                    continue;
                }
                K::br64_1 | K::br64_4 => {
                    instruction.set_op_kind(index, OpKind::NearBranch64);
                    // Behind or in front of the code, where traps wait; within reach of 8 bits.
                    let distance = 20 + self.random.below(80);
                    let far = if *kind == K::br64_4 && self.random.chance(50) { self.random.below(0x300) } else { 0 };
                    let forward = self.random.chance(60);
                    let rip = self.case.rip;
                    let target = match (self.in_sequence, forward) {
                        (true, _) => rip + 0x400 + far,
                        (false, true) => rip + distance + far,
                        (false, false) => rip - distance - far,
                    };
                    instruction.set_near_branch64(target);
                    continue;
                }
                _ => return None,
            };
            instruction.set_op_kind(index, OpKind::Register);
            instruction.set_op_register(index, register);
        }
        if op.can_use_lock_prefix() && use_memory && instruction.op0_kind() == OpKind::Memory && self.random.chance(30)
        {
            instruction.set_has_lock_prefix(true);
        }
        if op.can_use_rep_prefix() && !self.in_sequence && self.random.chance(60) {
            if op.can_use_repne_prefix() && self.random.chance(40) {
                instruction.set_has_repne_prefix(true);
            } else {
                instruction.set_has_rep_prefix(true);
            }
            self.repeat_count();
        }
        Some(instruction)
    }

    /// An immediate of up to 64 bits.
    fn immediate(&mut self) -> u64 {
        if self.random.chance(30) { self.random.below(70) } else { self.random.integer() }
    }

    /// The number of a general register as an operand.
    fn gpr(&mut self) -> u32 {
        if self.in_sequence { self.random.pick(&WORK) as u32 } else { self.random.below(16) as u32 }
    }

    fn gpr8(&mut self) -> Register {
        // AL to R15L and AH to BH.
        if self.random.chance(25) {
            let high = if self.in_sequence { 3 } else { 4 };
            return Register::AH + self.random.below(high) as u32;
        }
        [
            Register::AL,
            Register::CL,
            Register::DL,
            Register::BL,
            Register::SPL,
            Register::BPL,
            Register::SIL,
            Register::DIL,
            Register::R8L,
            Register::R9L,
            Register::R10L,
            Register::R11L,
            Register::R12L,
            Register::R13L,
            Register::R14L,
            Register::R15L,
        ][self.gpr() as usize]
    }

    /// The count of a repeated string instruction.
    fn repeat_count(&mut self) {
        let count = match self.random.below(20) {
            0 => 0,
            1..12 => self.random.below(20),
            12..18 => self.random.below(300),
            18 => self.random.below(5000),
            _ => self.random.u64(),
        };
        self.set(1, count);
    }

    /// Both operands of a string instruction use one address size.
    fn string_is_short(&mut self, instruction: &Instruction) -> bool {
        match instruction.op0_kind() {
            OpKind::MemoryESRDI | OpKind::MemorySegRSI => false,
            OpKind::MemoryESEDI | OpKind::MemorySegESI => true,
            _ => self.random.chance(15),
        }
    }

    fn string_pointer(&mut self, index: usize, size: MemorySize, short: bool) {
        let at = self.address_for(size.size() as u64, false);
        self.address = Some(at);
        self.point(index, at, short);
    }

    /// Makes general register `index` hold address `at`; with 32-bit addressing the upper half is anything.
    fn point(&mut self, index: usize, at: u64, short: bool) {
        if self.in_sequence {
            return;
        }
        let upper = if short { self.random.u64() << 32 } else { 0 };
        self.set_address(index, if short { (at & 0xffff_ffff) | upper } else { at });
    }

    /// An address for an access of `size` bytes.
    pub(crate) fn address_for(&mut self, size: u64, aligned: bool) -> u64 {
        let page = arena::PAGE as u64;
        let size = size.max(1);
        let data = arena::DATA;
        let room = |pages: u64| (pages * page).saturating_sub(size).max(1);
        let straddle = |at: u64, random: &mut Random| at.wrapping_sub(1 + random.below(size.min(32)));
        match self.random.below(100) {
            0..40 => data + (self.random.below(room(3)) & !(size.next_power_of_two().min(64) - 1)),
            40..72 if aligned => data + (self.random.below(room(3)) & !63),
            40..72 => data + self.random.below(room(3)),
            72..78 => straddle(data + page, self.random),
            78..82 => straddle(data + arena::READ_ONLY as u64 * page, self.random),
            82..85 => straddle(data + arena::HOLE as u64 * page, self.random),
            85..87 => straddle(data + arena::DATA_LEN as u64, self.random),
            87..92 => data + arena::READ_ONLY as u64 * page + self.random.below(page - size.min(page - 1)),
            92..95 => data + arena::HOLE as u64 * page + self.random.below(page),
            95 => straddle(data, self.random),
            96 => arena::CODE + self.random.below(0x200),
            97 => straddle(1 << 47, self.random),
            98 => self.random.u64() | 1 << 60,
            _ => self.random.u64(),
        }
    }

    /// An ordinary memory operand.
    fn memory(&mut self, instruction: &mut Instruction, size: MemorySize) -> Option<()> {
        let bytes = size.size() as u64;
        if self.in_sequence {
            let base = self.random.pick(&BASES);
            let displacement = self.random.below(0x200) as i64 - 0x100;
            let displacement = if bytes >= 16 && self.random.chance(70) { displacement & !31 } else { displacement };
            instruction.set_memory_base(gpr64(base));
            if self.random.chance(30) {
                instruction.set_memory_index(gpr64(INDEX));
                instruction.set_memory_index_scale(self.random.pick(&[1, 2, 4, 8]));
            }
            instruction.set_memory_displ_size(if (-128..128).contains(&displacement) { 1 } else { 8 });
            instruction.set_memory_displacement64(displacement as u64);
            return Some(());
        }
        let aligned = bytes >= 16 && self.random.chance(60);
        let at = self.address_for(bytes, aligned);
        let short = self.random.chance(10);
        let at = if short { at & 0xffff_ffff } else { at };
        self.address = Some(at);
        match self.random.below(10) {
            // RIP-relative and absolute addresses reach only so far.
            0 if at < 0x7fff_0000 => {
                instruction.set_memory_base(if short { Register::EIP } else { Register::RIP });
                instruction.set_memory_displ_size(if short { 4 } else { 8 });
                instruction.set_memory_displacement64(at);
            }
            1 if at < 0x7fff_0000 => {
                instruction.set_memory_displ_size(if short { 4 } else { 8 });
                instruction.set_memory_displacement64(at);
            }
            _ => {
                let (displacement, displacement_size) = match self.random.below(3) {
                    0 => (0i64, 0),
                    1 => (i64::from(self.random.u32() as i8), 1),
                    _ => (i64::from(self.random.integer() as i32), if short { 4 } else { 8 }),
                };
                let mut rest = at.wrapping_sub(displacement as u64);
                let base = self.random.below(16) as usize;
                let first = if short { Register::EAX } else { Register::RAX };
                if self.random.chance(50) {
                    let index = self.random.below(16) as usize;
                    if index != 4 && index != base {
                        let scale = self.random.pick(&[1u64, 2, 4, 8]);
                        instruction.set_memory_index(first + index as u32);
                        instruction.set_memory_index_scale(scale as u32);
                        let value =
                            if self.random.chance(70) { self.random.below(0x100) } else { self.random.integer() };
                        self.set_address(index, value);
                        rest = rest.wrapping_sub(self.case.gpr[index].wrapping_mul(scale));
                    }
                }
                instruction.set_memory_base(first + base as u32);
                instruction.set_memory_displ_size(displacement_size);
                let displacement = if short { displacement as u64 & 0xffff_ffff } else { displacement as u64 };
                instruction.set_memory_displacement64(displacement);
                self.point(base, rest, short);
            }
        }
        Some(())
    }

    /// A vector of indices.
    fn vsib(&mut self, instruction: &mut Instruction, first: Register, wide: bool) {
        let index = self.random.below(16) as usize;
        let base = self.random.below(16) as usize;
        let scale = self.random.pick(&[1u64, 2, 4, 8]);
        let displacement = if self.random.chance(50) { 0 } else { i64::from(self.random.u32() as i8) };
        instruction.set_memory_base(gpr64(base));
        instruction.set_memory_index(first + index as u32);
        instruction.set_memory_index_scale(scale as u32);
        instruction.set_memory_displ_size(u32::from(displacement != 0));
        instruction.set_memory_displacement64(displacement as u64);
        let middle = arena::DATA + arena::PAGE as u64;
        self.set_address(base, middle.wrapping_sub(displacement as u64));
        let wild = self.random.chance(15);
        for lane in 0..8 {
            let reach = if wild && self.random.chance(30) { 0x10000 } else { 0x1000 } / scale;
            let value = self.random.below(reach) as i64 - reach as i64 / 2;
            let bytes = value.to_le_bytes();
            let (at, len) = if wide { (lane * 8, 8) } else { (lane * 4, 4) };
            if at < 32 {
                let to = if at < 16 { 160 + index * 16 + at } else { 576 + index * 16 + at - 16 };
                self.case.xsave[to..to + len].copy_from_slice(&bytes[..len]);
            }
        }
    }
}

/// What vector registers and memory should mostly hold for `code`.
pub(crate) fn lanes_of(code: Code, random: &mut Random) -> Lanes {
    use MemorySize as S;
    if random.chance(12) {
        return random.pick(&[Lanes::F32, Lanes::F64, Lanes::F80, Lanes::Integer, Lanes::Small, Lanes::Random]);
    }
    match code.op_code().memory_size().element_type() {
        S::Float32 => Lanes::F32,
        S::Float64 => Lanes::F64,
        S::Float80 => Lanes::F80,
        _ => random.pick(&[Lanes::Integer, Lanes::Integer, Lanes::Small, Lanes::Random, Lanes::Random]),
    }
}

/// Whether `instruction` has `register` or a part of it as an explicit operand.
pub(crate) fn names(instruction: &Instruction, index: usize) -> bool {
    (0..instruction.op_count())
        .any(|op| instruction.op_kind(op) == OpKind::Register && gpr_index(instruction.op_register(op)) == Some(index))
}

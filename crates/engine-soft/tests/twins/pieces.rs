//! Pieces of programs that random operands alone seldom make: accesses at page edges with all registers in all roles, odd
//! stack pointers, string instructions, shifts by nothing, and jumps to where there is no code.

use iced_x86::{Code, Encoder, Instruction, MemoryOperand, OpKind, Register};

use super::program::{Builder, place};
use crate::oracle::case::{Case, arena};
use crate::oracle::operands::Forge;
use crate::oracle::random::Random;

const PAGE: u64 = 0x1000;

/// An address near where something changes from one byte to the next.
fn edge(random: &mut Random) -> u64 {
    let at = match random.below(16) {
        0..5 => place::ALIAS + PAGE * (1 + random.below(3)),
        5..8 => arena::DATA + PAGE * (1 + random.below(2)),
        8 | 9 => arena::DATA + arena::READ_ONLY as u64 * PAGE,
        10 => arena::DATA + arena::HOLE as u64 * PAGE,
        11 => arena::DATA + (arena::HOLE as u64 + 1) * PAGE,
        12 => arena::DATA + random.below(2) * arena::DATA_LEN as u64,
        13 => random.pick(&[1 << 47, 1 << 63, 0, 1 << 32, !0 << 47]),
        _ => place::ALIAS + PAGE + 0x800,
    };
    at.wrapping_sub(random.below(40)).wrapping_add(random.below(8))
}

/// General register `number` of `size` bytes; of a byte, 16 to 19 are AH to BH.
fn gpr(number: u64, size: usize) -> Register {
    let first = match size {
        1 if number >= 16 => return Register::AH + (number as u32 - 16),
        1 if number >= 4 => return Register::SPL + (number as u32 - 4),
        1 => Register::AL,
        2 => Register::AX,
        4 => Register::EAX,
        _ => Register::RAX,
    };
    first + number as u32
}

impl Builder<'_> {
    fn long(&self) -> bool {
        self.program.mode.long
    }

    fn width(&self) -> usize {
        if self.long() { 8 } else { 4 }
    }

    /// The number of any register but RSP; those that the translator keeps in memory come often.
    fn any(&mut self) -> u64 {
        loop {
            let number = match self.random.below(10) {
                0..4 if self.long() => self.random.pick(&[10, 11, 15]),
                _ => self.random.below(if self.long() { 16 } else { 8 }),
            };
            if number != 4 {
                return number;
            }
        }
    }

    /// Appends an instruction if it can be encoded.
    fn put(&mut self, instruction: Result<Instruction, iced_x86::IcedError>) -> bool {
        let Ok(instruction) = instruction else { return false };
        let mut encoder = Encoder::new(if self.long() { 64 } else { 32 });
        let done = encoder.encode(&instruction, self.program.start + self.here() as u64).is_ok();
        if done {
            let bytes = encoder.take_buffer();
            self.emit(&bytes);
        }
        done
    }

    /// `mov reg, value`
    fn load(&mut self, number: u64, value: u64) {
        let register = gpr(number, self.width());
        if self.long() {
            self.put(Instruction::with2(Code::Mov_r64_imm64, register, value));
        } else {
            self.put(Instruction::with2(Code::Mov_r32_imm32, register, value as u32));
        }
    }

    /// Has registers lead to `at`: the operand that does.
    fn lead_to(&mut self, at: u64) -> MemoryOperand {
        let base = self.any();
        let mut displacement = self.random.integer() as i8 as i64;
        if self.random.chance(30) {
            displacement = i64::from(self.random.u32() as i32 >> 8);
        }
        let (mut rest, mut index, mut scale) = (at.wrapping_sub(displacement as u64), Register::None, 1);
        if self.random.chance(40) {
            let number = self.any();
            if number != base {
                let value = if self.random.chance(50) { self.random.below(64) } else { self.random.integer() };
                scale = self.random.pick(&[1, 2, 4, 8]);
                self.load(number, value);
                rest = rest.wrapping_sub(value.wrapping_mul(u64::from(scale)));
                index = gpr(number, self.width());
            }
        }
        self.load(base, rest);
        let size = if (-128..128).contains(&displacement) { 1 } else { self.width() as u32 };
        let base = gpr(base, self.width());
        MemoryOperand::new(base, index, scale, displacement, size, false, Register::None)
    }

    /// Replaces what `instruction` has as memory operand, and its general registers.
    fn recast(&mut self, instruction: &mut Instruction, memory: MemoryOperand) -> bool {
        let mut has_memory = false;
        for operand in 0..instruction.op_count() {
            if instruction.op_kind(operand) == OpKind::Memory {
                has_memory = true;
                instruction.set_memory_base(memory.base);
                instruction.set_memory_index(memory.index);
                instruction.set_memory_index_scale(memory.scale);
                instruction.set_memory_displ_size(memory.displ_size);
                instruction.set_memory_displacement64(memory.displacement as u64);
            } else if instruction.op_kind(operand) == OpKind::Register
                && instruction.op_register(operand).is_gpr()
                && !instruction.op_register(operand).is_segment_register()
                && self.random.chance(60)
            {
                let old = instruction.op_register(operand);
                let number =
                    if old.size() == 1 && self.random.chance(30) { 16 + self.random.below(4) } else { self.any() };
                // CL counts, and AL, AX, EAX and RAX are what their opcodes say.
                if old != Register::CL && old.full_register() != Register::RAX {
                    instruction.set_op_register(operand, gpr(number, old.size()));
                }
            }
        }
        has_memory
    }

    /// One of the catalogue's instructions on a page's edge.
    pub(super) fn on_edge(&mut self) {
        let at = edge(self.random);
        let mut memory = self.lead_to(at);
        for _ in 0..1 + self.random.below(4) {
            memory.displacement += self.random.below(17) as i64 - 8;
            memory.displ_size = self.width() as u32;
            for _ in 0..20 {
                let code = self.generator.sequence_code(self.random);
                let mut case = Case::empty();
                let mut forge =
                    Forge { random: self.random, case: &mut case, fixed: 0xffff, in_sequence: true, address: None };
                let Some(mut instruction) = forge.operands(code) else { continue };
                if self.recast(&mut instruction, memory) && self.put(Ok(instruction)) {
                    break;
                }
            }
        }
    }

    /// Exchanges, and sums over several words, of which some lie on an edge.
    pub(super) fn exchanges(&mut self) {
        let at = if self.random.chance(60) { edge(self.random) } else { place::ALIAS + self.random.below(0x800) };
        let mut memory = self.lead_to(at);
        if self.random.chance(50) {
            // clc, stc
            let carry = self.random_of(&[0xf8, 0xf9]);
            self.emit(&[carry]);
        }
        for _ in 0..1 + self.random.below(6) {
            let width = self.width();
            let size = self.random.pick(&[1, 2, 4, width]);
            let number = if size == 1 && self.random.chance(30) { 16 + self.random.below(4) } else { self.any() };
            let register = gpr(number, size);
            use Code as C;
            let (to_memory, codes): (bool, [Code; 4]) = match self.random.below(14) {
                0 => (true, [C::Adc_rm8_r8, C::Adc_rm16_r16, C::Adc_rm32_r32, C::Adc_rm64_r64]),
                1 => (true, [C::Sbb_rm8_r8, C::Sbb_rm16_r16, C::Sbb_rm32_r32, C::Sbb_rm64_r64]),
                2 => (false, [C::Adc_r8_rm8, C::Adc_r16_rm16, C::Adc_r32_rm32, C::Adc_r64_rm64]),
                3 => (false, [C::Sbb_r8_rm8, C::Sbb_r16_rm16, C::Sbb_r32_rm32, C::Sbb_r64_rm64]),
                4 => (true, [C::Add_rm8_r8, C::Add_rm16_r16, C::Add_rm32_r32, C::Add_rm64_r64]),
                5 => (true, [C::Xchg_rm8_r8, C::Xchg_rm16_r16, C::Xchg_rm32_r32, C::Xchg_rm64_r64]),
                6 => (true, [C::Xadd_rm8_r8, C::Xadd_rm16_r16, C::Xadd_rm32_r32, C::Xadd_rm64_r64]),
                7 | 8 => (true, [C::Cmpxchg_rm8_r8, C::Cmpxchg_rm16_r16, C::Cmpxchg_rm32_r32, C::Cmpxchg_rm64_r64]),
                9 => (true, [C::Mov_rm8_r8, C::Mov_rm16_r16, C::Mov_rm32_r32, C::Mov_rm64_r64]),
                10 => (false, [C::Mov_r8_rm8, C::Mov_r16_rm16, C::Mov_r32_rm32, C::Mov_r64_rm64]),
                11 => (false, [C::Cmovb_r16_rm16, C::Cmovb_r16_rm16, C::Cmovo_r32_rm32, C::Cmovs_r64_rm64]),
                12 => (true, [C::Cmp_rm8_r8, C::Cmp_rm16_r16, C::Cmp_rm32_r32, C::Cmp_rm64_r64]),
                _ => (false, [C::Cmp_r8_rm8, C::Cmp_r16_rm16, C::Cmp_r32_rm32, C::Cmp_r64_rm64]),
            };
            let code = codes[size.trailing_zeros() as usize];
            let made = if to_memory {
                Instruction::with2(code, memory, register)
            } else {
                Instruction::with2(code, register, memory)
            };
            let locked = to_memory && self.random.chance(20);
            let made = made.map(|mut instruction| {
                instruction.set_has_lock_prefix(locked && code.op_code().can_use_lock_prefix());
                instruction
            });
            self.put(made);
            if self.random.chance(40) {
                memory.displacement += self.random.below(9) as i64 - 2;
                memory.displ_size = self.width() as u32;
            }
        }
    }

    fn random_of(&mut self, bytes: &[u8]) -> u8 {
        self.random.pick(bytes)
    }

    /// Shifts and rotations of registers and memory, by constants and by CL, with flags from before that are read behind.
    pub(super) fn shifts(&mut self) {
        let at = if self.random.chance(40) { edge(self.random) } else { place::ALIAS + self.random.below(0x800) };
        let memory = self.lead_to(at);
        let count = self.random.pick(&[0, 0, 1, 1, 2, 7, 8, 31, 32, 33, 63, 64, 0x80]);
        let above = self.random.u64() << 8;
        self.load(1, count | above);
        // cmp or add of registers: flags.
        let first = self.random_of(&[0x38, 0x00, 0x28]);
        let pair = 0xc0 | self.random.below(64) as u8;
        self.emit(&[first, if pair & 7 == 4 || pair & 7 == 1 { 0xc0 } else { pair }]);
        for _ in 0..1 + self.random.below(3) {
            let width = self.width();
            let size = self.random.pick(&[1, 2, 4, width]);
            use Code as C;
            let row = |by_cl: bool, which: u64| -> [Code; 4] {
                match (which, by_cl) {
                    (0, true) => [C::Shl_rm8_CL, C::Shl_rm16_CL, C::Shl_rm32_CL, C::Shl_rm64_CL],
                    (1, true) => [C::Shr_rm8_CL, C::Shr_rm16_CL, C::Shr_rm32_CL, C::Shr_rm64_CL],
                    (2, true) => [C::Sar_rm8_CL, C::Sar_rm16_CL, C::Sar_rm32_CL, C::Sar_rm64_CL],
                    (3, true) => [C::Rol_rm8_CL, C::Rol_rm16_CL, C::Rol_rm32_CL, C::Rol_rm64_CL],
                    (4, true) => [C::Rcl_rm8_CL, C::Rcl_rm16_CL, C::Rcl_rm32_CL, C::Rcl_rm64_CL],
                    (_, true) => [C::Rcr_rm8_CL, C::Rcr_rm16_CL, C::Rcr_rm32_CL, C::Rcr_rm64_CL],
                    (0, _) => [C::Shl_rm8_imm8, C::Shl_rm16_imm8, C::Shl_rm32_imm8, C::Shl_rm64_imm8],
                    (1, _) => [C::Shr_rm8_imm8, C::Shr_rm16_imm8, C::Shr_rm32_imm8, C::Shr_rm64_imm8],
                    (2, _) => [C::Sar_rm8_imm8, C::Sar_rm16_imm8, C::Sar_rm32_imm8, C::Sar_rm64_imm8],
                    (3, _) => [C::Ror_rm8_imm8, C::Ror_rm16_imm8, C::Ror_rm32_imm8, C::Ror_rm64_imm8],
                    (4, _) => [C::Rcl_rm8_imm8, C::Rcl_rm16_imm8, C::Rcl_rm32_imm8, C::Rcl_rm64_imm8],
                    (..) => [C::Rcr_rm8_imm8, C::Rcr_rm16_imm8, C::Rcr_rm32_imm8, C::Rcr_rm64_imm8],
                }
            };
            let by_cl = self.random.chance(60);
            let code = row(by_cl, self.random.below(6))[size.trailing_zeros() as usize];
            let constant = self.random.pick(&[0u32, 1, 1, 1, 2, 8, 9, 31, 32, 64]);
            let number = if size == 1 && self.random.chance(30) { 16 + self.random.below(4) } else { self.any() };
            let register = gpr(if number == 1 || number == 17 { 0 } else { number }, size);
            let made = match (self.random.chance(50), by_cl) {
                (true, true) => Instruction::with2(code, memory, Register::CL),
                (true, false) => Instruction::with2(code, memory, constant),
                (false, true) => Instruction::with2(code, register, Register::CL),
                (false, false) => Instruction::with2(code, register, constant),
            };
            self.put(made);
        }
        // setcc, a jump over nothing, or sbb.
        match self.random.below(3) {
            0 => {
                let condition = 0x90 | self.random.below(16) as u8;
                let register = self.random_of(&[0, 2, 3]);
                self.emit(&[0x0f, condition, 0xc0 | register]);
            }
            1 => {
                let condition = 0x70 | self.random.below(16) as u8;
                self.emit(&[condition, 2, 0xb2, 1]);
            }
            _ => self.emit(&[0x19, 0xd2]),
        }
    }

    /// String instructions of all forms and lengths.
    pub(super) fn strings(&mut self) {
        let near = |random: &mut Random| match random.below(10) {
            0..5 => edge(random),
            9 => place::CODE_ALIAS + 0x1800,
            _ => place::ALIAS + 0x400 + random.below(0x1800),
        };
        let (from, to) = (near(self.random), near(self.random));
        let to = if self.random.chance(20) { from.wrapping_add(self.random.below(17)).wrapping_sub(8) } else { to };
        self.load(6, from);
        self.load(7, to);
        let count = match self.random.below(10) {
            0..2 => 0,
            2..6 => self.random.below(20),
            6..8 => self.random.below(0x900),
            8 => 0x1_0000_0000 | self.random.below(8),
            _ => self.random.integer(),
        };
        self.load(1, count);
        let direction = self.random_of(&[0xfc, 0xfc, 0xfc, 0xfd]);
        self.emit(&[direction]);
        for _ in 0..1 + self.random.below(3) {
            if self.random.chance(10) {
                self.emit(&[0x67]);
            }
            match self.random.below(10) {
                0..5 => self.emit(&[0xf3]),
                5..7 => self.emit(&[0xf2]),
                _ => {}
            }
            match self.random.below(4) {
                0 => self.emit(&[0x66]),
                1 if self.long() => self.emit(&[0x48]),
                _ => {}
            }
            let opcode = self.random_of(&[0xa4, 0xa6, 0xaa, 0xac, 0xae]) | self.random.below(2) as u8;
            self.emit(&[opcode]);
        }
        if self.random.chance(90) {
            self.emit(&[0xfc]);
        }
    }

    /// The stack pointer led to odd places, and stack accesses of all kinds there.
    pub(super) fn stacks(&mut self) {
        let width = self.width();
        let (sp, bp) = (gpr(4, width), gpr(5, width));
        if self.random.chance(70) {
            let at = edge(self.random);
            let at = if self.random.chance(60) { at & !(width as u64 - 1) } else { at };
            self.load(4, at);
        }
        for _ in 0..2 + self.random.below(9) {
            let register = gpr(self.any(), width);
            let distance = self.random.below(64) as i64 - 24;
            let aligned = distance & !7;
            let at =
                |displacement: i64| MemoryOperand::new(sp, Register::None, 1, displacement, 1, false, Register::None);
            use Code as C;
            let long = self.long();
            let code = |wide: Code, narrow: Code| if long { wide } else { narrow };
            let made = match self.random.below(26) {
                0..4 => Instruction::with1(code(C::Push_r64, C::Push_r32), register),
                4..8 => Instruction::with1(code(C::Pop_r64, C::Pop_r32), register),
                8 => Instruction::with1(code(C::Push_r64, C::Push_r32), sp),
                9 if self.random.chance(30) => Instruction::with1(code(C::Pop_r64, C::Pop_r32), sp),
                9 => Instruction::with1(code(C::Pop_rm64, C::Pop_rm32), at(aligned)),
                10 => Instruction::with1(code(C::Push_rm64, C::Push_rm32), at(distance)),
                11 => Instruction::with1(code(C::Pushq_imm8, C::Pushd_imm8), distance as i32),
                12 => Instruction::with2(code(C::And_rm64_imm8, C::And_rm32_imm8), sp, -16i32),
                13 => Instruction::with2(code(C::Add_rm64_imm8, C::Add_rm32_imm8), sp, aligned as i32),
                14 => Instruction::with2(C::Add_rm32_imm8, Register::ESP, aligned as i32),
                15 => Instruction::with2(code(C::Lea_r64_m, C::Lea_r32_m), sp, at(aligned)),
                16 => Instruction::with2(code(C::Mov_rm64_r64, C::Mov_rm32_r32), bp, sp),
                17 => Ok(Instruction::with(code(C::Leaveq, C::Leaved))),
                18 => Instruction::with2(code(C::Mov_rm64_r64, C::Mov_rm32_r32), at(distance), register),
                19 => Instruction::with2(code(C::Mov_r64_rm64, C::Mov_r32_rm32), register, at(distance)),
                20 => Instruction::with2(code(C::Adc_rm64_r64, C::Adc_rm32_r32), at(distance), register),
                21 => Instruction::with2(C::Mov_r8_rm8, gpr(16 + self.random.below(4), 1), at(distance)),
                22 => Ok(Instruction::with(code(C::Pushfq, C::Pushfd))),
                23 => Instruction::with2(C::Movups_xmm_xmmm128, Register::XMM3, at(distance)),
                24 => Instruction::with2(C::Movups_xmmm128_xmm, at(distance), Register::XMM3),
                _ => {
                    self.calls_on_edge();
                    continue;
                }
            };
            self.put(made);
            if self.random.chance(15) {
                self.exchange_flags();
            }
        }
    }

    /// Something that makes flags, and something that reads them.
    fn exchange_flags(&mut self) {
        let (to, from) = (self.random_of(&[0, 2, 3]), self.random_of(&[0, 0x10, 0x18]));
        let opcode = self.random_of(&[0x01, 0x11, 0x19, 0x29]);
        self.emit(&[opcode, 0xc0 | to | from]);
    }

    /// A call to what comes next, and perhaps a return to there.
    fn calls_on_edge(&mut self) {
        // call next
        self.emit(&[0xe8, 0, 0, 0, 0]);
        if self.random.chance(50) {
            // pop rax; or add [sp], 5; ret: to behind the return.
            self.emit(&[0x58]);
        } else {
            let len = 4 + usize::from(self.long());
            if self.long() {
                self.emit(&[0x48]);
            }
            self.emit(&[0x83, 0x04, 0x24, len as u8 + 1, 0xc3]);
        }
    }

    /// Indirect jumps, calls and returns: on, into the middle of an instruction, or to where there is no code.
    pub(super) fn leaps(&mut self) {
        let here = self.program.start + self.here() as u64;
        let form = self.random.below(6);
        let slot = if matches!(form, 0 | 1) { Some(self.word(0)) } else { None };
        let place = self.here();
        match (form, slot) {
            // call [slot] or jmp [slot]
            (_, Some(slot)) => {
                self.emit(&[0xff, if form == 0 { 0x14 } else { 0x24 }, 0x25]);
                self.emit(&slot.to_le_bytes());
            }
            // push rax; ret, with some bytes to drop
            (2, _) => self.emit(&[0xb8, 0, 0, 0, 0, 0x50, 0xc3]),
            (3, _) => self.emit(&[0xb8, 0, 0, 0, 0, 0x50, 0xc2, 8, 0]),
            // call rax, jmp rax
            (4, _) => self.emit(&[0xb8, 0, 0, 0, 0, 0xff, 0xd0]),
            _ => self.emit(&[0xb8, 0, 0, 0, 0, 0xff, 0xe0]),
        }
        let behind = self.program.start + self.here() as u64;
        // mov edx, imm32 whose last bytes are code: add ecx, edx; nop
        let middle = behind + 2;
        self.emit(&[0xba, 0x11, 0x01, 0xd1, 0x90]);
        let target = match self.random.below(20) {
            0..9 => behind,
            9..17 => middle,
            17 => arena::CODE + arena::CODE_LEN as u64 + self.random.below(2) - 1,
            18 => here,
            _ => edge(self.random),
        };
        if slot.is_some() {
            let far = self.random.chance(3);
            if let Some(word) = self.program.control.last_mut() {
                *word = if far { target | 1 << 60 } else { target };
            }
        } else {
            self.program.code[place + 1..place + 5].copy_from_slice(&(target as u32).to_le_bytes());
        }
    }
}

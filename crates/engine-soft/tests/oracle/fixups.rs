//! What single instructions need so that most cases get past their first check.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::case::arena;
use super::operands::{Forge, names};
use super::undefined::gpr_index;

/// The bits of MXCSR that exist.
const MXCSR_BITS: u32 = 0xffff;

impl Forge<'_> {
    /// Adjusts the state of a case with one instruction; `false` when the instruction cannot be compared with such operands.
    pub(crate) fn fix(&mut self, instruction: &Instruction) -> bool {
        use Mnemonic as M;
        match instruction.mnemonic() {
            M::Div | M::Idiv if self.random.chance(75) => self.fix_division(instruction),
            M::Ret => {
                let target = self.target();
                self.case.patch(self.case.gpr[4], &target.to_le_bytes());
            }
            M::Jmp | M::Call => self.fix_branch(instruction),
            M::Popfq | M::Popf => {
                // TF would trap, NT and AC change how the host's kernel and memory behave.
                let flags = self.random.u64() & 0xcd5;
                self.case.patch(self.case.gpr[4], &flags.to_le_bytes());
                // A stack in a page that cannot be patched holds anything.
                let at = self.case.gpr[4].wrapping_sub(arena::DATA);
                if at > arena::DATA_LEN as u64 - 8 {
                    return false;
                }
            }
            M::Enter | M::Leave => {
                let at = arena::DATA + 0x800 + self.random.below(0x1000);
                if self.random.chance(85) {
                    self.set(5, at & !7);
                }
            }
            M::Loop | M::Loope | M::Loopne | M::Jrcxz | M::Jecxz => {
                let count = self.random.pick(&[0, 1, 2, 1 << 32, (1 << 32) + 1, u64::MAX]);
                self.set(1, count);
            }
            M::Bt | M::Btc | M::Btr | M::Bts => {
                if instruction.op0_kind() == OpKind::Memory
                    && instruction.op1_kind() == OpKind::Register
                    && self.random.chance(85)
                    && let Some(index) = gpr_index(instruction.op1_register())
                {
                    let offset = self.random.below(0x4000) as i64 - 0x2000;
                    self.set(index, offset as u64);
                }
            }
            M::Cmpxchg if self.random.chance(50) => {
                if let Some(at) = self.address {
                    self.case.patch(at, &self.case.gpr[0].to_le_bytes());
                } else if let Some(index) = gpr_index(instruction.op0_register()) {
                    self.set(index, self.case.gpr[0]);
                }
            }
            M::Cmpxchg8b | M::Cmpxchg16b if self.random.chance(50) => {
                if let Some(at) = self.address {
                    let (low, high) = (self.case.gpr[0], self.case.gpr[2]);
                    if instruction.mnemonic() == M::Cmpxchg8b {
                        self.case.patch(at, &(low & 0xffff_ffff | high << 32).to_le_bytes());
                    } else {
                        self.case.patch(at, &low.to_le_bytes());
                        self.case.patch(at.wrapping_add(8), &high.to_le_bytes());
                    }
                }
            }
            M::Shld | M::Shrd => return self.fix_double_shift(instruction),
            M::Shl | M::Shr | M::Sar | M::Sal | M::Rol | M::Ror | M::Rcl | M::Rcr if self.random.chance(70) => {
                let count = self.random.below(70) | self.random.u64() << 8;
                self.set(1, count);
            }
            M::Bextr | M::Bzhi if self.random.chance(60) => {
                let last = instruction.op_count() - 1;
                if let Some(index) = gpr_index(instruction.op_register(last)) {
                    let control = self.random.below(70) | self.random.below(70) << 8 | self.random.u64() << 16;
                    self.set(index, control);
                }
            }
            M::Pcmpestri
            | M::Pcmpestrm
            | M::Vpcmpestri
            | M::Vpcmpestrm
            | M::Pcmpestri64
            | M::Pcmpestrm64
            | M::Vpcmpestri64
            | M::Vpcmpestrm64
                if self.random.chance(70) =>
            {
                let lengths = [self.random.below(40) as i64 - 20, self.random.below(40) as i64 - 20];
                self.set(0, lengths[0] as u64);
                self.set(2, lengths[1] as u64);
            }
            M::Ldmxcsr | M::Vldmxcsr => {
                if let Some(at) = self.address {
                    let wild = if self.random.chance(8) { 1 << (16 + self.random.below(16)) } else { 0 };
                    let value = self.random.u32() & MXCSR_BITS | wild;
                    self.case.patch(at, &value.to_le_bytes());
                }
            }
            M::Fldcw => {
                if let Some(at) = self.address {
                    let value = (self.random.u32() as u16 & !0x300) | self.random.pick(&[0x000, 0x200, 0x300]);
                    self.case.patch(at, &value.to_le_bytes());
                }
            }
            M::Fnstenv | M::Fnsave => {
                // FIP, FOP and FDP depend on the CPU.
                if let Some(at) = self.address {
                    let short =
                        matches!(instruction.code(), iced_x86::Code::Fnstenv_m14byte | iced_x86::Code::Fnsave_m94byte);
                    let (from, to) = if short { (6, 14) } else { (12, 28) };
                    self.case.blank(at.wrapping_add(from), (to - from) as u32);
                }
            }
            M::Fxsave | M::Fxsave64 => self.align(instruction, 16).unwrap_or_default(),
            M::Fxrstor | M::Fxrstor64 | M::Xrstor | M::Xrstor64 => {
                let extended = matches!(instruction.mnemonic(), M::Xrstor | M::Xrstor64);
                let _ = self.align(instruction, if extended { 64 } else { 16 });
                self.fix_restore(extended);
            }
            M::Xsave | M::Xsave64 | M::Xsaveopt | M::Xsaveopt64 | M::Xsavec | M::Xsavec64 => {
                let _ = self.align(instruction, 64);
                self.fix_components();
                // XSTATE_BV tells which components the CPU tracks as changed.
                if let Some(at) = self.address {
                    self.case.blank(at.wrapping_add(512), 8);
                }
                return self.fixed & 0b101 == 0;
            }
            _ => {}
        }
        if matches!(instruction.mnemonic(), M::Xrstor | M::Xrstor64) {
            return self.fixed & 0b101 == 0;
        }
        true
    }

    /// An address to jump to: mostly one where a trap waits.
    fn target(&mut self) -> u64 {
        let rip = self.case.rip;
        match self.random.below(20) {
            0 => self.random.u64(),
            1 => arena::DATA + self.random.below(0x100),
            2 => 1 << 47,
            3 => arena::CODE + arena::CODE_LEN as u64 + self.random.below(0x100),
            _ if rip - arena::CODE > 0x400 => arena::CODE + self.random.below(0x300),
            _ => arena::CODE + 0x1000 + self.random.below(0x300),
        }
    }

    fn fix_branch(&mut self, instruction: &Instruction) {
        let target = self.target();
        match instruction.op0_kind() {
            OpKind::Register => {
                if let Some(index) = gpr_index(instruction.op0_register()) {
                    self.set(index, target);
                }
            }
            OpKind::Memory => {
                if let Some(at) = self.address {
                    self.case.patch(at, &target.to_le_bytes());
                }
            }
            _ => {}
        }
    }

    /// Makes the quotient fit in most cases.
    fn fix_division(&mut self, instruction: &Instruction) {
        let signed = instruction.mnemonic() == Mnemonic::Idiv;
        let negative = signed && self.random.chance(50);
        if names(instruction, 2) {
            return;
        }
        let high = if negative { u64::MAX } else { 0 };
        if self.random.chance(80) {
            self.set(2, high);
        } else {
            let small = self.random.below(1000);
            self.set(2, small);
        }
        // Of an 8-bit division the upper half is AH.
        let size = if instruction.op0_kind() == OpKind::Register {
            instruction.op0_register().size()
        } else {
            instruction.memory_size().size()
        };
        if size == 1 {
            let low = self.case.gpr[0];
            self.set(0, low & !0xff00 | high & 0xff00);
        }
    }

    /// SHLD and SHRD of 16 bits by more than 16 are undefined.
    fn fix_double_shift(&mut self, instruction: &Instruction) -> bool {
        let short = instruction.op1_register().size() == 2;
        if instruction.op_kind(2) == OpKind::Immediate8 {
            return !short || instruction.immediate8() & 31 <= 16;
        }
        if short || self.random.chance(50) {
            let count = self.random.below(17) | self.random.u64() << 8;
            self.set(1, count);
        }
        !short || self.case.gpr[1] & 31 <= 16
    }

    /// Aligns the memory operand by moving its base register, in most cases.
    fn align(&mut self, instruction: &Instruction, to: u64) -> Option<()> {
        let at = self.address?;
        let blank_from = 6;
        if self.random.chance(90)
            && let Some(index) = gpr_index(instruction.memory_base())
        {
            // Where the index register is the base too there is nothing to move.
            let off = at & (to - 1);
            let value = self.case.gpr[index];
            let room = arena::DATA..arena::DATA + 3 * arena::PAGE as u64 - 1024;
            let wanted = if self.random.chance(85) && !room.contains(&at) {
                arena::DATA + (self.random.below(room.end - room.start) & !(to - 1))
            } else {
                at - off
            };
            self.case.gpr[index] = value.wrapping_add(wanted.wrapping_sub(at));
            self.address = Some(wanted);
        }
        // FOP, FIP and FDP.
        self.case.blank(self.address?.wrapping_add(blank_from), 18);
        Some(())
    }

    /// Asks for some of x87, SSE and AVX.
    fn fix_components(&mut self) {
        let mask = if self.random.chance(50) { 7 } else { self.random.below(8) };
        self.set(0, mask);
        self.set(2, 0);
    }

    /// Makes the image in memory one that can be loaded, in most cases.
    fn fix_restore(&mut self, extended: bool) {
        let Some(at) = self.address else { return };
        let mut image = [0u8; 832];
        for chunk in image.chunks_exact_mut(8) {
            chunk.copy_from_slice(&self.random.u64().to_le_bytes());
        }
        image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        let wild = if self.random.chance(5) { 1 << 20 } else { 0 };
        let mxcsr = self.random.u32() & MXCSR_BITS | wild;
        image[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        for register in 0..8 {
            let value = self.random.f80();
            image[32 + register * 16..][..10].copy_from_slice(&value);
            image[42 + register * 16..][..6].fill(0);
        }
        // No pending exception: the status word's summary bit follows from the control word.
        let status = self.random.u32() as u16 & 0x7f00;
        image[2..4].copy_from_slice(&status.to_le_bytes());
        image[512..576].fill(0);
        if extended {
            image[512] = self.random.below(8) as u8;
            if self.random.chance(6) {
                let bad = self.random.pick(&[519usize, 520, 530, 575]);
                image[bad] = 0x80;
            }
            self.fix_components();
        }
        self.case.patch(at, if extended { &image } else { &image[..512] });
    }
}

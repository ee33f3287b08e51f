//! LODS, STOS, MOVS, SCAS and CMPS without a repetition, upwards; and BT and its kin with a bit that may be far from the
//! operand's address.

use iced_x86::{Instruction, Mnemonic, Register};

use super::{Emitter, in_memory_bit, number};
use crate::jit::asm::{Stream, cc, r};
use crate::jit::encoding::Encoding;
use crate::jit::layout as l;
use crate::jit::scan::Ins;

/// The bit of DF in the second byte of RFLAGS.
const DF: u8 = 4;

// Opcodes for operands wider than a byte; those for bytes are one less.
const LOAD: u8 = 0x8b;
const STORE: u8 = 0x89;
const COMPARE: u8 = 0x3b;
const COMPARE_MEMORY: u8 = 0x39;

impl Emitter<'_> {
    /// A string instruction. All accesses come before any register changes.
    pub(super) fn string(&mut self, ins: &Ins) {
        let size = ins.instr.memory_size().size();
        let (source, destination, compares) = match ins.instr.mnemonic() {
            Mnemonic::Lodsb | Mnemonic::Lodsw | Mnemonic::Lodsd | Mnemonic::Lodsq => (true, false, false),
            Mnemonic::Stosb | Mnemonic::Stosw | Mnemonic::Stosd | Mnemonic::Stosq => (false, true, false),
            Mnemonic::Scasb | Mnemonic::Scasw | Mnemonic::Scasd | Mnemonic::Scasq => (false, true, true),
            Mnemonic::Cmpsb | Mnemonic::Cmpsw | Mnemonic::Cmpsd | Mnemonic::Cmpsq => (true, true, true),
            _ => (true, true, false),
        };
        self.give_up_flags(ins.live_before());
        let down = self.asm.label();
        self.asm.gs_test8(l::SYSTEM_FLAGS + 1, DF);
        self.asm.jcc(cc::NE, down);
        // The source's value waits in R15 if it is not the accumulator's.
        let mut value = r::RAX;
        if source && compares {
            // As in the interpreter, the operand at RDI is the one to blame if both fault.
            self.string_address(r::RDI);
            self.check(r::R11, r::R10, size, false);
            value = r::R15;
            self.sized(LOAD, size, value);
            self.string_address(r::RSI);
            self.check(r::R11, r::R10, size, false);
            self.sized(COMPARE_MEMORY, size, value);
        } else if source {
            self.string_address(r::RSI);
            self.check(r::R11, r::R10, size, false);
            if destination {
                value = r::R15;
            }
            self.sized(LOAD, size, value);
        }
        if destination && !(source && compares) {
            self.string_address(r::RDI);
            self.check(r::R11, r::R10, size, !compares);
            self.sized(if compares { COMPARE } else { STORE }, size, value);
        }
        if value == r::R15 {
            self.restore_window(1 << r::R15);
        }
        if source {
            self.asm.lea(r::RSI, Some(r::RSI), None, size as i32, !self.long);
        }
        if destination {
            self.asm.lea(r::RDI, Some(r::RDI), None, size as i32, !self.long);
        }
        if compares {
            (self.now.in_host, self.now.in_memory, self.now.constant) = (true, false, None);
        }
        let done = self.asm.here();

        let behind = (self.now.in_host, self.now.in_memory);
        self.asm.stream(Stream::Cold);
        self.asm.bind(down);
        (self.now.in_host, self.now.in_memory) = (false, true);
        self.call_out(ins);
        if compares {
            self.take_flags(r::R10);
        }
        self.asm.jmp(done);
        self.asm.stream(Stream::Hot);
        (self.now.in_host, self.now.in_memory) = behind;
    }

    fn string_address(&mut self, register: u8) {
        if self.long { self.asm.mov(r::R11, register) } else { self.asm.mov32(r::R11, register) }
    }

    /// An instruction of `size` bytes on `reg`, RAX or above RDI, and what R11 points to.
    fn sized(&mut self, opcode: u8, size: usize, reg: u8) {
        self.operand_size(size);
        self.asm.bytes(&[0x41 | wide(size) | (reg >> 3) << 2, if size == 1 { opcode - 1 } else { opcode }]);
        self.asm.address(reg, Some(r::R11), None, 0);
    }

    fn operand_size(&mut self, size: usize) {
        if size == 2 {
            self.asm.byte(0x66);
        }
    }

    /// BT, BTS, BTR or BTC of memory by a register: the bit is as far from the address as the register says.
    pub(super) fn far_bit(&mut self, ins: &Ins) {
        let instr = &ins.instr;
        let write = instr.mnemonic() != Mnemonic::Bt;
        // An address of 32 bits in 64-bit code is cut off after the word's distance has been added.
        let narrow =
            instr.memory_base().size() == 4 || instr.memory_index().size() == 4 || instr.memory_displ_size() == 4;
        if self.long && (narrow || instr.memory_base() == Register::EIP) {
            return self.call_out(ins);
        }
        let locked = instr.has_lock_prefix() && !self.may_unlock(ins);
        let Some(encoding) = Encoding::parse(self.own_bytes(ins), instr, &ins.offsets, self.long) else {
            return self.call_out(ins);
        };
        let [0x0f, opcode] = *encoding.opcode() else { return self.call_out(ins) };
        let register = instr.op1_register();
        let size = register.size();
        let words = size.trailing_zeros() as u8;
        self.linear_address(instr, r::R11, r::R10);
        self.give_up_flags(ins.live_before());
        // The word that the bit is in: sar r10, bits of its number within; lea r11, [r11 + r10 * size]
        self.bit_number(register);
        self.asm.bytes(&[0x49, 0xc1, 0xfa, words + 3]);
        self.asm.lea(r::R11, Some(r::R11), Some((r::R10, words)), 0, !self.long);
        self.check(r::R11, r::R10, size, write);
        if locked {
            self.load_bit_register(register, r::R10);
            self.asm.and32_imm(r::R10, size as u32 * 8 - 1);
            self.prepare_flags(ins, r::R15);
            self.asm.byte(0xf0);
            self.operand_size(size);
            self.asm.bytes(&[0x45 | wide(size), 0x0f, opcode]);
            self.asm.address(r::R10, Some(r::R11), None, 0);
        } else {
            self.prepare_flags(ins, r::R10);
            let mut from = number(register);
            if in_memory_bit(register) != 0 {
                self.asm.gs_load(r::R15, l::reg(from));
                from = r::R15;
            }
            self.sized(LOAD, size, r::R10);
            // With a register for its operand the instruction takes the lower bits of the number only.
            self.operand_size(size);
            self.asm.bytes(&[0x41 | wide(size) | (from >> 3) << 2, 0x0f, opcode, 0xc0 | (from & 7) << 3 | r::R10 & 7]);
            if write {
                self.sized(STORE, size, r::R10);
            }
        }
        self.restore_window(1 << r::R15);
        self.flags_written(ins);
    }

    /// The signed number of the bit in R10.
    fn bit_number(&mut self, register: Register) {
        self.load_bit_register(register, r::R10);
        match register.size() {
            // movsx r10, r10w
            2 => self.asm.bytes(&[0x4d, 0x0f, 0xbf, 0xd2]),
            // movsxd r10, r10d
            4 => self.asm.bytes(&[0x4d, 0x63, 0xd2]),
            _ => {}
        }
    }

    fn load_bit_register(&mut self, register: Register, to: u8) {
        if in_memory_bit(register) != 0 {
            self.asm.gs_load(to, l::reg(number(register)));
        } else {
            self.asm.mov(to, number(register));
        }
    }
}

/// REX.W for operands of `size` bytes.
fn wide(size: usize) -> u8 {
    if size == 8 { 8 } else { 0 }
}

/// Whether `instr` is a string instruction that is done in place: no repetition, no segment but the usual ones without a
/// base, and addresses of the mode's width.
pub(in crate::jit) fn is_plain_string(instr: &Instruction, long: bool) -> bool {
    use Mnemonic as M;
    use iced_x86::OpKind as O;
    // SSE has instructions of the same name.
    let strings = matches!(
        instr.mnemonic(),
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq | M::Movsb | M::Movsw
    ) || matches!(instr.mnemonic(), M::Movsd | M::Movsq | M::Scasb | M::Scasw | M::Scasd | M::Scasq)
        || matches!(instr.mnemonic(), M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
    let (source, destination) =
        if long { (O::MemorySegRSI, O::MemoryESRDI) } else { (O::MemorySegESI, O::MemoryESEDI) };
    let operands = (0..instr.op_count()).all(|i| {
        let kind = instr.op_kind(i);
        kind == source
            || kind == destination
            || kind == O::Register && instr.op_register(i).full_register() == Register::RAX
    });
    let segment = matches!(instr.segment_prefix(), Register::None | Register::DS | Register::ES | Register::SS);
    strings && operands && segment && !instr.has_rep_prefix() && !instr.has_repne_prefix()
}

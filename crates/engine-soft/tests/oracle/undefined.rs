//! What the SDM leaves undefined, and so is not compared.

use iced_x86::{Instruction, Mnemonic, OpKind, Register, RflagsBits};

use super::case::Case;

/// The flags of RFLAGS for a set of iced's.
pub(crate) fn rflags_of(bits: u32) -> u64 {
    [
        (RflagsBits::CF, 1u64),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::DF, 1 << 10),
        (RflagsBits::OF, 1 << 11),
    ]
    .iter()
    .filter(|(iced, _)| bits & iced != 0)
    .map(|(_, flag)| flag)
    .sum()
}

/// What is not compared after a case.
#[derive(Clone, Copy, Default)]
pub(crate) struct Undefined {
    /// Flags of RFLAGS when the case runs to its end.
    pub(crate) flags: u64,
    /// Flags of RFLAGS when the case ends in an exception.
    pub(crate) flags_on_fault: u64,
    /// For each general register, the bits.
    pub(crate) gpr: [u64; 16],
    /// The same when the case ends in an exception.
    pub(crate) gpr_on_fault: [u64; 16],
    /// Vector registers and masks when the case ends in an exception: elements behind the one that faulted may have
    /// been loaded or not (SDM vol. 2, VPGATHER).
    pub(crate) vectors_on_fault: bool,
    /// x87 registers when the case ends in an exception: the change to MMX may come before the fault.
    pub(crate) x87_on_fault: bool,
    /// MXCSR when the case ends in an exception: what is computed may be flagged before the result is stored.
    pub(crate) mxcsr_on_fault: bool,
    /// Memory when the case ends in an exception: how much is stored before is up to the CPU.
    pub(crate) memory_on_fault: bool,
    /// A fault's address and kind: several accesses in an order that is up to the CPU.
    pub(crate) order: bool,
    /// Whether there is a fault: masked-out elements may be touched or not (SDM vol. 2, MASKMOVDQU), an x87 store that
    /// raises an unmasked exception may look at its destination or not.
    pub(crate) fault_is_open: bool,
}

/// The flags that `instruction` leaves undefined, whatever its operands are.
pub(crate) fn flags(instruction: &Instruction) -> u64 {
    rflags_of(instruction.rflags_undefined())
}

/// The flags that `instruction` computes.
fn flags_written(instruction: &Instruction) -> u64 {
    rflags_of(instruction.rflags_written())
}

/// Whether `instruction` may leave the flags as they are, depending on its operands.
pub(crate) fn may_keep_flags(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(
        instruction.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd | M::Rol | M::Ror | M::Rcl | M::Rcr
    ) || instruction.has_rep_prefix()
        || instruction.has_repne_prefix()
}

/// What `instruction`, alone in `case`, leaves undefined.
pub(crate) fn of_single(instruction: &Instruction, case: &Case) -> Undefined {
    use Mnemonic as M;
    let mut undefined = Undefined { flags: flags(instruction), ..Undefined::default() };
    let last = instruction.op_count().wrapping_sub(1);
    let by_cl = instruction.op_count() > 0
        && instruction.op_kind(last) == OpKind::Register
        && instruction.op_register(last) == Register::CL;
    match instruction.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Shld | M::Shrd | M::Rol | M::Ror | M::Rcl | M::Rcr => {
            let bits = operand_bits(instruction);
            let mask = if bits == 64 { 63 } else { 31 };
            let count = if by_cl {
                (case.gpr[1] & mask) as u32
            } else if instruction.op_kind(last) == OpKind::Immediate8 {
                u32::from(instruction.immediate8()) & mask as u32
            } else {
                1
            };
            // SDM vol. 2, SAL/SAR/SHL/SHR and SHLD: a count of zero changes no flag, OF is defined for one.
            let rotate = matches!(instruction.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr);
            undefined.flags = match (count, rotate) {
                (0, _) => 0,
                (1, true) => 0,
                (1, false) => 1 << 4,
                (_, true) => 1 << 11,
                (_, false) => 1 << 4 | 1 << 11,
            };
            // CF is undefined from the operand's size on, for SHL and SHR.
            if matches!(instruction.mnemonic(), M::Shl | M::Sal | M::Shr) && count >= bits {
                undefined.flags |= 1;
            }
        }
        // SDM vol. 2, BSF: the destination is undefined when the source is zero. All CPUs leave it as it is, and programs rely
        // on that for 64 bits; of the upper half of a 32-bit destination nothing is known.
        M::Bsf | M::Bsr if operand_bits(instruction) == 32 => {
            if let Some(index) = gpr_index(instruction.op0_register()) {
                undefined.gpr[index] = !0 << 32;
            }
        }
        _ => {}
    }
    undefined.flags_on_fault |= undefined.flags;
    // SDM vol. 2, REP: a fault restores the flags of before. Had an interrupt come in between, before would be since then; the engine
    // makes way after some thousand elements.
    let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
    if repeats && instruction.is_string_instruction() && flags_written(instruction) != 0 && case.gpr[1] > 1000 {
        undefined.flags_on_fault |= flags_written(instruction);
    }
    undefined.after_fault(instruction);
    undefined
}

impl Undefined {
    /// Adds what `instruction` leaves open when it faults.
    pub(crate) fn after_fault(&mut self, instruction: &Instruction) {
        use Mnemonic as M;
        let mnemonic = instruction.mnemonic();
        let to_memory = instruction.op_count() > 0 && instruction.op0_kind() == OpKind::Memory;
        self.vectors_on_fault |= instruction.is_vsib();
        self.x87_on_fault |= to_memory && (1..instruction.op_count()).any(|op| instruction.op_register(op).is_mm())
            || mnemonic == M::Maskmovq;
        // VCVTPS2PH computes and stores: which of its exceptions comes first is not said.
        let converts = to_memory && mnemonic == M::Vcvtps2ph;
        self.mxcsr_on_fault |= converts;
        let to_x87 = matches!(mnemonic, M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
        let bytes_masked = matches!(mnemonic, M::Maskmovdqu | M::Vmaskmovdqu | M::Maskmovq);
        // Of an area, the parts that are not asked for may be touched or not.
        let in_parts = is_large(mnemonic) && instruction.memory_size().size() == 0;
        self.fault_is_open |= to_x87 && to_memory || bytes_masked || in_parts;
        let masked = matches!(mnemonic, M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq);
        let wide = instruction.memory_size().size() == 10;
        let many = is_large(mnemonic) || bytes_masked;
        // SDM vol. 2, CMPS: nothing says which operand is read first.
        let compares =
            instruction.is_string_instruction() && matches!(mnemonic, M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
        self.order |= many || masked || wide || compares || converts;
        // The return address may have been stored before a target that is not canonical is noticed.
        self.memory_on_fault |= many || masked || wide || mnemonic == M::Call;
        // Repeated with 32-bit addresses: whether the upper halves are cleared when the first turn faults.
        let repeats = instruction.has_rep_prefix() || instruction.has_repne_prefix();
        if repeats && instruction.is_string_instruction() && uses_short_addresses(instruction) {
            for index in [1, 6, 7] {
                self.gpr_on_fault[index] = !0 << 32;
            }
        }
    }
}

/// Whether the instruction makes many accesses.
fn is_large(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Enter
            | M::Fxsave
            | M::Fxsave64
            | M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Fnsave
            | M::Fnstenv
            | M::Fxrstor
            | M::Fxrstor64
            | M::Xrstor
            | M::Xrstor64
            | M::Frstor
            | M::Fldenv
    )
}

/// The size in bits of the first operand.
fn operand_bits(instruction: &Instruction) -> u32 {
    if instruction.op0_kind() == OpKind::Register {
        instruction.op0_register().size() as u32 * 8
    } else {
        instruction.memory_size().size() as u32 * 8
    }
}

/// Whether the operands of a string instruction have 32-bit addresses.
fn uses_short_addresses(instruction: &Instruction) -> bool {
    use iced_x86::OpKind as O;
    (0..instruction.op_count())
        .any(|op| matches!(instruction.op_kind(op), O::MemorySegESI | O::MemorySegEDI | O::MemoryESEDI))
}

/// The number of the general register that `register` is a part of.
pub(crate) fn gpr_index(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

//! Cases: one instruction with all kinds of operands, sequences of instructions, and mutated bytes.

use std::collections::BTreeSet;

use iced_x86::{Code, Decoder, DecoderOptions, Encoder, FlowControl, Instruction, Mnemonic, OpKind, Register};

use super::case::{CODE_MAX, Case, Outcome, arena};
use super::catalogue;
use super::operands::{BASES, Forge, INDEX, lanes_of};
use super::random::{Lanes, Random};
use super::undefined::{self, Undefined, rflags_of};

/// What is known of a case beside its state.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    /// The class under which it is counted.
    pub(crate) class: &'static str,
    /// The instruction, of a sequence the last; `INVALID` for undecodable bytes.
    pub(crate) code: Code,
    /// What is not compared.
    pub(crate) undefined: Undefined,
}

/// Makes cases.
pub(crate) struct Generator {
    codes: Vec<Code>,
    sequence_codes: Vec<Code>,
    /// The classes of the codes.
    classes: BTreeSet<&'static str>,
}

impl Generator {
    /// A generator for what the catalogue holds; with `only`, for the classes of these names.
    pub(crate) fn new(only: Option<&str>) -> Self {
        let mut codes = catalogue::codes();
        if let Some(only) = only {
            codes.retain(|code| only.split(',').any(|class| class == catalogue::class(*code)));
        }
        let sequence_codes = codes.iter().copied().filter(|code| fits_sequence(*code)).collect();
        let classes = codes.iter().map(|code| catalogue::class(*code)).collect();
        Self { codes, sequence_codes, classes }
    }

    /// The codes it draws from.
    pub(crate) fn codes(&self) -> &[Code] {
        &self.codes
    }

    /// One of the codes that can stand inside of a sequence.
    #[allow(dead_code, reason = "for the random programs")]
    pub(crate) fn sequence_code(&self, random: &mut Random) -> Code {
        random.pick(&self.sequence_codes)
    }

    /// The data pages that a batch of cases starts from.
    pub(crate) fn template(random: &mut Random) -> Vec<u8> {
        let mut template = Vec::with_capacity(arena::DATA_LEN);
        while template.len() < arena::DATA_LEN {
            let kind = any_lanes(random);
            // Runs of equal kind, some of zeros.
            for _ in 0..4 {
                let lanes = if random.chance(15) { [0; 16] } else { random.lanes(kind) };
                template.extend_from_slice(&lanes);
            }
        }
        template[arena::HOLE * arena::PAGE..][..arena::PAGE].fill(0);
        template
    }

    /// Makes a case.
    pub(crate) fn make(&self, random: &mut Random, case: &mut Case) -> Made {
        loop {
            *case = Case::empty();
            let made = match random.below(100) {
                0..74 => self.single(random, case).map(|(made, _)| made),
                74..90 => self.sequence(random, case),
                _ => self.mutated(random, case),
            };
            if let Some(made) = made {
                return made;
            }
        }
    }

    /// One instruction.
    fn single(&self, random: &mut Random, case: &mut Case) -> Option<(Made, Instruction)> {
        let code = random.pick(&self.codes);
        let lanes = lanes_of(code, random);
        start_state(random, case, lanes);
        case.rip = match random.below(20) {
            0..2 => arena::CODE + arena::PAGE as u64 - 1 - random.below(10),
            _ => arena::CODE + 0x800 + random.below(16),
        };
        let mut forge = Forge { random, case, fixed: 0, in_sequence: false, address: None };
        if code.op_code().is_stack_instruction() && forge.random.chance(25) {
            let at = forge.address_for(8, false);
            forge.set(4, at);
        }
        let instruction = forge.operands(code)?;
        if let Some(at) = forge.address
            && forge.random.chance(60)
        {
            let bytes = [forge.random.lanes(lanes), forge.random.lanes(lanes)].concat();
            let size = instruction.memory_size().size().clamp(1, 32);
            forge.case.patch(at, &bytes[..size]);
        }
        if !forge.fix(&instruction) {
            return None;
        }
        let mut encoder = Encoder::new(64);
        let len = encoder.encode(&instruction, case.rip).ok()?;
        let mut bytes = encoder.take_buffer();
        // At the very end of the code, or partly behind it.
        let movable = instruction.flow_control() == FlowControl::Next && !instruction.is_ip_rel_memory_operand();
        if movable && random.chance(8) {
            let inside =
                if random.chance(70) { len } else { 1 + random.below(len as u64 - 1).min(len as u64) as usize };
            bytes.truncate(inside.min(len));
            case.rip = arena::CODE + (arena::CODE_LEN - bytes.len()) as u64;
        }
        case.code[..bytes.len()].copy_from_slice(&bytes);
        case.code_len = bytes.len() as u32;
        let undefined = undefined::of_single(&instruction, case);
        let made = Made { class: catalogue::class(code), code, undefined };
        Some((made, instruction))
    }

    /// Some instructions after each other, none of which reads a flag that is undefined.
    pub(crate) fn sequence(&self, random: &mut Random, case: &mut Case) -> Option<Made> {
        if self.sequence_codes.is_empty() {
            return None;
        }
        let kind = any_lanes(random);
        start_state(random, case, kind);
        case.rip = match random.below(10) {
            0 => arena::CODE + arena::PAGE as u64 - random.below(60),
            _ => arena::CODE + 0x800 + random.below(64),
        };
        for base in BASES {
            case.gpr[base] =
                arena::DATA + 0x1000 + random.below(0x1000) / 2 + if base == 4 { 0 } else { random.below(32) };
            if random.chance(60) {
                case.gpr[base] &= !31;
            }
        }
        case.gpr[INDEX] = random.below(32);
        let wanted = 2 + random.below(19) as usize;
        let mut encoder = Encoder::new(64);
        // At the end, at any point before it, and where a branch leaves.
        let (mut undefined_flags, mut ever, mut at_exits) = (0, 0, 0);
        let mut after_fault = Undefined::default();
        let (mut len, mut done, mut last) = (0, 0, Code::INVALID);
        for _ in 0..wanted * 3 {
            if done == wanted {
                break;
            }
            let code = random.pick(&self.sequence_codes);
            let mut forge = Forge { random, case, fixed: 0xffff, in_sequence: true, address: None };
            let Some(instruction) = forge.operands(code) else { continue };
            if rflags_of(instruction.rflags_read()) & undefined_flags != 0 || !sequence_operands(&instruction) {
                continue;
            }
            let Ok(n) = encoder.encode(&instruction, case.rip + len as u64) else {
                let _ = encoder.take_buffer();
                continue;
            };
            let bytes = encoder.take_buffer();
            if len + n > CODE_MAX {
                break;
            }
            case.code[len..len + n].copy_from_slice(&bytes);
            len += n;
            done += 1;
            last = code;
            let mut leaves = undefined::flags(&instruction);
            if undefined::may_keep_flags(&instruction) {
                // By how much is not known here: CF, AF and OF at worst.
                leaves |= 0x811;
                undefined_flags |= leaves;
            } else {
                let defined = instruction.rflags_written() | instruction.rflags_cleared() | instruction.rflags_set();
                undefined_flags = undefined_flags & !rflags_of(defined) | leaves;
            }
            ever |= leaves;
            after_fault.after_fault(&instruction);
            if instruction.flow_control() == FlowControl::ConditionalBranch {
                at_exits |= undefined_flags;
            }
        }
        case.code_len = len as u32;
        let undefined = Undefined { flags: undefined_flags | at_exits, flags_on_fault: ever, ..after_fault };
        (done > 0).then_some(Made { class: "sequence", code: last, undefined })
    }

    /// An instruction with some of its bytes changed: lengths, prefixes and what does not exist.
    fn mutated(&self, random: &mut Random, case: &mut Case) -> Option<Made> {
        const PREFIXES: [u8; 24] = [
            0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x3e, 0x26, 0x36, 0x40, 0x41, 0x42, 0x44, 0x48, 0x49, 0x4c, 0x4f, 0x66,
            0x66, 0xf3, 0xf2, 0x48, 0xc4, 0xc5,
        ];
        self.single(random, case)?;
        case.rip = arena::CODE + 0x800 + random.below(16);
        let mut bytes = case.code().to_vec();
        for _ in 0..1 + random.below(3) {
            match random.below(6) {
                0..2 => {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] ^= 1 << random.below(8);
                }
                2 => {
                    let at = random.below(bytes.len() as u64) as usize;
                    bytes[at] = random.u32() as u8;
                }
                3..5 => bytes.insert(0, random.pick(&PREFIXES)),
                _ => {
                    let many = random.below(16);
                    let prefix = random.pick(&PREFIXES[..9]);
                    (0..many).for_each(|_| bytes.insert(0, prefix));
                }
            }
        }
        bytes.truncate(24);
        let len = bytes.len();
        bytes.resize(len + 16, arena::TRAP);
        let mut decoder = Decoder::with_ip(64, &bytes, case.rip, DecoderOptions::NONE);
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            if may_enter_kernel(&bytes) {
                return None;
            }
            case.code[..len].copy_from_slice(&bytes[..len]);
            case.code_len = len as u32;
            let undefined = Undefined::default();
            return Some(Made { class: "invalid", code: Code::INVALID, undefined });
        }
        let code = instruction.code();
        let next = instruction.next_ip();
        let into_itself =
            matches!(instruction.op0_kind(), OpKind::NearBranch64 | OpKind::NearBranch32 | OpKind::NearBranch16)
                && (case.rip..next).contains(&instruction.near_branch_target());
        let by_segment = matches!(instruction.segment_prefix(), Register::FS | Register::GS);
        let offered = catalogue::is_deterministic(code) && self.classes.contains(catalogue::class(code));
        if !offered || into_itself || by_segment || !fits_mutated(&instruction, case) {
            return None;
        }
        let kept = instruction.len().min(len);
        case.code[..kept].copy_from_slice(&bytes[..kept]);
        case.code_len = kept as u32;
        let undefined = undefined::of_single(&instruction, case);
        Some(Made { class: "mutated", code, undefined })
    }
}

/// Whether undecodable bytes hold an opcode that would enter the host's kernel, were the decoder wrong about them.
fn may_enter_kernel(bytes: &[u8]) -> bool {
    let start = bytes
        .iter()
        .position(|byte| !matches!(byte, 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x40..=0x4f))
        .unwrap_or(bytes.len());
    match bytes[start..] {
        [0x0f, 0x05 | 0x07 | 0x34 | 0x35 | 0x01 | 0x00 | 0xc7 | 0xae, ..] => true,
        // What this processor has and the engine does not offer: XTEST and friends, AMX, AVX-512.
        [0xcd | 0xf1 | 0x62 | 0xc6 | 0xc7 | 0x64 | 0x65, ..] => true,
        [0x0f, 0x18..=0x1f, ..] => true,
        _ => false,
    }
}

/// Whether a mutated instruction can be compared without the care that [`Forge::fix`] takes.
fn fits_mutated(instruction: &Instruction, case: &Case) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Popf | M::Popfq | M::Fnstenv | M::Fnsave | M::Fldenv | M::Frstor => false,
        M::Shld | M::Shrd => {
            let count = if instruction.op2_kind() == OpKind::Immediate8 {
                u64::from(instruction.immediate8())
            } else {
                case.gpr[1]
            };
            instruction.op1_register().size() != 2 || count & 31 <= 16
        }
        _ => !instruction.is_save_restore_instruction() && !is_save(instruction.mnemonic()),
    }
}

fn is_save(mnemonic: Mnemonic) -> bool {
    use Mnemonic as M;
    matches!(
        mnemonic,
        M::Fxsave
            | M::Fxsave64
            | M::Fxrstor
            | M::Fxrstor64
            | M::Xsave
            | M::Xsave64
            | M::Xsaveopt
            | M::Xsaveopt64
            | M::Xsavec
            | M::Xsavec64
            | M::Xrstor
            | M::Xrstor64
            | M::Fnsave
            | M::Fnstenv
            | M::Fldenv
            | M::Frstor
    )
}

/// Whether `code` can stand inside of a sequence.
fn fits_sequence(code: Code) -> bool {
    use Mnemonic as M;
    let op = code.op_code();
    if op.is_privileged() || op.must_be_cpl0() || is_save(code.mnemonic()) {
        return false;
    }
    let mut probe = Instruction::default();
    probe.set_code(code);
    let flow = probe.flow_control();
    if flow != FlowControl::Next && flow != FlowControl::ConditionalBranch {
        return false;
    }
    if op.op_kinds().iter().any(|kind| {
        use iced_x86::OpCodeOperandKind as K;
        matches!(
            kind,
            K::br64_1
                | K::mem_offs
                | K::seg_rBX_al
                | K::seg_rDI
                | K::mem_vsib32x
                | K::mem_vsib64x
                | K::mem_vsib32y
                | K::mem_vsib64y
        )
    }) {
        return false;
    }
    !matches!(
        code.mnemonic(),
        M::Popf | M::Popfq | M::Enter | M::Leave | M::Ldmxcsr | M::Vldmxcsr | M::Hlt | M::Loop | M::Loope | M::Loopne
            | M::Jrcxz | M::Jecxz | M::Ud0 | M::Ud1 | M::Ud2 | M::Clflush
            // Their operands would have to be chosen by hand.
            | M::Bsf | M::Bsr | M::Div | M::Idiv
    )
}

/// Whether `instruction` with its operands can stand inside of a sequence.
fn sequence_operands(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Shld | M::Shrd => instruction.op1_register().size() != 2,
        // The bit string would lie anywhere.
        M::Bt | M::Btc | M::Btr | M::Bts => {
            instruction.op0_kind() == OpKind::Register || instruction.op1_kind() != OpKind::Register
        }
        // The pointers are 64 bits wide.
        M::Push | M::Pop => instruction.op_count() > 0,
        _ => true,
    }
}

fn any_lanes(random: &mut Random) -> Lanes {
    random.pick(&[Lanes::F32, Lanes::F64, Lanes::F80, Lanes::Integer, Lanes::Small, Lanes::Random])
}

/// Registers, flags and extended state.
fn start_state(random: &mut Random, case: &mut Case, lanes: Lanes) {
    for value in &mut case.gpr {
        *value = random.integer();
    }
    case.gpr[4] = arena::DATA + 0x1000 + random.below(0x800) * 2;
    if random.chance(80) {
        case.gpr[4] &= !7;
    }
    case.rflags = random.u64() & (Outcome::FLAGS & !0x400) | 2;
    if random.chance(20) {
        case.rflags |= 0x400;
    }
    let masked = random.chance(85);
    let x87_masked = masked || random.chance(40);
    fill_x87(random, &mut case.xsave, x87_masked);
    let mut mxcsr = random.u32() & 0xe07f;
    if random.chance(60) {
        mxcsr &= !0x3f;
    }
    if random.chance(70) {
        mxcsr &= !0x8040;
    }
    mxcsr |= if masked || random.chance(40) { 0x1f80 } else { random.u32() & 0x1f80 };
    case.xsave[24..28].copy_from_slice(&mxcsr.to_le_bytes());
    for register in 0..16 {
        let kind = if random.chance(85) { lanes } else { any_lanes(random) };
        case.xsave[160 + register * 16..][..16].copy_from_slice(&random.lanes(kind));
        case.xsave[576 + register * 16..][..16].copy_from_slice(&random.lanes(kind));
    }
    case.xsave[512] = 7;
}

/// The x87 registers; the status word's summary bits agree with its exceptions.
fn fill_x87(random: &mut Random, xsave: &mut [u8], masked: bool) {
    let masks = if masked { 0x3f } else { random.u32() as u16 & 0x3f };
    let control = masks | 0x40 | random.pick(&[0x300u16, 0x300, 0x200, 0x000]) | (random.u32() as u16 & 0xc00);
    let mut status = random.u32() as u16 & 0x7f00;
    if random.chance(25) {
        status |= random.u32() as u16 & 0x7f;
    }
    if status & !control & 0x3f != 0 {
        status |= 0x8080;
    }
    let tags = match random.below(10) {
        0..5 => 0xff,
        5..7 => 0,
        _ => random.u32() as u8,
    };
    xsave[..2].copy_from_slice(&control.to_le_bytes());
    xsave[2..4].copy_from_slice(&status.to_le_bytes());
    xsave[4] = tags;
    for register in 0..8 {
        let value = if random.chance(80) {
            random.f80()
        } else {
            let mut mmx = [0xff; 10];
            mmx[..8].copy_from_slice(&random.integer().to_le_bytes());
            mmx
        };
        xsave[32 + register * 16..][..10].copy_from_slice(&value);
    }
}

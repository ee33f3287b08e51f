//! How a thunk is made.
//!
//! A thunk is called as `extern "C" fn(fpu, mem, regs, p0, p1, p2) -> u64`: `mem` points to the memory operand, `p0`
//! to `p2` to where the register operands are kept, in the order of the instruction; a fourth one is in `Fpu::fourth`.
//! The instruction runs with its vector operands in host registers 1 to 4 (0 is for the implicit XMM0),
//! general-purpose ones in RAX and R10, and its memory operand at [RSI]. So there is one thunk for each form and
//! immediate, whatever the registers are. ST(i) and MMi stay as they are: the host's registers are the guest's. The
//! result is 0, or 1 if the instruction has raised an unmasked SIMD exception.

use std::mem::offset_of;

use iced_x86::code_asm::{
    AsmRegisterXmm, AsmRegisterYmm, CodeAssembler, dword_ptr, eax, qword_ptr, r8, r9, r10, r11, rax, rcx, rdi, rdx,
    word_ptr, xmm0, xmm1, xmm2, xmm3, xmm4, xmmword_ptr, ymm1, ymm2, ymm3, ymm4, ymmword_ptr,
};
use iced_x86::{EncodingKind, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};

use super::Gate;
use super::state::Fpu;

/// How a thunk is called.
pub(crate) type Entry = unsafe extern "C" fn(*mut Fpu, *mut u8, *mut u64, *mut u8, *mut u8, *mut u8) -> u64;

/// What a memory operand is to the instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mem {
    None,
    Load,
    Store,
}

/// What a handler has to know of a form of an instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) gate: Gate,
    pub(crate) mem: Mem,
    /// The size of the memory operand in bytes.
    pub(crate) mem_size: u8,
    /// The memory operand must be aligned to its size.
    pub(crate) aligned: bool,
    pub(crate) sets_flags: bool,
    /// Has to see the guest's flags: it depends on them, or may leave some as they are.
    pub(crate) reads_flags: bool,
    /// A store that may raise SIMD exceptions.
    pub(crate) converts: bool,
    /// Uses the x87 or MMX registers.
    pub(crate) x87: bool,
    /// An x87 instruction that does not check for a pending exception.
    pub(crate) no_wait: bool,
    /// An x87 control instruction: the instruction and data pointers stay.
    pub(crate) control: bool,
}

/// A thunk, ready to be called.
pub(crate) struct Thunk {
    pub(crate) entry: Entry,
    pub(crate) shape: Shape,
}

/// A thunk that is not yet in the arena.
pub(crate) struct Built {
    pub(crate) code: Vec<u8>,
    shape: Shape,
}

impl Built {
    pub(crate) fn with_entry(self, entry: Entry) -> Thunk {
        Thunk { entry, shape: self.shape }
    }
}

/// The register operands that thunks are handed pointers to, in order.
pub(crate) fn slots(instruction: &Instruction) -> impl Iterator<Item = (u32, Register)> + '_ {
    (0..instruction.op_count()).filter_map(|i| {
        let register = (instruction.op_kind(i) == OpKind::Register).then(|| instruction.op_register(i))?;
        (register.is_vector_register() || register.is_gpr()).then_some((i, register))
    })
}

/// What the instruction needs, `None` if it is none for a thunk.
pub(crate) fn shape(instruction: &Instruction) -> Option<Shape> {
    let uses = |test: fn(Register) -> bool| {
        (0..instruction.op_count())
            .any(|i| instruction.op_kind(i) == OpKind::Register && test(instruction.op_register(i)))
    };
    let name = format!("{:?}", instruction.mnemonic());
    let mmx = uses(Register::is_mm) || instruction.mnemonic() == Mnemonic::Emms;
    let fpu = uses(Register::is_st) || name.starts_with('F');
    let gate = match instruction.encoding() {
        EncodingKind::Legacy if fpu => Gate::X87,
        EncodingKind::Legacy if mmx && uses(Register::is_xmm) => Gate::Sse,
        EncodingKind::Legacy if mmx => Gate::Mmx,
        EncodingKind::Legacy if is_sse(instruction) => Gate::Sse,
        EncodingKind::VEX => Gate::Avx,
        _ => return None,
    };
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    let memory = (0..instruction.op_count()).find(|i| instruction.op_kind(*i) == OpKind::Memory);
    let mem = match memory.map(|i| info.op_access(i)) {
        None => Mem::None,
        Some(OpAccess::Write | OpAccess::CondWrite) => Mem::Store,
        Some(OpAccess::Read | OpAccess::CondRead) => Mem::Load,
        Some(_) => return None,
    };
    let mem_size = u8::try_from(instruction.memory_size().size()).ok().filter(|n| usize::from(*n) <= 64)?;
    use Mnemonic as M;
    let control = matches!(
        instruction.mnemonic(),
        M::Fninit | M::Finit | M::Fnclex | M::Fclex | M::Fldcw | M::Fnstcw | M::Fstcw | M::Fnstsw | M::Fstsw
    );
    Some(Shape {
        gate,
        mem,
        mem_size: if mem == Mem::None { 0 } else { mem_size },
        aligned: mem != Mem::None && is_aligned(instruction, mem_size),
        sets_flags: instruction.rflags_modified() != 0,
        reads_flags: instruction.rflags_read() != 0 || (gate == Gate::X87 && instruction.rflags_modified() != 0),
        converts: matches!(instruction.mnemonic(), M::Vcvtps2ph) && mem == Mem::Store,
        x87: matches!(gate, Gate::X87 | Gate::Mmx) || mmx,
        no_wait: matches!(instruction.mnemonic(), M::Fninit | M::Fnclex | M::Fnstcw | M::Fnstsw),
        control,
    })
}

fn is_sse(instruction: &Instruction) -> bool {
    use iced_x86::CpuidFeature as C;
    instruction.cpuid_features().iter().any(|f| {
        matches!(f, C::SSE | C::SSE2 | C::SSE3 | C::SSSE3 | C::SSE4_1 | C::SSE4_2 | C::AES | C::PCLMULQDQ | C::SHA)
    })
}

/// Whether the memory operand has to be aligned: 16 bytes in the legacy encoding, but for the instructions that exist
/// to be unaligned; with VEX only the moves that exist to be aligned (SDM vol. 1, 14.9).
fn is_aligned(instruction: &Instruction, size: u8) -> bool {
    use Mnemonic as M;
    match instruction.encoding() {
        EncodingKind::VEX => matches!(
            instruction.mnemonic(),
            M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa
        ),
        _ => {
            let unaligned = matches!(
                instruction.mnemonic(),
                M::Movups
                    | M::Movupd
                    | M::Movdqu
                    | M::Lddqu
                    | M::Pcmpestri
                    | M::Pcmpestrm
                    | M::Pcmpistri
                    | M::Pcmpistrm
                    | M::Pcmpestri64
                    | M::Pcmpestrm64
            );
            size == 16 && !unaligned
        }
    }
}

/// Whether MXCSR matters to it. Saying yes for nothing costs time only.
fn uses_mxcsr(instruction: &Instruction) -> bool {
    let name = format!("{:?}", instruction.mnemonic()).to_lowercase();
    let name = name.strip_prefix('v').unwrap_or(&name);
    let no = [
        "p",
        "mov",
        "and",
        "or",
        "xor",
        "shuf",
        "unpck",
        "blend",
        "insert",
        "extract",
        "broadcast",
        "aes",
        "sha",
        "lddqu",
        "mask",
        "test",
    ];
    !no.iter().any(|prefix| name.starts_with(prefix))
}

const MXCSR: i32 = offset_of!(Fpu, mxcsr) as i32;
const HOST_MXCSR: i32 = offset_of!(Fpu, host_mxcsr) as i32;
const FLAGS: i32 = offset_of!(Fpu, flags) as i32;
const FOURTH: i32 = offset_of!(Fpu, fourth) as i32;
const FSW: i32 = offset_of!(Fpu, fsw) as i32;
const YMM: i32 = offset_of!(Fpu, ymm) as i32;

const XMMS: [AsmRegisterXmm; 4] = [xmm1, xmm2, xmm3, xmm4];
const YMMS: [AsmRegisterYmm; 4] = [ymm1, ymm2, ymm3, ymm4];

/// Where an unmasked SIMD exception leads: the guest's MXCSR is saved with its new flags, the host's is put back.
pub(crate) fn fault_exit() -> Option<Vec<u8>> {
    let mut a = CodeAssembler::new(64).ok()?;
    let made = (|| {
        a.stmxcsr(dword_ptr(rdi + MXCSR))?;
        a.ldmxcsr(dword_ptr(rdi + HOST_MXCSR))?;
        a.mov(eax, 1)?;
        a.ret()
    })();
    made.ok()?;
    a.assemble(0).ok()
}

/// The form of `instruction` that a thunk runs, with the operands where thunks have them; the key to find the thunk
/// again comes first.
pub(crate) fn normalized(instruction: &Instruction) -> Option<(Vec<u8>, Instruction)> {
    let mut plain = *instruction;
    for (slot, (i, register)) in slots(instruction).enumerate() {
        if slot > 3 {
            return None;
        }
        let to = match register {
            r if r.is_ymm() => Register::YMM1 as u32 + slot as u32,
            r if r.is_xmm() => Register::XMM1 as u32 + slot as u32,
            r if r.is_gpr64() => [Register::RAX as u32, Register::R10 as u32][slot.min(1)],
            r if r.is_gpr32() => [Register::EAX as u32, Register::R10D as u32][slot.min(1)],
            r if r.is_gpr16() => [Register::AX as u32, Register::R10W as u32][slot.min(1)],
            _ => return None,
        };
        plain.set_op_register(i, Register::try_from(to as usize).ok()?);
    }
    if (0..plain.op_count()).any(|i| plain.op_kind(i) == OpKind::Memory) {
        plain.set_memory_base(Register::RSI);
        plain.set_memory_index(Register::None);
        plain.set_memory_index_scale(1);
        plain.set_memory_displacement64(0);
        plain.set_memory_displ_size(0);
        plain.set_segment_prefix(Register::None);
    }
    // Nothing of the guest's prefixes is left: those that are part of the encoding come with the code.
    plain.set_has_lock_prefix(false);
    plain.set_has_xacquire_prefix(false);
    plain.set_has_xrelease_prefix(false);
    plain.set_has_rep_prefix(false);
    plain.set_has_repne_prefix(false);
    let mut encoder = iced_x86::Encoder::new(64);
    encoder.encode(&plain, 0).ok()?;
    let mut key = encoder.take_buffer();
    // Bytes that are equal may still be of different forms, whose operands are kept in different places.
    key.extend_from_slice(&(plain.code() as u16).to_le_bytes());
    Some((key, plain))
}

/// Comparisons of strings whose lengths are in EAX and EDX, with a result in ECX...
fn index_strings_explicit(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Pcmpestri | M::Pcmpestri64 | M::Vpcmpestri | M::Vpcmpestri64)
}

/// ...and in XMM0.
fn mask_strings_explicit(instruction: &Instruction) -> bool {
    use Mnemonic as M;
    matches!(instruction.mnemonic(), M::Pcmpestrm | M::Pcmpestrm64 | M::Vpcmpestrm | M::Vpcmpestrm64)
}

/// Builds the thunk of the `plain` form that [`normalized`] has made of `instruction`.
pub(crate) fn build(instruction: &Instruction, plain: &Instruction, shape: Shape) -> Option<Built> {
    let code = assemble(instruction, plain, shape).ok()?;
    Some(Built { code, shape })
}

fn assemble(instruction: &Instruction, plain: &Instruction, shape: Shape) -> Result<Vec<u8>, iced_x86::IcedError> {
    use Mnemonic as M;
    let mut a = CodeAssembler::new(64)?;
    let vex = shape.gate == Gate::Avx;
    let mxcsr = !matches!(shape.gate, Gate::X87) && uses_mxcsr(instruction);
    let explicit_strings = index_strings_explicit(instruction) || mask_strings_explicit(instruction);
    let index_result =
        index_strings_explicit(instruction) || matches!(instruction.mnemonic(), M::Pcmpistri | M::Vpcmpistri);
    let mask_result =
        mask_strings_explicit(instruction) || matches!(instruction.mnemonic(), M::Pcmpistrm | M::Vpcmpistrm);
    let implicit_xmm0 = matches!(instruction.mnemonic(), M::Blendvps | M::Blendvpd | M::Pblendvb | M::Sha256rnds2);
    let mut factory = InstructionInfoFactory::new();
    let info = factory.info(instruction);
    // Pointers: the general-purpose registers in R11, the operands in RCX, R8, R9 and R10 or, where that is an
    // operand, in `Fpu`.
    a.mov(r11, rdx)?;
    if mxcsr {
        a.stmxcsr(dword_ptr(rdi + HOST_MXCSR))?;
        a.ldmxcsr(dword_ptr(rdi + MXCSR))?;
    }
    if implicit_xmm0 {
        a.movups(xmm0, xmmword_ptr(rdi + YMM))?;
    }
    let pointers = [rcx, r8, r9, r10];
    let slots: Vec<(u32, Register)> = slots(instruction).collect();
    for (slot, (_, register)) in slots.iter().enumerate() {
        let at = pointers[slot];
        if slot == 3 {
            a.mov(at, qword_ptr(rdi + FOURTH))?;
        }
        if register.is_gpr() {
            if slot == 0 {
                a.mov(rax, qword_ptr(at))?;
            } else {
                a.mov(r10, qword_ptr(at))?;
            }
        } else if vex {
            a.vmovups(YMMS[slot], ymmword_ptr(at))?;
        } else {
            a.movups(XMMS[slot], xmmword_ptr(at))?;
        }
    }
    if explicit_strings {
        a.mov(rax, qword_ptr(r11))?;
        a.mov(rdx, qword_ptr(r11 + 16))?;
    }
    if shape.reads_flags {
        a.push(qword_ptr(rdi + FLAGS))?;
        a.popfq()?;
    }
    a.add_instruction(*plain)?;
    if shape.sets_flags {
        a.pushfq()?;
        a.pop(rdx)?;
        a.mov(qword_ptr(rdi + FLAGS), rdx)?;
    }
    if index_result {
        a.mov(qword_ptr(r11 + 8), rcx)?;
    }
    if mask_result {
        if vex {
            a.vmovups(ymmword_ptr(rdi + YMM), iced_x86::code_asm::ymm0)?;
        } else {
            a.movups(xmmword_ptr(rdi + YMM), xmm0)?;
        }
    }
    if mxcsr {
        a.stmxcsr(dword_ptr(rdi + MXCSR))?;
        a.ldmxcsr(dword_ptr(rdi + HOST_MXCSR))?;
    }
    for (slot, (i, register)) in slots.iter().enumerate() {
        let writes = matches!(
            info.op_access(*i),
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        );
        if !writes {
            continue;
        }
        let at = pointers[slot];
        match (register.is_gpr(), slot) {
            // A write of 4 bytes has cleared the upper half in the host's register.
            (true, 0) => a.mov(qword_ptr(at), rax)?,
            (true, _) => a.mov(qword_ptr(at), r10)?,
            (false, _) if vex => a.vmovups(ymmword_ptr(at), YMMS[slot])?,
            (false, _) => a.movups(xmmword_ptr(at), XMMS[slot])?,
        }
    }
    if vex {
        a.vzeroupper()?;
    }
    if shape.x87 {
        a.fnstsw(word_ptr(rdi + FSW))?;
    }
    a.xor(eax, eax)?;
    a.ret()?;
    a.assemble(0)
}

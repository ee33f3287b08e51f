//! Which instructions are tested: everything a program may execute whose outcome is a function of its state.

use iced_x86::{Code, CpuidFeature, EncodingKind, Mnemonic, OpCodeOperandKind};

/// The codes that the generators draw from.
pub(crate) fn codes() -> Vec<Code> {
    Code::values().filter(|code| is_generated(*code)).collect()
}

/// The name of the class under which cases of `code` are counted.
pub(crate) fn class(code: Code) -> &'static str {
    use CpuidFeature as F;
    let features = code.cpuid_features();
    let has = |feature| features.contains(&feature);
    if code.op_code().is_privileged() || code.op_code().must_be_cpl0() {
        return "privileged";
    }
    if has(F::AES) {
        return "aes";
    }
    if has(F::PCLMULQDQ) {
        return "pclmul";
    }
    for (feature, name) in [
        (F::FPU, "x87"),
        (F::FPU287, "x87"),
        (F::FPU387, "x87"),
        (F::FXSR, "fxsave"),
        (F::XSAVE, "xsave"),
        (F::XSAVEOPT, "xsave"),
        (F::XSAVEC, "xsave"),
        (F::ADX, "adx"),
        (F::BMI1, "bmi1"),
        (F::BMI2, "bmi2"),
        (F::LZCNT, "lzcnt"),
        (F::POPCNT, "popcnt"),
        (F::MOVBE, "movbe"),
        (F::SHA, "sha"),
        (F::F16C, "f16c"),
        (F::FMA, "fma"),
        (F::AVX2, "avx2"),
        (F::AVX, "avx"),
        (F::SSE4_2, "sse4.2"),
        (F::SSE4_1, "sse4.1"),
        (F::SSSE3, "ssse3"),
        (F::SSE3, "sse3"),
        (F::SSE2, "sse2"),
        (F::SSE, "sse"),
        (F::MMX, "mmx"),
        (F::CMOV, "cmov"),
        (F::CX8, "cmpxchg"),
        (F::CMPXCHG16B, "cmpxchg"),
    ] {
        if has(feature) {
            return name;
        }
    }
    "integer"
}

/// The classes that must have been tested.
pub(crate) const CLASSES: [&str; 32] = [
    "integer",
    "privileged",
    "cmov",
    "cmpxchg",
    "adx",
    "bmi1",
    "bmi2",
    "lzcnt",
    "popcnt",
    "movbe",
    "x87",
    "mmx",
    "sse",
    "sse2",
    "sse3",
    "ssse3",
    "sse4.1",
    "sse4.2",
    "aes",
    "pclmul",
    "sha",
    "avx",
    "avx2",
    "fma",
    "f16c",
    "fxsave",
    "xsave",
    "sequence",
    "mutated",
    "invalid",
    "page fault",
    "#DE",
];

/// Whether `code` belongs to what the engine offers its guests.
fn is_offered(code: Code) -> bool {
    use CpuidFeature as F;
    code.cpuid_features().iter().all(|feature| {
        matches!(
            feature,
            F::INTEL8086
                | F::INTEL186
                | F::INTEL286
                | F::INTEL386
                | F::INTEL486
                | F::X64
                | F::ADX
                | F::AES
                | F::AVX
                | F::AVX2
                | F::BMI1
                | F::BMI2
                | F::CLFSH
                | F::CMOV
                | F::CMPXCHG16B
                | F::CX8
                | F::F16C
                | F::FMA
                | F::FPU
                | F::FPU287
                | F::FPU387
                | F::FXSR
                | F::LZCNT
                | F::MMX
                | F::MOVBE
                | F::MSR
                | F::MULTIBYTENOP
                | F::PAUSE
                | F::PCLMULQDQ
                | F::POPCNT
                | F::PREFETCHW
                | F::SHA
                | F::SSE
                | F::SSE2
                | F::SSE3
                | F::SSE4_1
                | F::SSE4_2
                | F::SSSE3
                | F::XSAVE
                | F::XSAVEC
                | F::XSAVEOPT
        )
    })
}

/// Whether the outcome of `code` in ring 3 is a function of the state that a case holds, and running it harmless.
pub(crate) fn is_deterministic(code: Code) -> bool {
    use Mnemonic as M;
    let op = code.op_code();
    if !is_offered(code) || !matches!(op.encoding(), EncodingKind::Legacy | EncodingKind::VEX) {
        return false;
    }
    // Segment registers hold what Linux has put there; far branches go through its descriptor tables.
    if op.op_kinds().iter().any(|kind| {
        use OpCodeOperandKind as K;
        matches!(kind, K::seg_reg | K::es | K::cs | K::ss | K::ds | K::fs | K::gs | K::farbr2_2 | K::farbr4_2)
    }) {
        return false;
    }
    let far = matches!(
        code,
        Code::Jmp_m1616 | Code::Jmp_m1632 | Code::Jmp_m1664 | Code::Call_m1616 | Code::Call_m1632 | Code::Call_m1664
    );
    !far && !matches!(
        code.mnemonic(),
        // Into the host's kernel, or what it shows of itself.
        M::Syscall | M::Sysenter | M::Sysret | M::Sysretq | M::Sysexit | M::Sysexitq | M::Int | M::Int1 | M::Int3 | M::Into
            | M::Retf | M::Iret | M::Iretd | M::Iretq
            | M::Cpuid | M::Rdtsc | M::Rdtscp | M::Rdpmc | M::Rdrand | M::Rdseed | M::Rdpid | M::Xgetbv
            | M::Sgdt | M::Sidt | M::Sldt | M::Str | M::Smsw | M::Lar | M::Lsl | M::Verr | M::Verw
            | M::Lds | M::Les | M::Lss | M::Lfs | M::Lgs
            // Ports: the answer depends on the task's permission map.
            | M::In | M::Out | M::Insb | M::Insw | M::Insd | M::Outsb | M::Outsw | M::Outsd
            // Undocumented or of one vendor.
            | M::Loadall | M::Umov | M::Ibts | M::Xbts | M::Rsm | M::Fstdw | M::Fstsg | M::Frstpm
            // The host's kernel decides about these registers.
            | M::Xsaves | M::Xrstors | M::Monitor | M::Mwait
    )
}

/// Whether the generators make cases of `code`; the rest of what is deterministic is only met in mutated bytes.
fn is_generated(code: Code) -> bool {
    let op = code.op_code();
    is_deterministic(code)
        && op.is_instruction()
        && op.mode64()
        && op.intel_decoder64()
        && !op.fwait()
        && op.decoder_option() == 0
}

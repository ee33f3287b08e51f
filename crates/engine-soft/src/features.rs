//! Which instructions a CPU model has.

use iced_x86::{CpuidFeature, DecoderOptions, Instruction, Mnemonic};
use x86::{CpuModel, Feature};

/// Whether `model` has `instruction`.
pub(crate) fn offered(instruction: &Instruction, model: &CpuModel) -> bool {
    // Of shadow stacks only this one is a no-operation where there are none; unwinders rely on it.
    if matches!(instruction.mnemonic(), Mnemonic::Rdsspd | Mnemonic::Rdsspq) {
        return true;
    }
    instruction.cpuid_features().iter().all(|feature| has(*feature, model))
}

/// How to decode what is another instruction on a CPU without `model`'s: a prefix that means nothing there makes BSF
/// of TZCNT, BSR of LZCNT and WBINVD of WBNOINVD (SDM vol. 2, at each).
pub(crate) fn decoding(model: &CpuModel) -> u32 {
    let unless = |feature, option| if model.has(feature) { DecoderOptions::NONE } else { option };
    unless(Feature::Bmi1, DecoderOptions::NO_MPFX_0FBC)
        | unless(Feature::Abm, DecoderOptions::NO_MPFX_0FBD)
        | DecoderOptions::NO_WBNOINVD
}

/// Instruction sets that CPUID tells of by a flag; what every x86-64 has needs none.
fn has(feature: CpuidFeature, model: &CpuModel) -> bool {
    use CpuidFeature as C;
    let flag = match feature {
        C::INTEL8086 | C::INTEL186 | C::INTEL286 | C::INTEL386 | C::INTEL486 | C::X64 | C::CPUID | C::MSR | C::TSC => {
            return true;
        }
        C::FPU | C::FPU287 | C::FPU387 | C::CMOV | C::CX8 | C::MULTIBYTENOP | C::PAUSE | C::RDPMC | C::SMM | C::SEP => {
            return true;
        }
        C::SYSCALL | C::CLFSH | C::MMX | C::FXSR | C::SSE | C::SSE2 => return true,
        // Hints that are no-operations where they are unknown.
        C::CET_IBT | C::CLDEMOTE | C::PREFETCHW | C::PREFETCHWT1 | C::PREFETCHITI => return true,
        C::SSE3 => Feature::Sse3,
        C::SSSE3 => Feature::Ssse3,
        C::SSE4_1 => Feature::Sse41,
        C::SSE4_2 => Feature::Sse42,
        C::POPCNT => Feature::Popcnt,
        C::LZCNT => Feature::Abm,
        C::MOVBE => Feature::Movbe,
        C::CMPXCHG16B => Feature::Cx16,
        C::AES => Feature::Aes,
        C::PCLMULQDQ => Feature::Pclmulqdq,
        C::SHA => Feature::ShaNi,
        C::AVX => Feature::Avx,
        C::AVX2 => Feature::Avx2,
        C::FMA => Feature::Fma,
        C::F16C => Feature::F16c,
        C::BMI1 => Feature::Bmi1,
        C::BMI2 => Feature::Bmi2,
        C::ADX => Feature::Adx,
        C::RDRAND => Feature::Rdrand,
        C::RDSEED => Feature::Rdseed,
        C::XSAVE => Feature::Xsave,
        C::XSAVEOPT => Feature::Xsaveopt,
        C::XSAVEC => Feature::Xsavec,
        C::FSGSBASE => Feature::Fsgsbase,
        C::INVPCID => Feature::Invpcid,
        C::SMAP => Feature::Smap,
        C::RDTSCP => Feature::Rdtscp,
        C::RDPID => Feature::Rdpid,
        C::CLFLUSHOPT => Feature::Clflushopt,
        _ => return false,
    };
    model.has(flag)
}

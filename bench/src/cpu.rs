//! What the CPU has.

use std::arch::is_x86_feature_detected;

/// A set of instructions that a workload may need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Feature {
    Ssse3,
    Sse41,
    Sse42,
    Popcnt,
    Lzcnt,
    Bmi1,
    Bmi2,
    Aes,
    Pclmulqdq,
    Avx,
    Avx2,
    Fma,
    F16c,
}

impl Feature {
    /// Whether this CPU, under this operating system, has it.
    pub(crate) fn present(self) -> bool {
        match self {
            Self::Ssse3 => is_x86_feature_detected!("ssse3"),
            Self::Sse41 => is_x86_feature_detected!("sse4.1"),
            Self::Sse42 => is_x86_feature_detected!("sse4.2"),
            Self::Popcnt => is_x86_feature_detected!("popcnt"),
            Self::Lzcnt => is_x86_feature_detected!("lzcnt"),
            Self::Bmi1 => is_x86_feature_detected!("bmi1"),
            Self::Bmi2 => is_x86_feature_detected!("bmi2"),
            Self::Aes => is_x86_feature_detected!("aes"),
            Self::Pclmulqdq => is_x86_feature_detected!("pclmulqdq"),
            Self::Avx => is_x86_feature_detected!("avx"),
            Self::Avx2 => is_x86_feature_detected!("avx2"),
            Self::Fma => is_x86_feature_detected!("fma"),
            Self::F16c => is_x86_feature_detected!("f16c"),
        }
    }
}

/// The first of these features that the CPU does not have.
pub(crate) fn missing(needs: &[Feature]) -> Option<Feature> {
    needs.iter().copied().find(|feature| !feature.present())
}

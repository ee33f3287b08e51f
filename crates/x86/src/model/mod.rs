//! Named CPU models: what a guest is told that its CPU can do, the same on each host.

mod cpuid;
mod feature;

pub use cpuid::CpuidQuery;
pub use feature::{Feature, FeatureSet, Place, Register};

use crate::msr::{arch_capabilities, spec_ctrl};
use Feature::*;

/// Why there is no such model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// No model has this name.
    #[error("there is no CPU model '{0}'; choose one of {known}", known = CpuModel::NAMES.join(", "))]
    Unknown(String),
}

/// A CPU model: a named baseline, possibly with features taken out. What it never offers is what no engine of Husk does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuModel {
    baseline: Baseline,
    features: FeatureSet,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Baseline {
    V1,
    V2,
    V3,
}

/// The baseline of the *System V ABI, AMD64 supplement*, 3.1.1, with what a system needs besides: paging, APIC, machine
/// checks, a clock that does not stop, and the answers that save guests their mitigations.
const V1: FeatureSet = FeatureSet::of(&[
    Fpu,
    Vme,
    De,
    Pse,
    Tsc,
    Msr,
    Pae,
    Mce,
    Cx8,
    Apic,
    Sep,
    Mtrr,
    Pge,
    Mca,
    Cmov,
    Pat,
    Pse36,
    Clflush,
    Mmx,
    Fxsr,
    Sse,
    Sse2,
    Ss,
    Ht,
    X2apic,
    TscDeadline,
    Hypervisor,
    Arat,
    TscAdjust,
    SpecCtrl,
    Stibp,
    ArchCapabilities,
    Ssbd,
    BhiCtrl,
    Syscall,
    Nx,
    Rdtscp,
    Lm,
    NonstopTsc,
]);

/// x86-64-v2 of the psABI, table 3.1, with what each server CPU of that level has.
const V2: FeatureSet = V1.union(FeatureSet::of(&[Cx16, LahfLm, Popcnt, Sse3, Sse41, Sse42, Ssse3, Pcid, Pdpe1gb]));

/// x86-64-v3 of the psABI, table 3.1, with what each current server CPU of that level has.
const V3: FeatureSet = V2.union(FeatureSet::of(&[
    Avx, Avx2, Bmi1, Bmi2, F16c, Fma, Abm, Movbe, Xsave, Xsaveopt, Xsavec, Xgetbv1, Aes, Pclmulqdq, ShaNi, Rdrand,
    Rdseed, Adx, Fsgsbase, Invpcid, Smep, Smap, Umip, Erms, Fsrm, Clflushopt, Rdpid,
]));

impl Baseline {
    const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    const fn name(self) -> &'static str {
        match self {
            Self::V1 => "x86-64-v1",
            Self::V2 => "x86-64-v2",
            Self::V3 => "x86-64-v3",
        }
    }

    const fn features(self) -> FeatureSet {
        match self {
            Self::V1 => V1,
            Self::V2 => V2,
            Self::V3 => V3,
        }
    }
}

impl CpuModel {
    /// The names that [`CpuModel::named`] knows, the least first.
    pub const NAMES: &[&str] = &[Baseline::V1.name(), Baseline::V2.name(), Baseline::V3.name()];

    /// The baseline of this name, one of [`CpuModel::NAMES`].
    ///
    /// # Errors
    /// [`ModelError::Unknown`] for any other name.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        Baseline::ALL
            .into_iter()
            .find(|baseline| baseline.name() == name)
            .map(|baseline| Self { baseline, features: baseline.features() })
            .ok_or_else(|| ModelError::Unknown(name.to_owned()))
    }

    /// The name of the baseline.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.baseline.name()
    }

    /// Whether it offers `feature`.
    #[must_use]
    pub const fn has(&self, feature: Feature) -> bool {
        self.features.has(feature)
    }

    /// What it offers.
    pub fn features(&self) -> impl Iterator<Item = Feature> {
        self.features.iter()
    }

    /// What it offers, as a set.
    #[must_use]
    pub const fn feature_set(&self) -> FeatureSet {
        self.features
    }

    /// Without `feature` and all that builds on it.
    #[must_use]
    pub fn without(self, feature: Feature) -> Self {
        self.only(FeatureSet::of(Feature::ALL).difference(FeatureSet::of(&[feature])))
    }

    /// Without what is not in `allowed`, and all that builds on it.
    #[must_use]
    pub fn only(self, allowed: FeatureSet) -> Self {
        Self { features: self.features.intersection(allowed).closed(), ..self }
    }

    /// What both offer, under the name of this one.
    #[must_use]
    pub fn intersect(self, other: &Self) -> Self {
        self.only(other.features)
    }

    /// Whether `ceiling` offers all that it offers.
    #[must_use]
    pub const fn is_subset_of(&self, ceiling: &Self) -> bool {
        self.features.difference(ceiling.features).is_empty()
    }

    /// What it offers and `ceiling` does not.
    #[must_use]
    pub fn missing_from(&self, ceiling: &Self) -> Vec<Feature> {
        self.features.difference(ceiling.features).iter().collect()
    }

    /// Family, model and stepping, EAX of leaf 1 (SDM vol. 2A, figure 3-6): family 6, model FEH, stepping 1. Nobody knows
    /// that model, so nobody takes it for one that has more than CPUID tells (compilers choose code by model numbers), nor
    /// for one of those by which kernels decide on mitigations that IA32_ARCH_CAPABILITIES speaks of.
    #[must_use]
    pub const fn signature(&self) -> u32 {
        0x000f_06e1
    }

    /// The value of IA32_ARCH_CAPABILITIES, zero if the model does not offer it.
    ///
    /// For the software engine only; on a CPU that speculates, the host's own value is the ceiling. All that it says
    /// "no" to are leaks by speculative execution. The software engine does not speculate on the
    /// guest's instructions, keeps the guest's memory behind its own page walk, and has no buffer that one guest context
    /// shares with another, so a guest would pay for its mitigations and gain nothing.
    #[must_use]
    pub const fn arch_capabilities(&self) -> u64 {
        use arch_capabilities::*;
        if !self.has(ArchCapabilities) {
            return 0;
        }
        let ibrs_all = if self.has(SpecCtrl) { IBRS_ALL } else { 0 };
        ibrs_all
            | RDCL_NO
            | SKIP_L1DFL_VMENTRY
            | SSB_NO
            | MDS_NO
            | IF_PSCHANGE_MC_NO
            | TAA_NO
            | SBDR_SSDP_NO
            | FBSDP_NO
            | PSDP_NO
            | BHI_NO
            | PBRSB_NO
            | GDS_NO
            | RFDS_NO
            | ITS_NO
    }

    /// The bits of IA32_SPEC_CTRL that software may set; a write of others, and any access if it is zero, raises #GP.
    #[must_use]
    pub const fn spec_ctrl_mask(&self) -> u64 {
        (if self.has(SpecCtrl) { spec_ctrl::IBRS } else { 0 })
            | (if self.has(Stibp) { spec_ctrl::STIBP } else { 0 })
            | (if self.has(Ssbd) { spec_ctrl::SSBD } else { 0 })
            | (if self.has(BhiCtrl) { spec_ctrl::BHI_DIS_S } else { 0 })
    }

    /// The components that XCR0 may enable (SDM vol. 1, 13.3); zero without XSAVE.
    #[must_use]
    pub const fn xcr0_mask(&self) -> u64 {
        use crate::bits::xcr0;
        match (self.has(Xsave), self.has(Avx)) {
            (false, _) => 0,
            (true, false) => xcr0::X87 | xcr0::SSE,
            (true, true) => xcr0::X87 | xcr0::SSE | xcr0::AVX,
        }
    }

    /// The bits of CR4 that software may set (SDM vol. 3A, 2.5); others raise #GP.
    #[must_use]
    pub fn cr4_mask(&self) -> u64 {
        use crate::bits::cr4;
        let by_feature = [
            (Vme, cr4::VME | cr4::PVI),
            (Tsc, cr4::TSD),
            (De, cr4::DE),
            (Pse, cr4::PSE),
            (Pae, cr4::PAE),
            (Mce, cr4::MCE),
            (Pge, cr4::PGE),
            (Fxsr, cr4::OSFXSR),
            (Sse, cr4::OSXMMEXCPT),
            (Umip, cr4::UMIP),
            (Fsgsbase, cr4::FSGSBASE),
            (Pcid, cr4::PCIDE),
            (Xsave, cr4::OSXSAVE),
            (Smep, cr4::SMEP),
            (Smap, cr4::SMAP),
        ];
        // RDPMC exists on each P6 and so does its bit, with no counters behind it here.
        by_feature.iter().filter(|(feature, _)| self.has(*feature)).fold(cr4::PCE, |mask, (_, bits)| mask | bits)
    }

    /// The bits of IA32_EFER that software may set (SDM vol. 3A, 2.2.1), the read-only LMA not among them.
    #[must_use]
    pub const fn efer_mask(&self) -> u64 {
        use crate::bits::efer;
        (if self.has(Syscall) { efer::SCE } else { 0 })
            | (if self.has(Lm) { efer::LME } else { 0 })
            | (if self.has(Nx) { efer::NXE } else { 0 })
    }
}

#[cfg(test)]
mod tests;

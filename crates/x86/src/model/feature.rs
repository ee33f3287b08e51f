//! The CPUID feature flags, with their places in the answers, and sets of them.

/// A register of a CPUID answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the registers' own names")]
pub enum Register {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// Where CPUID shows a feature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The leaf, EAX of the question.
    pub leaf: u32,
    /// The sub-leaf, ECX of the question.
    pub subleaf: u32,
    /// The register of the answer.
    pub register: Register,
    /// The bit in it.
    pub bit: u8,
}

macro_rules! features {
    ($($feature:ident $name:literal $leaf:literal.$subleaf:literal $register:ident $bit:literal, $what:literal;)*) => {
        /// A feature flag of CPUID that a model can offer (SDM vol. 2A, CPUID).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Feature {
            $(#[doc = $what] $feature,)*
        }

        impl Feature {
            /// All of them, in the order of their values.
            pub const ALL: &[Feature] = &[$(Feature::$feature,)*];

            /// Its name, as Linux spells it in `/proc/cpuinfo` where it shows there.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Feature::$feature => $name,)*
                }
            }

            /// Where CPUID shows it.
            #[must_use]
            pub const fn place(self) -> Place {
                match self {
                    $(Feature::$feature =>
                        Place { leaf: $leaf, subleaf: $subleaf, register: Register::$register, bit: $bit },)*
                }
            }
        }
    };
}

features! {
    Fpu "fpu" 1 . 0 Edx 0, "An x87 unit.";
    Vme "vme" 1 . 0 Edx 1, "Virtual-8086 mode extensions.";
    De "de" 1 . 0 Edx 2, "Breakpoints on I/O.";
    Pse "pse" 1 . 0 Edx 3, "Pages of 4 MiB.";
    Tsc "tsc" 1 . 0 Edx 4, "RDTSC.";
    Msr "msr" 1 . 0 Edx 5, "RDMSR and WRMSR.";
    Pae "pae" 1 . 0 Edx 6, "Physical addresses beyond 32 bits.";
    Mce "mce" 1 . 0 Edx 7, "The machine-check exception.";
    Cx8 "cx8" 1 . 0 Edx 8, "CMPXCHG8B.";
    Apic "apic" 1 . 0 Edx 9, "A local APIC; shows only while it is enabled.";
    Sep "sep" 1 . 0 Edx 11, "SYSENTER and SYSEXIT.";
    Mtrr "mtrr" 1 . 0 Edx 12, "Memory type range registers.";
    Pge "pge" 1 . 0 Edx 13, "Global pages.";
    Mca "mca" 1 . 0 Edx 14, "The machine-check architecture.";
    Cmov "cmov" 1 . 0 Edx 15, "CMOVcc and FCMOVcc.";
    Pat "pat" 1 . 0 Edx 16, "The page attribute table.";
    Pse36 "pse36" 1 . 0 Edx 17, "Pages of 4 MiB beyond 32 bits.";
    Clflush "clflush" 1 . 0 Edx 19, "CLFLUSH.";
    Mmx "mmx" 1 . 0 Edx 23, "MMX.";
    Fxsr "fxsr" 1 . 0 Edx 24, "FXSAVE and FXRSTOR.";
    Sse "sse" 1 . 0 Edx 25, "SSE.";
    Sse2 "sse2" 1 . 0 Edx 26, "SSE2.";
    Ss "ss" 1 . 0 Edx 27, "Self-snoop.";
    Ht "ht" 1 . 0 Edx 28, "More than one logical processor in the package; shows only where there are.";
    Sse3 "pni" 1 . 0 Ecx 0, "SSE3.";
    Pclmulqdq "pclmulqdq" 1 . 0 Ecx 1, "Carry-less multiplication.";
    Ssse3 "ssse3" 1 . 0 Ecx 9, "SSSE3.";
    Fma "fma" 1 . 0 Ecx 12, "Fused multiply-add.";
    Cx16 "cx16" 1 . 0 Ecx 13, "CMPXCHG16B.";
    Pcid "pcid" 1 . 0 Ecx 17, "Process-context identifiers.";
    Sse41 "sse4_1" 1 . 0 Ecx 19, "SSE4.1.";
    Sse42 "sse4_2" 1 . 0 Ecx 20, "SSE4.2.";
    X2apic "x2apic" 1 . 0 Ecx 21, "The x2APIC mode of the local APIC.";
    Movbe "movbe" 1 . 0 Ecx 22, "MOVBE.";
    Popcnt "popcnt" 1 . 0 Ecx 23, "POPCNT.";
    TscDeadline "tsc_deadline_timer" 1 . 0 Ecx 24, "The TSC-deadline mode of the APIC timer.";
    Aes "aes" 1 . 0 Ecx 25, "AES instructions.";
    Xsave "xsave" 1 . 0 Ecx 26, "XSAVE, XRSTOR, XSETBV, XGETBV; OSXSAVE follows CR4.";
    Avx "avx" 1 . 0 Ecx 28, "AVX.";
    F16c "f16c" 1 . 0 Ecx 29, "Conversions of half-precision numbers.";
    Rdrand "rdrand" 1 . 0 Ecx 30, "RDRAND.";
    Hypervisor "hypervisor" 1 . 0 Ecx 31, "Runs in a virtual machine.";
    Arat "arat" 6 . 0 Eax 2, "The APIC timer never stops.";
    Fsgsbase "fsgsbase" 7 . 0 Ebx 0, "RDFSBASE and its kin.";
    TscAdjust "tsc_adjust" 7 . 0 Ebx 1, "IA32_TSC_ADJUST.";
    Bmi1 "bmi1" 7 . 0 Ebx 3, "BMI1.";
    Avx2 "avx2" 7 . 0 Ebx 5, "AVX2.";
    Smep "smep" 7 . 0 Ebx 7, "Supervisor-mode execution prevention.";
    Bmi2 "bmi2" 7 . 0 Ebx 8, "BMI2.";
    Erms "erms" 7 . 0 Ebx 9, "Fast REP MOVSB and STOSB.";
    Invpcid "invpcid" 7 . 0 Ebx 10, "INVPCID.";
    Rdseed "rdseed" 7 . 0 Ebx 18, "RDSEED.";
    Adx "adx" 7 . 0 Ebx 19, "ADCX and ADOX.";
    Smap "smap" 7 . 0 Ebx 20, "Supervisor-mode access prevention.";
    Clflushopt "clflushopt" 7 . 0 Ebx 23, "CLFLUSHOPT.";
    ShaNi "sha_ni" 7 . 0 Ebx 29, "SHA instructions.";
    Umip "umip" 7 . 0 Ecx 2, "User-mode instruction prevention.";
    Rdpid "rdpid" 7 . 0 Ecx 22, "RDPID.";
    Fsrm "fsrm" 7 . 0 Edx 4, "Fast short REP MOVSB.";
    SpecCtrl "spec_ctrl" 7 . 0 Edx 26, "IBRS and IBPB: IA32_SPEC_CTRL and IA32_PRED_CMD.";
    Stibp "stibp" 7 . 0 Edx 27, "STIBP in IA32_SPEC_CTRL.";
    ArchCapabilities "arch_capabilities" 7 . 0 Edx 29, "IA32_ARCH_CAPABILITIES.";
    Ssbd "ssbd" 7 . 0 Edx 31, "SSBD in IA32_SPEC_CTRL.";
    BhiCtrl "bhi_ctrl" 7 . 2 Edx 4, "BHI_DIS_S in IA32_SPEC_CTRL.";
    Xsaveopt "xsaveopt" 0xd . 1 Eax 0, "XSAVEOPT.";
    Xsavec "xsavec" 0xd . 1 Eax 1, "XSAVEC and the compacted format.";
    Xgetbv1 "xgetbv1" 0xd . 1 Eax 2, "XGETBV with ECX = 1.";
    LahfLm "lahf_lm" 0x8000_0001 . 0 Ecx 0, "LAHF and SAHF in 64-bit mode.";
    Abm "abm" 0x8000_0001 . 0 Ecx 5, "LZCNT.";
    Syscall "syscall" 0x8000_0001 . 0 Edx 11, "SYSCALL and SYSRET in 64-bit mode.";
    Nx "nx" 0x8000_0001 . 0 Edx 20, "Pages that cannot be executed.";
    Pdpe1gb "pdpe1gb" 0x8000_0001 . 0 Edx 26, "Pages of 1 GiB.";
    Rdtscp "rdtscp" 0x8000_0001 . 0 Edx 27, "RDTSCP and IA32_TSC_AUX.";
    Lm "lm" 0x8000_0001 . 0 Edx 29, "Long mode.";
    NonstopTsc "nonstop_tsc" 0x8000_0007 . 0 Edx 8, "The time-stamp counter runs at a constant rate and never stops.";
}

/// What a feature builds on: without the second, the first cannot be offered (the SDM's
/// rules of detection, as in vol. 1, 13.2 and 14.3).
const REQUIRES: &[(Feature, Feature)] = {
    use Feature::*;
    &[
        (Sse, Fxsr),
        (Sse2, Sse),
        (Sse3, Sse2),
        (Ssse3, Sse3),
        (Sse41, Ssse3),
        (Sse42, Sse41),
        (Aes, Sse2),
        (Pclmulqdq, Sse2),
        (ShaNi, Sse2),
        (Xsave, Fxsr),
        (Avx, Sse42),
        (Avx, Xsave),
        (Avx2, Avx),
        (Fma, Avx),
        (F16c, Avx),
        (Xsaveopt, Xsave),
        (Xsavec, Xsave),
        (Xgetbv1, Xsave),
        (X2apic, Apic),
        (TscDeadline, Apic),
        (TscDeadline, Tsc),
        (Arat, Apic),
        (TscAdjust, Tsc),
        (Rdtscp, Tsc),
        (NonstopTsc, Tsc),
        (Pse36, Pse),
        (Mca, Mce),
        (Lm, Pae),
        (Nx, Pae),
        (Syscall, Lm),
        (LahfLm, Lm),
        (Pdpe1gb, Lm),
        (Pcid, Lm),
        (Fsrm, Erms),
        (Stibp, SpecCtrl),
        (BhiCtrl, SpecCtrl),
    ]
};

impl Feature {
    /// The feature of this [`Feature::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|feature| feature.name() == name)
    }
}

impl std::fmt::Display for Feature {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

/// A set of features.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct FeatureSet(u128);

impl FeatureSet {
    /// None.
    pub const EMPTY: Self = Self(0);

    /// These.
    #[must_use]
    pub const fn of(features: &[Feature]) -> Self {
        let mut set = 0;
        let mut i = 0;
        while i < features.len() {
            set |= 1 << features[i] as u8;
            i += 1;
        }
        Self(set)
    }

    /// Whether `feature` is in it.
    #[must_use]
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & 1 << feature as u8 != 0
    }

    /// What is in either.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub const fn difference(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, in the order of [`Feature::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Feature> {
        Feature::ALL.iter().copied().filter(move |&feature| self.has(feature))
    }

    /// Without what lacks something that it builds on.
    #[must_use]
    pub(super) fn closed(self) -> Self {
        let mut set = self;
        loop {
            let orphans: u128 = REQUIRES
                .iter()
                .filter(|&&(feature, base)| set.has(feature) && !set.has(base))
                .fold(0, |mask, &(feature, _)| mask | 1 << feature as u8);
            if orphans == 0 {
                return set;
            }
            set.0 &= !orphans;
        }
    }
}

impl std::fmt::Debug for FeatureSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.iter().map(Feature::name)).finish()
    }
}

//! Model-specific register numbers, by the names of the SDM (vol. 4, chapter 2, table 2-2).
#![allow(missing_docs, reason = "the SDM's own names")]

pub const IA32_P5_MC_ADDR: u32 = 0x0;
pub const IA32_P5_MC_TYPE: u32 = 0x1;
pub const IA32_MONITOR_FILTER_SIZE: u32 = 0x6;
pub const IA32_TIME_STAMP_COUNTER: u32 = 0x10;
pub const IA32_PLATFORM_ID: u32 = 0x17;
pub const IA32_APIC_BASE: u32 = 0x1b;
pub const MSR_EBL_CR_POWERON: u32 = 0x2a;
pub const MSR_SMI_COUNT: u32 = 0x34;
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
pub const IA32_TSC_ADJUST: u32 = 0x3b;
pub const IA32_SPEC_CTRL: u32 = 0x48;
pub const IA32_PRED_CMD: u32 = 0x49;
pub const IA32_BIOS_UPDT_TRIG: u32 = 0x79;
pub const IA32_BIOS_SIGN_ID: u32 = 0x8b;
pub const IA32_PMC0: u32 = 0xc1;
pub const MSR_PLATFORM_INFO: u32 = 0xce;
pub const IA32_CORE_CAPABILITIES: u32 = 0xcf;
pub const IA32_MPERF: u32 = 0xe7;
pub const IA32_APERF: u32 = 0xe8;
pub const IA32_MTRRCAP: u32 = 0xfe;
pub const IA32_ARCH_CAPABILITIES: u32 = 0x10a;
pub const IA32_FLUSH_CMD: u32 = 0x10b;
pub const IA32_TSX_CTRL: u32 = 0x122;
pub const MSR_MISC_FEATURES_ENABLES: u32 = 0x140;
pub const IA32_SYSENTER_CS: u32 = 0x174;
pub const IA32_SYSENTER_ESP: u32 = 0x175;
pub const IA32_SYSENTER_EIP: u32 = 0x176;
pub const IA32_MCG_CAP: u32 = 0x179;
pub const IA32_MCG_STATUS: u32 = 0x17a;
pub const IA32_MCG_CTL: u32 = 0x17b;
pub const IA32_PERFEVTSEL0: u32 = 0x186;
pub const IA32_PERF_STATUS: u32 = 0x198;
pub const IA32_PERF_CTL: u32 = 0x199;
pub const IA32_CLOCK_MODULATION: u32 = 0x19a;
pub const IA32_THERM_INTERRUPT: u32 = 0x19b;
pub const IA32_THERM_STATUS: u32 = 0x19c;
pub const IA32_MISC_ENABLE: u32 = 0x1a0;
pub const IA32_ENERGY_PERF_BIAS: u32 = 0x1b0;
pub const IA32_DEBUGCTL: u32 = 0x1d9;
pub const MSR_LASTBRANCHFROMIP: u32 = 0x1db;
pub const MSR_LASTBRANCHTOIP: u32 = 0x1dc;
pub const MSR_LASTINTFROMIP: u32 = 0x1dd;
pub const MSR_LASTINTTOIP: u32 = 0x1de;
/// The base of the first variable MTRR; base and mask alternate up to [`IA32_MTRR_PHYSMASK7`].
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;
pub const IA32_MTRR_PHYSMASK0: u32 = 0x201;
pub const IA32_MTRR_PHYSMASK7: u32 = 0x20f;
pub const IA32_MTRR_FIX64K_00000: u32 = 0x250;
pub const IA32_MTRR_FIX16K_80000: u32 = 0x258;
pub const IA32_MTRR_FIX16K_A0000: u32 = 0x259;
/// The first of eight; they go up to [`IA32_MTRR_FIX4K_F8000`].
pub const IA32_MTRR_FIX4K_C0000: u32 = 0x268;
pub const IA32_MTRR_FIX4K_F8000: u32 = 0x26f;
pub const IA32_PAT: u32 = 0x277;
/// The first of the CMCI controls, one for each bank.
pub const IA32_MC0_CTL2: u32 = 0x280;
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
pub const IA32_PERF_CAPABILITIES: u32 = 0x345;
pub const IA32_FIXED_CTR_CTRL: u32 = 0x38d;
pub const IA32_PERF_GLOBAL_STATUS: u32 = 0x38e;
pub const IA32_PERF_GLOBAL_CTRL: u32 = 0x38f;
pub const IA32_PERF_GLOBAL_OVF_CTRL: u32 = 0x390;
/// Machine-check bank 0; CTL, STATUS, ADDR and MISC follow each other, bank by bank.
pub const IA32_MC0_CTL: u32 = 0x400;
pub const IA32_MC0_STATUS: u32 = 0x401;
pub const IA32_MC0_ADDR: u32 = 0x402;
pub const IA32_MC0_MISC: u32 = 0x403;
pub const IA32_VMX_BASIC: u32 = 0x480;
pub const IA32_DS_AREA: u32 = 0x600;
pub const MSR_RAPL_POWER_UNIT: u32 = 0x606;
pub const IA32_TSC_DEADLINE: u32 = 0x6e0;
/// The first of the MSRs through which x2APIC registers are reached (SDM vol. 3A, 11.12.1.2).
pub const IA32_X2APIC_FIRST: u32 = 0x800;
pub const IA32_X2APIC_APICID: u32 = 0x802;
pub const IA32_X2APIC_VERSION: u32 = 0x803;
pub const IA32_X2APIC_TPR: u32 = 0x808;
pub const IA32_X2APIC_PPR: u32 = 0x80a;
pub const IA32_X2APIC_EOI: u32 = 0x80b;
pub const IA32_X2APIC_LDR: u32 = 0x80d;
pub const IA32_X2APIC_SIVR: u32 = 0x80f;
pub const IA32_X2APIC_ISR0: u32 = 0x810;
pub const IA32_X2APIC_TMR0: u32 = 0x818;
pub const IA32_X2APIC_IRR0: u32 = 0x820;
pub const IA32_X2APIC_ESR: u32 = 0x828;
pub const IA32_X2APIC_LVT_CMCI: u32 = 0x82f;
pub const IA32_X2APIC_ICR: u32 = 0x830;
pub const IA32_X2APIC_LVT_TIMER: u32 = 0x832;
pub const IA32_X2APIC_LVT_THERMAL: u32 = 0x833;
pub const IA32_X2APIC_LVT_PMI: u32 = 0x834;
pub const IA32_X2APIC_LVT_LINT0: u32 = 0x835;
pub const IA32_X2APIC_LVT_LINT1: u32 = 0x836;
pub const IA32_X2APIC_LVT_ERROR: u32 = 0x837;
pub const IA32_X2APIC_INIT_COUNT: u32 = 0x838;
pub const IA32_X2APIC_CUR_COUNT: u32 = 0x839;
pub const IA32_X2APIC_DIV_CONF: u32 = 0x83e;
pub const IA32_X2APIC_SELF_IPI: u32 = 0x83f;
/// The last of the x2APIC range; what has no register there raises #GP.
pub const IA32_X2APIC_LAST: u32 = 0x8ff;
pub const IA32_XSS: u32 = 0xda0;
pub const MSR_KVM_WALL_CLOCK: u32 = 0x11;
pub const MSR_KVM_SYSTEM_TIME: u32 = 0x12;
pub const MSR_KVM_WALL_CLOCK_NEW: u32 = 0x4b56_4d00;
pub const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;
pub const IA32_EFER: u32 = 0xc000_0080;
pub const IA32_STAR: u32 = 0xc000_0081;
pub const IA32_LSTAR: u32 = 0xc000_0082;
pub const IA32_CSTAR: u32 = 0xc000_0083;
pub const IA32_FMASK: u32 = 0xc000_0084;
pub const IA32_FS_BASE: u32 = 0xc000_0100;
pub const IA32_GS_BASE: u32 = 0xc000_0101;
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;
pub const IA32_TSC_AUX: u32 = 0xc000_0103;

/// IA32_APIC_BASE (SDM vol. 3A, 11.4.4 and 11.12.1).
pub mod apic_base {
    pub const BSP: u64 = 1 << 8;
    pub const EXTD: u64 = 1 << 10;
    pub const EN: u64 = 1 << 11;
    /// The page address, up to the width of a physical address.
    pub const BASE: u64 = 0x000f_ffff_ffff_f000;
}

/// IA32_ARCH_CAPABILITIES (SDM vol. 4, table 2-2).
pub mod arch_capabilities {
    pub const RDCL_NO: u64 = 1;
    pub const IBRS_ALL: u64 = 1 << 1;
    pub const SKIP_L1DFL_VMENTRY: u64 = 1 << 3;
    pub const SSB_NO: u64 = 1 << 4;
    pub const MDS_NO: u64 = 1 << 5;
    pub const IF_PSCHANGE_MC_NO: u64 = 1 << 6;
    pub const TAA_NO: u64 = 1 << 8;
    pub const SBDR_SSDP_NO: u64 = 1 << 13;
    pub const FBSDP_NO: u64 = 1 << 14;
    pub const PSDP_NO: u64 = 1 << 15;
    pub const BHI_NO: u64 = 1 << 20;
    pub const PBRSB_NO: u64 = 1 << 24;
    pub const GDS_NO: u64 = 1 << 26;
    pub const RFDS_NO: u64 = 1 << 27;
    pub const ITS_NO: u64 = 1 << 62;
}

/// IA32_SPEC_CTRL (SDM vol. 4, table 2-2).
pub mod spec_ctrl {
    pub const IBRS: u64 = 1;
    pub const STIBP: u64 = 1 << 1;
    pub const SSBD: u64 = 1 << 2;
    /// No branch history from outside in the supervisor. There is none to begin with; kernels that do not ask
    /// IA32_ARCH_CAPABILITIES in time clear theirs at each system call unless they can set this.
    pub const BHI_DIS_S: u64 = 1 << 10;
}

/// IA32_MISC_ENABLE (SDM vol. 4, table 2-2).
pub mod misc_enable {
    pub const FAST_STRING: u64 = 1;
    pub const THERMAL_CONTROL: u64 = 1 << 3;
    pub const PERFMON: u64 = 1 << 7;
    pub const BTS_UNAVAILABLE: u64 = 1 << 11;
    pub const PEBS_UNAVAILABLE: u64 = 1 << 12;
    pub const SPEEDSTEP: u64 = 1 << 16;
    pub const MONITOR: u64 = 1 << 18;
    pub const LIMIT_CPUID_MAXVAL: u64 = 1 << 22;
    pub const XD_DISABLE: u64 = 1 << 34;
}

/// IA32_FEATURE_CONTROL (SDM vol. 4, table 2-2).
pub mod feature_control {
    pub const LOCK: u64 = 1;
}

/// IA32_MCG_CAP and IA32_MCG_STATUS (SDM vol. 3B, 16.3.1).
pub mod mcg {
    pub const CAP_COUNT: u64 = 0xff;
    pub const CAP_CTL_P: u64 = 1 << 8;
    pub const STATUS_RIPV: u64 = 1;
    pub const STATUS_EIPV: u64 = 1 << 1;
    pub const STATUS_MCIP: u64 = 1 << 2;
}

/// IA32_MTRRCAP and IA32_MTRR_DEF_TYPE (SDM vol. 3A, 12.11).
pub mod mtrr {
    pub const CAP_VCNT: u64 = 0xff;
    pub const CAP_FIX: u64 = 1 << 8;
    pub const CAP_WC: u64 = 1 << 10;
    pub const DEF_TYPE: u64 = 0xff;
    pub const DEF_FE: u64 = 1 << 10;
    pub const DEF_E: u64 = 1 << 11;
    pub const MASK_V: u64 = 1 << 11;
}

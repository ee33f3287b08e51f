//! The bits of the control registers, RFLAGS and page-table entries by their names in the SDM.

/// RFLAGS (SDM vol. 1, 3.4.3).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod rflags {
    pub const CF: u64 = 1;
    pub const ONE: u64 = 1 << 1;
    pub const PF: u64 = 1 << 2;
    pub const AF: u64 = 1 << 4;
    pub const ZF: u64 = 1 << 6;
    pub const SF: u64 = 1 << 7;
    pub const TF: u64 = 1 << 8;
    pub const IF: u64 = 1 << 9;
    pub const DF: u64 = 1 << 10;
    pub const OF: u64 = 1 << 11;
    pub const IOPL: u64 = 3 << 12;
    pub const NT: u64 = 1 << 14;
    pub const RF: u64 = 1 << 16;
    pub const VM: u64 = 1 << 17;
    pub const AC: u64 = 1 << 18;
    pub const VIF: u64 = 1 << 19;
    pub const VIP: u64 = 1 << 20;
    pub const ID: u64 = 1 << 21;
    /// CF, PF, AF, ZF, SF, OF: what arithmetic sets.
    pub const STATUS: u64 = CF | PF | AF | ZF | SF | OF;
}

/// CR0 (SDM vol. 3A, 2.5).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod cr0 {
    pub const PE: u64 = 1;
    pub const MP: u64 = 1 << 1;
    pub const EM: u64 = 1 << 2;
    pub const TS: u64 = 1 << 3;
    pub const ET: u64 = 1 << 4;
    pub const NE: u64 = 1 << 5;
    pub const WP: u64 = 1 << 16;
    pub const AM: u64 = 1 << 18;
    pub const NW: u64 = 1 << 29;
    pub const CD: u64 = 1 << 30;
    pub const PG: u64 = 1 << 31;
}

/// CR4 (SDM vol. 3A, 2.5).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod cr4 {
    pub const VME: u64 = 1;
    pub const PVI: u64 = 1 << 1;
    pub const TSD: u64 = 1 << 2;
    pub const DE: u64 = 1 << 3;
    pub const PSE: u64 = 1 << 4;
    pub const PAE: u64 = 1 << 5;
    pub const MCE: u64 = 1 << 6;
    pub const PGE: u64 = 1 << 7;
    pub const PCE: u64 = 1 << 8;
    pub const OSFXSR: u64 = 1 << 9;
    pub const OSXMMEXCPT: u64 = 1 << 10;
    pub const UMIP: u64 = 1 << 11;
    pub const FSGSBASE: u64 = 1 << 16;
    pub const PCIDE: u64 = 1 << 17;
    pub const OSXSAVE: u64 = 1 << 18;
    pub const SMEP: u64 = 1 << 20;
    pub const SMAP: u64 = 1 << 21;
}

/// XCR0 (SDM vol. 3A, 2.6).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod xcr0 {
    pub const X87: u64 = 1;
    pub const SSE: u64 = 1 << 1;
    pub const AVX: u64 = 1 << 2;
}

/// DR6 (SDM vol. 3B, 18.2.3).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod dr6 {
    pub const B0: u64 = 1;
    pub const B1: u64 = 1 << 1;
    pub const B2: u64 = 1 << 2;
    pub const B3: u64 = 1 << 3;
    /// B0 to B3.
    pub const B: u64 = 15;
    pub const BD: u64 = 1 << 13;
    pub const BS: u64 = 1 << 14;
    pub const BT: u64 = 1 << 15;
    /// The bits that are always set.
    pub const ONES: u64 = 0xffff_0ff0;
    /// The bits that software can change; the rest is [`ONES`] and zero.
    pub const WRITABLE: u64 = B | BD | BS | BT;
}

/// DR7 (SDM vol. 3B, 18.2.4).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod dr7 {
    /// L0, G0 to L3, G3.
    pub const ENABLES: u64 = 0xff;
    /// L0, L1, L2, L3: what a task switch clears.
    pub const LOCAL_ENABLES: u64 = 0x55;
    pub const LE: u64 = 1 << 8;
    pub const GE: u64 = 1 << 9;
    /// The bit that is always set.
    pub const ONES: u64 = 1 << 10;
    pub const GD: u64 = 1 << 13;
    /// The bits that software can change.
    pub const WRITABLE: u64 = 0xffff_23ff;
}

/// MXCSR (SDM vol. 1, 10.2.3).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod mxcsr {
    pub const IE: u32 = 1;
    pub const DE: u32 = 1 << 1;
    pub const ZE: u32 = 1 << 2;
    pub const OE: u32 = 1 << 3;
    pub const UE: u32 = 1 << 4;
    pub const PE: u32 = 1 << 5;
    pub const DAZ: u32 = 1 << 6;
    /// The exception flags.
    pub const FLAGS: u32 = 0x3f;
    /// The exception masks, each 7 bits above its flag.
    pub const MASKS: u32 = FLAGS << 7;
    pub const RC: u32 = 3 << 13;
    pub const FZ: u32 = 1 << 15;
    /// The bits that exist: MXCSR_MASK of FXSAVE; others raise #GP.
    pub const WRITABLE: u32 = 0xffff;
    /// After power-on.
    pub const POWER_ON: u32 = 0x1f80;
}

/// IA32_DEBUGCTL (SDM vol. 3B, 18.4.1).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod debugctl {
    pub const LBR: u64 = 1;
    pub const BTF: u64 = 1 << 1;
}

/// IA32_EFER (SDM vol. 3A, 2.2.1).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod efer {
    pub const SCE: u64 = 1;
    pub const LME: u64 = 1 << 8;
    pub const LMA: u64 = 1 << 10;
    pub const NXE: u64 = 1 << 11;
}

/// Page-table entries (SDM vol. 3A, 4.5).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod pte {
    pub const P: u64 = 1;
    pub const RW: u64 = 1 << 1;
    pub const US: u64 = 1 << 2;
    pub const PWT: u64 = 1 << 3;
    pub const PCD: u64 = 1 << 4;
    pub const A: u64 = 1 << 5;
    pub const D: u64 = 1 << 6;
    pub const PS: u64 = 1 << 7;
    pub const G: u64 = 1 << 8;
    pub const XD: u64 = 1 << 63;
}

/// The page-fault error code (SDM vol. 3A, 4.7).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod pfec {
    pub const P: u32 = 1;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

/// Exception vectors (SDM vol. 3A, 6.3.1).
#[allow(missing_docs, reason = "the SDM's own names")]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
}

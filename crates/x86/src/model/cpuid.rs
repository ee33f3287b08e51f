//! The answers of CPUID (SDM vol. 2A, CPUID, table 3-8).

use super::{CpuModel, Feature, Register};
use crate::lapic::TIMER_HZ;

/// What a CPUID answer depends on beside the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuidQuery {
    /// The x2APIC ID of the CPU that asks.
    pub apic_id: u32,
    /// The number of CPUs.
    pub vcpus: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// The enable bit of IA32_APIC_BASE.
    pub apic_enabled: bool,
    /// XCR0.
    pub xcr0: u64,
    /// The rate of the time-stamp counter, in hertz.
    pub tsc_hz: u64,
    /// The width of a physical address.
    pub phys_bits: u8,
}

impl Default for CpuidQuery {
    /// The only CPU of its machine after power-on.
    fn default() -> Self {
        Self { apic_id: 0, vcpus: 1, osxsave: false, apic_enabled: true, xcr0: 1, tsc_hz: TIMER_HZ, phys_bits: 40 }
    }
}

const HIGHEST_BASIC: u32 = 0x16;
const HYPERVISOR: u32 = 0x4000_0000;
const KVM_LEAF: u32 = HYPERVISOR + 1;
const KVM: &[u8] = b"KVMKVMKVM\0\0\0";
/// The paravirtual clock by its old and its new MSRs, and that it is the same on all CPUs; no others, since guests move
/// between engines.
const KVM_FEATURES: u32 = 1 | 1 << 3 | 1 << 24;
const HIGHEST_EXTENDED: u32 = 0x8000_0008;
/// XCR0's bit for the upper halves of the YMM registers.
const XCR0_AVX: u64 = 1 << 2;
/// The x87 and SSE area with the header (SDM vol. 1, 13.4).
const XSAVE_LEGACY: u32 = 576;
/// The AVX component.
const XSAVE_AVX: u32 = 256;

/// Four bytes of a text, as CPUID packs them.
const fn text(bytes: &[u8], at: usize) -> u32 {
    let mut word = 0;
    let mut i = 4;
    while i > 0 {
        i -= 1;
        word = word << 8 | if at + i < bytes.len() { bytes[at + i] as u32 } else { 0 };
    }
    word
}

/// EAX, EBX, ECX of leaf 4 for a cache with lines of 64 bytes; `kind` 1 data, 2 code, 3 unified.
const fn cache(kind: u32, level: u32, sharing: u32, cores: u32, ways: u32, sets: u32) -> [u32; 4] {
    // Self-initializing, and inclusive of nothing.
    let eax = kind | level << 5 | 1 << 8 | (sharing - 1) << 14 | (cores - 1) << 26;
    [eax, (ways - 1) << 22 | 63, sets - 1, 0]
}

impl CpuModel {
    /// The answer to CPUID with `leaf` in EAX and `subleaf` in ECX: EAX, EBX, ECX, EDX. Leaves beyond the highest get the
    /// answer of the highest basic leaf, as on Intel's processors.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, query: &CpuidQuery) -> [u32; 4] {
        let leaf = match leaf {
            0..=HIGHEST_BASIC | 0x8000_0000..=HIGHEST_EXTENDED => leaf,
            // The range set aside for hypervisors (SDM vol. 2A, CPUID: never used by processors).
            HYPERVISOR..=0x4fff_ffff if self.has(Feature::Hypervisor) => leaf,
            _ => HIGHEST_BASIC,
        };
        let mut answer = self.fixed(leaf, subleaf, query);
        // Only these leaves have sub-leaves among those with features.
        let subleaf = if matches!(leaf, 7 | 0xd) { subleaf } else { 0 };
        for feature in self.features() {
            let place = feature.place();
            let shows = match feature {
                Feature::Apic => query.apic_enabled,
                Feature::Ht => query.vcpus > 1,
                _ => true,
            };
            if shows && (place.leaf, place.subleaf) == (leaf, subleaf) {
                answer[place.register as usize] |= 1 << place.bit;
            }
        }
        answer
    }

    /// What is not a feature flag.
    fn fixed(&self, leaf: u32, subleaf: u32, query: &CpuidQuery) -> [u32; 4] {
        let vcpus = query.vcpus.max(1);
        // IDs are dealt out in powers of two.
        let ids = vcpus.checked_next_power_of_two().unwrap_or(1 << 31);
        match leaf {
            0 => vendor(HIGHEST_BASIC),
            1 => {
                let logical = if vcpus > 1 { ids.min(255) } else { 0 };
                // CLFLUSH works on 8 quadwords.
                let ebx = query.apic_id << 24 | logical << 16 | 8 << 8;
                let osxsave = self.has(Feature::Xsave) && query.osxsave;
                [self.signature(), ebx, u32::from(osxsave) << 27, 0]
            }
            // Descriptor FFH: leaf 4 tells.
            2 => [0xff01, 0, 0, 0],
            4 => {
                let cores = ids.min(64);
                match subleaf {
                    0 => cache(1, 1, 1, cores, 8, 64),
                    1 => cache(2, 1, 1, cores, 8, 64),
                    2 => cache(3, 2, 1, cores, 16, 2048),
                    3 => cache(3, 3, ids.min(4096), cores, 16, 16384),
                    _ => [0; 4],
                }
            }
            // The highest sub-leaf.
            7 if subleaf == 0 && self.has(Feature::BhiCtrl) => [2, 0, 0, 0],
            0xb => topology(subleaf, vcpus, ids, query.apic_id),
            0xd if self.has(Feature::Xsave) => self.xsave(subleaf, query),
            0x15 => crystal(query.tsc_hz),
            0x16 => {
                let mhz = u32::try_from(query.tsc_hz / 1_000_000).unwrap_or(0xffff).min(0xffff);
                [mhz, mhz, 100, 0]
            }
            // The name and the features of the paravirtual clock's interface (Linux, *KVM CPUID bits*), which all engines have.
            HYPERVISOR => [HYPERVISOR + 1, text(KVM, 0), text(KVM, 4), text(KVM, 8)],
            KVM_LEAF => [KVM_FEATURES, 0, 0, 0],
            0x8000_0000 => [HIGHEST_EXTENDED, 0, 0, 0],
            0x8000_0002..=0x8000_0004 => {
                let brand = format!("Husk {} CPU", self.name());
                let at = (leaf - 0x8000_0002) as usize * 16;
                [0, 4, 8, 12].map(|word| text(brand.as_bytes(), at + word))
            }
            // The second-level cache: 2 MiB, 16 ways (code 8), lines of 64 bytes.
            0x8000_0006 => [0, 0, 2048 << 16 | 8 << 12 | 64, 0],
            0x8000_0008 => [u32::from(query.phys_bits) | 48 << 8, 0, 0, 0],
            _ => [0; 4],
        }
    }

    /// Leaf DH (SDM vol. 1, 13.2).
    fn xsave(&self, subleaf: u32, query: &CpuidQuery) -> [u32; 4] {
        let avx = self.has(Feature::Avx);
        let size = |with_avx: bool| XSAVE_LEGACY + if with_avx { XSAVE_AVX } else { 0 };
        let current = size(query.xcr0 & XCR0_AVX != 0);
        match subleaf {
            0 => [self.xcr0_mask() as u32, current, size(avx), 0],
            // The compacted format of these three components has no gaps, and there are no supervisor components.
            1 if self.has(Feature::Xsavec) => [0, current, 0, 0],
            2 if avx => [XSAVE_AVX, XSAVE_LEGACY, 0, 0],
            _ => [0; 4],
        }
    }
}

/// Leaf 15H: the time-stamp counter as a ratio to the crystal, whose ticks the APIC timer counts (SDM vol. 3A, 11.5.4).
fn crystal(tsc_hz: u64) -> [u32; 4] {
    let (mut a, mut b) = (tsc_hz, TIMER_HZ);
    while b != 0 {
        (a, b) = (b, a % b);
    }
    let ratio = (u32::try_from(TIMER_HZ / a.max(1)), u32::try_from(tsc_hz / a.max(1)), u32::try_from(TIMER_HZ));
    match ratio {
        (Ok(denominator), Ok(numerator), Ok(hz)) => [denominator, numerator, hz, 0],
        _ => [0; 4],
    }
}

/// Leaf 0: the highest leaf and "GenuineIntel".
const fn vendor(highest: u32) -> [u32; 4] {
    const NAME: &[u8] = b"GenuineIntel";
    [highest, text(NAME, 0), text(NAME, 8), text(NAME, 4)]
}

/// Leaf BH, the x2APIC topology: one package, each CPU a core with one thread.
const fn topology(subleaf: u32, vcpus: u32, ids: u32, apic_id: u32) -> [u32; 4] {
    let number = subleaf & 0xff;
    let logical = if vcpus < 0xffff { vcpus } else { 0xffff };
    match subleaf {
        0 => [0, 1, 1 << 8, apic_id],
        1 => [ids.trailing_zeros(), logical, 2 << 8 | number, apic_id],
        _ => [0, 0, number, apic_id],
    }
}

// The order of the registers is that of the answer's words.
const _: () = assert!(Register::Eax as usize == 0 && Register::Edx as usize == 3);

//! CPUID as KVM is told to answer it: the model's own leaves, within what the host has.

use engine::{Error, Result};
use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, KVM_MAX_CPUID_ENTRIES, kvm_cpuid_entry2};
use kvm_ioctls::Kvm;
use x86::{CpuModel, CpuidQuery, Feature, FeatureSet, Register};

use crate::capabilities::Capabilities;

/// The first leaf of the hypervisor.
const HYPERVISOR: u32 = 0x4000_0000;
/// The widest physical address that a guest is told of, the same on each host so that guests can move.
const MOST_PHYS_BITS: u8 = 40;

/// What KVM does by itself whatever the host's CPU has, or what is a fact of the VM; not all kernels list it.
const BY_KVM: FeatureSet = FeatureSet::of(&[
    Feature::Ht,
    Feature::Ss,
    Feature::Hypervisor,
    Feature::Apic,
    Feature::X2apic,
    Feature::Arat,
    Feature::Mtrr,
    Feature::Mce,
    Feature::Mca,
    Feature::TscAdjust,
]);

/// What the host's CPU and its KVM offer together.
pub(crate) struct HostCpuid(CpuId);

impl HostCpuid {
    /// Asks `kvm`.
    pub(crate) fn of(kvm: &Kvm) -> Result<Self> {
        kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map(Self)
            .map_err(|error| Error::Host { what: "KVM does not tell its CPUID".into(), source: error.into() })
    }

    /// EAX, EBX, ECX, EDX of a leaf; zeroes if there is no such leaf.
    fn leaf(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        let found = self.0.as_slice().iter().find(|e| {
            let indexed = e.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX != 0;
            e.function == leaf && (!indexed || e.index == subleaf)
        });
        found.map_or([0; 4], |e| [e.eax, e.ebx, e.ecx, e.edx])
    }

    /// The most that a model may offer here.
    pub(crate) fn ceiling(&self, capabilities: &Capabilities) -> Result<CpuModel> {
        let full = CpuModel::NAMES.last().copied().unwrap_or_default();
        let full = CpuModel::named(full).map_err(|e| Error::Internal(e.to_string()))?;
        let has = |feature: Feature| {
            let place = feature.place();
            let answer = self.leaf(place.leaf, place.subleaf);
            let listed = match place.register {
                Register::Eax => answer[0],
                Register::Ebx => answer[1],
                Register::Ecx => answer[2],
                Register::Edx => answer[3],
            };
            listed >> place.bit & 1 != 0
                || BY_KVM.has(feature)
                || feature == Feature::TscDeadline && capabilities.tsc_deadline
        };
        let found: Vec<_> = full.features().filter(|feature| has(*feature)).collect();
        Ok(full.only(FeatureSet::of(&found)))
    }

    /// The width of a physical address that a guest is told of.
    fn phys_bits(&self) -> u8 {
        match self.leaf(0x8000_0008, 0)[0] as u8 {
            0 => 36,
            bits => bits.min(MOST_PHYS_BITS),
        }
    }

    /// All answers of vCPU `id` of `vcpus`.
    pub(crate) fn answers(&self, model: &CpuModel, id: u32, vcpus: u32, tsc_hz: u64) -> Result<CpuId> {
        let query = CpuidQuery { apic_id: id, vcpus, tsc_hz, phys_bits: self.phys_bits(), ..CpuidQuery::default() };
        let mut entries = Vec::new();
        let mut add = |leaf: u32, subleaf: u32, indexed: bool, [eax, ebx, ecx, edx]: [u32; 4]| {
            let flags = if indexed { KVM_CPUID_FLAG_SIGNIFCANT_INDEX } else { 0 };
            let entry =
                kvm_cpuid_entry2 { function: leaf, index: subleaf, flags, eax, ebx, ecx, edx, ..Default::default() };
            entries.push(entry);
        };
        let highest = model.cpuid(0, 0, &query)[0];
        for leaf in 0..=highest {
            let subleaves = match leaf {
                4 => 5,
                7 => model.cpuid(7, 0, &query)[0].saturating_add(1),
                0xb | 0xd => 3,
                _ => 1,
            };
            for subleaf in 0..subleaves.min(8) {
                let answer = match leaf {
                    // The kernel's APIC timer does not count the ticks of the TSC's crystal, so there is none to tell of.
                    0x15 => [0; 4],
                    _ => model.cpuid(leaf, subleaf, &query),
                };
                add(leaf, subleaf, matches!(leaf, 4 | 7 | 0xb | 0xd), answer);
            }
        }
        if model.has(Feature::Hypervisor) {
            add(HYPERVISOR, 0, false, model.cpuid(HYPERVISOR, 0, &query));
            // Of KVM's features those that all engines have, since guests move.
            let [features, ..] = model.cpuid(HYPERVISOR + 1, 0, &query);
            add(HYPERVISOR + 1, 0, false, [features & self.leaf(HYPERVISOR + 1, 0)[0], 0, 0, 0]);
        }
        for leaf in 0x8000_0000..=model.cpuid(0x8000_0000, 0, &query)[0] {
            add(leaf, 0, false, model.cpuid(leaf, 0, &query));
        }
        CpuId::from_entries(&entries).map_err(|e| Error::Internal(format!("CPUID: {e:?}")))
    }
}

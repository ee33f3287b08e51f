//! What the models promise, and that CPUID says so.

use super::*;
use crate::bits::{cr4, efer, xcr0};

fn model(name: &str) -> CpuModel {
    CpuModel::named(name).unwrap()
}

#[test]
fn names_round_trip() {
    for &name in CpuModel::NAMES {
        assert_eq!(model(name).name(), name);
    }
    for &feature in Feature::ALL {
        assert_eq!(Feature::from_name(feature.name()), Some(feature));
        assert_eq!(feature.to_string(), feature.name());
    }
    assert_eq!(Feature::from_name("monitor"), None);
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let error = CpuModel::named("pentium").unwrap_err().to_string();
    assert!(error.contains("'pentium'") && error.contains("x86-64-v2, x86-64-v3"), "{error}");
}

/// *System V ABI, AMD64 supplement*, table 3.1, with OSFXSR and OSXSAVE by the features behind them.
#[test]
fn baselines_contain_the_psabi_levels() {
    let v1 = [Cmov, Cx8, Fpu, Fxsr, Mmx, Syscall, Sse, Sse2];
    let v2 = [Cx16, LahfLm, Popcnt, Sse3, Sse41, Sse42, Ssse3];
    let v3 = [Avx, Avx2, Bmi1, Bmi2, F16c, Fma, Abm, Movbe, Xsave];
    for (name, levels) in [("x86-64-v1", &[&v1[..]][..]), ("x86-64-v2", &[&v1, &v2]), ("x86-64-v3", &[&v1, &v2, &v3])] {
        for &feature in levels.iter().copied().flatten() {
            assert!(model(name).has(feature), "{name} {feature}");
        }
    }
    assert!(v3.iter().all(|&feature| !model("x86-64-v2").has(feature)));
}

#[test]
fn models_are_ordered_and_closed() {
    let (v1, v2, v3) = (model("x86-64-v1"), model("x86-64-v2"), model("x86-64-v3"));
    assert!(v1.is_subset_of(&v2) && v2.is_subset_of(&v3) && v3.is_subset_of(&v3));
    assert!(!v3.is_subset_of(&v2));
    assert!(v3.missing_from(&v2).contains(&Avx2));
    assert!(v2.missing_from(&v3).is_empty());
    assert_eq!(v3.clone().intersect(&v2).feature_set(), v2.feature_set());
    for model in [v1, v2, v3] {
        assert_eq!(model.feature_set().closed(), model.feature_set());
    }
}

#[test]
fn without_takes_what_builds_on_it() {
    let model = model("x86-64-v3").without(Xsave);
    for feature in [Xsave, Xsavec, Avx, Avx2, Fma, F16c] {
        assert!(!model.has(feature), "{feature}");
    }
    assert!(model.has(Sse42) && model.has(Bmi2));
    assert_eq!(model.cpuid(0xd, 0, &CpuidQuery::default()), [0; 4]);
    assert_eq!(model.xcr0_mask(), 0);
}

/// Of the leaves with features, the bits that are not feature flags of ours: (leaf, sub-leaf, register, mask).
const NOT_FLAGS: &[(u32, u32, usize, u32)] =
    &[(1, 0, 0, u32::MAX), (1, 0, 1, u32::MAX), (1, 0, 2, 1 << 27), (7, 0, 0, u32::MAX), (0xd, 1, 1, u32::MAX)];

#[test]
fn cpuid_shows_the_features_and_nothing_else() {
    let query = CpuidQuery { vcpus: 2, osxsave: true, ..CpuidQuery::default() };
    for &name in CpuModel::NAMES {
        let model = model(name);
        for &feature in Feature::ALL {
            let place = feature.place();
            let answer = model.cpuid(place.leaf, place.subleaf, &query);
            let shown = answer[place.register as usize] >> place.bit & 1 == 1;
            assert_eq!(shown, model.has(feature), "{name} {feature}");
            for (register, mut value) in answer.into_iter().enumerate() {
                for &(leaf, subleaf, other, mask) in NOT_FLAGS {
                    if (leaf, subleaf, other) == (place.leaf, place.subleaf, register) {
                        value &= !mask;
                    }
                }
                let known: u32 = Feature::ALL
                    .iter()
                    .map(|feature| feature.place())
                    .filter(|p| (p.leaf, p.subleaf, p.register as usize) == (place.leaf, place.subleaf, register))
                    .fold(0, |mask, p| mask | 1 << p.bit);
                assert_eq!(value & !known, 0, "{name} {:#x}.{} register {register}", place.leaf, place.subleaf);
            }
        }
    }
}

#[test]
fn no_two_features_share_a_place() {
    for (i, a) in Feature::ALL.iter().enumerate() {
        assert_eq!(*a as usize, i);
        assert!(Feature::ALL[i + 1..].iter().all(|b| a.place() != b.place() && a.name() != b.name()), "{a}");
    }
}

#[test]
fn osxsave_apic_and_ht_are_dynamic() {
    let query = CpuidQuery::default();
    let model = model("x86-64-v3");
    let (ecx, edx) = (|q| model.cpuid(1, 0, &q)[2], |q| model.cpuid(1, 0, &q)[3]);
    assert_eq!(ecx(query) & 1 << 27, 0);
    assert_ne!(ecx(CpuidQuery { osxsave: true, ..query }) & 1 << 27, 0);
    assert_ne!(edx(query) & 1 << 9, 0);
    assert_eq!(edx(CpuidQuery { apic_enabled: false, ..query }) & 1 << 9, 0);
    assert_eq!(edx(query) & 1 << 28, 0);
    assert_ne!(edx(CpuidQuery { vcpus: 2, ..query }) & 1 << 28, 0);
    let v2 = CpuModel::named("x86-64-v2").unwrap();
    assert_eq!(v2.cpuid(1, 0, &CpuidQuery { osxsave: true, ..query })[2] & 1 << 27, 0);
}

#[test]
fn texts() {
    let query = CpuidQuery::default();
    let model = model("x86-64-v3");
    let bytes = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>();
    let [_, b, c, d] = model.cpuid(0, 0, &query);
    assert_eq!(bytes(&[b, d, c]), b"GenuineIntel");
    assert_eq!(bytes(&model.cpuid(0x4000_0000, 0, &query)[1..]), b"KVMKVMKVM\0\0\0");
    assert_eq!(model.cpuid(0x4000_0000, 0, &query)[0], 0x4000_0001);
    assert_eq!(model.cpuid(0x4000_0001, 0, &query), [0x0100_0009, 0, 0, 0]);
    let brand: Vec<u8> = (2..5).flat_map(|n| bytes(&model.cpuid(0x8000_0000 + n, 0, &query))).collect();
    assert_eq!(brand.len(), 48);
    assert!(brand.starts_with(b"Husk x86-64-v3 CPU\0"));
}

#[test]
fn leaves_out_of_range_answer_as_the_highest_basic_one() {
    let query = CpuidQuery::default();
    let model = model("x86-64-v2");
    let highest = model.cpuid(0, 0, &query)[0];
    for leaf in [highest + 1, 0x7fff_ffff, 0x8000_0009, 0xc000_0000, u32::MAX] {
        assert_eq!(model.cpuid(leaf, 0, &query), model.cpuid(highest, 0, &query), "{leaf:#x}");
    }
    assert_eq!(model.cpuid(0x4000_0002, 0, &query), [0; 4], "nothing beyond the paravirtual clock");
    assert_eq!(model.cpuid(7, 1, &query), [0; 4]);
    assert_eq!(model.cpuid(7, u32::MAX, &query), [0; 4]);
}

#[test]
fn topology_is_one_package_of_single_threaded_cores() {
    for (vcpus, shift) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (255, 8)] {
        let query = CpuidQuery { vcpus, apic_id: vcpus - 1, ..CpuidQuery::default() };
        let model = model("x86-64-v3");
        assert_eq!(model.cpuid(0xb, 0, &query), [0, 1, 0x100, vcpus - 1]);
        assert_eq!(model.cpuid(0xb, 1, &query), [shift, vcpus, 0x201, vcpus - 1]);
        assert_eq!(model.cpuid(0xb, 2, &query), [0, 0, 2, vcpus - 1]);
        assert_eq!(model.cpuid(1, 0, &query)[1] >> 24, vcpus - 1);
        let [l1, _, sets, _] = model.cpuid(4, 0, &query);
        assert_eq!((l1 >> 14 & 0xfff, sets), (0, 63));
        let [l3, ..] = model.cpuid(4, 3, &query);
        assert_eq!(l3 >> 14 & 0xfff, (1 << shift) - 1);
        assert_eq!(model.cpuid(4, 4, &query), [0; 4]);
    }
}

#[test]
fn topology_of_absurd_counts() {
    for vcpus in [0, 1 << 31, u32::MAX] {
        let query = CpuidQuery { vcpus, apic_id: u32::MAX, tsc_hz: u64::MAX, xcr0: u64::MAX, ..CpuidQuery::default() };
        for leaf in (0..0x20).chain(0x8000_0000..0x8000_0010) {
            for subleaf in 0..8 {
                let _ = model("x86-64-v3").cpuid(leaf, subleaf, &query);
            }
        }
    }
}

#[test]
fn xsave_sizes_follow_xcr0() {
    let sse = CpuidQuery { xcr0: 3, ..CpuidQuery::default() };
    let avx = CpuidQuery { xcr0: 7, ..sse };
    let model = model("x86-64-v3");
    assert_eq!(model.cpuid(0xd, 0, &sse), [7, 576, 832, 0]);
    assert_eq!(model.cpuid(0xd, 0, &avx), [7, 832, 832, 0]);
    assert_eq!(model.cpuid(0xd, 1, &sse), [7, 576, 0, 0]);
    assert_eq!(model.cpuid(0xd, 1, &avx), [7, 832, 0, 0]);
    assert_eq!(model.cpuid(0xd, 2, &avx), [256, 576, 0, 0]);
    assert_eq!(model.cpuid(0xd, 3, &avx), [0; 4]);
    let no_avx = model.without(Avx);
    assert_eq!(no_avx.cpuid(0xd, 0, &sse), [3, 576, 576, 0]);
    assert_eq!(no_avx.cpuid(0xd, 2, &sse), [0; 4]);
}

#[test]
fn clocks() {
    let query = CpuidQuery::default();
    let model = model("x86-64-v3");
    assert_eq!(model.cpuid(0x15, 0, &query), [1, 1, 1_000_000_000, 0]);
    let faster = CpuidQuery { tsc_hz: 2_600_000_000, ..query };
    assert_eq!(model.cpuid(0x15, 0, &faster), [5, 13, 1_000_000_000, 0]);
    assert_eq!(model.cpuid(0x16, 0, &query), [1000, 1000, 100, 0]);
    assert_eq!(model.cpuid(0x8000_0008, 0, &query)[0], 48 << 8 | 40);
}

#[test]
fn masks_follow_the_features() {
    let (v2, v3) = (model("x86-64-v2"), model("x86-64-v3"));
    assert_eq!((v2.xcr0_mask(), v3.xcr0_mask()), (0, xcr0::X87 | xcr0::SSE | xcr0::AVX));
    assert_eq!(v3.cr4_mask() & !v2.cr4_mask(), cr4::OSXSAVE | cr4::SMEP | cr4::SMAP | cr4::UMIP | cr4::FSGSBASE);
    assert_eq!(v3.efer_mask(), efer::SCE | efer::LME | efer::NXE);
    assert_eq!(v3.spec_ctrl_mask(), 7 | spec_ctrl::BHI_DIS_S);
    assert_eq!(v3.clone().without(SpecCtrl).spec_ctrl_mask(), spec_ctrl::SSBD);
    assert_eq!(v3.clone().without(ArchCapabilities).arch_capabilities(), 0);
    assert_eq!(v3.clone().without(SpecCtrl).arch_capabilities() & arch_capabilities::IBRS_ALL, 0);
    assert_ne!(v3.arch_capabilities() & arch_capabilities::RDCL_NO, 0);
}

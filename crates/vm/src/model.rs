//! The CPU model that a VM gets.

use engine::Limits;
use x86::{CpuModel, Feature};

use crate::{Cpus, Error};

/// No CPU has all of these, and no program asks for them: kernels do, to choose between mitigations. A guest gets those that
/// its host has.
const MITIGATIONS: &[Feature] =
    &[Feature::SpecCtrl, Feature::Stibp, Feature::Ssbd, Feature::BhiCtrl, Feature::ArchCapabilities];

/// What the CPU model `name` has and an engine with these limits cannot do, by name; nothing for an unknown model.
#[must_use]
pub fn model_lacks(name: &str, limits: &Limits) -> Vec<String> {
    CpuModel::named(name).map(|model| lacks(&model, &model.clone().intersect(&limits.ceiling))).unwrap_or_default()
}

fn lacks(named: &CpuModel, given: &CpuModel) -> Vec<String> {
    let missing = named.missing_from(given);
    missing.iter().filter(|feature| !MITIGATIONS.contains(feature)).map(|feature| format!("{feature:?}")).collect()
}

/// The model that the CPUs get: what an engine with these limits can do of the named one. If that is not all of it, `cpus` has
/// to be relaxed.
pub(crate) fn cpu_model(cpus: &Cpus, limits: &Limits) -> Result<CpuModel, Error> {
    let named = CpuModel::named(&cpus.model)?;
    let given = named.clone().intersect(&limits.ceiling);
    let missing = lacks(&named, &given);
    if !missing.is_empty() {
        if !cpus.relaxed {
            return Err(Error::Beyond { model: named.name(), missing });
        }
        tracing::info!("CPU model {}: this host cannot do {}: left out", named.name(), missing.join(", "));
    }
    Ok(given)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(without: &[Feature]) -> Limits {
        let full = CpuModel::named("x86-64-v3").unwrap();
        let ceiling = without.iter().fold(full, |model, feature| model.without(*feature));
        Limits { max_vcpus: 1, ceiling, dirty_log: false }
    }

    fn model(relaxed: bool, without: &[Feature]) -> Result<CpuModel, Error> {
        cpu_model(&Cpus { relaxed, ..Cpus::default() }, &limits(without))
    }

    #[test]
    fn what_the_host_lacks_is_refused_or_left_out() {
        assert_eq!(model(false, &[]).unwrap(), limits(&[]).ceiling);
        let without = [Feature::Avx, Feature::Smap];
        let error = model(false, &without).unwrap_err();
        assert!(error.is_input());
        let line = error.to_string();
        // What builds on a feature goes with it.
        for part in ["x86-64-v3", "Avx", "Avx2", "Smap", "x86-64-v2", "--cpu-relaxed"] {
            assert!(line.contains(part), "{part}: {line}");
        }
        let given = model(true, &without).unwrap();
        assert_eq!(given, limits(&without).ceiling);
        assert!(!given.has(Feature::Avx2) && given.has(Feature::Sse42));
    }

    #[test]
    fn mitigations_are_the_hosts() {
        let given = model(false, MITIGATIONS).unwrap();
        assert!(MITIGATIONS.iter().all(|feature| !given.has(*feature)) && given.has(Feature::Avx2));
        assert_eq!(model_lacks("x86-64-v3", &limits(MITIGATIONS)), Vec::<String>::new());
        assert_eq!(model_lacks("x86-64-v3", &limits(&[Feature::Movbe, Feature::Ssbd])), ["Movbe"]);
        assert!(model_lacks("486", &limits(&[])).is_empty());
    }
}

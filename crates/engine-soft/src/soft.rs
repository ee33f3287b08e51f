//! The engine itself: what it can do on this host.

use std::sync::Arc;

use engine::{Clock, Engine, EngineConfig, Error, Limits, Partition, Result};
use memory::GuestMemory;
use x86::{CpuModel, Feature};

use crate::options::{SoftOptions, Translator};
use crate::partition::SoftPartition;

/// The most vCPUs of a partition: the APIC IDs that an xAPIC can address.
const MOST_VCPUS: u32 = 254;

/// The software engine.
#[derive(Debug)]
pub struct SoftEngine {
    limits: Limits,
    options: SoftOptions,
}

/// A feature whose instructions run on the host's own unit, and whether the host has it.
macro_rules! host_features {
    ($($feature:ident: $name:tt),* $(,)?) => {
        [$((Feature::$feature, std::arch::is_x86_feature_detected!($name))),*]
    };
}

impl SoftEngine {
    /// The engine on this host.
    ///
    /// # Errors
    /// [`Error::Config`] for options out of their bounds.
    /// [`Error::Unsupported`] on a host without SSE2 and FXSR, which every x86-64 has.
    pub fn new(options: SoftOptions) -> Result<Self> {
        options.check()?;
        if !std::arch::is_x86_feature_detected!("sse2") || !std::arch::is_x86_feature_detected!("fxsr") {
            return Err(Error::Unsupported { what: "SSE2".into(), fix: "run on an x86-64 processor".into() });
        }
        let full = CpuModel::named("x86-64-v3").map_err(|e| Error::Internal(e.to_string()))?;
        let on_host = host_features! {
            Sse3: "sse3", Ssse3: "ssse3", Sse41: "sse4.1", Sse42: "sse4.2", Aes: "aes", Pclmulqdq: "pclmulqdq", ShaNi: "sha",
            Avx: "avx", Avx2: "avx2", Fma: "fma", F16c: "f16c", Rdrand: "rdrand", Rdseed: "rdseed", Bmi1: "bmi1", Bmi2: "bmi2",
            Adx: "adx", Popcnt: "popcnt", Abm: "lzcnt", Movbe: "movbe", Xsave: "xsave", Cx16: "cmpxchg16b",
        };
        let ceiling = on_host.iter().filter(|(_, has)| !has).fold(full, |model, (feature, _)| model.without(*feature));
        Ok(Self { limits: Limits { max_vcpus: MOST_VCPUS, ceiling, dirty_log: true }, options })
    }
}

impl Engine for SoftEngine {
    fn name(&self) -> &'static str {
        "soft"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> Result<Arc<dyn Partition>> {
        let what = "cannot start the clock's thread".to_owned();
        self.take_over(cfg, mem, &Clock::start().map_err(|source| Error::Host { what, source })?)
    }

    fn take_over(&self, cfg: &EngineConfig, mem: &GuestMemory, clock: &Clock) -> Result<Arc<dyn Partition>> {
        if cfg.vcpus == 0 || cfg.vcpus > self.limits.max_vcpus {
            return Err(Error::Config(format!(
                "{} vCPUs: the soft engine runs 1 to {}",
                cfg.vcpus, self.limits.max_vcpus
            )));
        }
        // Memory that another vCPU changes in between would look like a difference.
        if self.options.translator == Translator::LockStep && cfg.vcpus > 1 {
            return Err(Error::Config(format!("{} vCPUs: in lock-step the soft engine runs one", cfg.vcpus)));
        }
        Ok(Arc::new(SoftPartition::new(cfg, mem, clock, self.limits.ceiling.clone(), self.options)?))
    }
}

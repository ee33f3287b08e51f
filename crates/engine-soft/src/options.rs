//! What can be chosen about the software engine.

use std::ops::RangeInclusive;

use engine::{Error, Result};

/// Who runs the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Translator {
    /// The translator, and the interpreter for what it leaves out.
    #[default]
    On,
    /// The interpreter alone.
    Off,
    /// Each block runs twice, in the interpreter and translated, and the run ends at the first difference. For tests, and
    /// for one vCPU.
    LockStep,
}

/// How a [`crate::SoftEngine`] works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SoftOptions {
    /// Who runs the guest's code.
    pub translator: Translator,
    /// The size of the translated code that is kept, in bytes per vCPU; within [`SoftOptions::CODE_CACHE`].
    pub code_cache: usize,
    /// Translated code counts the instructions and blocks that it runs, which costs a few per cent.
    pub count: bool,
}

impl SoftOptions {
    /// The sizes in bytes that a code cache may have.
    pub const CODE_CACHE: RangeInclusive<usize> = 1 << 20..=1 << 30;

    /// The interpreter alone.
    #[must_use]
    pub fn interpreter() -> Self {
        Self { translator: Translator::Off, ..Self::default() }
    }

    /// Refuses what the engine cannot do.
    ///
    /// # Errors
    /// [`Error::Config`].
    pub(crate) fn check(&self) -> Result<()> {
        let (least, most) = (Self::CODE_CACHE.start() >> 20, Self::CODE_CACHE.end() >> 20);
        if Self::CODE_CACHE.contains(&self.code_cache) {
            return Ok(());
        }
        let cache = self.code_cache;
        Err(Error::Config(format!("a code cache of {cache} bytes: the soft engine takes {least} MiB to {most} MiB")))
    }
}

impl Default for SoftOptions {
    fn default() -> Self {
        Self { translator: Translator::default(), code_cache: 32 << 20, count: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SoftEngine;

    #[test]
    fn a_code_cache_has_bounds() {
        let with = |code_cache| SoftEngine::new(SoftOptions { code_cache, ..SoftOptions::default() });
        assert!(with(1 << 20).is_ok() && with(1 << 30).is_ok());
        for bad in [0, (1 << 20) - 1, (1 << 30) + 1, usize::MAX] {
            let error = with(bad).unwrap_err().to_string();
            assert!(error.contains(&bad.to_string()) && error.contains("1 MiB to 1024 MiB"), "{error}");
        }
    }

    #[test]
    fn lock_step_takes_one_vcpu() {
        use engine::{Engine, EngineConfig};
        use memory::{Gpa, GuestMemory, Kind, Region};
        let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x1000, kind: Kind::Ram }]).unwrap();
        let options = SoftOptions { translator: Translator::LockStep, ..SoftOptions::default() };
        let create = |options, vcpus| {
            let config = EngineConfig { vcpus, name: "test".into() };
            SoftEngine::new(options).unwrap().create(&config, &memory).map(drop)
        };
        assert!(create(options, 1).is_ok() && create(SoftOptions::default(), 2).is_ok());
        let error = create(options, 2).unwrap_err().to_string();
        assert!(error.contains("2 vCPUs: in lock-step") && error.lines().count() == 1, "{error}");
    }
}

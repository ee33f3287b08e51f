//! What the tests run on: one list of tests, several engines. This is the one place that reads it.

use std::sync::Arc;

use engine::Engine;
use engine_kvm::KvmEngine;
use engine_soft::{SoftEngine, SoftOptions};

/// The environment's variable that names the engine: `soft` (the default) or `kvm`.
pub const ENGINE: &str = "HUSK_TEST_ENGINE";
/// The environment's variable that tells how many times longer than usual everything may take.
pub const SLOWNESS: &str = "HUSK_TEST_SLOWNESS";

/// An engine to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// The software engine.
    Soft,
    /// `/dev/kvm`.
    Kvm,
}

impl Choice {
    /// Its name, as `husk run --engine` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Soft => "soft",
            Self::Kvm => "kvm",
        }
    }

    /// Opens it.
    ///
    /// # Panics
    /// When this host does not have it.
    #[must_use]
    pub fn open(self) -> Arc<dyn Engine> {
        match self {
            Self::Soft => Arc::new(SoftEngine::new(SoftOptions::default()).expect("the software engine")),
            Self::Kvm => Arc::new(KvmEngine::new().expect("KVM")),
        }
    }
}

/// The engine that the tests of this process run on, from [`ENGINE`].
///
/// # Panics
/// When there is no engine of that name: nothing is to be tested by mistake.
#[must_use]
pub fn chosen() -> Choice {
    match std::env::var(ENGINE).as_deref() {
        Err(_) | Ok("" | "soft") => Choice::Soft,
        Ok("kvm") => Choice::Kvm,
        Ok(other) => panic!("{ENGINE}={other}: there are soft and kvm"),
    }
}

/// How many times longer than usual everything may take, from [`SLOWNESS`]: 1 unless it is told.
///
/// # Panics
/// When it is no number from 1 on.
#[must_use]
pub fn slowness() -> u32 {
    let Ok(text) = std::env::var(SLOWNESS) else { return 1 };
    let number = text.parse().ok().filter(|n| *n > 0);
    number.unwrap_or_else(|| panic!("{SLOWNESS}={text}: a number from 1 on is wanted"))
}

//! Which engine runs the guest, and why.

use std::path::Path;
use std::sync::Arc;

use engine::Engine;
use engine_kvm::KvmEngine;
use engine_kvm::probe::{self, Cache, Problem};
use engine_soft::{SoftEngine, SoftOptions};

use crate::failure::Failure;
use crate::values::EngineChoice;

/// The engine, and how it came to be the one.
pub(crate) struct Chosen {
    /// The engine.
    pub(crate) engine: Arc<dyn Engine>,
    /// Why it was not one that the user likes better.
    pub(crate) why: Vec<String>,
    /// There was a choice.
    pub(crate) automatic: bool,
}

impl Chosen {
    /// The line for the user.
    pub(crate) fn line(&self) -> String {
        let name = self.engine.name();
        if self.why.is_empty() {
            format!("engine: {name}")
        } else {
            format!("engine: {name} ({})", self.why.join("; "))
        }
    }
}

/// The first engine of `choices` that this host does well, the last one even if badly. `counted` counts what costs time to
/// count; `device` is where KVM is.
pub(crate) fn choose(choices: &[EngineChoice], counted: bool, device: &Path) -> Result<Chosen, Failure> {
    let automatic = choices.len() > 1;
    let mut why = Vec::new();
    let mut refusal = Failure::input("--engine", "there is none", "name one");
    for (index, choice) in choices.iter().enumerate() {
        let forced = index + 1 == choices.len();
        let opened: Result<Arc<dyn Engine>, _> = match choice {
            EngineChoice::Kvm => match kvm(device, forced) {
                Ok(engine) => Ok(engine),
                Err(refused) => {
                    why.push(refused.cause);
                    refusal = refused.failure;
                    continue;
                }
            },
            EngineChoice::Soft(options) => SoftEngine::new(SoftOptions { count: options.count || counted, ..*options })
                .map(|engine| Arc::new(engine) as _),
        };
        match opened {
            Ok(engine) => return Ok(Chosen { engine, why, automatic }),
            Err(error) => {
                why.push(error.to_string());
                refusal = Failure::internal(format!("engine: {error}"));
            }
        }
    }
    Err(refusal)
}

/// Why there is no KVM: in short, and as the end of the command.
struct Refused {
    cause: String,
    failure: Failure,
}

/// KVM if it opens; unless `forced`, only if it is sound.
fn kvm(device: &Path, forced: bool) -> Result<Arc<dyn Engine>, Refused> {
    let refused = |problem: Problem| {
        let line = format!("engine kvm: {problem}; or run with {OTHER}");
        Refused { cause: problem.cause, failure: Failure::internal(line) }
    };
    if !forced && let Some(problem) = probe::recall(device, Cache::of_user().as_ref(), false).problem() {
        return Err(refused(problem));
    }
    match KvmEngine::from_device(probe::open(device).map_err(refused)?) {
        Ok(engine) => Ok(Arc::new(engine)),
        Err(error) => {
            let line = with_advice("kvm", format!("engine kvm: {error}"));
            Err(Refused { cause: error.to_string(), failure: Failure::internal(line) })
        }
    }
}

/// The way around KVM.
const OTHER: &str = "--engine soft";

/// What has failed in the engine called `name`, with another way to go.
pub(crate) fn with_advice(name: &str, what: String) -> String {
    if name == "kvm" && !what.contains(OTHER) { format!("{what}; try {OTHER}") } else { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: &str = "/nowhere/kvm";

    fn choice(choices: &[EngineChoice]) -> Result<Chosen, Failure> {
        choose(choices, false, Path::new(NOWHERE))
    }

    #[test]
    fn the_line_says_which_and_why() {
        let soft = EngineChoice::Soft(SoftOptions::default());
        let chosen = choice(&[soft]).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((chosen.line().as_str(), chosen.automatic), ("engine: soft", false));
        let chosen = choice(&[EngineChoice::Kvm, soft]).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!((chosen.line().as_str(), chosen.automatic), ("engine: soft (/nowhere/kvm is not there)", true));
    }

    #[test]
    fn the_last_refusal_is_told() {
        let failure = choice(&[EngineChoice::Kvm]).err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(failure.starts_with("engine kvm: /nowhere/kvm is not there; "), "{failure}");
        let bad = EngineChoice::Soft(SoftOptions { code_cache: 0, ..SoftOptions::default() });
        let failure = choice(&[EngineChoice::Kvm, bad]).err().map(|failure| failure.to_string()).unwrap_or_default();
        assert!(failure.contains("code cache of 0 bytes"), "{failure}");
        assert!(choice(&[]).is_err());
    }

    #[test]
    fn a_failure_of_kvm_names_the_other_way_once() {
        assert_eq!(with_advice("kvm", "cpu0: no".into()), "cpu0: no; try --engine soft");
        assert_eq!(with_advice("kvm", "use --engine soft".into()), "use --engine soft");
        assert_eq!(with_advice("soft", "cpu0: no".into()), "cpu0: no");
    }
}

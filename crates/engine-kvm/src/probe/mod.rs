//! What `/dev/kvm` is worth on this host.
//!
//! Capabilities prove little: there are hosts whose KVM shows all of them and yet interprets the guest's kernel, a thousand
//! times too slowly and not all of it. So a throw-away VM runs a few instructions in ring 0, against the clock.

mod cache;
mod capability;
mod device;
mod host;
mod ring0;

use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use cache::Cache;
pub use capability::{Capability, Need};
pub use device::{Access, Device};
pub use host::{Host, Module, ModuleState};
pub use ring0::{Instruction, Ring0};

/// Where the device is.
pub const DEVICE: &str = "/dev/kvm";

/// All that is known about this host's KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The CPU and the kernel.
    pub host: Host,
    /// The device and whether it opens.
    pub device: Device,
    /// What KVM says that it can do; empty if the device does not open.
    pub capabilities: Vec<Capability>,
    /// How the guest's kernel would run; `None` if nothing can be run.
    pub ring0: Option<Ring0>,
    /// How long the probe has taken, in microseconds.
    pub took: u64,
    /// The finding is one of before, from the cache.
    #[serde(skip)]
    pub remembered: bool,
}

/// Why KVM is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What is wrong.
    pub cause: String,
    /// What the user can do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.cause, self.fix)
    }
}

/// Opens `device` for an engine, whatever its speed.
///
/// # Errors
/// [`Finding::obstacle`].
pub fn open(device: &Path) -> Result<OwnedFd, Problem> {
    let (finding, kvm) = look(device);
    if let Some(problem) = finding.obstacle() {
        return Err(problem);
    }
    let failed = |error: std::io::Error| Problem {
        cause: format!("{}: {error}", device.display()),
        fix: "check the limits of the process (ulimit -n)".into(),
    };
    let kvm = kvm.ok_or_else(|| failed(std::io::ErrorKind::NotFound.into()))?;
    // SAFETY: `kvm` keeps the descriptor open until the end of this function.
    unsafe { BorrowedFd::borrow_raw(kvm.as_raw_fd()) }.try_clone_to_owned().map_err(failed)
}

/// Examines `device` and runs code on it: a few milliseconds on a sound KVM, and on no KVM more than about two seconds. What
/// one probe has found holds until the next boot, where `cache` can keep it; `anew` runs it all the same, for the next.
#[must_use]
pub fn recall(device: &Path, cache: Option<&Cache>, anew: bool) -> Finding {
    let start = Instant::now();
    // The device is asked each time: permissions change, and what is not KVM must not be taken for it.
    let (mut finding, kvm) = look(device);
    if let Some(kvm) = kvm.filter(|_| finding.obstacle().is_none()) {
        let key = cache::key(device, &finding.host);
        let kept = cache.zip(key.as_ref());
        let known = kept.filter(|_| !anew).and_then(|(cache, key)| cache.read(key));
        finding.remembered = known.is_some();
        finding.ring0 = Some(known.unwrap_or_else(|| {
            let ring0 = ring0::measure(kvm);
            if let (Some((cache, key)), true) = (kept, ring0.is_lasting()) {
                cache.write(key, &ring0);
            }
            ring0
        }));
    }
    finding.took = micros(start.elapsed());
    finding
}

/// Everything but the run.
fn look(device: &Path) -> (Finding, Option<kvm_ioctls::Kvm>) {
    let host = Host::read(Path::new("/"));
    let (device, kvm) = Device::open(device);
    let capabilities = kvm.as_ref().map(capability::all).unwrap_or_default();
    (Finding { host, device, capabilities, ring0: None, took: 0, remembered: false }, kvm)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Finding {
    /// What keeps any VM from running: the device, or a capability.
    #[must_use]
    pub fn obstacle(&self) -> Option<Problem> {
        if let Some(problem) = self.device.problem(&self.host) {
            return Some(problem);
        }
        let needed = self.capabilities.iter().filter(|one| one.need == Need::Needed && one.value <= 0);
        let missing: Vec<_> = needed.map(|one| one.name.as_str()).collect();
        let path = self.device.path.display();
        (!missing.is_empty()).then(|| Problem {
            cause: format!("{path} lacks {}", missing.join(", ")),
            fix: "run a newer Linux kernel, 4.14 or later".into(),
        })
    }

    /// Why KVM is not to be chosen where there is a choice; `None` when it is sound.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        let path: &PathBuf = &self.device.path;
        self.obstacle().or_else(|| self.ring0.as_ref().and_then(|ring0| ring0.problem(path, &self.host)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use testkit::folder::Folder;

    use super::*;

    /// A finding as on a sound host.
    fn sound() -> Finding {
        let capability = |name: &str, need, value| Capability { name: name.into(), need, purpose: "x".into(), value };
        Finding {
            host: Host::read(Path::new("/nowhere")),
            device: Device { path: DEVICE.into(), access: Access::Open },
            capabilities: vec![
                capability("MAX_VCPUS", Need::Useful, 1024),
                capability("SPLIT_IRQCHIP", Need::Needed, 1),
                capability("X86_SMM", Need::Useful, 0),
                capability("XSAVE", Need::Needed, 1),
            ],
            ring0: Some(Ring0::Hardware { mips: 4000 }),
            took: 1,
            remembered: false,
        }
    }

    #[test]
    fn a_sound_host_has_no_problem() {
        let finding = sound();
        assert_eq!((finding.obstacle(), finding.problem()), (None, None));
    }

    #[test]
    fn the_first_problem_counts() {
        let mut finding = sound();
        finding.ring0 = Some(Ring0::Hangs);
        assert_eq!(finding.obstacle(), None, "it can be forced");
        assert_eq!(finding.problem().unwrap().cause, "/dev/kvm hangs here");
        finding.capabilities[1].value = 0;
        finding.capabilities[3].value = -1;
        let problem = finding.problem().unwrap();
        assert_eq!(problem.cause, "/dev/kvm lacks SPLIT_IRQCHIP, XSAVE");
        assert!(problem.fix.contains("newer Linux"));
        finding.device.access = Access::Missing;
        assert_eq!(finding.problem().unwrap().cause, "/dev/kvm is not there");
        assert!(open(Path::new("/nowhere/kvm")).is_err_and(|problem| problem.cause == "/nowhere/kvm is not there"));
    }

    #[test]
    fn findings_survive_their_way_through_text() {
        for ring0 in [Ring0::Hangs, Ring0::Fails { instruction: Instruction::Pxor, mips: 2 }] {
            let finding = Finding { ring0: Some(ring0), ..sound() };
            let text = serde_json::to_string(&finding).unwrap();
            assert_eq!(serde_json::from_str::<Finding>(&text).unwrap(), finding, "{text}");
        }
    }

    #[test]
    fn a_verdict_is_remembered_and_a_refusal_is_not() {
        let parent = Folder::new("probe-remembers");
        let cache = Cache::within(&parent);
        let file = parent.join("device");
        fs::write(&file, "").unwrap();
        let finding = recall(&file, Some(&cache), false);
        assert_eq!(finding.device.access, Access::Other { what: "a file".into() });
        assert!(finding.ring0.is_none() && !parent.join("husk").exists());

        let first = recall(Path::new(DEVICE), Some(&cache), false);
        if first.ring0.is_none() {
            eprintln!("SKIPPED: {}", first.problem().map_or_else(String::new, |problem| problem.to_string()));
            return;
        }
        let second = recall(Path::new(DEVICE), Some(&cache), false);
        eprintln!("{:?}: {} us, then {} us", first.ring0, first.took, second.took);
        assert!(!first.remembered && second.remembered && first.ring0 == second.ring0);
        let anew = [Some(&cache), None].map(|cache| recall(Path::new(DEVICE), cache, true).remembered);
        assert_eq!(anew, [false, false]);
    }
}

//! Hardware virtualization through `/dev/kvm`.
//!
//! A [`KvmEngine`] makes one VM of the kernel per partition. The local APICs are the kernel's, PIC, IOAPIC, PIT, HPET and
//! RTC the machine's (`irq`, the split irqchip). `slots` gives the VM its memory, `vcpu` runs a CPU and `exits` does what
//! it asks for, `kick` gets it out of the guest; `state` turns the kernel's registers into a [`x86::CpuState`] and back.
//! `failure` tells what happened when KVM itself cannot go on. `probe` finds out whether a host's KVM is worth taking.

mod capabilities;
mod counters;
mod cpuid;
mod debug;
mod dirty;
mod exits;
mod failure;
mod ioctl;
mod irq;
mod kick;
mod partition;
pub mod probe;
mod ring;
mod run_page;
mod settle;
mod slots;
mod state;
mod vcpu;

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

pub use capabilities::{Capabilities, REQUIRED, missing};
use engine::{Clock, Engine, EngineConfig, Error, Limits, Partition, Result};
use kvm_ioctls::Kvm;
use memory::GuestMemory;

use crate::cpuid::HostCpuid;
use crate::partition::KvmPartition;

/// The most vCPUs: the APIC IDs that an xAPIC can address, as with the software engine.
const MOST_VCPUS: u32 = 254;

/// The engine on `/dev/kvm`.
pub struct KvmEngine {
    kvm: Kvm,
    capabilities: Capabilities,
    host_cpuid: Arc<HostCpuid>,
    limits: Limits,
}

impl KvmEngine {
    /// Opens `/dev/kvm`.
    ///
    /// # Errors
    /// [`Error::Config`] when there is no such device, or no permission, with what to do about it; and those of
    /// [`KvmEngine::from_device`].
    pub fn new() -> Result<Self> {
        let device = probe::open(Path::new(probe::DEVICE)).map_err(|problem| Error::Config(problem.to_string()))?;
        Self::from_device(device)
    }

    /// The engine on an opened `/dev/kvm`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when its KVM lacks what the engine needs, by name; [`Error::Host`] when it refuses to tell.
    pub fn from_device(device: OwnedFd) -> Result<Self> {
        // SAFETY: the descriptor is owned and from here on its only owner is the `Kvm`. If it is none of KVM's, all calls on
        // it fail, beginning with that for the version.
        let kvm = unsafe { Kvm::from_raw_fd(device.into_raw_fd()) };
        let capabilities = Capabilities::of(&kvm)?;
        let host_cpuid = HostCpuid::of(&kvm)?;
        let ceiling = host_cpuid.ceiling(&capabilities)?;
        let limits = Limits { max_vcpus: capabilities.max_vcpus.min(MOST_VCPUS), ceiling, dirty_log: true };
        Ok(Self { kvm, capabilities, host_cpuid: Arc::new(host_cpuid), limits })
    }

    /// What the host's KVM can do.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }
}

impl Engine for KvmEngine {
    fn name(&self) -> &'static str {
        "kvm"
    }

    fn limits(&self) -> &Limits {
        &self.limits
    }

    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> Result<Arc<dyn Partition>> {
        let what = "cannot start the clock's thread".to_owned();
        self.take_over(cfg, mem, &Clock::start().map_err(|source| Error::Host { what, source })?)
    }

    fn take_over(&self, cfg: &EngineConfig, mem: &GuestMemory, clock: &Clock) -> Result<Arc<dyn Partition>> {
        let most = self.limits.max_vcpus;
        if cfg.vcpus == 0 || cfg.vcpus > most {
            return Err(Error::Config(format!("{} vCPUs: this host's KVM runs 1 to {most}", cfg.vcpus)));
        }
        let (kvm, cpuid, ceiling) = (&self.kvm, &self.host_cpuid, &self.limits.ceiling);
        Ok(Arc::new(KvmPartition::new(kvm, cfg, mem, clock, &self.capabilities, cpuid, ceiling)?))
    }
}

impl std::fmt::Debug for KvmEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvmEngine").field("capabilities", &self.capabilities).finish_non_exhaustive()
    }
}

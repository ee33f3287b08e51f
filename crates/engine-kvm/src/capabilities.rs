//! What the host's KVM can do, and what this engine cannot do without.

use engine::{Error, Result};
use kvm_bindings::{KVM_CAP_DIRTY_LOG_RING, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2};
use kvm_ioctls::{Cap, Kvm};

/// The version of KVM's API, the only one there has been since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// The capabilities that the engine needs, each with its name in the KVM API.
pub const REQUIRED: &[(Cap, &str)] = &[
    (Cap::UserMemory, "KVM_CAP_USER_MEMORY"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
    (Cap::VcpuEvents, "KVM_CAP_VCPU_EVENTS"),
    (Cap::Debugregs, "KVM_CAP_DEBUGREGS"),
    (Cap::Xsave, "KVM_CAP_XSAVE"),
    (Cap::Xcrs, "KVM_CAP_XCRS"),
    (Cap::GetTscKhz, "KVM_CAP_GET_TSC_KHZ"),
    (Cap::AdjustClock, "KVM_CAP_ADJUST_CLOCK"),
    (Cap::SplitIrqchip, "KVM_CAP_SPLIT_IRQCHIP"),
    (Cap::SignalMsi, "KVM_CAP_SIGNAL_MSI"),
    (Cap::IrqRouting, "KVM_CAP_IRQ_ROUTING"),
    (Cap::Irqfd, "KVM_CAP_IRQFD"),
    (Cap::Ioeventfd, "KVM_CAP_IOEVENTFD"),
    (Cap::ReadonlyMem, "KVM_CAP_READONLY_MEM"),
    (Cap::SetGuestDebug, "KVM_CAP_SET_GUEST_DEBUG"),
    (Cap::ImmediateExit, "KVM_CAP_IMMEDIATE_EXIT"),
];

/// What the host's KVM can do beyond [`REQUIRED`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Capabilities {
    /// The most vCPUs of one VM.
    pub max_vcpus: u32,
    /// The most memory slots of one VM.
    pub max_slots: u32,
    /// The timer of the local APIC has a TSC-deadline mode.
    pub tsc_deadline: bool,
    /// System-management mode.
    pub smm: bool,
    /// A vCPU can be told that it has been paused.
    pub kvmclock_ctrl: bool,
    /// The dirty log may be read without write-protecting what it holds.
    pub manual_protect: bool,
    /// The largest dirty ring of a vCPU in bytes, zero if there are none.
    pub dirty_ring_bytes: u32,
}

impl Capabilities {
    /// Asks `kvm`.
    ///
    /// # Errors
    /// [`Error::Unsupported`] with the name of what is missing and needed.
    pub fn of(kvm: &Kvm) -> Result<Self> {
        if kvm.get_api_version() != API_VERSION {
            return Err(Error::Unsupported {
                what: format!("version {API_VERSION} of KVM's API (this is {})", kvm.get_api_version()),
                fix: "use the software engine: --engine soft".into(),
            });
        }
        let missing = missing(kvm);
        if !missing.is_empty() {
            return Err(Error::Unsupported {
                what: missing.join(", "),
                fix: "it takes the KVM of Linux 4.12 or later; use a newer kernel, or --engine soft".into(),
            });
        }
        let raw = |cap: u32| kvm.check_extension_raw(cap.into()).max(0);
        let has = |cap| kvm.check_extension(cap);
        Ok(Self {
            max_vcpus: u32::try_from(kvm.get_max_vcpus()).unwrap_or(u32::MAX),
            max_slots: u32::try_from(kvm.get_nr_memslots()).unwrap_or(u32::MAX),
            tsc_deadline: has(Cap::TscDeadlineTimer),
            smm: has(Cap::X86Smm),
            kvmclock_ctrl: has(Cap::KvmclockCtrl),
            manual_protect: raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) != 0,
            dirty_ring_bytes: raw(KVM_CAP_DIRTY_LOG_RING) as u32,
        })
    }
}

/// The names of the [`REQUIRED`] capabilities that `kvm` does not have.
#[must_use]
pub fn missing(kvm: &Kvm) -> Vec<&'static str> {
    REQUIRED
        .iter()
        .filter(|(cap, _)| kvm.check_extension_raw(*cap as libc::c_ulong) <= 0)
        .map(|(_, name)| *name)
        .collect()
}

//! What KVM says that it can do (KVM API, `KVM_CHECK_EXTENSION`).

use kvm_bindings as k;
use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use crate::capabilities::REQUIRED;

/// How much the engine depends on a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// No VM runs without it.
    Needed,
    /// The engine makes use of it where it is.
    Useful,
}

/// One capability of this host's KVM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capability {
    /// The name in the KVM API, without `KVM_CAP_`.
    pub name: String,
    /// Whether the engine can do without.
    pub need: Need,
    /// What the engine uses it for.
    pub purpose: String,
    /// The kernel's answer: zero or less is no, and what more than 1 says depends on the capability.
    pub value: i32,
}

/// Name, number and purpose.
const TABLE: &[(&str, u32, &str)] = &[
    ("USER_MEMORY", k::KVM_CAP_USER_MEMORY, "guest memory"),
    ("EXT_CPUID", k::KVM_CAP_EXT_CPUID, "CPU models"),
    ("IRQCHIP", k::KVM_CAP_IRQCHIP, "local APICs in the kernel"),
    ("SPLIT_IRQCHIP", k::KVM_CAP_SPLIT_IRQCHIP, "the other interrupt controllers outside of it"),
    ("IRQ_ROUTING", k::KVM_CAP_IRQ_ROUTING, "routes of interrupts"),
    ("SIGNAL_MSI", k::KVM_CAP_SIGNAL_MSI, "message-signalled interrupts"),
    ("IMMEDIATE_EXIT", k::KVM_CAP_IMMEDIATE_EXIT, "stopping a CPU without fail"),
    ("MP_STATE", k::KVM_CAP_MP_STATE, "CPUs that wait for their start"),
    ("VCPU_EVENTS", k::KVM_CAP_VCPU_EVENTS, "state: pending events"),
    ("DEBUGREGS", k::KVM_CAP_DEBUGREGS, "state: debug registers"),
    ("XSAVE", k::KVM_CAP_XSAVE, "state: vector registers"),
    ("XCRS", k::KVM_CAP_XCRS, "state: XCR0"),
    ("SET_TSS_ADDR", k::KVM_CAP_SET_TSS_ADDR, "real mode on older Intel CPUs"),
    ("SET_IDENTITY_MAP_ADDR", k::KVM_CAP_SET_IDENTITY_MAP_ADDR, "real mode on older Intel CPUs"),
    ("XSAVE2", k::KVM_CAP_XSAVE2, "state: vector registers of any size"),
    ("IRQFD", k::KVM_CAP_IRQFD, "interrupts by event descriptors"),
    ("IOEVENTFD", k::KVM_CAP_IOEVENTFD, "doorbells by event descriptors"),
    ("READONLY_MEM", k::KVM_CAP_READONLY_MEM, "read-only memory"),
    ("TSC_DEADLINE_TIMER", k::KVM_CAP_TSC_DEADLINE_TIMER, "the APIC timer's deadline mode"),
    ("TSC_CONTROL", k::KVM_CAP_TSC_CONTROL, "a TSC rate other than the host's"),
    ("GET_TSC_KHZ", k::KVM_CAP_GET_TSC_KHZ, "the TSC's rate"),
    ("ADJUST_CLOCK", k::KVM_CAP_ADJUST_CLOCK, "kvm-clock that stops in a pause"),
    ("KVMCLOCK_CTRL", k::KVM_CAP_KVMCLOCK_CTRL, "no false lock-up reports after a pause"),
    ("X2APIC_API", k::KVM_CAP_X2APIC_API, "more than 255 CPUs"),
    ("MANUAL_DIRTY_LOG_PROTECT2", k::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, "a cheap dirty log"),
    ("DIRTY_LOG_RING", k::KVM_CAP_DIRTY_LOG_RING, "dirty pages in rings"),
    ("X86_SMM", k::KVM_CAP_X86_SMM, "system-management mode"),
    ("SET_GUEST_DEBUG", k::KVM_CAP_SET_GUEST_DEBUG, "breakpoints"),
    ("X86_USER_SPACE_MSR", k::KVM_CAP_X86_USER_SPACE_MSR, "MSRs that the engine answers"),
    ("EXIT_ON_EMULATION_FAILURE", k::KVM_CAP_EXIT_ON_EMULATION_FAILURE, "reports of what cannot be emulated"),
    ("NESTED_STATE", k::KVM_CAP_NESTED_STATE, "guests that are hypervisors"),
    ("NR_MEMSLOTS", k::KVM_CAP_NR_MEMSLOTS, "number of memory regions"),
    ("NR_VCPUS", k::KVM_CAP_NR_VCPUS, "number of CPUs, recommended"),
    ("MAX_VCPUS", k::KVM_CAP_MAX_VCPUS, "number of CPUs, at most"),
];

/// The capabilities that the engine knows, in the order in which people should read them.
pub(super) fn all(kvm: &Kvm) -> Vec<Capability> {
    let ask = |&(name, number, purpose): &(&str, u32, &str)| Capability {
        name: name.into(),
        need: need(number),
        purpose: purpose.into(),
        value: kvm.check_extension_raw(number.into()),
    };
    TABLE.iter().map(ask).collect()
}

fn need(number: u32) -> Need {
    let needed = REQUIRED.iter().any(|(capability, _)| *capability as u32 == number);
    if needed { Need::Needed } else { Need::Useful }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_engine_needs_is_in_the_table_under_its_name() {
        for (capability, name) in REQUIRED {
            let row = TABLE.iter().find(|(_, number, _)| *number == *capability as u32);
            assert_eq!(row.map(|(short, ..)| format!("KVM_CAP_{short}")).as_deref(), Some(*name));
        }
        assert_eq!(need(k::KVM_CAP_NR_VCPUS), Need::Useful);
    }
}

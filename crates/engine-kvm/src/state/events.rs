//! Events on their way, and whether the CPU runs.

use engine::{Error, Result};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, KVM_VCPUEVENT_VALID_NMI_PENDING, KVM_VCPUEVENT_VALID_SHADOW, KVM_VCPUEVENT_VALID_SMM,
    KVM_X86_SHADOW_INT_MOV_SS, KVM_X86_SHADOW_INT_STI, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;
use x86::bits::{rflags, vector};
use x86::{Activity, CpuState, Event, Events};

use super::{not_taken, refused};

pub(super) fn read_activity(vcpu: &VcpuFd) -> Result<Activity> {
    Ok(match vcpu.get_mp_state().map_err(refused("KVM_GET_MP_STATE"))?.mp_state {
        KVM_MP_STATE_HALTED => Activity::Halted,
        KVM_MP_STATE_UNINITIALIZED | KVM_MP_STATE_INIT_RECEIVED | KVM_MP_STATE_SIPI_RECEIVED => Activity::WaitForSipi,
        _ => Activity::Running,
    })
}

pub(super) fn write_activity(vcpu: &VcpuFd, activity: Activity) -> Result<()> {
    let mp_state = match activity {
        Activity::Running => KVM_MP_STATE_RUNNABLE,
        Activity::Halted => KVM_MP_STATE_HALTED,
        // In this one a start-up IPI is taken; "uninitialized" waits for an INIT before.
        Activity::WaitForSipi => KVM_MP_STATE_INIT_RECEIVED,
        Activity::Shutdown => return Err(Error::State("a CPU that has shut down".into())),
    };
    vcpu.set_mp_state(kvm_mp_state { mp_state }).map_err(not_taken("whether the CPU runs"))
}

/// What is being delivered. A software interrupt is not: RIP is still that of its instruction, which starts over.
fn injecting(e: &kvm_vcpu_events) -> Option<Event> {
    let hardware = |vector, error_code| Some(Event { vector, error_code, software: false });
    if e.exception.injected != 0 || e.exception.pending != 0 {
        if matches!(e.exception.nr, vector::BP | vector::OF) {
            return None;
        }
        return hardware(e.exception.nr, (e.exception.has_error_code != 0).then_some(e.exception.error_code));
    }
    if e.nmi.injected != 0 {
        return hardware(vector::NMI, None);
    }
    if e.interrupt.injected != 0 && e.interrupt.soft == 0 {
        return hardware(e.interrupt.nr, None);
    }
    None
}

pub(super) fn read(vcpu: &VcpuFd, state: &mut CpuState) -> Result<()> {
    let e = vcpu.get_vcpu_events().map_err(refused("KVM_GET_VCPU_EVENTS"))?;
    state.events = Events {
        injecting: injecting(&e),
        interrupt_shadow: e.interrupt.shadow != 0,
        nmi_pending: e.nmi.pending != 0,
        nmi_blocked: e.nmi.masked != 0,
        extint: false,
        smi_pending: e.smi.pending != 0,
        smm: e.smi.smm != 0,
    };
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, smm: bool, state: &CpuState) -> Result<()> {
    let events = &state.events;
    let mut e = kvm_vcpu_events::default();
    match events.injecting {
        None => {}
        Some(Event { software: true, .. }) => {
            return Err(Error::State("a software interrupt on its way, whose instruction has to start over".into()));
        }
        Some(Event { vector: vector::NMI, .. }) => e.nmi.injected = 1,
        // What has an error code, or a vector of exceptions, is one (SDM vol. 3A, table 6-1).
        Some(Event { vector, error_code, .. }) if vector < 32 || error_code.is_some() => {
            e.exception.injected = 1;
            e.exception.nr = vector;
            e.exception.has_error_code = u8::from(error_code.is_some());
            e.exception.error_code = error_code.unwrap_or(0);
        }
        Some(Event { vector, .. }) => {
            e.interrupt.injected = 1;
            e.interrupt.nr = vector;
        }
    }
    if events.interrupt_shadow {
        // The shadow of STI goes with RFLAGS.IF (SDM vol. 3C, 27.3.1.5).
        let kind = if state.rflags & rflags::IF != 0 { KVM_X86_SHADOW_INT_STI } else { KVM_X86_SHADOW_INT_MOV_SS };
        e.interrupt.shadow = kind as u8;
    }
    e.nmi.pending = u8::from(events.nmi_pending);
    e.nmi.masked = u8::from(events.nmi_blocked);
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW;
    if smm {
        e.smi.smm = u8::from(events.smm);
        e.smi.pending = u8::from(events.smi_pending);
        e.flags |= KVM_VCPUEVENT_VALID_SMM;
    } else if events.smm || events.smi_pending {
        return Err(Error::State("system-management mode, which the host's KVM does not have".into()));
    }
    vcpu.set_vcpu_events(&e).map_err(not_taken("the pending events"))
}

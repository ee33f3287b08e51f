//! Breakpoints of a debugger outside of the guest, by KVM_SET_GUEST_DEBUG.
//!
//! KVM keeps the guest's own debug registers and TF apart from the debugger's and lets through what is the guest's:
//! INT3 always; its hardware breakpoints while the debugger has none of its own, which take the registers of the host.

use engine::{BreakpointKind, Breakpoints, DebugEvent, Error, Result};
use kvm_bindings::{
    KVM_GUESTDBG_ENABLE, KVM_GUESTDBG_INJECT_DB, KVM_GUESTDBG_SINGLESTEP, KVM_GUESTDBG_USE_HW_BP, kvm_debug_exit_arch,
    kvm_guest_debug, kvm_guest_debug_arch,
};
use kvm_ioctls::VcpuFd;
use x86::bits::{dr6, dr7, vector};

/// The hardware's breakpoints (SDM vol. 3B, 18.2).
const MOST: usize = 4;

/// What KVM is told for `breakpoints`.
fn guest_debug(breakpoints: &Breakpoints) -> Result<kvm_guest_debug> {
    let list = &breakpoints.list;
    if list.len() > MOST {
        return Err(Error::Config(format!("{} breakpoints; the KVM engine has {MOST}", list.len())));
    }
    let mut debugreg = [0; 8];
    let mut control = 0;
    for (i, breakpoint) in list.iter().enumerate() {
        let BreakpointKind::Execute = breakpoint.kind;
        debugreg[i] = breakpoint.addr;
        // L0 to L3; the type and length of an instruction breakpoint are zero.
        debugreg[7] |= dr7::ONES | 1 << (2 * i);
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
    }
    if breakpoints.single_step {
        control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
    }
    Ok(kvm_guest_debug { control, pad: 0, arch: kvm_guest_debug_arch { debugreg } })
}

fn refused(error: kvm_ioctls::Error) -> Error {
    Error::Host { what: "KVM refuses breakpoints".into(), source: error.into() }
}

/// What a debugger wants of a vCPU.
#[derive(Default)]
pub(crate) struct Debugger {
    wanted: Breakpoints,
    /// Where it has stopped the CPU: going on does not stop there again.
    stopped_at: Option<u64>,
    /// One instruction is being run without the breakpoint at it.
    passing: bool,
}

impl Debugger {
    /// Sets the breakpoints of `vcpu`.
    ///
    /// # Errors
    /// [`Error::Config`] for more than four; [`Error::Host`] when KVM refuses.
    pub(crate) fn set(&mut self, vcpu: &VcpuFd, wanted: &Breakpoints) -> Result<()> {
        vcpu.set_guest_debug(&guest_debug(wanted)?).map_err(refused)?;
        self.wanted = wanted.clone();
        self.passing = false;
        Ok(())
    }

    /// The CPU is somewhere else.
    pub(crate) fn forget_place(&mut self) {
        self.stopped_at = None;
    }

    /// Before a run: steps over the breakpoint that the CPU stands at. RFLAGS.RF would do that (SDM vol. 3B, 18.3.1.1), but
    /// KVM does not look at it where it interprets.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM refuses.
    pub(crate) fn begin(&mut self, vcpu: &VcpuFd) -> Result<()> {
        let Some(place) = self.stopped_at.take() else { return Ok(()) };
        if vcpu.get_regs().map_err(refused)?.rip != place {
            return Ok(());
        }
        let list = self.wanted.list.iter().filter(|breakpoint| breakpoint.addr != place).copied().collect();
        vcpu.set_guest_debug(&guest_debug(&Breakpoints { list, single_step: true })?).map_err(refused)?;
        self.passing = true;
        Ok(())
    }

    /// What the debugger is to know of an exit; `None` when it was the guest's, which has then been given its exception, or
    /// no stop that anybody wants.
    ///
    /// # Errors
    /// [`Error::Host`] when KVM refuses.
    pub(crate) fn event(&mut self, vcpu: &VcpuFd, exit: &kvm_debug_exit_arch) -> Result<Option<DebugEvent>> {
        let passed = std::mem::take(&mut self.passing);
        if passed {
            vcpu.set_guest_debug(&guest_debug(&self.wanted)?).map_err(refused)?;
        }
        if exit.exception == u32::from(vector::DB) {
            // DR7 would tell whose it is, but KVM leaves it out where it interprets. The guest's own are off meanwhile.
            if exit.dr6 & dr6::B != 0 && self.wanted.list.iter().any(|breakpoint| breakpoint.addr == exit.pc) {
                self.stopped_at = Some(exit.pc);
                return Ok(Some(DebugEvent::Breakpoint(exit.pc)));
            }
            if exit.dr6 & dr6::BS != 0 {
                let wanted = self.wanted.single_step || !passed;
                return Ok(wanted.then_some(DebugEvent::Step));
            }
        }
        // A breakpoint of the guest's own while the debugger steps.
        let step = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_INJECT_DB;
        let mut guest = vcpu.get_debug_regs().map_err(refused)?;
        guest.dr6 = guest.dr6 & !dr6::B | exit.dr6 & dr6::WRITABLE | dr6::ONES;
        vcpu.set_debug_regs(&guest).map_err(refused)?;
        vcpu.set_guest_debug(&kvm_guest_debug { control: step, ..Default::default() }).map_err(refused)?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use engine::Breakpoint;

    use super::*;

    fn at(list: &[u64], single_step: bool) -> Breakpoints {
        let list = list.iter().map(|&addr| Breakpoint { addr, kind: BreakpointKind::Execute }).collect();
        Breakpoints { single_step, list }
    }

    #[test]
    fn four_breakpoints_and_no_more() {
        let four = guest_debug(&at(&[1, 2, 3, 4], false)).unwrap();
        assert_eq!(four.arch.debugreg, [1, 2, 3, 4, 0, 0, 0, 0x455]);
        assert_eq!(four.control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP);
        assert!(matches!(guest_debug(&at(&[1; 5], false)), Err(Error::Config(_))));
    }

    #[test]
    fn none_turns_it_off() {
        assert_eq!(guest_debug(&Breakpoints::default()).unwrap().control, 0);
        assert_eq!(guest_debug(&at(&[], true)).unwrap().control, KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP);
    }
}

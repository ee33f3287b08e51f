//! General-purpose registers, RIP, RFLAGS, debug registers.

use engine::Result;
use kvm_bindings::{kvm_debugregs, kvm_regs};
use kvm_ioctls::VcpuFd;
use x86::CpuState;
use x86::bits::rflags;

use super::{not_taken, refused};

pub(super) fn read(vcpu: &VcpuFd, state: &mut CpuState) -> Result<()> {
    let r = vcpu.get_regs().map_err(refused("KVM_GET_REGS"))?;
    state.gpr =
        [r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15];
    state.rip = r.rip;
    state.rflags = r.rflags;
    let d = vcpu.get_debug_regs().map_err(refused("KVM_GET_DEBUGREGS"))?;
    state.dr = [d.db[0], d.db[1], d.db[2], d.db[3], d.dr6, d.dr7];
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, state: &CpuState) -> Result<()> {
    let [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15] = state.gpr;
    let regs = kvm_regs {
        rax,
        rbx,
        rcx,
        rdx,
        rsi,
        rdi,
        rsp,
        rbp,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: state.rip,
        rflags: state.rflags | rflags::ONE,
    };
    vcpu.set_regs(&regs).map_err(not_taken("the general-purpose registers"))?;
    let [db0, db1, db2, db3, dr6, dr7] = state.dr;
    let debug = kvm_debugregs { db: [db0, db1, db2, db3], dr6, dr7, ..kvm_debugregs::default() };
    vcpu.set_debug_regs(&debug).map_err(not_taken("the debug registers"))
}

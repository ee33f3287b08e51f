//! What is told when KVM itself cannot go on: the reason, the registers, the instruction, and the way out.

use std::fmt::Write as _;

use engine::Error;
use kvm_bindings::{
    KVM_INTERNAL_ERROR_DELIVERY_EV, KVM_INTERNAL_ERROR_EMULATION, KVM_INTERNAL_ERROR_SIMUL_EX,
    KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON,
};
use kvm_ioctls::VcpuFd;
use memory::{Gpa, GuestMemory};

use crate::run_page::Exit;

/// The longest instruction (SDM vol. 2A, 2.3.11).
const LONGEST: usize = 15;
/// The first word of an emulation failure's data says that instruction bytes follow.
const HAS_BYTES: u64 = 1;

/// An internal error of KVM.
pub(crate) fn internal(id: u32, vcpu: &VcpuFd, exit: Exit<'_>, memory: &GuestMemory) -> Error {
    let error = exit.internal();
    let data = &error.data[..error.data.len().min(error.ndata as usize)];
    let what = match error.suberror {
        KVM_INTERNAL_ERROR_EMULATION => "cannot emulate an instruction".to_owned(),
        KVM_INTERNAL_ERROR_SIMUL_EX => "met an exception while it delivered another".to_owned(),
        KVM_INTERNAL_ERROR_DELIVERY_EV => "met an exit that it does not know while it delivered an event".to_owned(),
        KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON => {
            format!("met an exit of the CPU that it does not know ({:#x})", data.first().copied().unwrap_or(0))
        }
        other => format!("reports internal error {other} {data:x?}"),
    };
    // The flags, the size of the instruction and its bytes (Linux, struct kvm_run, emulation_failure).
    let told = match (error.suberror, data) {
        (KVM_INTERNAL_ERROR_EMULATION, [flags, rest @ ..]) if flags & HAS_BYTES != 0 => {
            let bytes: Vec<u8> = rest.iter().flat_map(|word| word.to_le_bytes()).collect();
            bytes.split_first().map(|(len, bytes)| bytes[..bytes.len().min(usize::from(*len)).min(LONGEST)].to_vec())
        }
        _ => None,
    };
    report(id, vcpu, &what, told.filter(|bytes| !bytes.is_empty()), memory)
}

/// The CPU would not enter the guest.
pub(crate) fn entry(id: u32, vcpu: &VcpuFd, exit: Exit<'_>, memory: &GuestMemory) -> Error {
    let failed = exit.fail_entry();
    let what = format!(
        "cannot enter the guest: hardware reason {:#x} on host CPU {}",
        failed.hardware_entry_failure_reason, failed.cpu
    );
    report(id, vcpu, &what, None, memory)
}

/// `KVM_RUN` itself has failed.
pub(crate) fn run(id: u32, vcpu: &VcpuFd, error: &std::io::Error, memory: &GuestMemory) -> Error {
    let hint = match error.raw_os_error() {
        Some(libc::ENOMEM) => ": the host has no memory left",
        Some(libc::EFAULT) => ": guest memory that the host cannot give",
        _ => "",
    };
    report(id, vcpu, &format!("cannot run the CPU ({error}{hint})"), None, memory)
}

/// An exit that has no meaning here.
pub(crate) fn unknown(id: u32, vcpu: &VcpuFd, reason: u32, memory: &GuestMemory) -> Error {
    report(id, vcpu, &format!("ends the run for reason {reason}, which Husk does not know"), None, memory)
}

/// The error with registers and instruction bytes: those that KVM `told`, or what is at RIP.
pub(crate) fn report(id: u32, vcpu: &VcpuFd, what: &str, told: Option<Vec<u8>>, memory: &GuestMemory) -> Error {
    let mut text = format!("KVM {what}; ");
    let bytes = told.or_else(|| instruction(vcpu, memory));
    match bytes {
        Some(bytes) => {
            text.push_str("instruction");
            bytes.iter().for_each(|byte| {
                let _ = write!(text, " {byte:02x}");
            });
        }
        None => text.push_str("instruction not readable"),
    }
    let _ = write!(text, "; cpu{id}: {}", registers(vcpu));
    text.push_str("; the software engine may do it: --engine soft");
    Error::Internal(text)
}

/// The bytes at RIP, as many as are mapped.
fn instruction(vcpu: &VcpuFd, memory: &GuestMemory) -> Option<Vec<u8>> {
    let (regs, sregs) = (vcpu.get_regs().ok()?, vcpu.get_sregs().ok()?);
    let at = sregs.cs.base.wrapping_add(regs.rip);
    let mut bytes = Vec::new();
    for n in 0..LONGEST as u64 {
        let linear = at.wrapping_add(n);
        let place = vcpu.translate_gva(linear).ok().filter(|place| place.valid != 0);
        let Some(place) = place else { break };
        let mut byte = [0];
        if memory.read(Gpa(place.physical_address), &mut byte).is_err() {
            break;
        }
        bytes.push(byte[0]);
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// The registers in one line.
fn registers(vcpu: &VcpuFd) -> String {
    let (Ok(r), Ok(s)) = (vcpu.get_regs(), vcpu.get_sregs()) else { return "registers not readable".into() };
    format!(
        "cs:rip {:04x}:{:x} rflags {:x} rax {:x} rbx {:x} rcx {:x} rdx {:x} rsi {:x} rdi {:x} rsp {:x} rbp {:x} r8 {:x} \
         r9 {:x} r10 {:x} r11 {:x} r12 {:x} r13 {:x} r14 {:x} r15 {:x} cr0 {:x} cr2 {:x} cr3 {:x} cr4 {:x} efer {:x}",
        s.cs.selector,
        r.rip,
        r.rflags,
        r.rax,
        r.rbx,
        r.rcx,
        r.rdx,
        r.rsi,
        r.rdi,
        r.rsp,
        r.rbp,
        r.r8,
        r.r9,
        r.r10,
        r.r11,
        r.r12,
        r.r13,
        r.r14,
        r.r15,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.efer
    )
}

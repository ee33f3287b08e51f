//! CPUID.

use x86::CpuidQuery;
use x86::bits::cr4;

use crate::cpu::{Cpu, Exec, reg};
use crate::mmu::PHYS_BITS;
use crate::op::Op;

/// CPUID, as the model has it.
pub(super) fn cpuid(cpu: &mut Cpu, _: &Op) -> Exec {
    let query = CpuidQuery {
        apic_id: cpu.id,
        vcpus: u32::try_from(cpu.shared.slots.len()).unwrap_or(u32::MAX),
        osxsave: cpu.cr4 & cr4::OSXSAVE != 0,
        apic_enabled: cpu.lapic_enabled(),
        xcr0: cpu.xcr0,
        tsc_hz: cpu.msrs.tsc_hz,
        phys_bits: PHYS_BITS,
    };
    let [eax, ebx, ecx, edx] = cpu.model.cpuid(cpu.regs[reg::RAX] as u32, cpu.regs[reg::RCX] as u32, &query);
    cpu.regs[reg::RAX] = eax.into();
    cpu.regs[reg::RBX] = ebx.into();
    cpu.regs[reg::RCX] = ecx.into();
    cpu.regs[reg::RDX] = edx.into();
    Ok(())
}

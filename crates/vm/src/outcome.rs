//! What became of a VM.

use x86::CpuState;

/// How a VM has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest has powered the machine off.
    PowerOff,
    /// The guest has reset the machine, and a reset ends it.
    Reset,
    /// The guest has written this exit code to the debug-exit port.
    Exit(u8),
    /// A fault while delivering a double fault, with the registers on one line.
    TripleFault(String),
    /// The guest's kernel has panicked: its line that says so.
    GuestPanic(String),
    /// Somebody has stopped the VM from outside.
    Stopped,
    /// Husk or the host has failed.
    Failed(String),
}

/// The registers that tell where a CPU was and in which mode, on one line.
pub(crate) fn registers(cpu: u32, s: &CpuState) -> String {
    let [_, cs, ss, ..] = &s.seg;
    format!(
        "cpu{cpu} rip={:04x}:{:016x} rsp={:04x}:{:016x} rflags={:08x} cr0={:08x} cr2={:016x} cr3={:016x} cr4={:08x} efer={:x} \
         gdt={:x}+{:x} idt={:x}+{:x} tr={:04x}",
        cs.selector,
        s.rip,
        ss.selector,
        s.gpr[4],
        s.rflags,
        s.cr0,
        s.cr2,
        s.cr3,
        s.cr4,
        s.msrs.efer,
        s.gdt.base,
        s.gdt.limit,
        s.idt.base,
        s.idt.limit,
        s.tr.selector,
    )
}

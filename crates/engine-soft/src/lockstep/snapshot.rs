//! The architectural state of a CPU but for its memory, to go back to and to compare.

use x86::{DescriptorTable, Msrs, Segment, XsaveArea};

use crate::cpu::{CodeSize, Cpu};
use crate::flags::Flags;

/// All registers, and what is derived from them.
#[derive(Clone)]
pub(crate) struct Snapshot {
    pub(crate) regs: [u64; 32],
    pub(crate) rip: u64,
    flags: Flags,
    system_flags: u64,
    pub(crate) rflags: u64,
    cpl: u8,
    code_size: CodeSize,
    data_table: u8,
    shadow: bool,
    seg: [Segment; 6],
    ldt: Segment,
    tr: Segment,
    gdt: DescriptorTable,
    idt: DescriptorTable,
    control: [u64; 5],
    dr: [u64; 6],
    msrs: Msrs,
    pdptes: [u64; 4],
    halted: bool,
    nmi_blocked: bool,
    xsave: XsaveArea,
}

const GPR: [&str; 16] =
    ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"];
const SEGMENTS: [&str; 6] = ["es", "cs", "ss", "ds", "fs", "gs"];
const CONTROL: [&str; 5] = ["cr0", "cr2", "cr3", "cr4", "xcr0"];

impl Snapshot {
    /// The state of `cpu` as it is.
    pub(crate) fn take(cpu: &mut Cpu) -> Self {
        Self {
            regs: cpu.regs,
            rip: cpu.rip,
            flags: cpu.flags,
            system_flags: cpu.system_flags,
            rflags: cpu.rflags(),
            cpl: cpu.cpl,
            code_size: cpu.code_size,
            data_table: cpu.data_table,
            shadow: cpu.shadow,
            seg: cpu.seg,
            ldt: cpu.ldt,
            tr: cpu.tr,
            gdt: cpu.gdt,
            idt: cpu.idt,
            control: [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.xcr0],
            dr: cpu.dr,
            msrs: cpu.msrs,
            pdptes: cpu.mmu.pdptes,
            halted: cpu.halted,
            nmi_blocked: cpu.nmi_blocked,
            xsave: cpu.fpu.save(),
        }
    }

    /// Brings `cpu` back to this state. What it has cached stays: whatever changes what may be cached must not have run
    /// since (see [`super::may_run_twice`]).
    pub(crate) fn restore(&self, cpu: &mut Cpu) {
        cpu.regs = self.regs;
        cpu.rip = self.rip;
        cpu.flags = self.flags;
        cpu.system_flags = self.system_flags;
        cpu.cpl = self.cpl;
        cpu.shadow = self.shadow;
        cpu.seg = self.seg;
        cpu.ldt = self.ldt;
        cpu.tr = self.tr;
        cpu.gdt = self.gdt;
        cpu.idt = self.idt;
        [cpu.cr0, cpu.cr2, cpu.cr3, cpu.cr4, cpu.xcr0] = self.control;
        cpu.dr = self.dr;
        cpu.msrs = self.msrs;
        cpu.mmu.pdptes = self.pdptes;
        cpu.halted = self.halted;
        cpu.nmi_blocked = self.nmi_blocked;
        cpu.fpu.load(&self.xsave);
        cpu.update_mode();
    }

    /// What is different in `other`, in words, but for the bits of `open` in RFLAGS: first this one's value, then that
    /// of `other`.
    pub(crate) fn differences(&self, other: &Self, open: u64) -> Vec<String> {
        let mut list = Vec::new();
        let mut word = |name: &str, a: u64, b: u64| {
            if a != b {
                list.push(format!("{name} {a:#x} and {b:#x}"));
            }
        };
        GPR.iter().enumerate().for_each(|(i, name)| word(name, self.regs[i], other.regs[i]));
        word("rip", self.rip, other.rip);
        word("rflags", self.rflags & !open, other.rflags & !open);
        CONTROL.iter().enumerate().for_each(|(i, name)| word(name, self.control[i], other.control[i]));
        (0..6).for_each(|i| word(&format!("dr{}", i + 2 * (i / 4)), self.dr[i], other.dr[i]));
        word("cpl", self.cpl.into(), other.cpl.into());
        word("table of the TLB", self.data_table.into(), other.data_table.into());
        word("code size", self.code_size as u64, other.code_size as u64);
        word("interrupt shadow", self.shadow.into(), other.shadow.into());
        word("halted", self.halted.into(), other.halted.into());
        word("nmi blocked", self.nmi_blocked.into(), other.nmi_blocked.into());
        let mut whole = |name: &str, a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| {
            let (a, b) = (format!("{a:x?}"), format!("{b:x?}"));
            if a != b {
                list.push(format!("{name} {a} and {b}"));
            }
        };
        // Most of the time all are the same, which is quick to see.
        if self.seg != other.seg {
            SEGMENTS.iter().enumerate().for_each(|(i, name)| whole(name, &self.seg[i], &other.seg[i]));
        }
        if (self.ldt, self.tr) != (other.ldt, other.tr) {
            whole("ldt", &self.ldt, &other.ldt);
            whole("tr", &self.tr, &other.tr);
        }
        if (self.gdt, self.idt) != (other.gdt, other.idt) {
            whole("gdt", &self.gdt, &other.gdt);
            whole("idt", &self.idt, &other.idt);
        }
        if self.msrs != other.msrs {
            whole("msrs", &self.msrs, &other.msrs);
        }
        if self.xsave.0 != other.xsave.0 {
            xsave_differences(&self.xsave.0, &other.xsave.0, &mut whole);
        }
        list
    }

    /// The size of the code that runs.
    pub(crate) fn code_size(&self) -> CodeSize {
        self.code_size
    }

    /// The general registers on a few lines.
    pub(crate) fn describe(&self) -> String {
        let mut text = String::new();
        for (i, name) in GPR.iter().enumerate() {
            text.push_str(&format!("{name:>4} {:016x}{}", self.regs[i], if i % 4 == 3 { "\n" } else { "" }));
        }
        text.push_str(&format!(" rip {:016x} rflags {:08x} cpl {}\n", self.rip, self.rflags, self.cpl));
        text
    }
}

fn xsave_differences(a: &[u8], b: &[u8], whole: &mut impl FnMut(&str, &dyn std::fmt::Debug, &dyn std::fmt::Debug)) {
    let places = [("fcw", 0, 2), ("fsw", 2, 2), ("ftw", 4, 1), ("fip", 8, 8), ("fdp", 16, 8), ("mxcsr", 24, 4)];
    let stack = (0..8).map(|i| (format!("st{i}"), 32 + 16 * i, 10));
    let low = (0..16).map(|i| (format!("xmm{i}"), 160 + 16 * i, 16));
    let high = (0..16).map(|i| (format!("upper half of ymm{i}"), 576 + 16 * i, 16));
    let all = places.into_iter().map(|(name, at, len)| (name.to_owned(), at, len)).chain(stack).chain(low).chain(high);
    for (name, at, len) in all {
        whole(&name, &&a[at..at + len], &&b[at..at + len]);
    }
}

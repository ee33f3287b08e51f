//! How the bootstrap processor starts.

use memory::{Gpa, GuestMemory};
use x86::bits::{cr0, cr4, efer, pte};
use x86::lapic::{LVT_EXTINT, LVT_NMI, SVR_ENABLED};
use x86::{CpuState, DescriptorTable, Segment};

use super::place;

/// Which entry point of a kernel is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryMode {
    /// The quickest one that works: for a bzImage that of the kernel inside, which the loader decompresses, else the
    /// 64-bit, else the 32-bit entry of the bzImage; PVH for an ELF file.
    #[default]
    Auto,
    /// The 32-bit entry of a bzImage, which decompresses itself.
    Boot32,
    /// The 64-bit entry of a bzImage, which decompresses itself.
    Boot64,
    /// The PVH entry of an ELF file.
    Pvh,
}

impl std::fmt::Display for EntryMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Boot32 => "boot32",
            Self::Boot64 => "boot64",
            Self::Pvh => "pvh",
        })
    }
}

/// Sets what firmware would have set on every CPU, application processors too, before it hands over: the MTRRs are on
/// and make all memory write-back (SDM vol. 3A, 12.11.2). All CPUs have to agree.
pub fn set_memory_types(cpu: &mut CpuState) {
    const ENABLED: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    cpu.msrs.mtrr_def_type = ENABLED | WRITE_BACK;
}

/// How the bootstrap processor is to start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The state of the CPU at the entry, never [`EntryMode::Auto`]; the kernel inside of a bzImage is entered as the
    /// bzImage itself.
    pub mode: EntryMode,
    /// The address of the first instruction.
    pub ip: Gpa,
    /// The address of what the kernel is told: `boot_params`, or `hvm_start_info` for PVH.
    pub info: Gpa,
}

/// The selectors that the boot protocol demands: code 10h, data 18h; the task state segment is our choice.
const CODE: u16 = 0x10;
const DATA: u16 = 0x18;
const TASK: u16 = 0x20;
const PAGE: u64 = memory::PAGE_SIZE;

impl Entry {
    /// Writes the tables that the registers of [`Entry::apply`] point to.
    pub(super) fn write_tables(&self, mem: &GuestMemory) -> memory::Result<()> {
        let segments = self.segments();
        let entries = [0, 0, descriptor(&segments.code), descriptor(&segments.data), descriptor(&segments.task), 0];
        mem.write(Gpa(place::GDT), &words(&entries))?;
        if self.mode == EntryMode::Boot64 {
            write_identity_map(mem)?;
        }
        Ok(())
    }

    /// Sets the registers of a CPU that has just been reset so that it starts at the entry.
    pub fn apply(&self, cpu: &mut CpuState) {
        let segments = self.segments();
        cpu.seg = [segments.data; 6];
        cpu.seg[1] = segments.code;
        cpu.tr = segments.task;
        cpu.ldt = Segment { attr: Segment::UNUSABLE, ..Segment::default() };
        cpu.gdt = DescriptorTable { base: place::GDT, limit: 6 * 8 - 1 };
        // Exceptions before the kernel has its own table end in a triple fault, which is told.
        cpu.idt = DescriptorTable::default();
        cpu.gpr = [0; 16];
        cpu.rip = self.ip.0;
        cpu.rflags = 2;
        cpu.cr0 = cr0::PE | cr0::ET;
        cpu.cr4 = 0;
        cpu.msrs.efer = 0;
        // Virtual wire mode (Intel MultiProcessor Specification 1.4, 3.6.2.2): the PIC enters at LINT0, NMIs at LINT1.
        cpu.lapic.svr |= SVR_ENABLED;
        cpu.lapic.lvt_lint0 = LVT_EXTINT;
        cpu.lapic.lvt_lint1 = LVT_NMI;
        const RBX: usize = 3;
        const RSP: usize = 4;
        const RSI: usize = 6;
        cpu.gpr[RSP] = place::STACK_TOP;
        match self.mode {
            EntryMode::Pvh => cpu.gpr[RBX] = self.info.0,
            _ => cpu.gpr[RSI] = self.info.0,
        }
        if self.mode == EntryMode::Boot64 {
            cpu.cr0 |= cr0::PG;
            cpu.cr3 = place::PAGE_TABLES;
            cpu.cr4 = cr4::PAE;
            cpu.msrs.efer = efer::LME | efer::LMA;
        }
    }

    fn segments(&self) -> Segments {
        let flat =
            Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED | Segment::GRANULARITY;
        let width = if self.mode == EntryMode::Boot64 { Segment::LONG } else { Segment::DB };
        let segment = |selector, attr| Segment { base: 0, limit: 0xffff_ffff, selector, attr };
        Segments {
            code: segment(CODE, flat | Segment::CODE | width),
            data: segment(DATA, flat | Segment::DB),
            // A busy 32-bit or 64-bit task state segment (SDM vol. 3A, table 3-2).
            task: Segment { base: 0, limit: 0x67, selector: TASK, attr: Segment::PRESENT | 11 },
        }
    }
}

struct Segments {
    code: Segment,
    data: Segment,
    task: Segment,
}

/// The descriptor of a segment with base zero (SDM vol. 3A, 3.4.5).
fn descriptor(segment: &Segment) -> u64 {
    let limit = u64::from(if segment.has(Segment::GRANULARITY) { segment.limit >> 12 } else { segment.limit });
    limit & 0xffff | (limit >> 16 & 0xf) << 48 | u64::from(segment.attr & 0xf0ff) << 40
}

/// The first 4 GiB mapped onto themselves in 2 MiB pages: PML4, one directory of pointers, four page directories.
fn write_identity_map(mem: &GuestMemory) -> memory::Result<()> {
    let table = pte::P | pte::RW;
    let page_at = |index: u64| place::PAGE_TABLES + index * PAGE;
    let mut entries = vec![0u64; 2 * 512];
    entries[0] = page_at(1) | table;
    for i in 0..4 {
        entries[512 + i as usize] = page_at(2 + i) | table;
    }
    entries.extend((0..4 * 512).map(|large| large << 21 | table | pte::PS));
    mem.write(Gpa(place::PAGE_TABLES), &words(&entries))
}

fn words(values: &[u64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

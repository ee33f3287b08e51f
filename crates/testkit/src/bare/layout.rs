//! Where things lie in a bare guest, and its tables.

use memory::{Gpa, GuestMemory};
use x86::bits::{cr0, cr4, efer, pte};
use x86::{CpuState, DescriptorTable, Segment};

/// The size of memory.
pub const RAM: u64 = 4 << 20;
/// The global descriptor table; entries beyond [`selector::FREE`] are the test's.
pub const GDT: u64 = 0x800;
/// The interrupt descriptor table.
pub const IDT: u64 = 0x1000;
/// The task state segment.
pub const TSS: u64 = 0x2000;
/// The exception handlers, 64 bytes each.
pub const STUBS: u64 = 0x3000;
/// The top of the stack of privilege 0 that a guest starts with.
pub const KERNEL_STACK: u64 = 0x9000;
/// The top of the stack of privilege 0 in the TSS.
pub const TSS_STACK: u64 = 0x8000;
/// The top of a stack for user code.
pub const USER_STACK: u64 = 0xb000;
/// Where code starts.
pub const CODE: u64 = 0x1_0000;
/// A place for user code.
pub const USER_CODE: u64 = 0x2_0000;
/// The root of the page tables.
pub(super) const PAGE_TABLES: u64 = 0x10_0000;

/// The descriptors that are there at the start.
#[allow(missing_docs, reason = "their names tell")]
pub mod selector {
    pub const CODE32: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE32: u16 = 0x1b;
    pub const USER_DATA: u16 = 0x23;
    pub const CODE64: u16 = 0x28;
    pub const USER_CODE64: u16 = 0x33;
    pub const CODE16: u16 = 0x38;
    pub const TSS: u16 = 0x40;
    /// The first that is free, as are those behind it up to 0xf8.
    pub const FREE: u16 = 0x50;
}

/// A code or data descriptor: access byte, flags (G, D/B, L, AVL) in the low four bits.
#[must_use]
pub const fn segment(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let base = base as u64;
    let limit = limit as u64;
    limit & 0xffff
        | (base & 0xff_ffff) << 16
        | (access as u64) << 40
        | (limit >> 16 & 15) << 48
        | (flags as u64) << 52
        | (base >> 24) << 56
}

/// A system descriptor with a limit in bytes.
#[must_use]
pub const fn system(base: u32, limit: u32, access: u8) -> u64 {
    segment(base, limit, access, 0)
}

/// A gate of protected mode.
#[must_use]
pub const fn gate32(selector: u16, offset: u32, access: u8) -> u64 {
    let offset = offset as u64;
    offset & 0xffff | (selector as u64) << 16 | (access as u64) << 40 | (offset >> 16) << 48
}

/// A call gate with parameters.
#[must_use]
pub const fn call_gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    gate32(selector, offset, access) | (parameters as u64) << 32
}

/// A gate of long mode.
#[must_use]
pub const fn gate64(selector: u16, offset: u64, access: u8, ist: u8) -> [u64; 2] {
    [gate32(selector, offset as u32, access) | (ist as u64) << 32, offset >> 32]
}

fn put64(memory: &GuestMemory, at: u64, value: u64) {
    memory.write(Gpa(at), &value.to_le_bytes()).expect("within memory");
}

pub(super) fn write_tables(memory: &GuestMemory, long: bool) {
    let gdt = [
        0,
        segment(0, 0xf_ffff, 0x9b, 0xc),
        segment(0, 0xf_ffff, 0x93, 0xc),
        segment(0, 0xf_ffff, 0xfb, 0xc),
        segment(0, 0xf_ffff, 0xf3, 0xc),
        segment(0, 0xf_ffff, 0x9b, 0xa),
        segment(0, 0xf_ffff, 0xfb, 0xa),
        segment(0, 0xffff, 0x9b, 0),
        system(TSS as u32, 0xfff, 0x8b),
        0,
    ];
    for (i, value) in gdt.into_iter().enumerate() {
        put64(memory, GDT + 8 * i as u64, value);
    }
    for vector in 0..32 {
        let offset = STUBS + vector * 64;
        if long {
            let [low, high] = gate64(selector::CODE64, offset, 0x8e, 0);
            put64(memory, IDT + 16 * vector, low);
            put64(memory, IDT + 16 * vector + 8, high);
        } else {
            put64(memory, IDT + 8 * vector, gate32(selector::CODE32, offset as u32, 0x8e));
        }
    }
    if long {
        put64(memory, TSS + 4, TSS_STACK);
    } else {
        put64(memory, TSS + 4, TSS_STACK | u64::from(selector::DATA) << 32);
    }
    // The I/O bitmap starts at 0x68 and allows everything.
    memory.write(Gpa(TSS + 0x66), &0x68u16.to_le_bytes()).expect("within memory");
}

fn flat(selector: u16, code: bool, long: bool) -> Segment {
    let mut attr =
        Segment::PRESENT | Segment::S | Segment::ACCESSED | Segment::WRITABLE_OR_READABLE | Segment::GRANULARITY;
    if code {
        attr |= Segment::CODE;
    }
    attr |= if long { Segment::LONG } else { Segment::DB };
    Segment { base: 0, limit: u32::MAX, selector, attr }
}

pub(super) fn enter_protected(state: &mut CpuState) {
    let data = flat(selector::DATA, false, false);
    state.seg = [data, flat(selector::CODE32, true, false), data, data, data, data];
    state.gdt = DescriptorTable { base: GDT, limit: 0xff };
    state.idt = DescriptorTable { base: IDT, limit: 0x7ff };
    state.tr = Segment { base: TSS, limit: 0xfff, selector: selector::TSS, attr: Segment::PRESENT | 11 };
    state.ldt = Segment { base: 0, limit: 0, selector: 0, attr: Segment::UNUSABLE };
    state.cr0 = cr0::PE | cr0::ET | cr0::NE;
    state.rip = CODE;
    state.gpr[4] = KERNEL_STACK;
}

pub(super) fn enter_long(state: &mut CpuState) {
    enter_protected(state);
    state.seg[1] = flat(selector::CODE64, true, true);
    state.idt.limit = 0xfff;
    state.cr0 |= cr0::PG | cr0::WP;
    state.cr3 = PAGE_TABLES;
    state.cr4 = cr4::PAE;
    state.msrs.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
}

const OPEN: u64 = pte::P | pte::RW | pte::US;

/// Four levels; the page table with the first 2 MiB is the fourth page.
pub(super) fn write_page_tables64(memory: &GuestMemory) {
    for level in 0..3 {
        put64(memory, PAGE_TABLES + 0x1000 * level, (PAGE_TABLES + 0x1000 * (level + 1)) | OPEN);
    }
    for page in 0..512 {
        put64(memory, PAGE_TABLES + 0x3000 + 8 * page, page << 12 | OPEN);
    }
}

/// Two levels; the page table with the first 4 MiB is the second page.
pub(super) fn write_page_tables32(memory: &GuestMemory) {
    put64(memory, PAGE_TABLES, (PAGE_TABLES + 0x1000) | OPEN);
    for page in 0..512 {
        let (low, high) = ((2 * page) << 12 | OPEN, (2 * page + 1) << 12 | OPEN);
        put64(memory, PAGE_TABLES + 0x1000 + 8 * page, low | high << 32);
    }
}

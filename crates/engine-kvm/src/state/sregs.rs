//! Segments, descriptor tables, control registers, IA32_EFER, IA32_APIC_BASE.

use engine::Result;
use kvm_bindings::{kvm_dtable, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use x86::bits::{cr0, efer};
use x86::{CpuState, DescriptorTable, Segment};

use super::{not_taken, refused};

/// Which register a segment is in, as far as it matters.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Its base counts even with a null selector in 64-bit mode.
    FsGs,
    /// Its DPL is the current privilege level.
    Ss,
    Other,
}

/// KVM's segment as ours. A null one is brought into one form: processors keep different remains.
fn from_kvm(s: &kvm_segment, place: Place) -> Segment {
    let dpl = u16::from(s.dpl & 3) << 5;
    if s.unusable != 0 || s.present == 0 {
        let base = if place == Place::FsGs { s.base } else { 0 };
        let dpl = if place == Place::Ss { dpl } else { 0 };
        return Segment { base, limit: 0, selector: s.selector, attr: Segment::UNUSABLE | dpl };
    }
    let flag = |on: u8, bit: u16| if on != 0 { bit } else { 0 };
    let attr = u16::from(s.type_ & 15)
        | flag(s.s, Segment::S)
        | dpl
        | Segment::PRESENT
        | flag(s.avl, 1 << 12)
        | flag(s.l, Segment::LONG)
        | flag(s.db, Segment::DB)
        | flag(s.g, Segment::GRANULARITY);
    Segment { base: s.base, limit: s.limit, selector: s.selector, attr }
}

/// Our segment as KVM's. `long` is IA32_EFER.LMA, outside of which L has no meaning and KVM takes none.
fn to_kvm(s: &Segment, long: bool) -> kvm_segment {
    let usable = s.is_usable();
    let flag = |bit: u16| u8::from(usable && s.has(bit));
    // An entry into the guest fails if G does not go with the limit (SDM vol. 3C, 27.3.1.2).
    let g = match s.limit {
        limit if limit > 0xf_ffff => 1,
        limit if limit & 0xfff != 0xfff => 0,
        _ => flag(Segment::GRANULARITY),
    };
    kvm_segment {
        base: s.base,
        limit: s.limit,
        selector: s.selector,
        type_: if usable { s.kind() } else { 0 },
        present: u8::from(usable && s.has(Segment::PRESENT)),
        dpl: s.dpl(),
        db: flag(Segment::DB),
        s: flag(Segment::S),
        l: if long { flag(Segment::LONG) } else { 0 },
        g,
        avl: flag(1 << 12),
        unusable: u8::from(!usable),
        padding: 0,
    }
}

fn table(t: &DescriptorTable) -> kvm_dtable {
    kvm_dtable { base: t.base, limit: t.limit, padding: [0; 3] }
}

pub(super) fn read(vcpu: &VcpuFd, state: &mut CpuState) -> Result<()> {
    let s = vcpu.get_sregs().map_err(refused("KVM_GET_SREGS"))?;
    state.seg = [
        from_kvm(&s.es, Place::Other),
        from_kvm(&s.cs, Place::Other),
        from_kvm(&s.ss, Place::Ss),
        from_kvm(&s.ds, Place::Other),
        from_kvm(&s.fs, Place::FsGs),
        from_kvm(&s.gs, Place::FsGs),
    ];
    state.ldt = from_kvm(&s.ldt, Place::Other);
    state.tr = from_kvm(&s.tr, Place::Other);
    state.gdt = DescriptorTable { base: s.gdt.base, limit: s.gdt.limit };
    state.idt = DescriptorTable { base: s.idt.base, limit: s.idt.limit };
    (state.cr0, state.cr2, state.cr3, state.cr4) = (s.cr0, s.cr2, s.cr3, s.cr4);
    state.msrs.efer = s.efer;
    state.msrs.apic_base = s.apic_base;
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, state: &CpuState) -> Result<()> {
    let long = state.msrs.efer & efer::LMA != 0;
    let [es, cs, ss, ds, fs, gs] = state.seg.map(|s| to_kvm(&s, long));
    let sregs = kvm_sregs {
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr: to_kvm(&state.tr, long),
        ldt: to_kvm(&state.ldt, long),
        gdt: table(&state.gdt),
        idt: table(&state.idt),
        cr0: state.cr0 | cr0::ET,
        cr2: state.cr2,
        cr3: state.cr3,
        cr4: state.cr4,
        cr8: u64::from(state.lapic.tpr >> 4 & 15),
        efer: state.msrs.efer,
        apic_base: state.msrs.apic_base,
        // An interrupt on its way is among the events.
        interrupt_bitmap: [0; 4],
    };
    vcpu.set_sregs(&sregs).map_err(not_taken("the segments and control registers"))
}

//! Descriptors as they lie in memory (SDM vol. 3A, 3.4.5, 3.5 and 6.11) and how they are fetched.

use x86::Segment;
use x86::bits::vector;

use crate::cpu::{Cpu, Exec};
use crate::mmu::is_canonical;

/// The types of system descriptors (SDM vol. 3A, table 3-2). In long mode only LDT, the TSS types of 32 bits and the
/// 32-bit gates exist, and mean their 64-bit forms.
pub(super) mod kind {
    pub(in crate::system) const TSS16: u8 = 1;
    pub(in crate::system) const LDT: u8 = 2;
    pub(in crate::system) const TSS16_BUSY: u8 = 3;
    pub(in crate::system) const CALL_GATE16: u8 = 4;
    pub(in crate::system) const TASK_GATE: u8 = 5;
    pub(in crate::system) const INTERRUPT_GATE16: u8 = 6;
    pub(in crate::system) const TRAP_GATE16: u8 = 7;
    pub(in crate::system) const TSS: u8 = 9;
    pub(in crate::system) const TSS_BUSY: u8 = 11;
    pub(in crate::system) const CALL_GATE: u8 = 12;
    pub(in crate::system) const INTERRUPT_GATE: u8 = 14;
    pub(in crate::system) const TRAP_GATE: u8 = 15;
}

/// A descriptor of eight bytes, or the first eight of sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(pub(super) u64);

impl Descriptor {
    /// The base address, 32 bits of it.
    pub(super) const fn base(self) -> u64 {
        self.0 >> 16 & 0xff_ffff | self.0 >> 32 & 0xff00_0000
    }

    /// The limit in bytes.
    pub(super) const fn limit(self) -> u32 {
        let limit = (self.0 & 0xffff | self.0 >> 32 & 0xf_0000) as u32;
        if self.0 >> 55 & 1 != 0 { limit << 12 | 0xfff } else { limit }
    }

    /// The access rights in the form of [`Segment::attr`].
    pub(super) const fn attr(self) -> u16 {
        (self.0 >> 40) as u16 & 0xf0ff
    }

    /// The type field.
    pub(super) const fn kind(self) -> u8 {
        (self.0 >> 40) as u8 & 15
    }

    /// The descriptor's privilege level.
    pub(super) const fn dpl(self) -> u8 {
        (self.0 >> 45) as u8 & 3
    }

    /// Whether all bits of `mask` are set in the access rights.
    pub(super) const fn has(self, mask: u16) -> bool {
        self.attr() & mask == mask
    }

    /// Present.
    pub(super) const fn present(self) -> bool {
        self.has(Segment::PRESENT)
    }

    /// A code segment.
    pub(super) const fn is_code(self) -> bool {
        self.has(Segment::S | Segment::CODE)
    }

    /// A conforming code segment.
    pub(super) const fn is_conforming(self) -> bool {
        self.has(Segment::S | Segment::CODE | Segment::EXPAND_DOWN_OR_CONFORMING)
    }

    /// A writable data segment.
    pub(super) const fn is_writable_data(self) -> bool {
        self.has(Segment::S | Segment::WRITABLE_OR_READABLE) && !self.has(Segment::CODE)
    }

    /// A system descriptor: a gate, a TSS or an LDT.
    pub(super) const fn is_system(self) -> bool {
        !self.has(Segment::S)
    }

    /// Of a gate: the selector.
    pub(super) const fn gate_selector(self) -> u16 {
        (self.0 >> 16) as u16
    }

    /// Of a gate: the offset, 32 bits of it.
    pub(super) const fn gate_offset(self) -> u64 {
        self.0 & 0xffff | self.0 >> 32 & 0xffff_0000
    }

    /// Of a call gate: how many parameters are copied.
    pub(super) const fn gate_parameters(self) -> u8 {
        (self.0 >> 32) as u8 & 31
    }

    /// Of an interrupt gate in long mode: the index of the stack in the TSS, 0 for none.
    pub(super) const fn gate_ist(self) -> u8 {
        (self.0 >> 32) as u8 & 7
    }

    /// The contents of a segment register loaded with `selector`, which names this descriptor.
    pub(super) const fn segment(self, selector: u16) -> Segment {
        Segment { base: self.base(), limit: self.limit(), selector, attr: self.attr() }
    }
}

/// What a segment register holds after a null selector.
pub(super) const fn null_segment(selector: u16) -> Segment {
    Segment { base: 0, limit: 0, selector, attr: Segment::UNUSABLE }
}

/// Whether `selector` is one of the four null selectors.
pub(super) const fn is_null(selector: u16) -> bool {
    selector & !3 == 0
}

/// The selector as it stands in error codes: without RPL.
pub(super) const fn code_of(selector: u16) -> u16 {
    selector & !3
}

impl Cpu {
    /// The linear address of the descriptor that `selector` names, if all `size` bytes of it lie within the table's
    /// limit.
    pub(super) fn descriptor_address(&self, selector: u16, size: u64) -> Option<u64> {
        let offset = u64::from(selector & !7);
        let (base, limit) = if selector & 4 == 0 {
            (self.gdt.base, u64::from(self.gdt.limit))
        } else if self.ldt.is_usable() {
            (self.ldt.base, u64::from(self.ldt.limit))
        } else {
            return None;
        };
        (offset + size - 1 <= limit).then(|| self.wrap(base.wrapping_add(offset)))
    }

    /// Fetches the descriptor that `selector` names; beyond the table's limit raises `vector` with the selector.
    pub(super) fn read_descriptor(&mut self, selector: u16, vector: u8) -> Exec<Descriptor> {
        match self.descriptor_address(selector, 8) {
            Some(at) => Ok(Descriptor(self.read_sys::<u64>(at)?)),
            None => Err(self.raise_code(vector, u32::from(code_of(selector)))),
        }
    }

    /// Fetches the upper half of a descriptor of sixteen bytes. Its type field has to be zero (SDM vol. 3A, 5.8.3.1).
    pub(super) fn read_descriptor_high(&mut self, selector: u16, vector: u8) -> Exec<u64> {
        let Some(at) = self.descriptor_address(selector, 16) else {
            return Err(self.raise_code(vector, u32::from(code_of(selector))));
        };
        let high = self.read_sys::<u64>(at.wrapping_add(8))?;
        if high >> 40 & 0x1f != 0 {
            return Err(self.raise_code(vector, u32::from(code_of(selector))));
        }
        Ok(high)
    }

    /// Sets the accessed bit in the descriptor that `selector` names and gives the segment.
    pub(super) fn access_descriptor(&mut self, selector: u16, descriptor: Descriptor) -> Exec<Segment> {
        if !descriptor.has(Segment::ACCESSED)
            && let Some(at) = self.descriptor_address(selector, 8)
        {
            self.update_sys::<u8>(at.wrapping_add(5), |rights| rights | 1)?;
        }
        let mut segment = descriptor.segment(selector);
        segment.attr |= Segment::ACCESSED;
        Ok(segment)
    }

    /// Outside of long mode linear addresses have 32 bits.
    pub(super) fn wrap(&self, lin: u64) -> u64 {
        if self.long_mode() { lin } else { lin & 0xffff_ffff }
    }

    /// Raises `vector` with `selector`, RPL taken off.
    pub(super) fn selector_fault(&mut self, vector: u8, selector: u16) -> crate::cpu::Raised {
        self.raise_code(vector, u32::from(code_of(selector)))
    }

    /// Refuses an address that is not canonical.
    pub(super) fn check_canonical(&mut self, lin: u64) -> Exec {
        if is_canonical(lin) { Ok(()) } else { Err(self.raise_code(vector::GP, 0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flat_code_descriptor() {
        let d = Descriptor(0x00af_9b00_0000_ffff);
        assert_eq!((d.base(), d.limit(), d.dpl()), (0, 0xffff_ffff, 0));
        assert!(d.is_code() && d.present() && d.has(Segment::LONG) && !d.has(Segment::DB));
        assert!(!d.is_conforming() && !d.is_system() && !d.is_writable_data());
    }

    #[test]
    fn scattered_base_and_byte_limit() {
        let d = Descriptor(0x1241_f234_5678_9abc);
        assert_eq!(d.base(), 0x1234_5678);
        assert_eq!(d.limit(), 0x1_9abc);
        assert_eq!(d.dpl(), 3);
        assert!(d.is_writable_data());
        assert_eq!(d.segment(0x2b).attr & Segment::UNUSABLE, 0);
    }

    #[test]
    fn gate_fields() {
        let d = Descriptor(0x1234_8e03_0010_5678);
        assert_eq!(d.gate_offset(), 0x1234_5678);
        assert_eq!(d.gate_selector(), 0x10);
        assert_eq!(d.gate_ist(), 3);
        assert_eq!(d.kind(), kind::INTERRUPT_GATE);
        assert!(d.is_system());
    }
}

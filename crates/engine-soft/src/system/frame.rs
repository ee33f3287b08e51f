//! A stack that may not be the current one yet: transfers of control push and pop through it and commit when nothing
//! can fail any more.

use x86::Segment;
use x86::bits::vector;

use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::mmu::is_canonical;

/// How wide what a transfer of control pushes is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Width {
    Bits16,
    Bits32,
    Bits64,
}

impl Width {
    /// In bytes.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Bits16 => 2,
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    /// The values that fit.
    pub(super) const fn mask(self) -> u64 {
        match self {
            Self::Bits16 => 0xffff,
            Self::Bits32 => 0xffff_ffff,
            Self::Bits64 => u64::MAX,
        }
    }
}

/// A stack in use by a transfer of control.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// What SS is or will be.
    pub(super) ss: Segment,
    /// The stack pointer.
    pub(super) sp: u64,
    /// The privilege of the accesses.
    cpl: u8,
    /// The width of the stack pointer.
    width: Width,
    /// The error code of a #SS: zero for the current stack, the selector for a new one.
    code: u16,
}

impl Frame {
    /// The current stack.
    pub(super) fn current(cpu: &Cpu) -> Self {
        let width = match cpu.stack_bits() {
            16 => Width::Bits16,
            32 => Width::Bits32,
            _ => Width::Bits64,
        };
        Self { ss: cpu.seg[sreg::SS], sp: cpu.sp(), cpl: cpu.cpl, width, code: 0 }
    }

    /// The stack of an inner privilege level outside of 64-bit mode.
    pub(super) fn inner(ss: Segment, sp: u64, cpl: u8) -> Self {
        let width = if ss.has(Segment::DB) { Width::Bits32 } else { Width::Bits16 };
        Self { ss, sp: sp & width.mask(), cpl, width, code: ss.selector & !3 }
    }

    /// A stack of 64-bit mode.
    pub(super) fn long(ss: Segment, sp: u64, cpl: u8) -> Self {
        Self { ss, sp, cpl, width: Width::Bits64, code: 0 }
    }

    /// The linear address of `size` bytes at `sp`.
    fn address(&self, cpu: &mut Cpu, sp: u64, size: u64, write: bool) -> Exec<u64> {
        if self.width == Width::Bits64 {
            let ok = is_canonical(sp) && is_canonical(sp.wrapping_add(size - 1));
            return if ok { Ok(sp) } else { Err(cpu.ss(self.code)) };
        }
        let last = sp + (size - 1);
        let limit = u64::from(self.ss.limit);
        let ok = if self.ss.has(Segment::EXPAND_DOWN_OR_CONFORMING) && !self.ss.has(Segment::CODE) {
            sp > limit && last <= self.width.mask()
        } else {
            last <= limit || self.ss.limit == u32::MAX
        };
        let rights =
            cpu.paragraph_segments() || self.ss.is_usable() && (!write || self.ss.has(Segment::WRITABLE_OR_READABLE));
        if !ok || !rights {
            return Err(cpu.ss(self.code));
        }
        Ok(self.ss.base.wrapping_add(sp) & 0xffff_ffff)
    }

    /// Pushes the low `width` of `value`.
    pub(super) fn push(&mut self, cpu: &mut Cpu, width: Width, value: u64) -> Exec {
        let sp = self.sp.wrapping_sub(width.bytes()) & self.width.mask();
        let at = self.address(cpu, sp, width.bytes(), true)?;
        match (width, self.cpl == 3) {
            (Width::Bits16, true) => cpu.write_lin(at, value as u16)?,
            (Width::Bits32, true) => cpu.write_lin(at, value as u32)?,
            (Width::Bits64, true) => cpu.write_lin(at, value)?,
            (Width::Bits16, false) => cpu.write_sys(at, value as u16)?,
            (Width::Bits32, false) => cpu.write_sys(at, value as u32)?,
            (Width::Bits64, false) => cpu.write_sys(at, value)?,
        }
        self.sp = sp;
        Ok(())
    }

    /// Pops a value of `width`. Only from the current stack.
    pub(super) fn pop(&mut self, cpu: &mut Cpu, width: Width) -> Exec<u64> {
        let at = self.address(cpu, self.sp, width.bytes(), false)?;
        let value = match width {
            Width::Bits16 => u64::from(cpu.read_lin::<u16>(at)?),
            Width::Bits32 => u64::from(cpu.read_lin::<u32>(at)?),
            Width::Bits64 => cpu.read_lin::<u64>(at)?,
        };
        self.skip(width.bytes());
        Ok(value)
    }

    /// Pops a selector that takes `width` on the stack.
    pub(super) fn pop_selector(&mut self, cpu: &mut Cpu, width: Width) -> Exec<u16> {
        // Only two bytes are read, whatever it takes.
        let value = self.pop(cpu, Width::Bits16)? as u16;
        self.skip(width.bytes() - 2);
        Ok(value)
    }

    /// Moves up by `bytes`.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.sp = self.sp.wrapping_add(bytes) & self.width.mask();
    }

    /// Makes its stack pointer RSP's; SS is the caller's.
    pub(super) fn commit(&self, cpu: &mut Cpu) {
        set_stack_pointer(cpu, self.sp, self.width);
    }
}

/// Writes SP, ESP or RSP: a 16-bit stack leaves the upper part of the register.
pub(super) fn set_stack_pointer(cpu: &mut Cpu, sp: u64, width: Width) {
    let rsp = &mut cpu.regs[reg::RSP];
    *rsp = match width {
        Width::Bits16 => *rsp & !0xffff | sp & 0xffff,
        _ => sp & width.mask(),
    };
}

impl Cpu {
    /// The width of the stack that `ss` makes in the mode of code segment `cs`.
    pub(super) fn stack_width(&self, cs: &Segment, ss: &Segment) -> Width {
        if self.long_mode() && cs.has(Segment::LONG) {
            Width::Bits64
        } else if ss.has(Segment::DB) {
            Width::Bits32
        } else {
            Width::Bits16
        }
    }

    /// Checks a target within a code segment: its limit, or in 64-bit code that it is canonical. #GP(0).
    pub(super) fn check_target(&mut self, cs: &Segment, rip: u64) -> Exec {
        let ok = if self.long_mode() && cs.has(Segment::LONG) { is_canonical(rip) } else { rip <= u64::from(cs.limit) };
        if ok { Ok(()) } else { Err(self.raise_code(vector::GP, 0)) }
    }

    /// Goes to `rip` in `cs` at privilege `cpl`. Nothing may fail afterwards.
    pub(super) fn enter_code(&mut self, cs: Segment, cpl: u8, rip: u64) {
        self.seg[sreg::CS] = Segment { selector: cs.selector & !3 | u16::from(cpl), ..cs };
        self.cpl = cpl;
        self.rip = rip;
        self.update_mode();
    }
}

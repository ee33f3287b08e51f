//! SYSCALL, SYSRET, SYSENTER, SYSEXIT and SWAPGS, as Intel's processors have them (SDM vol. 2B).

use x86::Segment;
use x86::bits::{efer, rflags};

use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::mmu::is_canonical;
use crate::op::Op;

/// Access rights of the flat segments that these instructions load without looking at a descriptor.
const FLAT: u16 =
    Segment::PRESENT | Segment::S | Segment::ACCESSED | Segment::WRITABLE_OR_READABLE | Segment::GRANULARITY;

/// The bits of RFLAGS that SYSRET takes from R11.
pub(crate) const KEPT: u64 = 0x3c_7fd7;

/// A flat code segment; `long` for 64-bit code.
pub(crate) fn flat_code(selector: u16, dpl: u8, long: bool) -> Segment {
    let size = if long { Segment::LONG } else { Segment::DB };
    Segment { base: 0, limit: u32::MAX, selector, attr: FLAT | Segment::CODE | size | u16::from(dpl) << 5 }
}

/// A flat stack segment.
pub(crate) fn flat_stack(selector: u16, dpl: u8) -> Segment {
    Segment { base: 0, limit: u32::MAX, selector, attr: FLAT | Segment::DB | u16::from(dpl) << 5 }
}

/// SYSCALL.
pub(super) fn syscall(cpu: &mut Cpu, _: &Op) -> Exec {
    if !cpu.is64() || cpu.msrs.efer & efer::SCE == 0 {
        return Err(cpu.ud());
    }
    cpu.regs[reg::RCX] = cpu.rip;
    let flags = cpu.rflags();
    cpu.regs[reg::R11] = flags & !rflags::RF;
    let selector = (cpu.msrs.star >> 32) as u16 & !3;
    cpu.rip = cpu.msrs.lstar;
    cpu.seg[sreg::CS] = flat_code(selector, 0, true);
    cpu.seg[sreg::SS] = flat_stack(selector.wrapping_add(8), 0);
    cpu.cpl = 0;
    cpu.set_rflags(flags & !(cpu.msrs.sfmask | rflags::RF | rflags::VM));
    Ok(())
}

/// SYSRET; `op.imm` is 8 with REX.W, the return to 64-bit code.
pub(super) fn sysret(cpu: &mut Cpu, op: &Op) -> Exec {
    if !cpu.is64() || cpu.msrs.efer & efer::SCE == 0 {
        return Err(cpu.ud());
    }
    let long = op.imm == 8;
    let rcx = cpu.regs[reg::RCX];
    if cpu.cpl != 0 || long && !is_canonical(rcx) {
        return Err(cpu.gp(0));
    }
    let base = (cpu.msrs.star >> 48) as u16;
    let code = base.wrapping_add(if long { 16 } else { 0 }) | 3;
    cpu.rip = if long { rcx } else { rcx & 0xffff_ffff };
    cpu.seg[sreg::CS] = flat_code(code, 3, long);
    cpu.seg[sreg::SS] = flat_stack(base.wrapping_add(8) | 3, 3);
    cpu.cpl = 3;
    cpu.set_rflags(cpu.regs[reg::R11] & KEPT);
    Ok(())
}

/// SYSENTER.
pub(super) fn sysenter(cpu: &mut Cpu, _: &Op) -> Exec {
    let selector = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.protected() || selector == 0 {
        return Err(cpu.gp(0));
    }
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.regs[reg::RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.rip = cpu.msrs.sysenter_eip & mask;
    cpu.seg[sreg::CS] = flat_code(selector, 0, long);
    cpu.seg[sreg::SS] = flat_stack(selector.wrapping_add(8), 0);
    cpu.cpl = 0;
    cpu.set_system_flags(cpu.system_flags & !(rflags::VM | rflags::IF));
    Ok(())
}

/// SYSEXIT; `op.imm` is 8 with REX.W.
pub(super) fn sysexit(cpu: &mut Cpu, op: &Op) -> Exec {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.protected() || base == 0 || cpu.cpl != 0 {
        return Err(cpu.gp(0));
    }
    let long = op.imm == 8;
    let (rip, rsp) = (cpu.regs[reg::RDX], cpu.regs[reg::RCX]);
    if long && !(is_canonical(rip) && is_canonical(rsp)) {
        return Err(cpu.gp(0));
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.rip = rip & mask;
    cpu.regs[reg::RSP] = rsp & mask;
    let (code, stack) = if long { (32, 40) } else { (16, 24) };
    cpu.seg[sreg::CS] = flat_code(base.wrapping_add(code) | 3, 3, long);
    cpu.seg[sreg::SS] = flat_stack(base.wrapping_add(stack) | 3, 3);
    cpu.cpl = 3;
    cpu.update_mode();
    Ok(())
}

/// SWAPGS.
pub(super) fn swapgs(cpu: &mut Cpu, _: &Op) -> Exec {
    if !cpu.is64() {
        return Err(cpu.ud());
    }
    if cpu.cpl != 0 {
        return Err(cpu.gp(0));
    }
    std::mem::swap(&mut cpu.seg[sreg::GS].base, &mut cpu.msrs.kernel_gs_base);
    Ok(())
}

/// RDFSBASE, RDGSBASE, WRFSBASE, WRGSBASE: `op.seg` names the segment, `op.imm` the size.
pub(super) fn read_base(cpu: &mut Cpu, op: &Op) -> Exec {
    check_base(cpu)?;
    let base = cpu.seg[usize::from(op.src) % 6].base;
    cpu.regs[usize::from(op.dst & 15)] = if op.imm == 8 { base } else { base & 0xffff_ffff };
    Ok(())
}

/// As [`read_base`], the other way.
pub(super) fn write_base(cpu: &mut Cpu, op: &Op) -> Exec {
    check_base(cpu)?;
    let value = cpu.regs[usize::from(op.dst & 15)];
    let value = if op.imm == 8 { value } else { value & 0xffff_ffff };
    cpu.check_canonical(value)?;
    cpu.seg[usize::from(op.src) % 6].base = value;
    Ok(())
}

fn check_base(cpu: &mut Cpu) -> Exec {
    if !cpu.is64() || cpu.cr4 & x86::bits::cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    Ok(())
}

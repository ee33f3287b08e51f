//! HLT, CLI and STI, time stamps, random numbers, translations and caches, XCR0 (SDM vol. 2).

use iced_x86::{Instruction, Mnemonic};
use x86::Feature;
use x86::bits::{cr4, rflags, xcr0};

use super::check_cpl0;
use crate::cpu::{Cpu, Exec, leave, reg};
use crate::decode::gpr;
use crate::mem::Word;
use crate::mmu::is_canonical;
use crate::op::{Op, has};

fn hlt(cpu: &mut Cpu, _: &Op) -> Exec {
    check_cpl0(cpu)?;
    cpu.halted = true;
    cpu.leave |= leave::IDLE;
    Ok(())
}

/// Which flag CLI and STI change: IF, or VIF under CR4.VME and CR4.PVI.
fn interrupt_flag(cpu: &mut Cpu) -> Exec<u64> {
    if !cpu.protected() || cpu.cpl <= cpu.iopl() {
        return Ok(rflags::IF);
    }
    let virtual_if = if cpu.v86() { cpu.cr4 & cr4::VME != 0 } else { cpu.cr4 & cr4::PVI != 0 && cpu.cpl == 3 };
    if virtual_if { Ok(rflags::VIF) } else { Err(cpu.gp(0)) }
}

fn cli(cpu: &mut Cpu, _: &Op) -> Exec {
    let flag = interrupt_flag(cpu)?;
    cpu.set_system_flags(cpu.system_flags & !flag);
    Ok(())
}

fn sti(cpu: &mut Cpu, _: &Op) -> Exec {
    let flag = interrupt_flag(cpu)?;
    if flag == rflags::VIF && cpu.system_flags & rflags::VIP != 0 {
        return Err(cpu.gp(0));
    }
    if flag == rflags::IF && cpu.system_flags & rflags::IF == 0 {
        cpu.shadow = true;
    }
    cpu.set_system_flags(cpu.system_flags | flag);
    Ok(())
}

fn check_tsc(cpu: &mut Cpu) -> Exec {
    if cpu.cr4 & cr4::TSD != 0 && cpu.cpl != 0 { Err(cpu.gp(0)) } else { Ok(()) }
}

fn rdtsc(cpu: &mut Cpu, _: &Op) -> Exec {
    check_tsc(cpu)?;
    let tsc = cpu.tsc();
    cpu.regs[reg::RAX] = tsc & 0xffff_ffff;
    cpu.regs[reg::RDX] = tsc >> 32;
    Ok(())
}

fn rdtscp(cpu: &mut Cpu, op: &Op) -> Exec {
    rdtsc(cpu, op)?;
    cpu.regs[reg::RCX] = cpu.msrs.tsc_aux & 0xffff_ffff;
    Ok(())
}

fn rdpid(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.regs[usize::from(op.dst & 15)] = cpu.msrs.tsc_aux & 0xffff_ffff;
    Ok(())
}

/// There are no counters.
fn rdpmc(cpu: &mut Cpu, _: &Op) -> Exec {
    Err(cpu.gp(0))
}

/// RDRAND and RDSEED: from the host's generator. CF tells of success, the other flags are clear.
fn random<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let mut bytes = [0u8; 8];
    // SAFETY: the buffer has the length given.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    let ok = got == bytes.len() as isize;
    let value = if ok { u64::from_le_bytes(bytes) } else { 0 };
    T::set(cpu, op.dst, T::from_u64(value));
    cpu.flags.set_bits(if ok { rflags::CF } else { 0 });
    Ok(())
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> Exec {
    check_cpl0(cpu)?;
    let segment = cpu.seg[usize::from(op.seg) % 6];
    let offset = op.offset(cpu);
    // No limit applies, and an address that is not canonical has no translation.
    let base = if cpu.is64() && usize::from(op.seg) < crate::cpu::sreg::FS { 0 } else { segment.base };
    let lin = cpu.wrap(base.wrapping_add(offset));
    if is_canonical(lin) {
        cpu.mmu_flush_page(lin);
    }
    Ok(())
}

/// INVPCID.
fn invpcid(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.v86() {
        return Err(cpu.gp(0));
    }
    check_cpl0(cpu)?;
    let kind = cpu.regs[usize::from(op.dst & 15)];
    let kind = if cpu.is64() { kind } else { kind & 0xffff_ffff };
    let at = cpu.address(op, 16, false)?;
    let pcid = cpu.read_lin::<u64>(at)?;
    let lin = cpu.read_lin::<u64>(cpu.wrap(at.wrapping_add(8)))?;
    let no_pcids = cpu.cr4 & cr4::PCIDE == 0;
    match kind {
        _ if pcid >> 12 != 0 => return Err(cpu.gp(0)),
        0 | 1 if no_pcids && pcid != 0 => return Err(cpu.gp(0)),
        0 => {
            cpu.check_canonical(lin)?;
            cpu.mmu.flush_page(lin, pcid as u16, false);
            cpu.forget_shortcuts();
        }
        1 => {
            cpu.mmu.flush_context(pcid as u16);
            cpu.forget_shortcuts();
        }
        2 => cpu.mmu_flush_all(),
        3 => {
            cpu.mmu.flush_locals();
            cpu.forget_shortcuts();
        }
        _ => return Err(cpu.gp(0)),
    }
    cpu.leave |= leave::BLOCK;
    Ok(())
}

/// INVD, WBINVD: nothing is cached.
fn privileged_nop(cpu: &mut Cpu, _: &Op) -> Exec {
    check_cpl0(cpu)
}

/// CLFLUSH and its kin: only their faults show.
fn flush_line(cpu: &mut Cpu, op: &Op) -> Exec {
    let at = cpu.address(op, 1, false)?;
    cpu.probe(at, 1, false).map_err(|raised| cpu.blame(op, raised))
}

fn xgetbv(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    let value = match cpu.regs[reg::RCX] as u32 {
        0 => cpu.xcr0,
        1 if cpu.model.has(Feature::Xgetbv1) => cpu.xinuse(),
        _ => return Err(cpu.gp(0)),
    };
    cpu.regs[reg::RAX] = value & 0xffff_ffff;
    cpu.regs[reg::RDX] = value >> 32;
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, _: &Op) -> Exec {
    if cpu.cr4 & cr4::OSXSAVE == 0 {
        return Err(cpu.ud());
    }
    check_cpl0(cpu)?;
    let value = cpu.regs[reg::RDX] << 32 | cpu.regs[reg::RAX] & 0xffff_ffff;
    let avx_without_sse = value & (xcr0::SSE | xcr0::AVX) == xcr0::AVX;
    let valid = value & xcr0::X87 != 0 && value & !cpu.model.xcr0_mask() == 0 && !avx_without_sse;
    if cpu.regs[reg::RCX] as u32 != 0 || !valid {
        return Err(cpu.gp(0));
    }
    cpu.xcr0 = value;
    cpu.leave |= leave::BLOCK;
    Ok(())
}

fn clac(cpu: &mut Cpu, _: &Op) -> Exec {
    alignment_check(cpu, 0)
}

fn stac(cpu: &mut Cpu, _: &Op) -> Exec {
    alignment_check(cpu, rflags::AC)
}

/// CLAC and STAC. Only the table for data accesses depends on AC at CPL 0: if that stays, the block goes on.
fn alignment_check(cpu: &mut Cpu, ac: u64) -> Exec {
    if cpu.cpl != 0 {
        return Err(cpu.ud());
    }
    let (left, table) = (cpu.leave, cpu.data_table);
    cpu.set_system_flags(cpu.system_flags & !rflags::AC | ac);
    if cpu.data_table == table {
        cpu.leave = left;
    }
    Ok(())
}

fn by_register_size(op: &mut Op, instr: &Instruction) {
    op.dst = gpr(instr.op0_register());
    op.run = match instr.op0_register().size() {
        2 => random::<u16>,
        4 => random::<u32>,
        _ => random::<u64>,
    };
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    let ends = match instr.mnemonic() {
        M::Hlt => {
            op.run = hlt;
            true
        }
        M::Cli => {
            op.run = cli;
            true
        }
        M::Sti => {
            op.run = sti;
            true
        }
        M::Invlpg => {
            op.run = invlpg;
            true
        }
        M::Invpcid => {
            op.dst = gpr(instr.op0_register());
            op.run = invpcid;
            true
        }
        M::Xsetbv => {
            op.run = xsetbv;
            true
        }
        M::Clac | M::Stac => {
            op.run = if instr.mnemonic() == M::Clac { clac } else { stac };
            false
        }
        M::Rdtsc => {
            op.run = rdtsc;
            false
        }
        M::Rdtscp => {
            op.run = rdtscp;
            false
        }
        M::Rdpid => {
            op.dst = gpr(instr.op0_register());
            op.run = rdpid;
            false
        }
        M::Rdpmc => {
            op.run = rdpmc;
            false
        }
        M::Rdrand | M::Rdseed => {
            by_register_size(op, instr);
            false
        }
        M::Invd | M::Wbinvd | M::Wbnoinvd => {
            op.run = privileged_nop;
            false
        }
        M::Clflush | M::Clflushopt | M::Clwb => {
            op.run = flush_line;
            false
        }
        M::Xgetbv => {
            op.run = xgetbv;
            false
        }
        _ => return false,
    };
    if ends {
        op.has |= has::ENDS;
    }
    true
}

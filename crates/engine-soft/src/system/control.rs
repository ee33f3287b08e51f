//! Control and debug registers (SDM vol. 2B, MOV; vol. 3A, 2.5; vol. 3B, 18.2).

use iced_x86::{Instruction, Mnemonic, OpKind, Register};
use memory::Gpa;
use x86::bits::{cr0, cr4, efer, pte, vector};

use super::{check_cpl0, has_memory};
use crate::cpu::{Cpu, Exec, leave, sreg};
use crate::decode::gpr;
use crate::mmu::PHYS_BITS;
use crate::op::{Op, has};

/// The bits of CR0 that exist; the others are ignored below bit 32.
const CR0_BITS: u64 =
    cr0::PE | cr0::MP | cr0::EM | cr0::TS | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::NW | cr0::CD | cr0::PG;
/// What decides about paging in CR0 and CR4: a change flushes translations.
const CR4_PAGING: u64 = cr4::PSE | cr4::PAE | cr4::PGE | cr4::PCIDE | cr4::SMEP | cr4::SMAP;
/// CR3: bits 12 and up of the address.
const PHYS_MASK: u64 = (1 << PHYS_BITS) - 1;
/// CR3 with CR4.PCIDE: translations of its PCID need not be forgotten.
const CR3_NO_FLUSH: u64 = 1 << 63;
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_BD: u64 = 1 << 13;
const DR7_GD: u64 = 1 << 13;

impl Cpu {
    /// Writes CR0 with all that hangs on it.
    pub(super) fn write_cr0(&mut self, value: u64) -> Exec {
        let on = |bit| value & bit != 0;
        if value >> 32 != 0 || on(cr0::PG) && !on(cr0::PE) || on(cr0::NW) && !on(cr0::CD) {
            return Err(self.gp(0));
        }
        let new = value & CR0_BITS | cr0::ET;
        let changed = new ^ self.cr0;
        let mut efer_now = self.msrs.efer;
        if changed & cr0::PG != 0 {
            if on(cr0::PG) {
                if self.msrs.efer & efer::LME != 0 {
                    let long_code = self.seg[sreg::CS].has(x86::Segment::LONG);
                    if self.cr4 & cr4::PAE == 0 || long_code {
                        return Err(self.gp(0));
                    }
                    efer_now |= efer::LMA;
                } else if self.cr4 & cr4::PAE != 0 {
                    self.load_pdptes(self.cr3)?;
                }
            } else {
                // Paging cannot be left from 64-bit code, nor with PCIDs.
                if self.is64() || self.cr4 & cr4::PCIDE != 0 {
                    return Err(self.gp(0));
                }
                efer_now &= !efer::LMA;
            }
        } else if on(cr0::PG) && changed & (cr0::CD | cr0::NW) != 0 && self.cr4 & cr4::PAE != 0 && !self.long_mode() {
            self.load_pdptes(self.cr3)?;
        }
        self.cr0 = new;
        self.msrs.efer = efer_now;
        if changed & (cr0::PG | cr0::WP | cr0::PE) != 0 {
            self.mmu_flush_all();
        }
        self.update_mode();
        Ok(())
    }

    /// Writes CR3.
    pub(super) fn write_cr3(&mut self, value: u64) -> Exec {
        let mut value = value;
        let mut keep = false;
        if self.long_mode() {
            if self.cr4 & cr4::PCIDE != 0 {
                keep = value & CR3_NO_FLUSH != 0;
                value &= !CR3_NO_FLUSH;
            }
            if value & !PHYS_MASK != 0 {
                return Err(self.gp(0));
            }
        } else {
            value &= 0xffff_ffff;
            if self.cr0 & cr0::PG != 0 && self.cr4 & cr4::PAE != 0 {
                self.load_pdptes(value)?;
            }
        }
        self.cr3 = value;
        self.mmu_load_context(keep);
        Ok(())
    }

    /// Writes CR4.
    pub(super) fn write_cr4(&mut self, value: u64) -> Exec {
        let changed = value ^ self.cr4;
        let on = |bit| value & bit != 0;
        if value & !self.model.cr4_mask() != 0 {
            return Err(self.gp(0));
        }
        if self.long_mode() && !on(cr4::PAE) {
            return Err(self.gp(0));
        }
        if changed & value & cr4::PCIDE != 0 && (!self.long_mode() || self.cr3 & 0xfff != 0) {
            return Err(self.gp(0));
        }
        let pae_paging = self.cr0 & cr0::PG != 0 && on(cr4::PAE) && !self.long_mode();
        if pae_paging && changed & (cr4::PAE | cr4::PGE | cr4::PSE | cr4::SMEP) != 0 {
            self.load_pdptes(self.cr3)?;
        }
        self.cr4 = value;
        if changed & CR4_PAGING != 0 {
            self.mmu_flush_all();
        }
        if changed & cr4::DE != 0 {
            self.watch_changed();
        }
        self.update_mode();
        Ok(())
    }

    /// Loads the page-directory-pointer registers of PAE paging from `cr3` (SDM vol. 3A, 4.4.1). #GP(0) for reserved
    /// bits.
    pub(crate) fn load_pdptes(&mut self, cr3: u64) -> Exec {
        const RESERVED: u64 = !PHYS_MASK | 0x1e6;
        let mut entries = [0; 4];
        for (i, entry) in entries.iter_mut().enumerate() {
            let mut bytes = [0xff; 8];
            // Where there is no memory, the bus reads as ones.
            let _ = self.shared.memory.read(Gpa((cr3 & 0xffff_ffe0) + 8 * i as u64), &mut bytes);
            *entry = u64::from_le_bytes(bytes);
            if *entry & pte::P != 0 && *entry & RESERVED != 0 {
                return Err(self.gp(0));
            }
        }
        self.mmu.pdptes = entries;
        Ok(())
    }

    fn read_control(&mut self, number: u8) -> Exec<u64> {
        Ok(match number {
            0 => self.cr0,
            2 => self.cr2,
            3 => self.cr3,
            4 => self.cr4,
            8 => self.slot.lapic().cr8(),
            _ => return Err(self.ud()),
        })
    }

    fn write_control(&mut self, number: u8, value: u64) -> Exec {
        match number {
            0 => self.write_cr0(value),
            2 => {
                self.cr2 = value;
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            8 => {
                if value & !15 != 0 {
                    return Err(self.gp(0));
                }
                self.slot.lapic().set_cr8(value);
                self.lapic_changed();
                self.leave |= leave::BLOCK;
                Ok(())
            }
            _ => Err(self.ud()),
        }
    }

    /// What each access to a debug register checks; gives the index into [`Cpu::dr`].
    fn check_debug(&mut self, number: u8) -> Exec<usize> {
        let index = match number {
            0..=3 => usize::from(number),
            4 | 6 => 4,
            5 | 7 => 5,
            _ => return Err(self.ud()),
        };
        if self.protected() && self.cpl != 0 {
            return Err(self.gp(0));
        }
        if matches!(number, 4 | 5) && self.cr4 & cr4::DE != 0 {
            return Err(self.ud());
        }
        if self.dr[5] & DR7_GD != 0 {
            self.dr[4] |= DR6_BD;
            return Err(self.raise(vector::DB));
        }
        Ok(index)
    }
}

/// MOV from a control register: `op.src` is its number. Outside of 64-bit mode operands have 32 bits.
fn mov_from_control(cpu: &mut Cpu, op: &Op) -> Exec {
    check_cpl0(cpu)?;
    let value = cpu.read_control(op.src)?;
    cpu.regs[usize::from(op.dst & 15)] = if cpu.is64() { value } else { value & 0xffff_ffff };
    Ok(())
}

fn mov_to_control(cpu: &mut Cpu, op: &Op) -> Exec {
    check_cpl0(cpu)?;
    let value = cpu.regs[usize::from(op.src & 15)];
    let value = if cpu.is64() { value } else { value & 0xffff_ffff };
    cpu.write_control(op.dst, value)
}

fn mov_from_debug(cpu: &mut Cpu, op: &Op) -> Exec {
    let index = cpu.check_debug(op.src)?;
    let value = cpu.dr[index % 6];
    cpu.regs[usize::from(op.dst & 15)] = if cpu.is64() { value } else { value & 0xffff_ffff };
    Ok(())
}

fn mov_to_debug(cpu: &mut Cpu, op: &Op) -> Exec {
    let index = cpu.check_debug(op.dst)?;
    let value = cpu.regs[usize::from(op.src & 15)];
    let value = if cpu.is64() { value } else { value & 0xffff_ffff };
    if index >= 4 && value >> 32 != 0 {
        return Err(cpu.gp(0));
    }
    cpu.dr[index % 6] = match index {
        4 => value & 0xe00f | DR6_ONES,
        5 => value & 0xffff_23ff | 0x400,
        _ => value,
    };
    cpu.watch_changed();
    cpu.leave |= leave::BLOCK;
    Ok(())
}

/// SMSW: readable at any level unless UMIP is set.
fn smsw_register(cpu: &mut Cpu, op: &Op) -> Exec {
    super::check_umip(cpu)?;
    let value = cpu.cr0;
    let slot = &mut cpu.regs[usize::from(op.dst & 15)];
    *slot = match op.imm {
        2 => *slot & !0xffff | value & 0xffff,
        4 => value & 0xffff_ffff,
        _ => value,
    };
    Ok(())
}

fn smsw_memory(cpu: &mut Cpu, op: &Op) -> Exec {
    super::check_umip(cpu)?;
    cpu.store(op, cpu.cr0 as u16)
}

/// LMSW: PE can be set but not cleared.
fn load_status_word(cpu: &mut Cpu, value: u16) -> Exec {
    const BITS: u64 = cr0::PE | cr0::MP | cr0::EM | cr0::TS;
    let value = u64::from(value) & BITS | cpu.cr0 & cr0::PE;
    cpu.write_cr0(cpu.cr0 & !BITS | value)
}

fn lmsw_register(cpu: &mut Cpu, op: &Op) -> Exec {
    check_cpl0(cpu)?;
    let value = cpu.regs[usize::from(op.src & 15)] as u16;
    load_status_word(cpu, value)
}

fn lmsw_memory(cpu: &mut Cpu, op: &Op) -> Exec {
    check_cpl0(cpu)?;
    let value = cpu.load::<u16>(op)?;
    load_status_word(cpu, value)
}

fn clts(cpu: &mut Cpu, _: &Op) -> Exec {
    check_cpl0(cpu)?;
    cpu.cr0 &= !cr0::TS;
    cpu.update_mode();
    Ok(())
}

/// A control or debug register's number.
fn number(register: Register) -> u8 {
    if register.is_cr() { register as u8 - Register::CR0 as u8 } else { register as u8 - Register::DR0 as u8 }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    match instr.mnemonic() {
        Mnemonic::Mov => {
            if instr.op0_kind() != OpKind::Register || instr.op1_kind() != OpKind::Register {
                return false;
            }
            let (to, from) = (instr.op0_register(), instr.op1_register());
            if to.is_cr() || to.is_dr() {
                op.dst = number(to);
                op.src = gpr(from);
                op.run = if to.is_cr() { mov_to_control } else { mov_to_debug };
            } else if from.is_cr() || from.is_dr() {
                op.dst = gpr(to);
                op.src = number(from);
                op.run = if from.is_cr() { mov_from_control } else { mov_from_debug };
                return true;
            } else {
                return false;
            }
        }
        Mnemonic::Smsw => {
            op.run = if has_memory(instr) {
                smsw_memory
            } else {
                op.dst = gpr(instr.op0_register());
                op.imm = instr.op0_register().size() as u64;
                smsw_register
            };
            return true;
        }
        Mnemonic::Lmsw => {
            op.run = if has_memory(instr) {
                lmsw_memory
            } else {
                op.src = gpr(instr.op0_register());
                lmsw_register
            };
        }
        Mnemonic::Clts => op.run = clts,
        _ => return false,
    }
    op.has |= has::ENDS;
    true
}

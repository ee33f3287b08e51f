//! RDMSR and WRMSR (SDM vol. 2B; vol. 4, chapter 2).

use x86::Feature;
use x86::bits::{cr0, efer};
use x86::msr::{self, feature_control, mcg, misc_enable, mtrr};

use super::check_cpl0;
use crate::cpu::{Cpu, Exec, leave, reg, sreg};
use crate::mmu::{PHYS_BITS, is_canonical};
use crate::op::Op;

/// The machine-check banks.
const BANKS: u32 = 4;
const LAST_BANK: u32 = msr::IA32_MC0_CTL + 4 * BANKS - 1;
/// The revision of the microcode, high enough that no system sees a known bug in it.
const MICROCODE: u64 = 0x0100_0000 << 32;
/// What IA32_MISC_ENABLE tells but does not let change: neither branch traces nor precise sampling.
const MISC_FIXED: u64 = misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;
/// The bits of IA32_DEBUGCTL: LBR, BTF.
const DEBUGCTL_BITS: u64 = 3;
const PHYS_MASK: u64 = (1 << PHYS_BITS) - 1;
/// The bus clock that ratios count in.
const BUS_HZ: u64 = 100_000_000;

/// RDMSR.
pub(super) fn rdmsr(cpu: &mut Cpu, _: &Op) -> Exec {
    check_cpl0(cpu)?;
    let number = cpu.regs[reg::RCX] as u32;
    let value = cpu.read_msr(number)?;
    cpu.regs[reg::RAX] = value & 0xffff_ffff;
    cpu.regs[reg::RDX] = value >> 32;
    Ok(())
}

/// WRMSR.
pub(super) fn wrmsr(cpu: &mut Cpu, _: &Op) -> Exec {
    check_cpl0(cpu)?;
    let number = cpu.regs[reg::RCX] as u32;
    let value = cpu.regs[reg::RDX] << 32 | cpu.regs[reg::RAX] & 0xffff_ffff;
    cpu.write_msr(number, value)
}

/// The place of a fixed MTRR in [`x86::Msrs::mtrr_fixed`].
fn fixed_mtrr(number: u32) -> Option<usize> {
    Some(match number {
        msr::IA32_MTRR_FIX64K_00000 => 0,
        msr::IA32_MTRR_FIX16K_80000 => 1,
        msr::IA32_MTRR_FIX16K_A0000 => 2,
        msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000 => 3 + (number - msr::IA32_MTRR_FIX4K_C0000) as usize,
        _ => return None,
    })
}

/// Whether each byte of `value` is a memory type; `pat` allows UC- too.
fn memory_types(value: u64, pat: bool) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4 | 5 | 6) || pat && *kind == 7)
}

impl Cpu {
    /// Reads an MSR. #GP(0) for one that does not exist.
    fn read_msr(&mut self, number: u32) -> Exec<u64> {
        let m = &self.msrs;
        let has = |feature| self.model.has(feature);
        let value = match number {
            msr::IA32_EFER => m.efer,
            msr::IA32_STAR => m.star,
            msr::IA32_LSTAR => m.lstar,
            msr::IA32_CSTAR => m.cstar,
            msr::IA32_FMASK => m.sfmask,
            msr::IA32_FS_BASE => self.seg[sreg::FS].base,
            msr::IA32_GS_BASE => self.seg[sreg::GS].base,
            msr::IA32_KERNEL_GS_BASE => m.kernel_gs_base,
            msr::IA32_TSC_AUX if has(Feature::Rdtscp) || has(Feature::Rdpid) => m.tsc_aux,
            msr::IA32_TIME_STAMP_COUNTER => self.tsc(),
            msr::IA32_TSC_ADJUST if has(Feature::TscAdjust) => m.tsc_adjust,
            msr::IA32_TSC_DEADLINE if has(Feature::TscDeadline) => self.tsc_deadline(),
            msr::IA32_APIC_BASE => self.lapic_base(),
            msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_LAST if has(Feature::X2apic) => {
                return self.lapic_msr_read(number);
            }
            msr::IA32_SYSENTER_CS => m.sysenter_cs,
            msr::IA32_SYSENTER_ESP => m.sysenter_esp,
            msr::IA32_SYSENTER_EIP => m.sysenter_eip,
            msr::IA32_PAT => m.pat,
            msr::IA32_MISC_ENABLE => m.misc_enable | MISC_FIXED,
            msr::IA32_SPEC_CTRL if self.model.spec_ctrl_mask() != 0 => m.spec_ctrl,
            msr::IA32_ARCH_CAPABILITIES if has(Feature::ArchCapabilities) => self.model.arch_capabilities(),
            msr::IA32_DEBUGCTL => m.debugctl,
            msr::MSR_LASTBRANCHFROMIP | msr::MSR_LASTBRANCHTOIP | msr::MSR_LASTINTFROMIP | msr::MSR_LASTINTTOIP => 0,
            msr::IA32_MTRRCAP => m.mtrr_var.len() as u64 | mtrr::CAP_FIX | mtrr::CAP_WC,
            msr::IA32_MTRR_DEF_TYPE => m.mtrr_def_type,
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                let index = (number - msr::IA32_MTRR_PHYSBASE0) as usize;
                m.mtrr_var[index / 2 % 8][index % 2]
            }
            msr::IA32_MCG_CAP => u64::from(BANKS) | mcg::CAP_CTL_P,
            msr::IA32_MCG_STATUS => m.mcg_status,
            msr::IA32_MCG_CTL => m.mcg_ctl,
            msr::IA32_MC0_CTL..=LAST_BANK => {
                let index = (number - msr::IA32_MC0_CTL) as usize;
                m.mc_banks[index / 4 % 4][index % 4]
            }
            msr::MSR_KVM_WALL_CLOCK | msr::MSR_KVM_WALL_CLOCK_NEW if has(Feature::Hypervisor) => m.kvm_wall_clock,
            msr::MSR_KVM_SYSTEM_TIME | msr::MSR_KVM_SYSTEM_TIME_NEW if has(Feature::Hypervisor) => m.kvm_system_time,
            msr::IA32_BIOS_SIGN_ID => MICROCODE,
            msr::IA32_FEATURE_CONTROL => feature_control::LOCK,
            msr::MSR_PLATFORM_INFO => (m.tsc_hz / BUS_HZ) << 8 | (m.tsc_hz / BUS_HZ) << 40,
            msr::IA32_PERF_STATUS => (m.tsc_hz / BUS_HZ) << 8,
            msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE | msr::IA32_PLATFORM_ID => 0,
            msr::MSR_EBL_CR_POWERON | msr::MSR_SMI_COUNT => 0,
            _ => match fixed_mtrr(number) {
                Some(index) => m.mtrr_fixed[index % 11],
                None => return Err(self.unknown_msr(number)),
            },
        };
        Ok(value)
    }

    #[cold]
    fn unknown_msr(&mut self, number: u32) -> crate::cpu::Raised {
        tracing::debug!(number = format_args!("{number:#x}"), rip = format_args!("{:#x}", self.rip), "MSR refused");
        self.gp(0)
    }

    /// Writes an MSR. #GP(0) for one that does not exist, is read-only, or does not take the value.
    fn write_msr(&mut self, number: u32, value: u64) -> Exec {
        let ok = match number {
            msr::IA32_EFER => return self.write_efer(value),
            msr::IA32_APIC_BASE => {
                self.lapic_set_base(value)?;
                self.msrs.apic_base = value;
                self.leave |= leave::BLOCK;
                return Ok(());
            }
            msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_LAST if self.model.has(Feature::X2apic) => {
                // An interrupt may be due at once.
                self.leave |= leave::BLOCK;
                return self.lapic_msr_write(number, value);
            }
            msr::IA32_TSC_DEADLINE if self.model.has(Feature::TscDeadline) => {
                self.tsc_deadline_write(value);
                true
            }
            msr::IA32_TIME_STAMP_COUNTER => {
                self.move_tsc(value.wrapping_sub(self.tsc()));
                true
            }
            msr::IA32_TSC_ADJUST if self.model.has(Feature::TscAdjust) => {
                self.move_tsc(value.wrapping_sub(self.msrs.tsc_adjust));
                true
            }
            msr::IA32_FS_BASE | msr::IA32_GS_BASE if is_canonical(value) => {
                let index = if number == msr::IA32_FS_BASE { sreg::FS } else { sreg::GS };
                self.seg[index].base = value;
                true
            }
            msr::MSR_KVM_WALL_CLOCK | msr::MSR_KVM_WALL_CLOCK_NEW if self.model.has(Feature::Hypervisor) => {
                self.set_wall_clock(value);
                true
            }
            msr::MSR_KVM_SYSTEM_TIME | msr::MSR_KVM_SYSTEM_TIME_NEW if self.model.has(Feature::Hypervisor) => {
                self.set_system_time(value);
                true
            }
            msr::IA32_PRED_CMD => self.model.has(Feature::SpecCtrl) && value & !1 == 0,
            msr::IA32_BIOS_UPDT_TRIG => true,
            msr::IA32_BIOS_SIGN_ID => value == 0,
            msr::IA32_P5_MC_ADDR | msr::IA32_P5_MC_TYPE => true,
            _ => match self.plain_msr(number, value) {
                Some((place, value)) => {
                    *place = value;
                    true
                }
                None => false,
            },
        };
        if ok { Ok(()) } else { Err(self.unknown_msr(number)) }
    }

    fn move_tsc(&mut self, delta: u64) {
        self.tsc_adjust(delta);
        self.tell_system_time();
        self.msrs.tsc_adjust = self.msrs.tsc_adjust.wrapping_add(delta);
    }

    /// Where an MSR without side effects is kept and what `value` makes of it; `None` if it does not take it.
    fn plain_msr(&mut self, number: u32, value: u64) -> Option<(&mut u64, u64)> {
        let m = &mut self.msrs;
        let has = |feature| self.model.has(feature);
        let (place, ok) = match number {
            msr::IA32_STAR => (&mut m.star, true),
            msr::IA32_LSTAR => (&mut m.lstar, is_canonical(value)),
            msr::IA32_CSTAR => (&mut m.cstar, is_canonical(value)),
            msr::IA32_FMASK => (&mut m.sfmask, value >> 32 == 0),
            msr::IA32_KERNEL_GS_BASE => (&mut m.kernel_gs_base, is_canonical(value)),
            msr::IA32_TSC_AUX => (&mut m.tsc_aux, value >> 32 == 0 && (has(Feature::Rdtscp) || has(Feature::Rdpid))),
            msr::IA32_SYSENTER_CS => (&mut m.sysenter_cs, true),
            msr::IA32_SYSENTER_ESP => (&mut m.sysenter_esp, is_canonical(value)),
            msr::IA32_SYSENTER_EIP => (&mut m.sysenter_eip, is_canonical(value)),
            msr::IA32_PAT => (&mut m.pat, memory_types(value, true)),
            msr::IA32_MISC_ENABLE => {
                const WRITABLE: u64 = misc_enable::FAST_STRING | misc_enable::THERMAL_CONTROL | misc_enable::SPEEDSTEP;
                let ok = (value ^ (m.misc_enable | MISC_FIXED)) & !WRITABLE == 0;
                (&mut m.misc_enable, ok)
            }
            msr::IA32_SPEC_CTRL => {
                let mask = self.model.spec_ctrl_mask();
                (&mut m.spec_ctrl, mask != 0 && value & !mask == 0)
            }
            msr::IA32_DEBUGCTL => (&mut m.debugctl, value & !DEBUGCTL_BITS == 0),
            msr::IA32_MTRR_DEF_TYPE => {
                let kind = value & mtrr::DEF_TYPE;
                let ok = value & !(mtrr::DEF_TYPE | mtrr::DEF_FE | mtrr::DEF_E) == 0 && memory_types(kind, false);
                (&mut m.mtrr_def_type, ok)
            }
            msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7 => {
                let index = (number - msr::IA32_MTRR_PHYSBASE0) as usize;
                let ok = if index.is_multiple_of(2) {
                    value & !(PHYS_MASK & !0xfff | mtrr::DEF_TYPE) == 0 && memory_types(value & 0xff, false)
                } else {
                    value & !(PHYS_MASK & !0xfff | mtrr::MASK_V) == 0
                };
                (&mut m.mtrr_var[index / 2 % 8][index % 2], ok)
            }
            msr::IA32_MCG_STATUS => (&mut m.mcg_status, value & !7 == 0),
            msr::IA32_MCG_CTL => (&mut m.mcg_ctl, true),
            msr::IA32_MC0_CTL..=LAST_BANK => {
                let index = (number - msr::IA32_MC0_CTL) as usize;
                // All but CTL can only be cleared (SDM vol. 3B, 16.3.2).
                (&mut m.mc_banks[index / 4 % 4][index % 4], index.is_multiple_of(4) || value == 0)
            }
            _ => (&mut m.mtrr_fixed[fixed_mtrr(number)? % 11], memory_types(value, false)),
        };
        ok.then_some((place, value))
    }

    /// IA32_EFER: LMA follows CR0.PG, LME cannot change while paging is on.
    fn write_efer(&mut self, value: u64) -> Exec {
        let value = value & !efer::LMA | self.msrs.efer & efer::LMA;
        let changed = value ^ self.msrs.efer;
        let reserved = value & !(self.model.efer_mask() | efer::LMA) != 0;
        if reserved || changed & efer::LME != 0 && self.cr0 & cr0::PG != 0 {
            return Err(self.gp(0));
        }
        self.msrs.efer = value;
        if changed & efer::NXE != 0 {
            self.mmu_flush_all();
        }
        self.update_mode();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_mtrrs_have_eleven_places() {
        let all: Vec<_> = (0x200..0x300).filter_map(fixed_mtrr).collect();
        assert_eq!(all, (0..11).collect::<Vec<_>>());
    }

    #[test]
    fn reserved_memory_types_are_refused() {
        assert!(memory_types(0x0606_0505_0404_0100, false));
        assert!(!memory_types(0x07, false));
        assert!(memory_types(0x0007_0406_0007_0406, true));
        assert!(!memory_types(0x0200, true));
    }
}

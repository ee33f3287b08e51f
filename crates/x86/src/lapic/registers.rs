//! The registers as software reaches them: the page of xAPIC mode, the MSRs of x2APIC mode.

use super::{
    ESR_ILLEGAL_REGISTER, ESR_SEND_ILLEGAL_VECTOR, Effects, GeneralProtection, IpiRequest, LVT_MASKED, Lapic, Mode,
    SVR_ENABLED,
};
use crate::msr;

/// The version register (SDM vol. 3A, 11.4.8): 14H, six LVT entries, no suppression of EOI broadcasts, since the
/// IOAPIC has no EOI register.
pub const VERSION: u32 = 5 << 16 | 0x14;

/// Offsets of the registers in the page; an x2APIC MSR is at 800H plus this shifted right by 4
/// (SDM vol. 3A, tables 11-1 and 11-6).
mod offset {
    pub(super) const ID: u32 = 0x20;
    pub(super) const VERSION: u32 = 0x30;
    pub(super) const TPR: u32 = 0x80;
    pub(super) const APR: u32 = 0x90;
    pub(super) const PPR: u32 = 0xa0;
    pub(super) const EOI: u32 = 0xb0;
    pub(super) const RRD: u32 = 0xc0;
    pub(super) const LDR: u32 = 0xd0;
    pub(super) const DFR: u32 = 0xe0;
    pub(super) const SVR: u32 = 0xf0;
    pub(super) const ISR: u32 = 0x100;
    pub(super) const TMR: u32 = 0x180;
    pub(super) const IRR: u32 = 0x200;
    pub(super) const ESR: u32 = 0x280;
    pub(super) const ICR_LOW: u32 = 0x300;
    pub(super) const ICR_HIGH: u32 = 0x310;
    pub(super) const LVT_TIMER: u32 = 0x320;
    pub(super) const LVT_THERMAL: u32 = 0x330;
    pub(super) const LVT_PERF: u32 = 0x340;
    pub(super) const LVT_LINT0: u32 = 0x350;
    pub(super) const LVT_LINT1: u32 = 0x360;
    pub(super) const LVT_ERROR: u32 = 0x370;
    pub(super) const INITIAL: u32 = 0x380;
    pub(super) const CURRENT: u32 = 0x390;
    pub(super) const DIVIDE: u32 = 0x3e0;
    pub(super) const SELF_IPI: u32 = 0x3f0;
}

/// Bits that software may set in an LVT entry (SDM vol. 3A, figure 11-8), and read-only ones that a write ignores.
const fn lvt_bits(offset: u32) -> (u32, u32) {
    match offset {
        offset::LVT_TIMER => (0x7_00ff, 1 << 12),
        offset::LVT_LINT0 | offset::LVT_LINT1 => (0x1_a7ff, 1 << 12 | 1 << 14),
        offset::LVT_ERROR => (0x1_00ff, 1 << 12),
        _ => (0x1_07ff, 1 << 12),
    }
}

impl Lapic {
    /// Reads the 32-bit register at `offset` of the page (SDM vol. 3A, table 11-1), at virtual time `now_ns`. Offsets
    /// inside of a register's 16 bytes but past its first four read as zero.
    pub fn read(&mut self, offset: u32, now_ns: u64) -> u32 {
        if offset & 15 != 0 {
            return 0;
        }
        match offset {
            offset::ID => self.state.id << 24,
            offset::DFR => self.state.dfr | 0x0fff_ffff,
            offset::LDR => self.state.ldr,
            offset::ICR_HIGH => (self.state.icr >> 32) as u32,
            // Write-only, or of processors before the Pentium 4.
            offset::APR | offset::RRD | offset::EOI => 0,
            _ => match self.read_common(offset, now_ns) {
                Some(value) => value,
                None => {
                    self.error(ESR_ILLEGAL_REGISTER);
                    0
                }
            },
        }
    }

    /// Writes the 32-bit register at `offset` of the page, at virtual time `now_ns`. Writes to what is no register, or
    /// is read-only, have no effect beyond the error status.
    pub fn write(&mut self, offset: u32, value: u32, now_ns: u64) -> Effects {
        let mut effects = Effects::default();
        match offset {
            _ if offset & 15 != 0 => {}
            // On the processors modelled, the ID is read-only.
            offset::ID | offset::VERSION | offset::APR | offset::PPR | offset::RRD | offset::CURRENT => {}
            offset::ISR..offset::ESR => {}
            offset::EOI => effects.eoi = self.eoi(),
            offset::LDR => self.state.ldr = value & 0xff00_0000,
            offset::DFR => self.state.dfr = value | 0x0fff_ffff,
            offset::ICR_HIGH => {
                self.state.icr = self.state.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32;
            }
            offset::ICR_LOW => {
                let icr = self.state.icr & !0xffff_ffff | u64::from(value & 0x000c_cfff);
                effects.ipi = self.send(icr, false);
            }
            _ => {
                if !self.write_common(offset, value, now_ns, &mut effects) {
                    self.error(ESR_ILLEGAL_REGISTER);
                }
            }
        }
        effects
    }

    /// Reads an MSR of the range 800H to 8FFH (SDM vol. 3A, 11.12.1.2).
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, or one that is write-only.
    pub fn read_msr(&self, msr: u32, now_ns: u64) -> Result<u64, GeneralProtection> {
        if self.mode() != Mode::X2Apic {
            return Err(GeneralProtection);
        }
        match msr {
            msr::IA32_X2APIC_APICID => Ok(self.state.id.into()),
            msr::IA32_X2APIC_LDR => Ok(self.state.logical_id().into()),
            msr::IA32_X2APIC_ICR => Ok(self.state.icr),
            msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_SELF_IPI => {
                let offset = (msr - msr::IA32_X2APIC_FIRST) << 4;
                self.read_common(offset, now_ns).map(u64::from).ok_or(GeneralProtection)
            }
            _ => Err(GeneralProtection),
        }
    }

    /// Writes an MSR of the range 800H to 8FFH (SDM vol. 3A, 11.12.1.2 and 11.12.1.3).
    ///
    /// # Errors
    /// Not in x2APIC mode, no such register, one that is read-only, or reserved bits set.
    pub fn write_msr(&mut self, msr: u32, value: u64, now_ns: u64) -> Result<Effects, GeneralProtection> {
        if self.mode() != Mode::X2Apic {
            return Err(GeneralProtection);
        }
        let mut effects = Effects::default();
        if msr == msr::IA32_X2APIC_ICR {
            // Bits 13, 16, 17 and 20 to 31 are reserved; bit 12 was the delivery status and is ignored.
            if value & 0xfff3_2000 != 0 {
                return Err(GeneralProtection);
            }
            effects.ipi = self.send(value & !(1 << 12), true);
            return Ok(effects);
        }
        if !(msr::IA32_X2APIC_FIRST..=msr::IA32_X2APIC_SELF_IPI).contains(&msr) {
            return Err(GeneralProtection);
        }
        let value = u32::try_from(value).map_err(|_| GeneralProtection)?;
        let offset = (msr - msr::IA32_X2APIC_FIRST) << 4;
        let allowed = match offset {
            offset::TPR | offset::SELF_IPI => 0xff,
            // Focus-processor checking, bit 9, is ignored rather than reserved.
            offset::SVR => 0x3ff,
            offset::EOI | offset::ESR => 0,
            offset::LVT_TIMER..=offset::LVT_ERROR => {
                let (writable, ignored) = lvt_bits(offset);
                writable | ignored
            }
            offset::DIVIDE => 0xb,
            _ => u32::MAX,
        };
        if value & !allowed != 0 {
            return Err(GeneralProtection);
        }
        match offset {
            offset::EOI => effects.eoi = self.eoi(),
            // The same as a fixed IPI to oneself (SDM vol. 3A, 11.12.11).
            offset::SELF_IPI => effects.ipi = self.check_vector(1 << 18 | u64::from(value), true),
            _ if self.write_common(offset, value, now_ns, &mut effects) => {}
            _ => return Err(GeneralProtection),
        }
        Ok(effects)
    }

    /// The registers that both modes have in the same form.
    fn read_common(&self, offset: u32, now_ns: u64) -> Option<u32> {
        let s = &self.state;
        let word = |array: &[u32; 8]| array[(offset >> 4 & 7) as usize];
        Some(match offset {
            offset::VERSION => VERSION,
            offset::TPR => s.tpr,
            offset::PPR => self.ppr().into(),
            offset::SVR => s.svr,
            offset::ISR..offset::TMR => word(&s.isr),
            offset::TMR..offset::IRR => word(&s.tmr),
            offset::IRR..offset::ESR => word(&s.irr),
            offset::ESR => s.esr,
            offset::ICR_LOW => s.icr as u32,
            offset::LVT_TIMER => s.lvt_timer,
            offset::LVT_THERMAL => s.lvt_thermal,
            offset::LVT_PERF => s.lvt_perf,
            offset::LVT_LINT0 => s.lvt_lint0,
            offset::LVT_LINT1 => s.lvt_lint1,
            offset::LVT_ERROR => s.lvt_error,
            offset::INITIAL => s.timer_initial,
            offset::CURRENT => s.current_count(now_ns),
            offset::DIVIDE => s.timer_divide,
            _ => return None,
        })
    }

    /// Writes a register that both modes have; `false` when there is none at `offset` that can be written.
    fn write_common(&mut self, offset: u32, value: u32, now_ns: u64, effects: &mut Effects) -> bool {
        match offset {
            offset::TPR => self.state.tpr = value & 0xff,
            offset::SVR => {
                self.state.svr = value & 0x3ff;
                if value & SVR_ENABLED == 0 {
                    self.mask_all(now_ns);
                    effects.timer = true;
                }
            }
            offset::ESR => {
                // SDM vol. 3A, 11.5.3: a write shows what has come up since the last one.
                self.state.esr = std::mem::take(&mut self.state.esr_pending);
            }
            offset::LVT_TIMER..=offset::LVT_ERROR => {
                let (writable, _) = lvt_bits(offset);
                let mut value = value & writable;
                // SDM vol. 3A, 11.4.7.2: the masks cannot be cleared while software has the APIC disabled.
                if self.state.svr & SVR_ENABLED == 0 {
                    value |= LVT_MASKED;
                }
                match offset {
                    offset::LVT_TIMER => {
                        self.set_lvt_timer(value, now_ns);
                        effects.timer = true;
                    }
                    offset::LVT_THERMAL => self.state.lvt_thermal = value,
                    offset::LVT_PERF => self.state.lvt_perf = value,
                    offset::LVT_LINT0 => self.state.lvt_lint0 = value,
                    offset::LVT_LINT1 => self.state.lvt_lint1 = value,
                    offset::LVT_ERROR => self.state.lvt_error = value,
                    _ => return false,
                }
            }
            offset::INITIAL => {
                self.set_initial_count(value, now_ns);
                effects.timer = true;
            }
            offset::DIVIDE => {
                self.set_divide(value, now_ns);
                effects.timer = true;
            }
            _ => return false,
        }
        true
    }

    /// SDM vol. 3A, 11.4.7.2: disabling by software sets the mask of each LVT entry.
    fn mask_all(&mut self, now_ns: u64) {
        self.set_lvt_timer(self.state.lvt_timer | LVT_MASKED, now_ns);
        let s = &mut self.state;
        for lvt in [&mut s.lvt_thermal, &mut s.lvt_perf, &mut s.lvt_lint0, &mut s.lvt_lint1, &mut s.lvt_error] {
            *lvt |= LVT_MASKED;
        }
    }

    /// Writes the ICR and says what it sends.
    fn send(&mut self, icr: u64, x2apic: bool) -> Option<IpiRequest> {
        self.state.icr = icr;
        self.check_vector(icr, x2apic)
    }

    /// What `icr` sends, unless its vector is an illegal one (SDM vol. 3A, 11.5.3).
    fn check_vector(&mut self, icr: u64, x2apic: bool) -> Option<IpiRequest> {
        let request = IpiRequest::from_icr(icr, x2apic)?;
        if request.mode.uses_vector() && request.vector < 16 {
            self.error(ESR_SEND_ILLEGAL_VECTOR);
            return None;
        }
        Some(request)
    }
}

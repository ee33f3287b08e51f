//! The registers of a local APIC as plain data.

use super::{Divide, Mode};
use crate::msr::apic_base;
use serde::{Deserialize, Serialize};

/// The LVT entry's mask bit (SDM vol. 3A, 11.5.1).
pub const LVT_MASKED: u32 = 1 << 16;
/// The delivery mode ExtINT in an LVT entry (SDM vol. 3A, 11.5.1).
pub const LVT_EXTINT: u32 = 7 << 8;
/// The delivery mode NMI in an LVT entry (SDM vol. 3A, 11.5.1).
pub const LVT_NMI: u32 = 4 << 8;
/// The software-enable bit of the spurious-interrupt vector register (SDM vol. 3A, 11.9).
pub const SVR_ENABLED: u32 = 1 << 8;

/// The guest-visible state of a local APIC (SDM vol. 3A, 11.4.1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LapicState {
    /// The x2APIC ID; the xAPIC ID is its low byte.
    pub id: u32,
    /// IA32_APIC_BASE, the same value as in [`crate::Msrs::apic_base`].
    pub apic_base: u64,
    /// The task-priority register; CR8 is its upper half.
    pub tpr: u32,
    /// The logical destination register of xAPIC mode; that of x2APIC mode derives from the ID.
    pub ldr: u32,
    /// The destination format register of xAPIC mode.
    pub dfr: u32,
    /// The spurious-interrupt vector register.
    pub svr: u32,
    /// In service: bit `vector % 32` of word `vector / 32`.
    pub isr: [u32; 8],
    /// Trigger mode: set for level-triggered.
    pub tmr: [u32; 8],
    /// Interrupt requests.
    pub irr: [u32; 8],
    /// The error status register as software reads it.
    pub esr: u32,
    /// Errors seen since software last wrote the error status register.
    pub esr_pending: u32,
    /// The interrupt command register; in xAPIC mode its destination is the top byte.
    pub icr: u64,
    /// LVT timer.
    pub lvt_timer: u32,
    /// LVT thermal sensor.
    pub lvt_thermal: u32,
    /// LVT performance counters.
    pub lvt_perf: u32,
    /// LVT LINT0.
    pub lvt_lint0: u32,
    /// LVT LINT1.
    pub lvt_lint1: u32,
    /// LVT error.
    pub lvt_error: u32,
    /// The timer's initial count.
    pub timer_initial: u32,
    /// The divide configuration register.
    pub timer_divide: u32,
    /// The virtual time at which the countdown under way began, in nanoseconds (wrapping).
    pub timer_start_ns: u64,
    /// Whether a countdown is under way.
    pub timer_running: bool,
    /// IA32_TSC_DEADLINE, zero when disarmed; the same value as in [`crate::Msrs::tsc_deadline`].
    pub tsc_deadline: u64,
}

impl LapicState {
    /// After power-on or RESET (SDM vol. 3A, 11.4.7.1): xAPIC mode at its default address, disabled by software. The APIC
    /// with ID 0 is the bootstrap processor's.
    #[must_use]
    pub fn power_on(id: u32) -> Self {
        Self {
            id,
            apic_base: 0xfee0_0000 | apic_base::EN | if id == 0 { apic_base::BSP } else { 0 },
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            isr: [0; 8],
            tmr: [0; 8],
            irr: [0; 8],
            esr: 0,
            esr_pending: 0,
            icr: 0,
            lvt_timer: LVT_MASKED,
            lvt_thermal: LVT_MASKED,
            lvt_perf: LVT_MASKED,
            lvt_lint0: LVT_MASKED,
            lvt_lint1: LVT_MASKED,
            lvt_error: LVT_MASKED,
            timer_initial: 0,
            timer_divide: 0,
            timer_start_ns: 0,
            timer_running: false,
            tsc_deadline: 0,
        }
    }

    /// Enables the APIC and wires LINT0 to the PIC and LINT1 to NMI, as firmware leaves it for the operating system
    /// (*MultiProcessor Specification* 1.4, 3.6.2.2, virtual wire mode).
    pub fn set_virtual_wire(&mut self) {
        self.svr |= SVR_ENABLED;
        self.lvt_lint0 = LVT_EXTINT;
        self.lvt_lint1 = LVT_NMI;
    }

    /// The mode that IA32_APIC_BASE selects.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        if self.apic_base & apic_base::EN == 0 {
            Mode::Disabled
        } else if self.apic_base & apic_base::EXTD == 0 {
            Mode::XApic
        } else {
            Mode::X2Apic
        }
    }

    /// The physical address of the register page in xAPIC mode.
    #[must_use]
    pub const fn base(&self) -> u64 {
        self.apic_base & apic_base::BASE
    }

    /// The logical destination register as software reads it (SDM vol. 3A, 11.12.10.2).
    #[must_use]
    pub const fn logical_id(&self) -> u32 {
        match self.mode() {
            Mode::X2Apic => (self.id >> 4) << 16 | 1 << (self.id & 15),
            Mode::XApic | Mode::Disabled => self.ldr,
        }
    }

    /// The timer's divider.
    #[must_use]
    pub const fn divide(&self) -> Divide {
        Divide::from_register(self.timer_divide)
    }
}

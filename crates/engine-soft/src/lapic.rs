//! The CPU's side of its local APIC: its page of registers, its MSRs, the time-stamp counter.

use x86::Tsc;
use x86::lapic::{Effects, Mode};

use crate::cpu::{Cpu, Exec};
use crate::mmu::PHYS_BITS;

/// The rate of the time-stamp counter of a guest that starts here: one tick is a nanosecond of virtual time.
pub(crate) const TSC_HZ: u64 = 1_000_000_000;

impl Cpu {
    /// Whether `phys` lies in the page of the local APIC's registers.
    #[inline]
    pub(crate) fn is_lapic_page(&self, phys: u64) -> bool {
        phys & !0xfff == self.lapic_page
    }

    fn now(&self) -> u64 {
        self.shared.clock.now().0
    }

    pub(crate) fn lapic_mmio_read(&mut self, at: u64, data: &mut [u8]) {
        let offset = (at & 0xfff) as u32;
        let now = self.now();
        let value = self.slot.lapic().read(offset & !3, now).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get((offset & 3) as usize + i).copied().unwrap_or(0);
        }
    }

    pub(crate) fn lapic_mmio_write(&mut self, at: u64, data: &[u8]) {
        // SDM vol. 3A, 11.4.1: registers are written by aligned accesses of 4 bytes; what others do is undefined.
        let (Ok(bytes), 0) = (<[u8; 4]>::try_from(&data[..data.len().min(4)]), at & 3) else { return };
        let now = self.now();
        let effects = self.slot.lapic().write((at & 0xfff) as u32, u32::from_le_bytes(bytes), now);
        self.lapic_effects(effects);
    }

    /// Reads an MSR of the x2APIC range.
    pub(crate) fn lapic_msr_read(&mut self, msr: u32) -> Exec<u64> {
        let now = self.now();
        let value = self.slot.lapic().read_msr(msr, now);
        value.map_err(|_| self.gp(0))
    }

    /// Writes an MSR of the x2APIC range.
    pub(crate) fn lapic_msr_write(&mut self, msr: u32, value: u64) -> Exec {
        let now = self.now();
        let effects = self.slot.lapic().write_msr(msr, value, now);
        match effects {
            Ok(effects) => {
                self.lapic_effects(effects);
                Ok(())
            }
            Err(_) => Err(self.gp(0)),
        }
    }

    fn lapic_effects(&mut self, effects: Effects) {
        if let Some(vector) = effects.eoi {
            self.call_out(|io| io.eoi(vector));
        }
        if let Some(request) = effects.ipi {
            self.shared.send(&request, Some(self.id));
        }
        self.slot.lapic_changed(self.shared.clock.now(), effects.timer);
    }

    /// Looks for something to deliver after a change of the task priority.
    pub(crate) fn lapic_changed(&mut self) {
        self.slot.lapic_changed(self.shared.clock.now(), false);
    }

    /// IA32_APIC_BASE.
    pub(crate) fn lapic_base(&self) -> u64 {
        self.slot.lapic().apic_base()
    }

    /// Writes IA32_APIC_BASE.
    pub(crate) fn lapic_set_base(&mut self, value: u64) -> Exec {
        let done = self.slot.lapic().set_apic_base(value, PHYS_BITS);
        if done.is_err() {
            return Err(self.gp(0));
        }
        self.lapic_moved();
        self.slot.lapic_changed(self.shared.clock.now(), true);
        Ok(())
    }

    /// Takes up where the registers of the local APIC are.
    pub(crate) fn lapic_moved(&mut self) {
        let lapic = self.slot.lapic();
        self.lapic_page =
            if lapic.mode() == Mode::XApic { lapic.apic_base() & !0xfff & ((1 << PHYS_BITS) - 1) } else { u64::MAX };
        drop(lapic);
        self.mmu_flush_all();
    }

    /// Whether CPUID tells of an APIC.
    pub(crate) fn lapic_enabled(&self) -> bool {
        self.slot.lapic().mode() != Mode::Disabled
    }

    /// The time-stamp counter.
    #[inline]
    pub(crate) fn tsc(&self) -> u64 {
        Tsc::of(&self.msrs).at(self.now())
    }

    /// Moves the time-stamp counter by `delta` (two's complement).
    pub(crate) fn tsc_adjust(&mut self, delta: u64) {
        self.msrs.tsc_offset = self.msrs.tsc_offset.wrapping_add(delta);
        self.slot.lapic().set_tsc(Tsc::of(&self.msrs));
        self.slot.lapic_changed(self.shared.clock.now(), true);
    }

    /// IA32_TSC_DEADLINE.
    pub(crate) fn tsc_deadline(&mut self) -> u64 {
        let now = self.now();
        self.slot.lapic().tsc_deadline(now)
    }

    /// Writes IA32_TSC_DEADLINE.
    pub(crate) fn tsc_deadline_write(&mut self, value: u64) {
        let now = self.now();
        self.slot.lapic().set_tsc_deadline(value, now);
        self.slot.lapic_changed(self.shared.clock.now(), true);
    }
}

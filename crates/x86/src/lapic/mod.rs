//! The local APIC (SDM vol. 3A, chapter 11): registers and their transitions, without a clock or threads.
//!
//! The engine keeps each [`Lapic`] behind its lock, gives it the virtual time with each call, and does what the
//! returned [`Effects`] say: send an IPI to the APICs that accept it, tell the IOAPIC of an end of interrupt, set its
//! alarm to [`Lapic::timer_deadline`]. Any call that takes `&mut self` may change [`Lapic::next_interrupt`].

mod ipi;
mod registers;
mod state;
mod timer;

pub use ipi::{Arrival, DeliveryMode, Destination, IpiRequest};
pub use registers::VERSION;
pub use state::{LVT_EXTINT, LVT_MASKED, LVT_NMI, LapicState, SVR_ENABLED};
pub use timer::{Divide, MIN_PERIOD_NS, TIMER_HZ, TimerMode};

use crate::Tsc;
use crate::msr::apic_base;

/// How the registers of an APIC are reached (SDM vol. 3A, table 11-5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Not at all: the CPU has no APIC, the PIC drives its INTR pin.
    Disabled,
    /// Through a page of physical memory.
    XApic,
    /// Through MSRs.
    X2Apic,
}

/// An access that raises #GP(0) in the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("general protection")]
pub struct GeneralProtection;

/// What the engine has to do after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects {
    /// Send it to each APIC that accepts it, this one included.
    pub ipi: Option<IpiRequest>,
    /// Tell the IOAPIC of the end of a level-triggered interrupt with this vector.
    pub eoi: Option<u8>,
    /// The timer's deadline may have changed.
    pub timer: bool,
}

/// A pin by which interrupts reach the APIC from the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// LINT0: the PIC.
    Lint0,
    /// LINT1: NMI.
    Lint1,
}

/// Error status: an illegal vector was to be sent (SDM vol. 3A, 11.5.3).
pub const ESR_SEND_ILLEGAL_VECTOR: u32 = 1 << 5;
/// Error status: an illegal vector was received.
pub const ESR_RECEIVE_ILLEGAL_VECTOR: u32 = 1 << 6;
/// Error status: there is no such register.
pub const ESR_ILLEGAL_REGISTER: u32 = 1 << 7;

/// A local APIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lapic {
    state: LapicState,
    tsc: Tsc,
}

/// The highest vector set.
fn highest(bits: &[u32; 8]) -> Option<u8> {
    let word = bits.iter().rposition(|&word| word != 0)?;
    u8::try_from(word * 32 + bits[word].ilog2() as usize).ok()
}

fn bit(bits: &mut [u32; 8], vector: u8, set: bool) {
    let mask = 1 << (vector & 31);
    let word = &mut bits[usize::from(vector >> 5)];
    *word = if set { *word | mask } else { *word & !mask };
}

fn test(bits: &[u32; 8], vector: u8) -> bool {
    bits[usize::from(vector >> 5)] & 1 << (vector & 31) != 0
}

impl Lapic {
    /// From a state; `tsc` is the time-stamp counter of its CPU.
    #[must_use]
    pub const fn new(state: LapicState, tsc: Tsc) -> Self {
        Self { state, tsc }
    }

    /// After power-on.
    #[must_use]
    pub fn power_on(id: u32) -> Self {
        Self::new(LapicState::power_on(id), Tsc::nanoseconds())
    }

    /// The registers. IA32_TSC_DEADLINE and the requests in it are as of the last call with a time.
    #[must_use]
    pub const fn state(&self) -> &LapicState {
        &self.state
    }

    /// Tells of a write to the guest's time-stamp counter or IA32_TSC_ADJUST; the timer's deadline may have changed.
    pub const fn set_tsc(&mut self, tsc: Tsc) {
        self.tsc = tsc;
    }

    /// INIT: as after power-on, but for the ID and IA32_APIC_BASE (SDM vol. 3A, 11.4.7.3).
    pub fn init(&mut self) {
        let apic_base = self.state.apic_base;
        self.state = LapicState { apic_base, ..LapicState::power_on(self.state.id) };
    }

    /// The mode.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.state.mode()
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn apic_base(&self) -> u64 {
        self.state.apic_base
    }

    /// Writes IA32_APIC_BASE on a CPU whose physical addresses have `phys_bits` bits. The timer's deadline may have
    /// changed after it, and the page of the registers.
    ///
    /// # Errors
    /// Reserved bits, and the transitions that SDM vol. 3A, 11.12.5 and figure 11-27 forbid.
    pub fn set_apic_base(&mut self, value: u64, phys_bits: u8) -> Result<(), GeneralProtection> {
        let page = apic_base::BASE & ((1u64 << phys_bits.min(52)) - 1);
        if value & !(page | apic_base::BSP | apic_base::EXTD | apic_base::EN) != 0 {
            return Err(GeneralProtection);
        }
        let old = self.mode();
        let new = LapicState { apic_base: value, ..LapicState::power_on(self.state.id) };
        match (old, new.mode()) {
            (_, Mode::Disabled) if value & apic_base::EXTD != 0 => return Err(GeneralProtection),
            (Mode::Disabled, Mode::X2Apic) | (Mode::X2Apic, Mode::XApic) => return Err(GeneralProtection),
            (Mode::XApic | Mode::X2Apic, Mode::Disabled) => self.state = new,
            (Mode::XApic, Mode::X2Apic) => {
                // SDM vol. 3A, 11.12.5.1: the ICR's upper half is not kept; LDR and DFR have no meaning any more.
                self.state.icr &= 0xffff_ffff;
                self.state.ldr = 0;
                self.state.dfr = u32::MAX;
                self.state.apic_base = value;
            }
            _ => self.state.apic_base = value,
        }
        Ok(())
    }

    /// Whether software has enabled it (SDM vol. 3A, 11.4.3).
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.mode() != Mode::Disabled && self.state.svr & SVR_ENABLED != 0
    }

    /// Accepts an interrupt message: sets the request and its trigger mode. Whether it did: not when it is disabled, nor
    /// for a vector below 16, which is an error (SDM vol. 3A, 11.5.2 and 11.8.4).
    pub fn set_irr(&mut self, vector: u8, level: bool) -> bool {
        if !self.is_enabled() {
            return false;
        }
        if vector < 16 {
            self.error(ESR_RECEIVE_ILLEGAL_VECTOR);
            return false;
        }
        bit(&mut self.state.irr, vector, true);
        bit(&mut self.state.tmr, vector, level);
        true
    }

    /// An interrupt of an LVT entry: always edge-triggered here.
    fn request_local(&mut self, vector: u8) -> bool {
        self.set_irr(vector, false)
    }

    /// Records an error and requests the error interrupt (SDM vol. 3A, 11.5.3).
    fn error(&mut self, error: u32) {
        let known = self.state.esr_pending & error != 0;
        self.state.esr_pending |= error;
        let lvt = self.state.lvt_error;
        if !known && lvt & LVT_MASKED == 0 {
            if lvt & 0xff >= 16 {
                self.request_local(lvt as u8);
            } else {
                self.state.esr_pending |= ESR_RECEIVE_ILLEGAL_VECTOR;
            }
        }
    }

    /// The processor-priority register (SDM vol. 3A, 11.8.3.1).
    #[must_use]
    pub fn ppr(&self) -> u8 {
        let tpr = self.state.tpr as u8;
        let in_service = highest(&self.state.isr).unwrap_or(0);
        if tpr >> 4 >= in_service >> 4 { tpr } else { in_service & 0xf0 }
    }

    /// CR8: the upper half of the task priority (SDM vol. 3A, 11.8.6).
    #[must_use]
    pub const fn cr8(&self) -> u64 {
        (self.state.tpr >> 4 & 15) as u64
    }

    /// Writes CR8; the engine has raised #GP for a value above 15.
    pub const fn set_cr8(&mut self, value: u64) {
        self.state.tpr = (value as u32 & 15) << 4;
    }

    /// The vector to deliver as soon as the CPU takes interrupts: the highest request above the processor priority.
    #[must_use]
    pub fn next_interrupt(&self) -> Option<u8> {
        if self.mode() == Mode::Disabled {
            return None;
        }
        highest(&self.state.irr).filter(|vector| vector >> 4 > self.ppr() >> 4)
    }

    /// The CPU takes `vector`: from requested to in service (SDM vol. 3A, 11.8.4).
    pub fn acknowledge(&mut self, vector: u8) {
        bit(&mut self.state.irr, vector, false);
        bit(&mut self.state.isr, vector, true);
    }

    /// The end of the highest interrupt in service (SDM vol. 3A, 11.8.5). Its vector if it was level-triggered and the
    /// IOAPIC has to hear of it.
    pub fn eoi(&mut self) -> Option<u8> {
        let vector = highest(&self.state.isr)?;
        bit(&mut self.state.isr, vector, false);
        test(&self.state.tmr, vector).then_some(vector)
    }

    /// Whether the PIC's INTR reaches the CPU: the APIC is off, or LINT0 is unmasked in ExtINT mode.
    #[must_use]
    pub fn accepts_extint(&self) -> bool {
        self.mode() == Mode::Disabled || self.state.lvt_lint0 & (LVT_MASKED | 7 << 8) == LVT_EXTINT
    }

    /// The rising edge of a pin, by its LVT entry (SDM vol. 3A, 11.5.1); with the APIC off LINT0 is INTR and LINT1 NMI.
    /// A pin programmed as level-triggered is taken as an edge.
    #[must_use]
    pub fn pin(&mut self, pin: Pin) -> Arrival {
        let lvt = match (self.mode(), pin) {
            (Mode::Disabled, Pin::Lint0) => return Arrival::ExtInt,
            (Mode::Disabled, Pin::Lint1) => return Arrival::Nmi,
            (_, Pin::Lint0) => self.state.lvt_lint0,
            (_, Pin::Lint1) => self.state.lvt_lint1,
        };
        if lvt & LVT_MASKED != 0 {
            return Arrival::Nothing;
        }
        match DeliveryMode::from_bits(lvt >> 8) {
            Some(DeliveryMode::Fixed) if self.request_local(lvt as u8) => Arrival::Interrupt,
            Some(DeliveryMode::Smi) => Arrival::Smi,
            Some(DeliveryMode::Nmi) => Arrival::Nmi,
            Some(DeliveryMode::Init) => Arrival::Init,
            Some(DeliveryMode::ExtInt) => Arrival::ExtInt,
            _ => Arrival::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;

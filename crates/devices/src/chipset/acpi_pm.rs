//! ACPI's fixed hardware: events, sleep control, the power-management timer, general-purpose events and the SMI
//! registers (ACPI Specification 6.5, 4.8; Intel ICH9 datasheet, 13.8.3), and the APM ports that switch ACPI on.

use std::sync::{Arc, Mutex};

use machine::{At, Clock, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError, Timer, VmTime};
use serde::{Deserialize, Serialize};

use crate::regs::{SECOND, decode, read_bytes, require, scale, scale_up, write_bytes};

/// The power-management timer's clock in hertz.
pub const PM_TIMER_FREQUENCY: u64 = 3_579_545;

/// What the ACPI tables say about the block, besides its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcpiPmConfig {
    /// The value written to port B2h that switches ACPI on (FADT, ACPI_ENABLE).
    pub acpi_enable: u8,
    /// The value written to port B2h that switches ACPI off (FADT, ACPI_DISABLE).
    pub acpi_disable: u8,
    /// The sleep type that powers off (DSDT, `\_S5`).
    pub s5: u8,
}

impl Default for AcpiPmConfig {
    fn default() -> Self {
        Self { acpi_enable: 2, acpi_disable: 3, s5: 0 }
    }
}

/// Bits of the PM1 event registers.
const TIMER_CARRY: u16 = 1;
const BUS_MASTER: u16 = 1 << 4;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const WAKE: u16 = 1 << 15;
const STATUS_BITS: u16 = TIMER_CARRY | BUS_MASTER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | WAKE;
const ENABLE_BITS: u16 = TIMER_CARRY | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;

/// Bits of the PM1 control register.
const SCI_ENABLE: u16 = 1;
const SLEEP_TYPE: u16 = 7 << 10;
const SLEEP_ENABLE: u16 = 1 << 13;
const CONTROL_BITS: u16 = SCI_ENABLE | 1 << 1 | SLEEP_TYPE;

/// SMI_STS: a write to the APM port.
const APM_STATUS: u32 = 1 << 5;

/// SMI_EN: a write to the APM port raises an SMI. Set from the start, it says that the firmware's handler is in place: there is
/// no system-management mode that it could set up.
const APM_ENABLE: u32 = 1 << 5;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AcpiPmState {
    status: u16,
    enable: u16,
    control: u16,
    gpe_status: u64,
    gpe_enable: u64,
    smi_enable: u32,
    smi_status: u32,
    apm_control: u8,
    apm_status: u8,
    /// The virtual time up to which carries of the timer have been noted.
    followed: u64,
}

impl AcpiPmState {
    fn after_reset(now: VmTime) -> Self {
        Self {
            status: 0,
            enable: 0,
            control: 0,
            gpe_status: 0,
            gpe_enable: 0,
            smi_enable: APM_ENABLE,
            smi_status: 0,
            apm_control: 0,
            apm_status: 0,
            followed: now.0,
        }
    }
}

/// The block. Windows: 0 its registers at PMBASE (80h bytes), 1 the APM ports (B2h, 2 bytes).
///
/// Offsets in window 0: PM1_STS 0, PM1_EN 2, PM1_CNT 4, PM_TMR 8, GPE0_STS 20h, GPE0_EN 28h, SMI_EN 30h, SMI_STS 34h.
/// There is no system-management mode: what its firmware would do to switch ACPI on, the block does itself.
pub struct AcpiPm {
    state: AcpiPmState,
    config: AcpiPmConfig,
    sci: Line,
    timer: Timer,
}

impl AcpiPm {
    /// The block on `clock` with its interrupt line.
    #[must_use]
    pub fn build(clock: &Clock, config: AcpiPmConfig, sci: Line) -> Shared<Self> {
        Arc::new_cyclic(|device| {
            let timer = Timer::new(clock, device.clone(), Self::follow);
            let state = AcpiPmState::after_reset(VmTime(0));
            Mutex::new(Self { state, config, sci, timer })
        })
    }

    /// Somebody presses the power button for a moment.
    pub fn press_power_button(&mut self) {
        self.state.status |= POWER_BUTTON;
        self.follow();
    }

    /// Raises general-purpose event `event` (0 to 63).
    pub fn raise_gpe(&mut self, event: u8) {
        self.state.gpe_status |= 1u64.checked_shl(event.into()).unwrap_or(0);
        self.follow();
    }

    /// The 24 bits of the timer at a virtual time.
    fn ticks(time: u64) -> u64 {
        scale(time, PM_TIMER_FREQUENCY, SECOND)
    }

    /// Notes a carry of the timer (a change of bit 23), drives the SCI and sets the alarm for the next carry.
    fn follow(&mut self) {
        let now = self.timer.now().0;
        let halves = Self::ticks(now) >> 23;
        if halves != Self::ticks(self.state.followed) >> 23 {
            self.state.status |= TIMER_CARRY;
        }
        self.state.followed = now;
        let fixed = self.state.status & self.state.enable & ENABLE_BITS != 0;
        let general = self.state.gpe_status & self.state.gpe_enable != 0;
        self.sci.set(self.state.control & SCI_ENABLE != 0 && (fixed || general));
        if self.state.enable & TIMER_CARRY != 0 && self.state.status & TIMER_CARRY == 0 {
            self.timer.set(VmTime(scale_up((halves + 1) << 23, SECOND, PM_TIMER_FREQUENCY)));
        } else {
            self.timer.cancel();
        }
    }

    fn read_byte(&self, offset: u64) -> u8 {
        let part = |value: u64, base: u64| (value >> ((offset - base) * 8)) as u8;
        let state = &self.state;
        match offset {
            0x00..0x02 => part(state.status.into(), 0x00),
            0x02..0x04 => part(state.enable.into(), 0x02),
            0x04..0x08 => part(state.control.into(), 0x04),
            0x08..0x0c => part(Self::ticks(self.timer.now().0) & 0xff_ffff, 0x08),
            0x20..0x28 => part(state.gpe_status, 0x20),
            0x28..0x30 => part(state.gpe_enable, 0x28),
            0x30..0x34 => part(state.smi_enable.into(), 0x30),
            0x34..0x38 => part(state.smi_status.into(), 0x34),
            _ => 0,
        }
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let at = |base: u64| (u64::from(value) << ((offset - base) * 8), 0xffu64 << ((offset - base) * 8));
        let state = &mut self.state;
        match offset {
            0x00..0x02 => state.status &= !(at(0x00).0 as u16),
            0x02..0x04 => {
                let (value, mask) = at(0x02);
                state.enable = (state.enable & !(mask as u16) | value as u16) & ENABLE_BITS;
            }
            0x04..0x06 => {
                let (value, mask) = at(0x04);
                // SCI_EN is the firmware's: only the APM port changes it.
                let mask = mask as u16 & !SCI_ENABLE;
                state.control = (state.control & !mask | value as u16 & mask) & CONTROL_BITS;
            }
            0x20..0x28 => state.gpe_status &= !at(0x20).0,
            0x28..0x30 => {
                let (value, mask) = at(0x28);
                state.gpe_enable = state.gpe_enable & !mask | value;
            }
            0x30..0x34 => {
                let (value, mask) = at(0x30);
                state.smi_enable = state.smi_enable & !(mask as u32) | value as u32;
            }
            0x34..0x38 => state.smi_status &= !(at(0x34).0 as u32),
            _ => {}
        }
    }

    /// What a write that sets SLP_EN does.
    fn sleep(&mut self) -> Effect {
        let kind = (self.state.control & SLEEP_TYPE) >> 10;
        if kind == u16::from(self.config.s5) {
            return Effect::PowerOff;
        }
        // The types of the south bridge (ICH9 datasheet, PM1_CNT).
        match kind {
            1 => Effect::Sleep(1),
            5 => Effect::Sleep(3),
            6 => Effect::Sleep(4),
            7 => Effect::PowerOff,
            _ => Effect::None,
        }
    }

    fn apm_command(&mut self, value: u8) {
        self.state.apm_control = value;
        self.state.smi_status |= APM_STATUS;
        if value == self.config.acpi_enable {
            self.state.control |= SCI_ENABLE;
        } else if value == self.config.acpi_disable {
            self.state.control &= !SCI_ENABLE;
        }
    }
}

impl Device for AcpiPm {
    fn read(&mut self, at: At, data: &mut [u8]) {
        self.follow();
        read_bytes(at, data, |offset| match (at.window, offset) {
            (0, offset @ 0..0x80) => self.read_byte(offset),
            (1, 0) => self.state.apm_control,
            (1, 1) => self.state.apm_status,
            _ => 0xff,
        });
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        self.follow();
        let effect = write_bytes(at, data, |offset, value| {
            match (at.window, offset) {
                (0, offset @ 0..0x80) => {
                    self.write_byte(offset, value);
                    if offset == 0x05 && value & (SLEEP_ENABLE >> 8) as u8 != 0 {
                        return self.sleep();
                    }
                }
                (1, 0) => self.apm_command(value),
                (1, 1) => self.state.apm_status = value,
                _ => {}
            }
            Effect::None
        });
        self.follow();
        effect
    }

    fn reset(&mut self) {
        self.state = AcpiPmState::after_reset(self.timer.now());
        self.follow();
    }

    fn pause(&mut self) -> Drained {
        Drained
    }

    fn resume(&mut self) {
        self.follow();
    }
}

impl Snapshot for AcpiPm {
    fn schema(&self) -> Schema {
        Schema { name: "acpi-pm", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.follow();
        State::of(&self.state)
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: AcpiPmState = decode(self.schema(), version, state)?;
        let bits = state.status & !STATUS_BITS == 0 && state.enable & !ENABLE_BITS == 0;
        require(self.schema(), bits && state.control & !CONTROL_BITS == 0, "reserved bits are set")?;
        self.state = state;
        self.follow();
        Ok(())
    }
}

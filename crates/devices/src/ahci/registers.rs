//! The names of the registers' bits (AHCI 1.3.1, 3.1 and 3.3).

/// Global HBA control.
pub(super) mod ghc {
    pub(in super::super) const RESET: u32 = 1;
    pub(in super::super) const INTERRUPTS: u32 = 1 << 1;
    pub(in super::super) const AHCI: u32 = 1 << 31;
}

/// PxIS and PxIE.
pub(super) mod event {
    pub(in super::super) const REGISTERS: u32 = 1;
    pub(in super::super) const PIO_SETUP: u32 = 1 << 1;
    pub(in super::super) const DEVICE_BITS: u32 = 1 << 3;
    pub(in super::super) const OVERFLOW: u32 = 1 << 24;
    pub(in super::super) const BUS_FATAL: u32 = 1 << 29;
    pub(in super::super) const FILE_ERROR: u32 = 1 << 30;
    /// All that there are.
    pub(in super::super) const ALL: u32 = 0xfdc0_00ff;
}

/// PxCMD.
pub(super) mod command {
    pub(in super::super) const START: u32 = 1;
    pub(in super::super) const SPUN_UP: u32 = 1 << 1;
    pub(in super::super) const POWERED: u32 = 1 << 2;
    pub(in super::super) const OVERRIDE: u32 = 1 << 3;
    pub(in super::super) const RECEIVE: u32 = 1 << 4;
    pub(in super::super) const RECEIVING: u32 = 1 << 14;
    pub(in super::super) const RUNNING: u32 = 1 << 15;
    /// What the guest writes, but for start, receive and override: the kind of drive, and power management.
    pub(in super::super) const KEPT: u32 = 0x0f00_0000;
}

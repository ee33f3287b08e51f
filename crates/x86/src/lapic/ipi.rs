//! What travels between APICs: interprocessor interrupts and messages of devices.

use super::{Lapic, LapicState, Mode};

/// How an interrupt is delivered (SDM vol. 3A, 11.6.1 and 11.11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryMode {
    /// As the vector, to all destinations.
    Fixed,
    /// As the vector, to the one of the destinations with the lowest [`Lapic::ppr`].
    LowestPriority,
    /// A system-management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT.
    Init,
    /// The start-up IPI; the vector is the page at which to start.
    StartUp,
    /// As if from the PIC, which is asked for the vector.
    ExtInt,
}

/// Whom an interrupt is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The APIC with this ID.
    Physical(u32),
    /// A message destination address, compared with the logical APIC IDs.
    Logical(u32),
    /// All APICs, the sender included.
    All,
    /// The sender.
    SelfOnly,
    /// All APICs but the sender.
    AllButSelf,
}

/// One interrupt message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IpiRequest {
    /// The vector; the start page of [`DeliveryMode::StartUp`].
    pub vector: u8,
    /// How it is delivered.
    pub mode: DeliveryMode,
    /// Whom it is for.
    pub dest: Destination,
    /// Whether it is level-triggered.
    pub level: bool,
}

/// What an interrupt message does to the CPU beside the APIC's own registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Nothing: it was not accepted, or had no effect.
    Nothing,
    /// A fixed interrupt is in the IRR now.
    Interrupt,
    /// A system-management interrupt.
    Smi,
    /// A non-maskable interrupt.
    Nmi,
    /// INIT: the engine resets the CPU and calls [`Lapic::init`].
    Init,
    /// Start in real mode at this page number, if the CPU waits for it.
    StartUp(u8),
    /// The PIC is to be asked for a vector.
    ExtInt,
}

impl DeliveryMode {
    /// From the three bits in an ICR, LVT entry or MSI; `None` for the reserved value.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::StartUp,
            7 => Self::ExtInt,
            _ => return None,
        })
    }

    /// Whether the vector means an interrupt of the receiver, and so must be 16 or more.
    #[must_use]
    pub const fn uses_vector(self) -> bool {
        matches!(self, Self::Fixed | Self::LowestPriority)
    }
}

impl IpiRequest {
    /// What a write to the interrupt command register sends (SDM vol. 3A, 11.6.1; in x2APIC mode 11.12.9); `None` for
    /// a delivery mode that is reserved or not for IPIs, and for the INIT level de-assert, which processors since the
    /// Pentium 4 ignore.
    #[must_use]
    pub const fn from_icr(icr: u64, x2apic: bool) -> Option<Self> {
        let low = icr as u32;
        let mode = match DeliveryMode::from_bits(low >> 8) {
            Some(DeliveryMode::ExtInt) | None => return None,
            Some(mode) => mode,
        };
        let level = low & 1 << 15 != 0;
        if matches!(mode, DeliveryMode::Init) && level && low & 1 << 14 == 0 {
            return None;
        }
        let id = if x2apic { (icr >> 32) as u32 } else { (icr >> 56) as u32 };
        let broadcast = if x2apic { u32::MAX } else { 0xff };
        let dest = match low >> 18 & 3 {
            1 => Destination::SelfOnly,
            2 => Destination::All,
            3 => Destination::AllButSelf,
            _ if low & 1 << 11 != 0 && !(x2apic && id == broadcast) => Destination::Logical(id),
            _ if id == broadcast => Destination::All,
            _ => Destination::Physical(id),
        };
        // IPIs are edge-triggered whatever bit 15 says, but for INIT (SDM vol. 3A, table 11-3).
        Some(Self { vector: low as u8, mode, dest, level: false })
    }

    /// What a write of `data` to `address` sends (SDM vol. 3A, 11.11); `None` when the address is not one of
    /// interrupts or the delivery mode is reserved.
    #[must_use]
    pub const fn from_msi(address: u64, data: u32) -> Option<Self> {
        if address >> 20 != 0xfee {
            return None;
        }
        let mode = match DeliveryMode::from_bits(data >> 8) {
            Some(DeliveryMode::StartUp) | None => return None,
            Some(mode) => mode,
        };
        let id = (address >> 12) as u32 & 0xff;
        let logical = address & 1 << 2 != 0;
        // The redirection hint asks for the one of the logical group with the lowest priority.
        let redirect = address & 1 << 3 != 0 && logical;
        let mode = match mode {
            DeliveryMode::Fixed if redirect => DeliveryMode::LowestPriority,
            mode => mode,
        };
        let dest = match id {
            _ if logical => Destination::Logical(id),
            0xff => Destination::All,
            _ => Destination::Physical(id),
        };
        // Only what has a vector can be level-triggered (SDM vol. 3A, 11.11.2).
        let level = mode.uses_vector() && data & 1 << 15 != 0;
        Some(Self { vector: data as u8, mode, dest, level })
    }
}

impl LapicState {
    /// Whether `request` is for this APIC (SDM vol. 3A, 11.6.2); `from_self`: whether this APIC sent it.
    #[must_use]
    pub const fn accepts(&self, request: &IpiRequest, from_self: bool) -> bool {
        let mode = self.mode();
        if matches!(mode, Mode::Disabled) {
            return false;
        }
        match request.dest {
            Destination::All => true,
            Destination::SelfOnly => from_self,
            Destination::AllButSelf => !from_self,
            Destination::Physical(id) => match mode {
                Mode::X2Apic => self.id == id,
                _ => self.id & 0xff == id,
            },
            Destination::Logical(mda) => match mode {
                Mode::X2Apic => {
                    let own = self.logical_id();
                    own >> 16 == mda >> 16 && own & mda & 0xffff != 0
                }
                _ => self.matches_xapic_logical(mda),
            },
        }
    }

    /// SDM vol. 3A, 11.6.2.2: the flat and the cluster model.
    const fn matches_xapic_logical(&self, mda: u32) -> bool {
        let own = self.ldr >> 24;
        match self.dfr >> 28 {
            0xf => own & mda != 0,
            0 => mda == 0xff || (own >> 4 == mda >> 4 & 0xf && own & mda & 0xf != 0),
            _ => false,
        }
    }
}

impl Lapic {
    /// Whether `request` is for this APIC: [`LapicState::accepts`].
    #[must_use]
    pub const fn accepts(&self, request: &IpiRequest, from_self: bool) -> bool {
        self.state().accepts(request, from_self)
    }

    /// Takes in a message that it [`Lapic::accepts`]; a lowest-priority one only if the engine has chosen this APIC.
    /// What it says is to be done to the CPU.
    #[must_use]
    pub fn deliver(&mut self, request: &IpiRequest) -> Arrival {
        match request.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if self.set_irr(request.vector, request.level) {
                    Arrival::Interrupt
                } else {
                    Arrival::Nothing
                }
            }
            DeliveryMode::Smi => Arrival::Smi,
            DeliveryMode::Nmi => Arrival::Nmi,
            DeliveryMode::Init => Arrival::Init,
            DeliveryMode::StartUp => Arrival::StartUp(request.vector),
            DeliveryMode::ExtInt => Arrival::ExtInt,
        }
    }
}

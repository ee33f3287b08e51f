//! The host bus adapter as a PCI function: the AHCI controller of the ICH9 (Intel I/O Controller Hub 9 datasheet, 316972,
//! 15; AHCI 1.3.1, 2 and 3.1).

use std::sync::{Arc, Mutex, PoisonError};

use machine::pci::{Bar, BarKind, ConfigError, ConfigSpace, ConfigState, Identity, Msi, PciFunction, Pin};
use machine::{At, Device, Drained, Effect, Line, MsiPort, Schema, Shared, Snapshot, State, StateError};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};

use super::PORTS;
use super::port::{Port, PortState};
use super::registers::ghc;
use crate::ata::AtaUnit;
use crate::regs::{decode, read_dwords, require, write_dwords};

/// The BAR of the registers.
const ABAR: usize = 5;
const ABAR_SIZE: u64 = 0x1000;
/// The registers of port 0, and of one port.
const FIRST_PORT: u64 = 0x100;
const PORT_LENGTH: u64 = 0x80;
/// Port map and control of the ICH9: AHCI, and the ports that are enabled.
const MAP: usize = 0x90;
const PCS: usize = 0x92;
/// 64-bit addresses, a queue for each drive, override, 3 Gbit/s, AHCI alone, 32 slots, 6 ports.
const CAPABILITIES: u32 = 1 << 31 | 1 << 30 | 1 << 24 | 2 << 20 | 1 << 18 | 31 << 8 | (PORTS as u32 - 1);
/// The version: 1.3.1.
const VERSION: u32 = 0x0001_0301;
const ALL_PORTS: u32 = (1 << PORTS) - 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct AhciState {
    config: ConfigState,
    control: u32,
    pending: u32,
    ports: Vec<PortState>,
}

/// The adapter. Window 5: its registers.
pub struct Ahci {
    config: ConfigSpace,
    msi: Msi,
    messages: MsiPort,
    line: Line,
    memory: GuestMemory,
    /// GHC without what is always set.
    control: u32,
    /// IS: the ports that ask for an interrupt.
    pending: u32,
    ports: [Port; PORTS],
}

impl Ahci {
    /// The adapter with these drives, which interrupts by `line`, its interrupt pin, or by `messages`.
    ///
    /// # Errors
    /// None for the BAR and the capability that it has.
    pub fn ich9(
        units: [Option<AtaUnit>; PORTS],
        (pin, line): (Pin, Line),
        messages: MsiPort,
        memory: GuestMemory,
    ) -> Result<Shared<Self>, ConfigError> {
        let id = Identity { vendor: 0x8086, device: 0x2922, revision: 2, class: 0x01_0601, ..Identity::default() };
        let config = ConfigSpace::new(id).interrupt_pin(pin);
        let mut config = config.with_bar(ABAR, Bar { kind: BarKind::Memory32, size: ABAR_SIZE })?;
        let msi = Msi::add(&mut config, 0)?;
        config.set_u8(MAP, 0x40);
        config.set_u16(PCS, ALL_PORTS as u16);
        config.set_writable(PCS, &[ALL_PORTS as u8]);
        config.seal();
        let ports = units.map(Port::new);
        let ahci = Self { config, msi, messages, line, memory, control: 0, pending: 0, ports };
        let ahci = Arc::new(Mutex::new(ahci));
        let weak = Arc::downgrade(&ahci);
        let finished = move || {
            if let Some(ahci) = weak.upgrade() {
                ahci.lock().unwrap_or_else(PoisonError::into_inner).take_finished();
            }
        };
        for port in &ahci.lock().unwrap_or_else(PoisonError::into_inner).ports {
            if let Some(drive) = port.drive() {
                drive.on_finished(finished.clone());
            }
        }
        Ok(ahci)
    }

    /// Goes on with what has finished.
    fn take_finished(&mut self) {
        self.ports.iter_mut().for_each(|port| port.take_finished(&self.memory));
        self.follow();
    }

    /// Waits until nothing is under way, with all that the guest has asked for done.
    fn settle(&mut self) {
        while self.ports.iter().any(Port::drain) {
            self.take_finished();
        }
    }

    /// Does what there is to do when registers or ports have changed.
    fn follow(&mut self) {
        if self.config.is_bus_master() {
            self.ports.iter_mut().for_each(|port| port.kick(&self.memory));
        }
        if self.control & ghc::RESET != 0 && self.ports.iter().all(Port::is_quiet) {
            self.control &= !ghc::RESET;
        }
        let asking = self.ports.iter().zip(0..).filter(|(port, _)| port.interrupts());
        let asking = asking.fold(0, |mask, (_, n)| mask | 1 << n);
        let new = asking & !self.pending;
        self.pending |= new;
        self.interrupt(new != 0);
    }

    /// Drives the line; `event` is worth a message.
    fn interrupt(&mut self, event: bool) {
        let asks = self.control & ghc::INTERRUPTS != 0 && self.pending != 0;
        let by_message = self.msi.is_enabled(&self.config);
        let high = self.config.intx(asks && !by_message);
        self.line.set(high);
        if event && asks && by_message {
            self.msi.send(&mut self.config, 0, &self.messages);
        }
    }

    fn read_register(&self, offset: u64) -> u32 {
        match offset {
            0x00 => CAPABILITIES,
            0x04 => self.control | ghc::AHCI,
            0x08 => self.pending,
            0x0c => ALL_PORTS,
            0x10 => VERSION,
            _ => self.port(offset).and_then(|(n, offset)| Some(self.ports.get(n)?.read(offset))).unwrap_or(0),
        }
    }

    fn port(&self, offset: u64) -> Option<(usize, u64)> {
        let from = offset.checked_sub(FIRST_PORT)?;
        Some(((from / PORT_LENGTH) as usize, from % PORT_LENGTH))
    }

    fn write_register(&mut self, offset: u64, value: u32, mask: u32) {
        let set = value & mask;
        match offset {
            0x04 if set & ghc::RESET != 0 => {
                (self.control, self.pending) = (ghc::RESET, 0);
                self.ports.iter_mut().for_each(Port::reset_by_adapter);
            }
            0x04 => {
                let was = self.control;
                let interrupts = (was & !mask | set) & ghc::INTERRUPTS;
                self.control = was & ghc::RESET | interrupts;
                self.interrupt(interrupts & !was != 0);
            }
            0x08 => {
                self.pending &= !set;
                // What is left needs another message.
                self.interrupt(self.pending != 0);
            }
            _ => {
                if let Some((n, offset)) = self.port(offset)
                    && let Some(port) = self.ports.get_mut(n)
                {
                    port.write(offset, value, mask, &self.memory);
                }
            }
        }
    }
}

impl PciFunction for Ahci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        if self.msi.covers(offset, data.len()) {
            self.msi.follow(&mut self.config, &self.messages);
        }
        self.follow();
        Effect::None
    }
}

impl Device for Ahci {
    fn read(&mut self, at: At, data: &mut [u8]) {
        if usize::from(at.window) == ABAR {
            read_dwords(at, data, |offset| self.read_register(offset));
        } else {
            data.fill(0xff);
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        if usize::from(at.window) == ABAR {
            write_dwords(at, data, |offset, value, mask| self.write_register(offset, value, mask));
            self.follow();
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
        (self.control, self.pending) = (0, 0);
        self.ports.iter_mut().for_each(Port::reset);
        self.interrupt(false);
    }

    fn pause(&mut self) -> Drained {
        self.settle();
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Ahci {
    fn schema(&self) -> Schema {
        Schema { name: "ahci", version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.settle();
        State::of(&AhciState {
            config: self.config.state(),
            control: self.control,
            pending: self.pending,
            ports: self.ports.iter().map(Port::state).collect(),
        })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: AhciState = decode(self.schema(), version, state)?;
        let fit =
            state.ports.len() == PORTS && self.ports.iter().zip(&state.ports).all(|(port, state)| port.accepts(state));
        require(self.schema(), fit, "a drive cannot be in this state")?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.ports.iter_mut().zip(state.ports).for_each(|(port, state)| port.restore(state));
        (self.control, self.pending) = (state.control & ghc::INTERRUPTS, state.pending & ALL_PORTS);
        self.interrupt(false);
        Ok(())
    }
}

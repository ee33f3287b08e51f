//! The IDE function of the PIIX3, PCI function 0:1.1 (Intel 82371SB PIIX3 datasheet, 290550, 2.3).

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use machine::pci::{Bar, BarKind, ConfigError, ConfigSpace, ConfigState, Identity, PciFunction};
use machine::{At, Device, Drained, Effect, Line, Schema, Shared, Snapshot, State, StateError};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};

use super::bus_master::BusMaster;
use super::channel::{Channel, ChannelState};
use super::drive::IdeDrive;
use crate::ata::AtaUnit;
use crate::regs::{decode, read_bytes, require};

/// Timing of the two channels; the highest bit of each enables its ports.
const IDETIM: usize = 0x40;
const DECODE: u16 = 0x8000;
/// The BAR of the bus masters: 8 ports for each channel.
const BUS_MASTER: usize = 4;

/// Where the fixed windows of a channel are in a PC: its command block, and its control port.
pub struct IdePorts;

impl IdePorts {
    /// The ports of each window, from [`Piix3Ide::FIRST_WINDOW`] up.
    pub const WINDOWS: [Range<u16>; 4] = [0x1f0..0x1f8, 0x3f6..0x3f7, 0x170..0x178, 0x376..0x377];
    /// The ISA interrupts of the channels.
    pub const IRQS: [u8; 2] = [14, 15];
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct IdeState {
    config: ConfigState,
    channels: [ChannelState; 2],
    masters: [BusMaster; 2],
}

/// The function. Windows: 4 the bus masters, 16 ports; 8 and 10 the command blocks, 9 and 11 the control ports.
pub struct Piix3Ide {
    config: ConfigSpace,
    channels: [Channel; 2],
    masters: [BusMaster; 2],
    memory: GuestMemory,
}

impl Piix3Ide {
    /// The number of the first fixed window.
    pub const FIRST_WINDOW: u8 = 8;

    /// The function with these drives, primary master first, whose channels interrupt by `lines`.
    ///
    /// # Errors
    /// None for the BARs that it has.
    pub fn new(
        units: [Option<AtaUnit>; 4],
        lines: [Line; 2],
        memory: GuestMemory,
    ) -> Result<Shared<Self>, ConfigError> {
        // Both channels at the ports of a PC; a bus master.
        let id = Identity { vendor: 0x8086, device: 0x7010, class: 0x01_0180, ..Identity::default() };
        let mut config = ConfigSpace::new(id).with_bar(BUS_MASTER, Bar { kind: BarKind::Port, size: 16 })?;
        for channel in 0..2 {
            config.set_u16(IDETIM + 2 * channel, DECODE);
            config.set_writable(IDETIM + 2 * channel, &[0xff, 0xf3]);
        }
        // The ports of a PC answer whatever the command register says, once they are enabled here.
        config.seal();
        let [a, b, c, d] = units;
        let [first, second] = lines;
        let channels = [Channel::new([a, b], first), Channel::new([c, d], second)];
        let masters = [BusMaster::default(); 2];
        let ide = Arc::new(Mutex::new(Self { config, channels, masters, memory }));
        let weak = Arc::downgrade(&ide);
        let finished = move || {
            if let Some(ide) = weak.upgrade() {
                ide.lock().unwrap_or_else(PoisonError::into_inner).take_finished();
            }
        };
        for drive in ide.lock().unwrap_or_else(PoisonError::into_inner).drives() {
            drive.on_finished(finished.clone());
        }
        Ok(ide)
    }

    fn drives(&self) -> impl Iterator<Item = &IdeDrive> {
        self.channels.iter().flat_map(|channel| &channel.drives).flatten()
    }

    /// Goes on with what has finished.
    fn take_finished(&mut self) {
        self.channels.iter_mut().for_each(Channel::take_finished);
        self.follow();
    }

    /// Waits until nothing is under way.
    fn settle(&mut self) {
        self.channels.iter_mut().for_each(Channel::settle);
        self.follow();
    }

    /// The channel and whether it is its control port, of a fixed window that is enabled.
    fn fixed(&self, window: u8) -> Option<(usize, bool)> {
        let n = window.checked_sub(Self::FIRST_WINDOW).filter(|n| *n < 4)?;
        let channel = usize::from(n / 2);
        let enabled = self.config.u16(IDETIM + 2 * channel) & DECODE != 0;
        enabled.then_some((channel, n % 2 == 1))
    }

    fn follow(&mut self) {
        let allowed = self.config.is_bus_master();
        for (master, channel) in self.masters.iter_mut().zip(&mut self.channels) {
            master.follow(channel, &self.memory, allowed);
        }
    }
}

impl PciFunction for Piix3Ide {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        self.follow();
        Effect::None
    }
}

impl Device for Piix3Ide {
    fn read(&mut self, at: At, data: &mut [u8]) {
        if usize::from(at.window) == BUS_MASTER {
            return read_bytes(at, data, |offset| {
                let master = self.masters.get((offset / 8) as usize);
                master.map_or(0xff, |master| master.read(offset % 8))
            });
        }
        let Some((index, control)) = self.fixed(at.window) else { return data.fill(0xff) };
        let Some(channel) = self.channels.get_mut(index) else { return data.fill(0xff) };
        match (control, at.offset) {
            (true, _) => data.fill(channel.alternate_status()),
            // The data port is as wide as the access.
            (false, 0) => channel.read_data(data),
            (false, _) => read_bytes(at, data, |offset| if offset < 8 { channel.read(offset) } else { 0xff }),
        }
        self.follow();
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        if usize::from(at.window) == BUS_MASTER {
            for (value, offset) in data.iter().zip(at.offset..) {
                if let Some(master) = self.masters.get_mut((offset / 8) as usize) {
                    master.write(offset % 8, *value);
                }
            }
        } else if let Some((index, control)) = self.fixed(at.window)
            && let Some(channel) = self.channels.get_mut(index)
        {
            match (control, at.offset) {
                (true, _) => data.iter().take(1).for_each(|value| channel.write_control(*value)),
                (false, 0) => channel.write_data(data),
                (false, _) => data.iter().zip(at.offset..8).for_each(|(value, offset)| channel.write(offset, *value)),
            }
        }
        self.follow();
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
        self.channels.iter_mut().for_each(Channel::reset);
        self.masters.iter_mut().for_each(BusMaster::reset);
    }

    fn pause(&mut self) -> Drained {
        self.settle();
        Drained
    }

    fn resume(&mut self) {}
}

impl Snapshot for Piix3Ide {
    fn schema(&self) -> Schema {
        Schema { name: "piix3-ide", version: 2 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.settle();
        let [first, second] = &self.channels;
        let channels = [first.state(), second.state()];
        State::of(&IdeState { config: self.config.state(), channels, masters: self.masters })
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let state: IdeState = decode(self.schema(), version, state)?;
        let fit = self.channels.iter().zip(&state.channels).all(|(channel, state)| channel.fits(state));
        require(self.schema(), fit, "a drive cannot be in this state")?;
        let restored = self.config.restore(&state.config);
        require(self.schema(), restored.is_ok(), "the configuration space is not this function's")?;
        self.channels.iter_mut().zip(state.channels).for_each(|(channel, state)| channel.restore(state));
        self.masters = state.masters;
        Ok(())
    }
}

//! MSI-X: a table of messages in a window of the function, and bits of those that are held back (PCI 3.0, 6.8.2).

use std::ops::Range;

use engine::MsiMessage;
use serde::{Deserialize, Serialize};

use super::{ConfigError, ConfigSpace};
use crate::MsiPort;

/// The capability's ID.
const ID: u8 = 0x11;
/// Message control, from the start of the capability.
const CONTROL: usize = 2;
const FUNCTION_MASK: u16 = 1 << 14;
const ENABLE: u16 = 1 << 15;
/// Bytes of an entry: address, data, vector control.
const ENTRY: u64 = 16;
/// Vector control: the entry is masked.
const MASKED: u32 = 1;
/// The most entries of a table.
const MOST: u16 = 2048;

/// Where a function has its table and its pending bits: one window (BAR), at offsets that are multiples of 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsixPlace {
    /// The BAR, 0 to 5.
    pub window: u8,
    /// The offset of the table: 16 bytes for each message.
    pub table: u32,
    /// The offset of the pending bits: 8 bytes for each 64 messages.
    pub pending: u32,
}

/// An entry of the table, its four registers.
type Entry = [u32; 4];

const AT_RESET: Entry = [0, 0, 0, MASKED];

/// The guest-visible content, but for the capability, which is the configuration space's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    table: Vec<Entry>,
    pending: Vec<u64>,
}

/// The messages of a function.
pub struct Msix {
    /// The offset of the capability.
    capability: usize,
    place: MsixPlace,
    table: Vec<Entry>,
    pending: Vec<u64>,
    port: MsiPort,
}

impl Msix {
    /// Adds the capability to a configuration space; the function passes accesses to the window on.
    ///
    /// # Errors
    /// [`ConfigError::Full`] when there is no room, [`ConfigError::Bar`] for a place that cannot be told and for a number of
    /// messages that is not 1 to 2048.
    pub fn add(config: &mut ConfigSpace, place: MsixPlace, messages: u16, port: MsiPort) -> Result<Self, ConfigError> {
        let told = place.window < 6 && place.table.is_multiple_of(8) && place.pending.is_multiple_of(8);
        if !told || messages == 0 || messages > MOST {
            return Err(ConfigError::Bar(place.window.into()));
        }
        let mut body = Vec::with_capacity(10);
        body.extend((messages - 1).to_le_bytes());
        body.extend((place.table | u32::from(place.window)).to_le_bytes());
        body.extend((place.pending | u32::from(place.window)).to_le_bytes());
        let capability = config.add_capability(ID, &body, &(FUNCTION_MASK | ENABLE).to_le_bytes())?;
        Ok(Self {
            capability: capability.into(),
            place,
            table: vec![AT_RESET; messages.into()],
            pending: vec![0; usize::from(messages).div_ceil(64)],
            port,
        })
    }

    /// The number of messages.
    #[must_use]
    pub fn messages(&self) -> u16 {
        // `add` has bounded it.
        self.table.len() as u16
    }

    /// Whether the guest has chosen MSI-X; the function must not use its interrupt pin then.
    #[must_use]
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & ENABLE != 0
    }

    /// Sends message `index`, or keeps it pending while it is masked. Nothing happens while MSI-X is not enabled, nor for an
    /// index beyond the table.
    pub fn send(&mut self, config: &ConfigSpace, index: u16) {
        let Some(entry) = self.table.get(usize::from(index)).filter(|_| self.is_enabled(config)) else { return };
        if self.is_open(config) && entry[3] & MASKED == 0 {
            self.port.send(message(entry));
        } else if let Some(bits) = self.pending.get_mut(usize::from(index / 64)) {
            *bits |= 1 << (index % 64);
        }
    }

    /// To be called when the guest has written configuration space: what was pending is sent when it may be now.
    pub fn config_written(&mut self, config: &ConfigSpace) {
        if self.pending.iter().any(|bits| *bits != 0) {
            (0..self.messages()).for_each(|index| self.send_pending(config, index));
        }
    }

    /// The guest reads the window; `false` if there is something else at the offset.
    pub fn read(&self, offset: u64, data: &mut [u8]) -> bool {
        if let Some(at) = inside(&self.table_range(), offset) {
            for (byte, at) in data.iter_mut().zip(at..) {
                *byte = self.entry_byte(at);
            }
        } else if let Some(at) = inside(&self.pending_range(), offset) {
            for (byte, at) in data.iter_mut().zip(at..) {
                let bits = self.pending.get((at / 8) as usize).copied().unwrap_or(0);
                *byte = bits.to_le_bytes()[(at % 8) as usize];
            }
        } else {
            return false;
        }
        true
    }

    /// The guest writes the window; `false` if there is something else at the offset. Only whole registers are written, one
    /// or two at once; the pending bits are not.
    pub fn write(&mut self, config: &ConfigSpace, offset: u64, data: &[u8]) -> bool {
        let Some(at) = inside(&self.table_range(), offset) else {
            return inside(&self.pending_range(), offset).is_some();
        };
        let (registers, _) = data.as_chunks::<4>();
        if at.is_multiple_of(4) {
            for (bytes, at) in registers.iter().zip((at..).step_by(4)) {
                self.write_register(config, at, u32::from_le_bytes(*bytes));
            }
        }
        true
    }

    /// Back to the state of power-on. The configuration space is reset by itself.
    pub fn reset(&mut self) {
        self.table.fill(AT_RESET);
        self.pending.fill(0);
    }

    /// The content to save.
    #[must_use]
    pub fn state(&self) -> MsixState {
        MsixState { table: self.table.clone(), pending: self.pending.clone() }
    }

    /// Takes on a saved content. It fits if it is of as many messages and has no bit beyond them.
    #[must_use]
    pub fn fits(&self, state: &MsixState) -> bool {
        let same = state.table.len() == self.table.len() && state.pending.len() == self.pending.len();
        let beyond = |last: &u64| !self.messages().is_multiple_of(64) && last >> (self.messages() % 64) != 0;
        let valid = |entry: &Entry| entry[0] & 3 == 0 && entry[3] & !MASKED == 0;
        same && !state.pending.last().is_some_and(beyond) && state.table.iter().all(valid)
    }

    /// Takes on a saved content that [`Msix::fits`].
    pub fn restore(&mut self, state: MsixState) {
        if self.fits(&state) {
            self.table = state.table;
            self.pending = state.pending;
        }
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.u16(self.capability + CONTROL)
    }

    /// Whether messages may leave the function at all: a message is a write to memory of its own.
    fn is_open(&self, config: &ConfigSpace) -> bool {
        self.control(config) & (ENABLE | FUNCTION_MASK) == ENABLE && config.is_bus_master()
    }

    fn send_pending(&mut self, config: &ConfigSpace, index: u16) {
        let open = self.is_open(config);
        let (Some(entry), Some(bits)) =
            (self.table.get(usize::from(index)), self.pending.get_mut(usize::from(index / 64)))
        else {
            return;
        };
        let bit = 1 << (index % 64);
        if open && entry[3] & MASKED == 0 && *bits & bit != 0 {
            *bits &= !bit;
            self.port.send(message(entry));
        }
    }

    fn write_register(&mut self, config: &ConfigSpace, at: u64, value: u32) {
        let index = (at / ENTRY) as usize;
        let Some(entry) = self.table.get_mut(index) else { return };
        match at % ENTRY / 4 {
            0 => entry[0] = value & !3,
            1 => entry[1] = value,
            2 => entry[2] = value,
            _ => {
                entry[3] = value & MASKED;
                self.send_pending(config, index as u16);
            }
        }
    }

    fn entry_byte(&self, at: u64) -> u8 {
        let entry = self.table.get((at / ENTRY) as usize).copied().unwrap_or_default();
        entry[(at % ENTRY / 4) as usize].to_le_bytes()[(at % 4) as usize]
    }

    fn table_range(&self) -> Range<u64> {
        let start = u64::from(self.place.table);
        start..start + self.table.len() as u64 * ENTRY
    }

    fn pending_range(&self) -> Range<u64> {
        let start = u64::from(self.place.pending);
        start..start + self.pending.len() as u64 * 8
    }
}

fn inside(range: &Range<u64>, offset: u64) -> Option<u64> {
    range.contains(&offset).then(|| offset - range.start)
}

fn message(entry: &Entry) -> MsiMessage {
    MsiMessage { address: u64::from(entry[1]) << 32 | u64::from(entry[0]), data: entry[2] }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::pci::{Identity, command};

    type Sent = Arc<Mutex<Vec<(u64, u32)>>>;

    fn function() -> (ConfigSpace, Msix, Sent) {
        let sent = Sent::default();
        let log = Arc::clone(&sent);
        let port = MsiPort::from_fn(move |m| log.lock().unwrap().push((m.address, m.data)));
        let mut config = ConfigSpace::new(Identity::default());
        let place = MsixPlace { window: 2, table: 0x1000, pending: 0x2000 };
        let msix = Msix::add(&mut config, place, 70, port).unwrap();
        (config, msix, sent)
    }

    fn take(sent: &Sent) -> Vec<(u64, u32)> {
        std::mem::take(&mut sent.lock().unwrap())
    }

    fn control(config: &mut ConfigSpace, msix: &mut Msix, value: u16, master: bool) {
        config.write(0x42, &value.to_le_bytes());
        config.write(4, &(if master { command::BUS_MASTER } else { 0 }).to_le_bytes());
        msix.config_written(config);
    }

    fn program(config: &ConfigSpace, msix: &mut Msix, index: u64, masked: u32) {
        let at = 0x1000 + 16 * index;
        let address = 0xfee0_0000u64 + (index << 12) + 3;
        assert!(msix.write(config, at, &address.to_le_bytes()));
        assert!(msix.write(config, at + 8, &(0x40 + index as u32).to_le_bytes()));
        assert!(msix.write(config, at + 12, &masked.to_le_bytes()));
    }

    #[test]
    fn the_capability_tells_where_things_are() {
        let (config, msix, _) = function();
        assert_eq!(config.u8(0x40), 0x11);
        assert_eq!(config.u16(0x42), 69);
        assert_eq!((config.u32(0x44), config.u32(0x48)), (0x1002, 0x2002));
        assert_eq!(msix.messages(), 70);
        let mut entry = [0xaa; 16];
        assert!(msix.read(0x1000 + 16 * 69, &mut entry));
        assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        assert!(!msix.read(0x1000 + 16 * 70, &mut entry) && !msix.read(0xfff, &mut entry));
        let mut config = ConfigSpace::new(Identity::default());
        let place = MsixPlace { window: 0, table: 4, pending: 0 };
        assert!(Msix::add(&mut config, place, 1, MsiPort::from_fn(|_| {})).is_err());
    }

    #[test]
    fn messages_are_sent_or_held_back() {
        let (mut config, mut msix, sent) = function();
        program(&config, &mut msix, 0, 0);
        program(&config, &mut msix, 69, 1);
        // Not enabled: lost, for the function has used its pin.
        msix.send(&config, 0);
        control(&mut config, &mut msix, ENABLE, true);
        assert!(msix.is_enabled(&config) && take(&sent).is_empty());
        msix.send(&config, 0);
        msix.send(&config, 69);
        msix.send(&config, 70);
        assert_eq!(take(&sent), [(0xfee0_0000, 0x40)]);
        let mut bits = [0; 16];
        assert!(msix.read(0x2000, &mut bits));
        assert_eq!(u128::from_le_bytes(bits), 1 << 69);
        // What is pending is sent once, with what the entry holds by then.
        program(&config, &mut msix, 69, 0);
        program(&config, &mut msix, 69, 0);
        assert_eq!(take(&sent), [(0xfee4_5000, 0x85)]);
    }

    #[test]
    fn the_whole_function_is_masked_and_cannot_send_without_being_a_master() {
        let (mut config, mut msix, sent) = function();
        program(&config, &mut msix, 3, 0);
        control(&mut config, &mut msix, ENABLE | FUNCTION_MASK, true);
        msix.send(&config, 3);
        msix.send(&config, 3);
        control(&mut config, &mut msix, ENABLE, false);
        assert!(take(&sent).is_empty());
        control(&mut config, &mut msix, ENABLE, true);
        assert_eq!(take(&sent), [(0xfee0_3000, 0x43)]);
    }

    #[test]
    fn a_state_comes_back() {
        let (mut config, mut msix, _) = function();
        control(&mut config, &mut msix, ENABLE, true);
        program(&config, &mut msix, 3, 1);
        msix.send(&config, 3);
        let state = msix.state();
        let (_, mut other, sent) = function();
        assert!(other.fits(&state));
        other.restore(state.clone());
        assert_eq!(other.state(), state);
        other.config_written(&config);
        program(&config, &mut other, 3, 0);
        assert_eq!(take(&sent), [(0xfee0_3000, 0x43)]);
        let with = |change: fn(&mut MsixState)| {
            let mut state = state.clone();
            change(&mut state);
            state
        };
        assert!(!other.fits(&with(|state| state.pending[1] = 1 << 6)));
        assert!(!other.fits(&with(|state| _ = state.table.pop())));
        assert!(!other.fits(&with(|state| state.table[0][0] = 1)));
        msix.reset();
        assert_ne!(msix.state(), state);
    }
}

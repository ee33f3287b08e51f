//! Finding functions by number, and keeping their BARs mapped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Bdf, Decoded, PciFunction};
use crate::{Bus, Device, Effect};

/// A function cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// There is one already.
    #[error("PCI function {0} is taken; choose another address")]
    Taken(Bdf),
    /// There can be none of this number.
    #[error("there is no PCI address {0}: devices go from 0 to 31, functions from 0 to 7")]
    Range(Bdf),
}

/// All PCI functions of a machine.
pub struct PciBus {
    ports: Arc<Bus>,
    memory: Arc<Bus>,
    /// Taken before a function's lock, and never the other way round.
    slots: Mutex<BTreeMap<Bdf, Slot>>,
}

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    device: Arc<Mutex<dyn Device>>,
    mapped: Vec<Decoded>,
}

impl PciBus {
    /// A bus without functions, whose BARs will appear on these two buses.
    #[must_use]
    pub fn new(ports: Arc<Bus>, memory: Arc<Bus>) -> Arc<Self> {
        Arc::new(Self { ports, memory, slots: Mutex::default() })
    }

    /// Adds a function.
    ///
    /// # Errors
    /// [`PciError`] when the number is taken or out of range.
    pub fn add<F: PciFunction + 'static>(&self, at: Bdf, function: Arc<Mutex<F>>) -> Result<(), PciError> {
        if at.device > 31 || at.function > 7 {
            return Err(PciError::Range(at));
        }
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.contains_key(&at) {
            return Err(PciError::Taken(at));
        }
        let mut slot = Slot { device: Arc::clone(&function) as _, function, mapped: Vec::new() };
        self.sync_slot(&mut slot);
        slots.insert(at, slot);
        Ok(())
    }

    /// Takes a function away. Returns whether there was one.
    pub fn remove(&self, at: Bdf) -> bool {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
        if let Some(slot) = &slot {
            slot.mapped.iter().for_each(|old| self.unmap(old));
        }
        slot.is_some()
    }

    /// The numbers of all functions.
    #[must_use]
    pub fn functions(&self) -> Vec<Bdf> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Reads configuration space: 1, 2 or 4 bytes that do not cross a double word. Ones where there is no function.
    pub fn config_read(&self, at: Bdf, offset: u16, data: &mut [u8]) {
        match self.find(at) {
            Some(function) => lock(&function).config_read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space; then the BARs answer where they now are.
    pub fn config_write(&self, at: Bdf, offset: u16, data: &[u8]) -> Effect {
        let Some(function) = self.find(at) else { return Effect::None };
        let effect = lock(&function).config_write(offset, data);
        // Only the command register and the BARs move anything.
        if matches!(offset, 0x04..0x06 | 0x10..0x28 | 0x30..0x34) {
            self.sync(at);
        }
        effect
    }

    /// Maps the BARs of one function anew, as after it was reset or loaded by itself.
    pub fn sync(&self, at: Bdf) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let room_made = slots.get_mut(&at).is_some_and(|slot| self.sync_slot(slot));
        if room_made {
            // What was in the way of another window may have gone.
            slots.values_mut().for_each(|slot| _ = self.sync_slot(slot));
        }
    }

    /// Maps the BARs of all functions anew: to be called after the machine was reset or loaded.
    pub fn sync_all(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // Twice: the first round takes away the old windows that are in the way of new ones.
        for _ in 0..2 {
            slots.values_mut().for_each(|slot| _ = self.sync_slot(slot));
        }
    }

    fn find(&self, at: Bdf) -> Option<Arc<Mutex<dyn PciFunction>>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&at).map(|slot| Arc::clone(&slot.function))
    }

    /// Returns whether a window has gone.
    fn sync_slot(&self, slot: &mut Slot) -> bool {
        let wanted = lock(&slot.function).config().decoded();
        let (kept, gone): (Vec<_>, Vec<_>) = slot.mapped.drain(..).partition(|old| wanted.contains(old));
        gone.iter().for_each(|old| self.unmap(old));
        slot.mapped = kept;
        for new in wanted {
            if slot.mapped.contains(&new) {
                continue;
            }
            // A guest that lays two windows over each other gets the first one, as good as any.
            match self.bus(&new).map(new.range.clone(), Arc::clone(&slot.device), new.window) {
                Ok(()) => slot.mapped.push(new),
                Err(error) => tracing::debug!(%error, "PCI window not mapped"),
            }
        }
        !gone.is_empty()
    }

    fn unmap(&self, old: &Decoded) {
        self.bus(old).unmap(old.range.start);
    }

    fn bus(&self, window: &Decoded) -> &Bus {
        if window.port { &self.ports } else { &self.memory }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

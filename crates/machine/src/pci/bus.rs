//! Finding functions by number, and keeping their BARs mapped.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use memory::{Gpa, Store};

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
    /// Tells the engine that memory behind a BAR has moved.
    moved: Box<dyn Fn() + Send + Sync>,
    /// Taken before a function's lock, and never the other way round.
    slots: Mutex<BTreeMap<Bdf, Slot>>,
}

struct Slot {
    function: Arc<Mutex<dyn PciFunction>>,
    device: Arc<Mutex<dyn Device>>,
    /// The memory behind BARs.
    stores: Vec<(u8, Store)>,
    mapped: Vec<Decoded>,
}

/// What a look at the BARs of a function has changed.
#[derive(Default, Clone, Copy)]
struct Changes {
    /// A window has gone, which may have been in the way of another one.
    room: bool,
    /// Memory has come or gone.
    memory: bool,
}

impl PciBus {
    /// A bus without functions, whose BARs will appear on these two buses.
    #[must_use]
    pub fn new(ports: Arc<Bus>, memory: Arc<Bus>) -> Arc<Self> {
        Self::with_memory(ports, memory, || {})
    }

    /// As [`PciBus::new`], for functions with memory behind their BARs: `moved` tells the engine that its place has changed.
    /// It is called with the bus locked, and so must not come back here.
    #[must_use]
    pub fn with_memory(ports: Arc<Bus>, memory: Arc<Bus>, moved: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { ports, memory, moved: Box::new(moved), slots: Mutex::default() })
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
        let stores = {
            let function = lock(&function);
            (0..=6).filter_map(|window| Some((window, function.memory(window)?))).collect()
        };
        let mut slot = Slot { device: Arc::clone(&function) as _, function, stores, mapped: Vec::new() };
        let changes = self.sync_slot(&mut slot);
        slots.insert(at, slot);
        self.tell(changes.memory);
        Ok(())
    }

    /// Takes a function away. Returns whether there was one.
    pub fn remove(&self, at: Bdf) -> bool {
        let slot = self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
        if let Some(slot) = &slot {
            slot.mapped.iter().for_each(|old| _ = self.unmap(slot, old));
            self.tell(!slot.stores.is_empty());
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
        let changes = slots.get_mut(&at).map(|slot| self.sync_slot(slot)).unwrap_or_default();
        let mut memory = changes.memory;
        if changes.room {
            // What was in the way of another window may have gone.
            slots.values_mut().for_each(|slot| memory |= self.sync_slot(slot).memory);
        }
        self.tell(memory);
    }

    /// Maps the BARs of all functions anew: to be called after the machine was reset or loaded.
    pub fn sync_all(&self) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut memory = false;
        // Twice: the first round takes away the old windows that are in the way of new ones.
        for _ in 0..2 {
            slots.values_mut().for_each(|slot| memory |= self.sync_slot(slot).memory);
        }
        self.tell(memory);
    }

    fn tell(&self, memory: bool) {
        if memory {
            (self.moved)();
        }
    }

    fn find(&self, at: Bdf) -> Option<Arc<Mutex<dyn PciFunction>>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.get(&at).map(|slot| Arc::clone(&slot.function))
    }

    fn sync_slot(&self, slot: &mut Slot) -> Changes {
        let wanted = lock(&slot.function).config().decoded();
        let (kept, gone): (Vec<_>, Vec<_>) = slot.mapped.drain(..).partition(|old| wanted.contains(old));
        let mut changes = Changes { room: !gone.is_empty(), memory: false };
        for old in &gone {
            changes.memory |= self.unmap(slot, old);
        }
        slot.mapped = kept;
        for new in wanted {
            if slot.mapped.contains(&new) {
                continue;
            }
            // A guest that lays two windows over each other gets the first one, as good as any.
            if let Err(error) = self.bus(&new).map(new.range.clone(), Arc::clone(&slot.device), new.window) {
                tracing::debug!(%error, "PCI window not mapped");
                continue;
            }
            if let Some(store) = slot.store(&new) {
                match store.place(Some(Gpa(new.range.start))) {
                    Ok(()) => changes.memory = true,
                    // Over RAM, which wins; elsewhere the device still hears of each access.
                    Err(error) => tracing::debug!(%error, "memory behind a PCI window not mapped"),
                }
            }
            slot.mapped.push(new);
        }
        changes
    }

    /// Returns whether memory has gone.
    fn unmap(&self, slot: &Slot, old: &Decoded) -> bool {
        self.bus(old).unmap(old.range.start);
        slot.store(old).is_some_and(|store| store.place(None).is_ok())
    }

    fn bus(&self, window: &Decoded) -> &Bus {
        if window.port { &self.ports } else { &self.memory }
    }
}

impl Slot {
    fn store(&self, window: &Decoded) -> Option<&Store> {
        self.stores.iter().find(|(number, _)| *number == window.window).map(|(_, store)| store)
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

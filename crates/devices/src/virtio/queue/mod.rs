//! Virtqueues: what is available in, what is used out. Both layouts, split and packed, are behind one interface
//! (virtio 1.2, 2.6 to 2.8).
//!
//! The rings are the guest's memory, and all in them is hostile. What breaks the rules is [`Broken`], and the device wants
//! a reset then.

mod chain;
mod descriptor;
mod packed;
mod split;

use memory::{Gpa, GuestMemory};
use serde::{Deserialize, Serialize};

pub use chain::{Buffers, Chain, Token};
use packed::Packed;
use split::Split;

/// Feature bits of the rings (virtio 1.2, 6).
pub(super) mod feature {
    pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
    pub(crate) const EVENT_IDX: u64 = 1 << 29;
    pub(crate) const PACKED: u64 = 1 << 34;
    /// All that a [`super::Queue`] does.
    pub(crate) const ALL: u64 = INDIRECT_DESC | EVENT_IDX | PACKED;
}

/// What a driver has done against the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A ring, a table, or a part of a request that the device itself reads or writes is not in memory.
    #[error("there is no memory at {at}")]
    Memory {
        /// Where.
        at: Gpa,
    },
    /// A descriptor that the table does not have.
    #[error("there is no descriptor {index}")]
    Index {
        /// Its number.
        index: u16,
    },
    /// The available index goes further than the ring has places.
    #[error("the available index jumps to {index}")]
    Jump {
        /// To there.
        index: u16,
    },
    /// A chain has too many descriptors, or goes round in circles.
    #[error("a chain of descriptors is too long")]
    Long,
    /// A buffer to read comes behind one to write.
    #[error("a buffer to read comes behind one to write")]
    Order,
    /// An indirect table inside of another, in the middle of a chain, of a bad size, or not agreed on.
    #[error("an indirect table is not allowed like this")]
    Table,
    /// More is available than the ring has places.
    #[error("more is available than the ring has places")]
    Full,
    /// A request without the parts that each has.
    #[error("a request is too short")]
    Short,
}

/// The rings at the moment, as the layouts work on them.
struct Rings<'a> {
    memory: &'a GuestMemory,
    size: u16,
    /// The descriptor area: the table, or the packed ring.
    descriptors: Gpa,
    /// The driver area: the available ring, or the driver's event structure.
    driver: Gpa,
    /// The device area: the used ring, or the device's event structure.
    device: Gpa,
    indirect: bool,
    events: bool,
}

impl Rings<'_> {
    fn read_u16(&self, area: Gpa, offset: u64) -> Result<u16, Broken> {
        let at = within(area, offset)?;
        self.memory.read_array(at).map(u16::from_le_bytes).map_err(|_| Broken::Memory { at })
    }

    fn put(&self, area: Gpa, offset: u64, bytes: &[u8]) -> Result<(), Broken> {
        chain::put(self.memory, within(area, offset)?, bytes)
    }
}

/// An address in an area, which does not go round the end of all addresses.
fn within(area: Gpa, offset: u64) -> Result<Gpa, Broken> {
    area.0.checked_add(offset).map(Gpa).ok_or(Broken::Memory { at: area })
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Layout {
    Split(Split),
    Packed(Packed),
}

/// What a driver tells of a queue, and how far the device is in it: all there is to save, once nothing is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// The places of its rings.
    pub size: u16,
    /// The guest-physical address of the descriptor area.
    pub descriptors: u64,
    /// That of the driver area.
    pub driver: u64,
    /// That of the device area.
    pub device: u64,
    layout: Option<Layout>,
}

/// A virtqueue.
pub struct Queue {
    memory: GuestMemory,
    most: u16,
    state: QueueState,
    indirect: bool,
    events: bool,
    /// Places in the ring of the chains that have been taken and not given back.
    under_way: u16,
    /// Something was used since the driver was last thought of.
    used: bool,
    /// The device has left chains in the ring, to look at when it has finished something.
    held: bool,
}

impl Queue {
    /// A queue with at most `most` places, a power of two up to 32768, that is not enabled.
    #[must_use]
    pub fn new(memory: GuestMemory, most: u16) -> Self {
        let state = QueueState { size: most, descriptors: 0, driver: 0, device: 0, layout: None };
        Self { memory, most, state, indirect: false, events: false, under_way: 0, used: false, held: false }
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The places of its rings.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.state.size
    }

    /// Whether the driver has enabled it.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.state.layout.is_some()
    }

    /// What is to be saved.
    #[must_use]
    pub fn state(&self) -> &QueueState {
        &self.state
    }

    /// The driver changes size or addresses. It cannot while the queue is enabled, nor to a size that is not for the queue.
    pub fn configure(&mut self, change: impl FnOnce(&mut QueueState)) {
        let mut state = self.state.clone();
        change(&mut state);
        if !self.is_enabled() && (1..=self.most).contains(&state.size) {
            self.state = state;
        }
    }

    /// The driver enables the queue, after it has agreed on these features.
    pub fn enable(&mut self, features: u64) {
        if self.is_enabled() {
            return;
        }
        self.use_features(features);
        let packed = features & feature::PACKED != 0;
        // A split queue needs a power of two; one of another size is not enabled, and does nothing.
        if packed || self.state.size.is_power_of_two() {
            let layout = if packed { Layout::Packed(Packed::new()) } else { Layout::Split(Split::new()) };
            self.state.layout = Some(layout);
        }
    }

    /// Back to a queue that is not enabled.
    pub fn reset(&mut self) {
        *self = Self::new(self.memory.clone(), self.most);
    }

    /// Whether this can be a state of the queue, with these features.
    #[must_use]
    pub fn fits(&self, state: &QueueState, features: u64) -> bool {
        let packed = features & feature::PACKED != 0;
        let layout = match &state.layout {
            None => true,
            Some(Layout::Split(_)) => !packed && state.size.is_power_of_two(),
            Some(Layout::Packed(ring)) => packed && ring.fits(state.size),
        };
        (1..=self.most).contains(&state.size) && layout
    }

    /// Takes on a state that [`Queue::fits`].
    pub fn restore(&mut self, state: QueueState, features: u64) {
        self.reset();
        self.use_features(features);
        self.state = state;
    }

    /// The next chain that is available. It is to be given back by [`Queue::finish`].
    ///
    /// # Errors
    /// [`Broken`] when the driver has broken the rules.
    pub fn take(&mut self) -> Result<Option<Chain>, Broken> {
        let chain = self.with_layout(|layout, rings| match layout {
            Layout::Split(ring) => ring.next(rings),
            Layout::Packed(ring) => ring.next(rings),
        })?;
        if let Some(chain) = chain.as_ref().and_then(Option::as_ref) {
            let places = self.under_way.checked_add(chain.token.places).filter(|places| *places <= self.state.size);
            self.under_way = places.ok_or(Broken::Full)?;
        }
        Ok(chain.flatten())
    }

    /// Gives a chain back, into which the device has written so many bytes.
    ///
    /// # Errors
    /// As [`Queue::take`].
    pub fn finish(&mut self, token: Token, written: u32) -> Result<(), Broken> {
        self.under_way = self.under_way.saturating_sub(token.places);
        self.used |= self.is_enabled();
        self.with_layout(|layout, rings| match layout {
            Layout::Split(ring) => ring.finish(rings, token, written),
            Layout::Packed(ring) => ring.finish(rings, token, written),
        })?;
        Ok(())
    }

    /// Asks the driver not to notify; it may all the same.
    ///
    /// # Errors
    /// As [`Queue::take`].
    pub fn hush(&mut self) -> Result<(), Broken> {
        self.with_layout(|layout, rings| match layout {
            Layout::Split(ring) => ring.hush(rings),
            Layout::Packed(ring) => ring.hush(rings),
        })?;
        Ok(())
    }

    /// Asks the driver to notify of what it makes available next. `true` if something is available already, of which it will
    /// not.
    ///
    /// # Errors
    /// As [`Queue::take`].
    pub fn ask(&mut self) -> Result<bool, Broken> {
        let more = self.with_layout(|layout, rings| match layout {
            Layout::Split(ring) => ring.ask(rings),
            Layout::Packed(ring) => ring.ask(rings),
        })?;
        Ok(more == Some(true))
    }

    /// Leaves what is available in the ring, until the device has finished something.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// Whether the device has held back, the last time that it looked; it is to look now.
    pub fn take_held(&mut self) -> bool {
        std::mem::take(&mut self.held)
    }

    /// Whether the driver is to be interrupted for what was used since the last call.
    ///
    /// # Errors
    /// As [`Queue::take`].
    pub fn take_interrupt(&mut self) -> Result<bool, Broken> {
        if !std::mem::take(&mut self.used) {
            return Ok(false);
        }
        let wanted = self.with_layout(|layout, rings| match layout {
            Layout::Split(ring) => ring.wants_interrupt(rings),
            Layout::Packed(ring) => ring.wants_interrupt(rings),
        })?;
        Ok(wanted == Some(true))
    }

    fn use_features(&mut self, features: u64) {
        self.indirect = features & feature::INDIRECT_DESC != 0;
        self.events = features & feature::EVENT_IDX != 0;
    }

    /// `None` when the queue is not enabled.
    fn with_layout<T>(
        &mut self,
        work: impl FnOnce(&mut Layout, &Rings<'_>) -> Result<T, Broken>,
    ) -> Result<Option<T>, Broken> {
        let QueueState { size, descriptors, driver, device, layout } = &mut self.state;
        let rings = Rings {
            memory: &self.memory,
            size: *size,
            descriptors: Gpa(*descriptors),
            driver: Gpa(*driver),
            device: Gpa(*device),
            indirect: self.indirect,
            events: self.events,
        };
        layout.as_mut().map(|layout| work(layout, &rings)).transpose()
    }
}

#[cfg(test)]
mod tests;

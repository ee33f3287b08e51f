//! The modern PCI transport (virtio 1.2, 4.1).

mod common;
mod layout;

use std::sync::{Arc, Mutex, PoisonError};

use machine::pci::{ConfigError, ConfigSpace, ConfigState, Identity, Msix, MsixState, PciFunction, Pin};
use machine::{At, Device, Drained, Effect, Line, MsiPort, Schema, Shared, Snapshot, State, StateError};
use memory::GuestMemory;
use serde::{Deserialize, Serialize};

use super::queue::feature;
use super::{Broken, Kind, Queue, QueueState};
use crate::regs::{decode, read_bytes, require};
use common::{NO_VECTOR, notified, status};
use layout::{ACCESS_DATA, COMMON, DEVICE, ISR, MOST_MESSAGES, MSIX, NOTIFY, PART, WINDOW, lay_out};

/// The vendor of all virtio functions; a function's device ID is this much more than its kind's.
const VENDOR: u16 = 0x1af4;
const FIRST_DEVICE: u16 = 0x1040;

/// Features of the transport (virtio 1.2, 6).
const VERSION_1: u64 = 1 << 32;
const RING_RESET: u64 = 1 << 40;

/// Interrupt status: a queue, the configuration.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What the driver has told of the device as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u8,
    isr: u8,
    device_select: u32,
    driver_select: u32,
    /// What the driver has accepted.
    features: u64,
    config_vector: u16,
    queue_select: u16,
    /// The message of each queue.
    vectors: Vec<u16>,
}

impl Registers {
    fn new(queues: usize) -> Self {
        Self {
            status: 0,
            isr: 0,
            device_select: 0,
            driver_select: 0,
            features: 0,
            config_vector: NO_VECTOR,
            queue_select: 0,
            vectors: vec![NO_VECTOR; queues],
        }
    }
}

#[derive(Serialize, Deserialize)]
struct VirtioState {
    config: ConfigState,
    msix: MsixState,
    registers: Registers,
    queues: Vec<QueueState>,
    kind: State,
}

/// A virtio device as a PCI function. Its BAR, window 0, holds everything.
///
/// A driver that breaks the rules finds `DEVICE_NEEDS_RESET` in the status, and nothing more happens until it resets the
/// device.
pub struct VirtioPci {
    config: ConfigSpace,
    /// The capability through which configuration space reaches the BAR.
    access: usize,
    msix: Msix,
    line: Line,
    registers: Registers,
    queues: Vec<Queue>,
    kind: Box<dyn Kind>,
    paused: bool,
}

impl VirtioPci {
    /// The function of a kind, for a guest with this memory; it interrupts by messages, or by `line`.
    ///
    /// # Errors
    /// [`ConfigError`] when the kind has more queues than there is room for: 255.
    pub fn build(
        mut kind: Box<dyn Kind>,
        memory: &GuestMemory,
        msi: MsiPort,
        line: Line,
    ) -> Result<Shared<Self>, ConfigError> {
        let queues: Vec<_> = kind.queues().into_iter().map(|most| Queue::new(memory.clone(), most)).collect();
        let id = Identity {
            vendor: VENDOR,
            device: FIRST_DEVICE + kind.id(),
            revision: 1,
            class: kind.class(),
            subsystem_vendor: VENDOR,
            subsystem: FIRST_DEVICE + kind.id(),
        };
        // A message for each queue, and one for the configuration.
        let messages = u16::try_from(queues.len() + 1).ok().filter(|n| usize::from(*n) <= MOST_MESSAGES);
        let messages = messages.ok_or(ConfigError::Bar(WINDOW.into()))?;
        let config = ConfigSpace::new(id).interrupt_pin(Pin::A);
        let (mut config, access) = lay_out(config, kind.config().len() as u32)?;
        let msix = Msix::add(&mut config, MSIX, messages, msi)?;
        let registers = Registers::new(queues.len());
        let build = |weak: &std::sync::Weak<Mutex<Self>>| {
            let weak = weak.clone();
            kind.on_finished(Box::new(move || {
                if let Some(function) = weak.upgrade() {
                    function.lock().unwrap_or_else(PoisonError::into_inner).finished();
                }
            }));
            Mutex::new(Self { config, access, msix, line, registers, queues, kind, paused: false })
        };
        Ok(Arc::new_cyclic(build))
    }

    /// The features on offer.
    fn offered(&self) -> u64 {
        self.kind.features() | feature::ALL | VERSION_1 | RING_RESET
    }

    /// Whether queues are worked on.
    fn is_live(&self) -> bool {
        let wanted = status::DRIVER_OK | status::FEATURES_OK;
        !self.paused && self.registers.status & (wanted | status::NEEDS_RESET) == wanted
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            return self.reset_device();
        }
        let new = value & !self.registers.status;
        if new & status::FEATURES_OK != 0 {
            let features = self.registers.features;
            if features & !self.offered() != 0 || features & VERSION_1 == 0 {
                // The driver looks whether the bit has stayed.
                self.registers.status |= new & !(status::FEATURES_OK | status::DRIVER_OK | status::NEEDS_RESET);
                return;
            }
            self.kind.agree(features);
        }
        self.registers.status |= new & !status::NEEDS_RESET;
        if new & status::DRIVER_OK != 0 {
            self.look_at_all();
        }
    }

    fn enable_queue(&mut self) {
        let Registers { status, queue_select, features, .. } = self.registers;
        if status & status::FEATURES_OK != 0
            && let Some(queue) = self.queues.get_mut(usize::from(queue_select))
        {
            queue.enable(features);
        }
    }

    fn reset_queue(&mut self) {
        let Registers { queue_select, features, .. } = self.registers;
        if features & RING_RESET != 0 {
            self.settle();
            if let Some(queue) = self.queues.get_mut(usize::from(queue_select)) {
                queue.reset();
            }
            if let Some(vector) = self.registers.vectors.get_mut(usize::from(queue_select)) {
                *vector = NO_VECTOR;
            }
            self.look_at_held();
        }
    }

    /// The driver resets the device; the function stays as it is.
    fn reset_device(&mut self) {
        self.kind.reset();
        self.queues.iter_mut().for_each(Queue::reset);
        self.registers = Registers::new(self.queues.len());
        self.follow_line();
    }

    fn look_at_all(&mut self) {
        (0..self.queues.len()).for_each(|index| self.look_at(index));
    }

    fn look_at(&mut self, index: usize) {
        if self.is_live() && self.queues.get(index).is_some_and(Queue::is_enabled) {
            let result = self.kind.notified(index, &mut self.queues);
            self.tell(result);
        }
    }

    fn look_at_held(&mut self) {
        for index in 0..self.queues.len() {
            if self.is_live() && self.queues.get_mut(index).is_some_and(Queue::take_held) {
                self.look_at(index);
            }
        }
    }

    /// The kind has finished something.
    fn finished(&mut self) {
        self.give_back();
        self.look_at_held();
    }

    fn give_back(&mut self) {
        let result = self.kind.finished(&mut self.queues);
        self.tell(result);
    }

    /// Waits for what is under way, and gives it back.
    fn settle(&mut self) {
        self.kind.drain();
        self.give_back();
        while !self.kind.is_idle() {
            self.kind.drain();
            self.give_back();
        }
    }

    /// Tells the driver what the kind has done.
    fn tell(&mut self, result: Result<(), Broken>) {
        let mut result = result;
        for index in 0..self.queues.len() {
            match self.queues.get_mut(index).map(Queue::take_interrupt) {
                Some(Ok(true)) => {
                    let vector = self.registers.vectors.get(index).copied().unwrap_or(NO_VECTOR);
                    self.interrupt(vector, ISR_QUEUE);
                }
                Some(Err(broken)) => result = result.and(Err(broken)),
                _ => {}
            }
        }
        if let Err(broken) = result
            && self.registers.status & status::NEEDS_RESET == 0
        {
            tracing::warn!(device = self.kind.schema().name, %broken, "the driver has broken the rules");
            self.registers.status |= status::NEEDS_RESET;
            self.registers.isr |= ISR_CONFIG;
            self.interrupt(self.registers.config_vector, ISR_CONFIG);
        }
    }

    fn interrupt(&mut self, vector: u16, isr: u8) {
        if self.msix.is_enabled(&self.config) {
            self.msix.send(&self.config, vector);
        } else {
            self.registers.isr |= isr;
            self.follow_line();
        }
    }

    fn follow_line(&mut self) {
        let asserted = self.registers.isr != 0 && !self.msix.is_enabled(&self.config);
        let high = self.config.intx(asserted);
        self.line.set(high);
    }
}

impl PciFunction for VirtioPci {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    fn config_read(&mut self, offset: u16, data: &mut [u8]) {
        let place = self.access + ACCESS_DATA;
        if usize::from(offset) == place
            && let Some((offset, len)) = layout::access(&self.config, self.access)
        {
            let mut bytes = [0; 4];
            if let Some(bytes) = bytes.get_mut(..len) {
                self.read(At { window: WINDOW, offset }, bytes);
            }
            self.config.set_u32(place, u32::from_le_bytes(bytes));
        }
        self.config.read(offset, data);
    }

    fn config_write(&mut self, offset: u16, data: &[u8]) -> Effect {
        self.config.write(offset, data);
        self.msix.config_written(&self.config);
        self.follow_line();
        let place = self.access + ACCESS_DATA;
        if usize::from(offset) == place
            && let Some((offset, len)) = layout::access(&self.config, self.access)
            && let Some(bytes) = self.config.u32(place).to_le_bytes().get(..len)
        {
            return self.write(At { window: WINDOW, offset }, bytes);
        }
        Effect::None
    }
}

impl Device for VirtioPci {
    fn read(&mut self, at: At, data: &mut [u8]) {
        data.fill(0xff);
        if at.window != WINDOW || self.msix.read(at.offset, data) {
            return;
        }
        match at.offset & !(PART - 1) {
            COMMON => self.read_common(at.offset - COMMON, data),
            // The read acknowledges.
            ISR if at.offset == ISR => {
                data.fill(0);
                data.iter_mut().take(1).for_each(|byte| *byte = std::mem::take(&mut self.registers.isr));
                self.follow_line();
            }
            DEVICE => {
                let config = self.kind.config();
                read_bytes(At { offset: at.offset - DEVICE, ..at }, data, |offset| {
                    usize::try_from(offset).ok().and_then(|at| config.get(at).copied()).unwrap_or(0xff)
                });
            }
            _ => {}
        }
    }

    fn write(&mut self, at: At, data: &[u8]) -> Effect {
        if at.window != WINDOW || self.msix.write(&self.config, at.offset, data) {
            return Effect::None;
        }
        match at.offset & !(PART - 1) {
            COMMON => self.write_common(at.offset - COMMON, data),
            DEVICE => self.kind.write_config(at.offset - DEVICE, data),
            NOTIFY => self.look_at(notified(at.offset - NOTIFY)),
            _ => {}
        }
        Effect::None
    }

    fn reset(&mut self) {
        self.config.reset();
        self.msix.reset();
        self.reset_device();
    }

    fn pause(&mut self) -> Drained {
        self.paused = true;
        self.settle();
        Drained
    }

    fn resume(&mut self) {
        self.paused = false;
        self.look_at_all();
    }
}

impl Snapshot for VirtioPci {
    fn schema(&self) -> Schema {
        Schema { name: self.kind.schema().name, version: 1 }
    }

    fn save(&mut self) -> Result<State, StateError> {
        self.settle();
        let kind = self.kind.save()?;
        let state = State::of(&VirtioState {
            config: self.config.state(),
            msix: self.msix.state(),
            registers: self.registers.clone(),
            queues: self.queues.iter().map(|queue| queue.state().clone()).collect(),
            kind,
        });
        self.look_at_held();
        state
    }

    fn load(&mut self, version: u16, state: State) -> Result<(), StateError> {
        let schema = self.schema();
        let VirtioState { config, msix, registers, queues, kind } = decode(schema, version, state)?;
        let features = registers.features;
        let agreed = registers.status & status::FEATURES_OK != 0;
        require(schema, !agreed || features & !self.offered() == 0, "the driver has features that are not offered")?;
        let fit = queues.len() == self.queues.len()
            && registers.vectors.len() == self.queues.len()
            && self.queues.iter().zip(&queues).all(|(queue, state)| queue.fits(state, features));
        require(schema, fit && self.msix.fits(&msix), "the queues are not this device's")?;
        let known = |vector: &u16| *vector == NO_VECTOR || *vector < self.msix.messages();
        let known = known(&registers.config_vector) && registers.vectors.iter().all(known);
        require(schema, known, "a queue has a message that there is not")?;
        let mut restored = self.config.clone();
        require(schema, restored.restore(&config).is_ok(), "the configuration space is not this function's")?;
        self.settle();
        let version = self.kind.schema().version;
        self.kind.load(version, kind)?;
        self.config = restored;
        self.msix.restore(msix);
        self.registers = registers;
        self.queues.iter_mut().zip(queues).for_each(|(queue, state)| queue.restore(state, features));
        if agreed {
            self.kind.agree(features);
        }
        self.follow_line();
        Ok(())
    }
}

//! The Rig: devices without a CPU. Time stands still and is moved by hand, interrupt lines and messages are recorded,
//! and a battery of tests asks of each device what all must do.

mod battery;
mod random;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use machine::{At, Clock, Device, Effect, Line, LineSink, MsiMessage, MsiPort, VmTime, Wire};

pub use battery::{Battery, battery};
pub use random::Random;

/// A clock that is moved by hand.
pub struct Rig {
    clock: Clock,
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// A rig at virtual time zero.
    ///
    /// # Panics
    /// When the host gives no thread.
    #[must_use]
    pub fn new() -> Self {
        Self { clock: Clock::start().expect("a thread for the clock") }
    }

    /// The clock, to build devices on.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> VmTime {
        self.clock.now()
    }

    /// Moves time on; what is due is called, each at its own time.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Moves time on to `time`.
    pub fn advance_to(&self, time: VmTime) {
        self.clock.advance(time - self.clock.now());
    }
}

/// A recorder at the end of an interrupt line.
#[derive(Clone, Default)]
pub struct Probe(Arc<Recorder>);

#[derive(Default)]
struct Recorder {
    /// The level, and the rising edges not yet asked for.
    seen: Mutex<(bool, usize)>,
}

impl LineSink for Recorder {
    fn set_input(&self, _input: u32, high: bool) {
        let mut seen = held(&self.seen);
        seen.1 += usize::from(high && !seen.0);
        seen.0 = high;
    }
}

impl Probe {
    /// A recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of its own that ends here.
    #[must_use]
    pub fn line(&self) -> Line {
        Wire::new(vec![(Arc::clone(&self.0) as Arc<dyn LineSink>, 0)]).driver()
    }

    /// Whether the line is high.
    #[must_use]
    pub fn is_high(&self) -> bool {
        held(&self.0.seen).0
    }

    /// The rising edges since the last call.
    #[must_use]
    pub fn rises(&self) -> usize {
        std::mem::take(&mut held(&self.0.seen).1)
    }
}

/// A recorder of messages.
#[derive(Clone, Default)]
pub struct Messages(Arc<Mutex<Vec<MsiMessage>>>);

impl Messages {
    /// A recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A port into the recorder.
    #[must_use]
    pub fn port(&self) -> MsiPort {
        let list = Arc::clone(&self.0);
        MsiPort::from_fn(move |message| held(&list).push(message))
    }

    /// The messages since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<MsiMessage> {
        std::mem::take(&mut *held(&self.0))
    }
}

/// A recorder of bytes, as the output of a character device.
#[derive(Clone, Default)]
pub struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    /// A recorder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What to hand to the device.
    pub fn sink(&self) -> impl FnMut(&[u8]) + Send + 'static {
        let list = Arc::clone(&self.0);
        move |bytes: &[u8]| held(&list).extend_from_slice(bytes)
    }

    /// The bytes since the last call.
    #[must_use]
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *held(&self.0))
    }
}

/// Accesses of the guest to a device.
pub trait Access {
    /// Reads a byte.
    fn in8(&self, window: u8, offset: u64) -> u8;
    /// Writes a byte.
    fn out8(&self, window: u8, offset: u64, value: u8) -> Effect;
    /// Reads a double word.
    fn in32(&self, window: u8, offset: u64) -> u32;
    /// Writes a double word.
    fn out32(&self, window: u8, offset: u64, value: u32) -> Effect;
    /// Reads a quad word.
    fn in64(&self, window: u8, offset: u64) -> u64;
    /// Writes a quad word.
    fn out64(&self, window: u8, offset: u64, value: u64) -> Effect;
}

impl<D: Device + ?Sized> Access for Mutex<D> {
    fn in8(&self, window: u8, offset: u64) -> u8 {
        let mut data = [0];
        held(self).read(At { window, offset }, &mut data);
        data[0]
    }

    fn out8(&self, window: u8, offset: u64, value: u8) -> Effect {
        held(self).write(At { window, offset }, &[value])
    }

    fn in32(&self, window: u8, offset: u64) -> u32 {
        let mut data = [0; 4];
        held(self).read(At { window, offset }, &mut data);
        u32::from_le_bytes(data)
    }

    fn out32(&self, window: u8, offset: u64, value: u32) -> Effect {
        held(self).write(At { window, offset }, &value.to_le_bytes())
    }

    fn in64(&self, window: u8, offset: u64) -> u64 {
        let mut data = [0; 8];
        held(self).read(At { window, offset }, &mut data);
        u64::from_le_bytes(data)
    }

    fn out64(&self, window: u8, offset: u64, value: u64) -> Effect {
        held(self).write(At { window, offset }, &value.to_le_bytes())
    }
}

fn held<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

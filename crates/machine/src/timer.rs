//! Timers of devices on virtual time.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use engine::{Alarm, Clock, VmTime};

/// A timer of a device: virtual time to read, and a deadline at which the device is called.
pub struct Timer {
    clock: Clock,
    alarm: Alarm,
}

impl Timer {
    /// A timer that calls `fire` on `device`, under the device's lock, on the clock's thread. It keeps no device alive,
    /// so it can be handed to the device itself (see [`Arc::new_cyclic`]).
    pub fn new<D: Send + 'static>(
        clock: &Clock,
        device: Weak<Mutex<D>>,
        fire: impl Fn(&mut D) + Send + Sync + 'static,
    ) -> Self {
        let alarm = clock.alarm(move || {
            if let Some(device) = device.upgrade() {
                fire(&mut device.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self { clock: clock.clone(), alarm }
    }

    /// The virtual time now.
    #[must_use]
    pub fn now(&self) -> VmTime {
        self.clock.now()
    }

    /// Sets the deadline; an earlier one is forgotten. A deadline in the past fires at once.
    pub fn set(&self, deadline: VmTime) {
        self.alarm.set(Some(deadline));
    }

    /// Takes the deadline off.
    pub fn cancel(&self) {
        self.alarm.set(None);
    }

    /// The deadline, `None` if not set or already fired.
    #[must_use]
    pub fn deadline(&self) -> Option<VmTime> {
        self.alarm.deadline()
    }
}

/// A device with its lock.
pub type Shared<D> = Arc<Mutex<D>>;

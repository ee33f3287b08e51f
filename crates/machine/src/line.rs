//! Interrupt lines: what a device drives, without knowing where it goes.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{MsiMessage, Partition};

/// The input side of an interrupt controller.
pub trait LineSink: Send + Sync {
    /// Input `input` of the controller has gone high or low. Called only on changes.
    fn set_input(&self, input: u32, high: bool);
}

/// A wired-OR interrupt line: high while any of its drivers is. Several controllers may listen to it.
pub struct Wire {
    /// How many drivers are high; locked while the sinks are told, so that they see the levels in order.
    high: Mutex<u32>,
    level: AtomicU32,
    sinks: Vec<(Arc<dyn LineSink>, u32)>,
}

impl Wire {
    /// A wire to these inputs of these controllers.
    #[must_use]
    pub fn new(sinks: Vec<(Arc<dyn LineSink>, u32)>) -> Arc<Self> {
        Arc::new(Self { high: Mutex::new(0), level: AtomicU32::new(0), sinks })
    }

    /// A new driver of the wire, low.
    #[must_use]
    pub fn driver(self: &Arc<Self>) -> Line {
        Line { wire: Some(Arc::clone(self)), high: AtomicBool::new(false) }
    }

    /// Whether any driver is high.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.level.load(Ordering::SeqCst) != 0
    }

    fn change(&self, up: bool) {
        let mut high = self.high.lock().unwrap_or_else(PoisonError::into_inner);
        let before = *high;
        *high = if up { before.saturating_add(1) } else { before.saturating_sub(1) };
        self.level.store(*high, Ordering::SeqCst);
        if (before == 0) != (*high == 0) {
            for (sink, input) in &self.sinks {
                sink.set_input(*input, *high != 0);
            }
        }
    }
}

/// One driver of an interrupt line. Dropping it lets go of the line.
pub struct Line {
    wire: Option<Arc<Wire>>,
    high: AtomicBool,
}

impl Line {
    /// A line that leads nowhere.
    #[must_use]
    pub fn unconnected() -> Self {
        Self { wire: None, high: AtomicBool::new(false) }
    }

    /// Drives the line high or low.
    pub fn set(&self, high: bool) {
        if self.high.swap(high, Ordering::SeqCst) != high
            && let Some(wire) = &self.wire
        {
            wire.change(high);
        }
    }

    /// A short pulse: an edge for controllers that look for edges.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }

    /// Whether this driver is high.
    #[must_use]
    pub fn is_high(&self) -> bool {
        self.high.load(Ordering::SeqCst)
    }
}

/// A wire into a wire: how inputs that share a pin of a controller are OR-ed.
impl LineSink for Line {
    fn set_input(&self, _: u32, high: bool) {
        self.set(high);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.set(false);
    }
}

/// Where message-signalled interrupts enter the CPUs.
#[derive(Clone)]
pub struct MsiPort(Arc<dyn Fn(MsiMessage) + Send + Sync>);

impl MsiPort {
    /// A port into `partition`.
    #[must_use]
    pub fn to(partition: Arc<dyn Partition>) -> Self {
        Self::from_fn(move |msg| partition.send_msi(msg))
    }

    /// A port that calls `send`.
    pub fn from_fn(send: impl Fn(MsiMessage) + Send + Sync + 'static) -> Self {
        Self(Arc::new(send))
    }

    /// Sends a message.
    pub fn send(&self, msg: MsiMessage) {
        (self.0)(msg);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Log(Mutex<Vec<(u32, bool)>>);

    impl LineSink for Log {
        fn set_input(&self, input: u32, high: bool) {
            self.0.lock().unwrap().push((input, high));
        }
    }

    impl Log {
        fn take(&self) -> Vec<(u32, bool)> {
            std::mem::take(&mut self.0.lock().unwrap())
        }
    }

    #[test]
    fn a_wire_is_high_while_one_driver_is() {
        let log = Arc::new(Log::default());
        let wire = Wire::new(vec![(Arc::clone(&log) as _, 3), (Arc::clone(&log) as _, 7)]);
        let (a, b) = (wire.driver(), wire.driver());
        a.set(true);
        assert_eq!(log.take(), [(3, true), (7, true)]);
        a.set(true);
        b.set(true);
        a.set(false);
        assert_eq!(log.take(), []);
        assert!(wire.is_high() && !a.is_high());
        drop(b);
        assert_eq!(log.take(), [(3, false), (7, false)]);
        a.pulse();
        assert_eq!(log.take(), [(3, true), (7, true), (3, false), (7, false)]);
        Line::unconnected().set(true);
    }

    #[test]
    fn wires_lead_into_wires() {
        let log = Arc::new(Log::default());
        let pin = Wire::new(vec![(Arc::clone(&log) as _, 10)]);
        let routes: Vec<_> = (0..2).map(|_| Wire::new(vec![(Arc::new(pin.driver()) as _, 0)]).driver()).collect();
        routes.iter().for_each(|line| line.set(true));
        routes[0].set(false);
        assert_eq!(log.take(), [(10, true)]);
        routes[1].set(false);
        assert_eq!(log.take(), [(10, false)]);
    }
}

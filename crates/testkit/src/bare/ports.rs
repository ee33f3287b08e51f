//! The only device of a bare guest: a recorder of port writes.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use engine::{CpuIo, Kicker};

/// A write here ends the run.
pub const EXIT: u16 = 0xf4;
/// The handlers report here and on the four ports behind it: vector, error code, IP, CS, flags.
pub const FIRST_REPORT: u16 = 0xe0;

/// A guest that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The recorder.
pub struct Ports {
    kicker: Kicker,
    writes: Mutex<Vec<(u16, u32)>>,
    exited: AtomicBool,
    done: Arc<(Mutex<bool>, Condvar)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ports {
    pub(super) fn new(kicker: Kicker) -> Self {
        let done = Arc::new((Mutex::new(false), Condvar::new()));
        Self { kicker, writes: Mutex::default(), exited: AtomicBool::new(false), done }
    }

    /// Ends a guest that hangs, so that its test fails and not the whole run.
    pub(super) fn limit(&self) {
        let (kicker, done) = (self.kicker.clone(), Arc::clone(&self.done));
        std::thread::spawn(move || {
            let over = done.1.wait_timeout_while(lock(&done.0), LIMIT, |done| !*done);
            if over.is_ok_and(|(_, waited)| waited.timed_out()) {
                kicker.kick();
            }
        });
    }

    /// The run is over.
    pub(super) fn finish(&self) {
        *lock(&self.done.0) = true;
        self.done.1.notify_all();
    }

    pub(super) fn writes(&self) -> Vec<(u16, u32)> {
        lock(&self.writes).clone()
    }

    pub(super) fn exited(&self) -> bool {
        self.exited.load(Ordering::SeqCst)
    }
}

impl CpuIo for Ports {
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn mmio_write(&self, _: u64, _: &[u8]) {}

    /// Each port reads as its own number, byte by byte.
    fn port_read(&self, port: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (port as u8).wrapping_add(i as u8);
        }
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port == EXIT {
            self.exited.store(true, Ordering::SeqCst);
            self.kicker.kick();
            return;
        }
        let mut bytes = [0; 4];
        for (to, from) in bytes.iter_mut().zip(data) {
            *to = *from;
        }
        lock(&self.writes).push((port, u32::from_le_bytes(bytes)));
    }

    fn pic_ack(&self) -> Option<u8> {
        None
    }

    fn eoi(&self, _: u8) {}
}

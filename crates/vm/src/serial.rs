//! The outside end of a serial port.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use devices::serial::Uart16550;
use machine::Shared;

/// The outside end of a serial port: what is typed goes in here. Cheap to clone.
#[derive(Clone)]
pub struct SerialPort {
    uart: Shared<Uart16550>,
    room: Arc<Room>,
}

#[derive(Default)]
struct Room {
    /// Counts how often the guest has made room.
    made: Mutex<u64>,
    changed: Condvar,
    closed: AtomicBool,
}

impl SerialPort {
    pub(crate) fn new(uart: Shared<Uart16550>) -> Self {
        let room = Arc::<Room>::default();
        let told = Arc::clone(&room);
        lock(&uart).on_drained(move || {
            *lock(&told.made) += 1;
            told.changed.notify_all();
        });
        Self { uart, room }
    }

    /// Sends all of `bytes` to the guest, as fast as it takes them; blocks meanwhile. Returns how many it has taken: fewer
    /// than all only when the VM has ended.
    pub fn send(&self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
            if self.room.closed.load(Ordering::SeqCst) {
                break;
            }
            let before = *lock(&self.room.made);
            let taken = lock(&self.uart).receive(rest);
            sent += taken;
            if sent < bytes.len() {
                self.wait(before);
            }
        }
        sent
    }

    /// Sends the BREAK condition.
    pub fn send_break(&self) {
        lock(&self.uart).receive_break();
    }

    pub(crate) fn close(&self) {
        self.room.closed.store(true, Ordering::SeqCst);
        *lock(&self.room.made) += 1;
        self.room.changed.notify_all();
    }

    fn wait(&self, before: u64) {
        // The bound is for a guest that takes no interest in its port and then changes its mind by resetting it.
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let made = lock(&self.room.made);
        let closed = || self.room.closed.load(Ordering::SeqCst);
        drop(self.room.changed.wait_timeout_while(made, LOOK_AGAIN, |made| *made == before && !closed()));
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

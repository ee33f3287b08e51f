//! A disk as controllers see it: requests in, completions out, an image and a few threads behind it.
//!
//! A controller starts requests while it holds its own lock, and never waits. When one is done, the bell that the
//! controller has hung up rings on another thread; the controller locks itself there and takes what has finished. Who
//! pauses or resets a controller holds its lock and calls [`Backend::drain`], which needs nobody's lock.

mod request;
mod worker;

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use disk::Image;
use memory::GuestMemory;

pub use request::{Completion, Data, Failure, Operation, Request, Segment};

/// The most threads of a disk: how many requests the host's storage sees at once.
const MOST_WORKERS: usize = 4;

/// A disk behind a controller.
pub struct Backend {
    shared: Arc<Shared>,
    size: u64,
    read_only: bool,
    serial: String,
}

/// What the controller's thread and the workers share.
struct Shared {
    image: Arc<dyn Image>,
    memory: GuestMemory,
    queue: Mutex<Queue>,
    /// There is work, or the disk goes.
    work: Condvar,
    /// A request has finished.
    finished: Condvar,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// A failure of the host's has been told.
    told: AtomicBool,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(u64, Request)>,
    /// Requests that a worker is at.
    running: usize,
    finished: Vec<Completion>,
    workers: usize,
    closed: bool,
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend {
    /// The disk whose content is `image`, for a guest with this memory. The serial number is what the guest sees.
    #[must_use]
    pub fn new(image: Arc<dyn Image>, memory: GuestMemory, serial: String) -> Self {
        let info = image.info();
        let shared = Shared {
            image,
            memory,
            queue: Mutex::default(),
            work: Condvar::new(),
            finished: Condvar::new(),
            bell: OnceLock::new(),
            told: AtomicBool::new(false),
        };
        Self { shared: Arc::new(shared), size: info.size, read_only: info.read_only, serial }
    }

    /// Hangs up the bell, which rings after a request has finished, on a thread that holds no lock. The first one stays.
    pub fn on_finished(&self, ring: impl Fn() + Send + Sync + 'static) {
        let _ = self.shared.bell.set(Box::new(ring));
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Whether the disk cannot be written.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Starts a request, which the controller calls `tag`. It is up to the controller to bound how many are under way.
    pub fn start(&self, tag: u64, request: Request) {
        let mut queue = self.shared.queue();
        queue.waiting.push_back((tag, request));
        if queue.workers < MOST_WORKERS && queue.running + queue.waiting.len() > queue.workers {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("disk".into()).spawn(move || worker::run(&shared));
            match thread {
                Ok(_) => queue.workers += 1,
                Err(error) if queue.workers == 0 => {
                    tracing::error!(%error, "a disk has no thread");
                    let waiting = std::mem::take(&mut queue.waiting);
                    let failed = waiting.into_iter().map(|(tag, _)| Completion { tag, result: Err(Failure::Disk) });
                    queue.finished.extend(failed);
                }
                // There are others.
                Err(_) => {}
            }
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// What has finished since the last call, in the order in which it has.
    #[must_use]
    pub fn take_finished(&self) -> Vec<Completion> {
        std::mem::take(&mut self.shared.queue().finished)
    }

    /// Waits until nothing is under way. What has finished is still to be taken.
    ///
    /// What waits is done on this thread: the disk's own may all be at the bell, waiting for the lock that the caller holds.
    pub fn drain(&self) {
        let mut queue = self.shared.queue();
        loop {
            if let Some((tag, request)) = queue.waiting.pop_front() {
                queue = worker::one(&self.shared, queue, tag, request);
            } else if queue.running != 0 {
                queue = self.shared.finished.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                return;
            }
        }
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.queue().closed = true;
        self.shared.work.notify_all();
    }
}

#[cfg(test)]
mod tests;

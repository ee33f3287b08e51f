//! Virtual time: a clock that stands still while the VM is paused, and alarms on it.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A point of virtual time, in nanoseconds since power-on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VmTime(pub u64);

impl Add<Duration> for VmTime {
    type Output = VmTime;
    fn add(self, rhs: Duration) -> VmTime {
        VmTime(self.0.saturating_add(u64::try_from(rhs.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<VmTime> for VmTime {
    type Output = Duration;
    /// The time from `rhs` to `self`, zero if `rhs` is later.
    fn sub(self, rhs: VmTime) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(rhs.0))
    }
}

/// The clock stands still.
const STILL: u64 = 1 << 63;

/// The virtual time of one VM, shared by its engine and its devices. Cheap to clone.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

struct Shared {
    origin: Instant,
    /// One word, so that it is always read whole. With [`STILL`]: the rest is the virtual time at which the clock
    /// stands. Without: host nanoseconds since `origin` minus the rest is virtual time.
    state: AtomicU64,
    alarms: Mutex<Alarms>,
    changed: Condvar,
}

type Callback = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Alarms {
    next_id: u64,
    /// When the thread that rings them looks again by itself; zero while it is awake and will look anyway.
    looks_at: VmTime,
    /// Deadlines in order; the second part of the key makes them unique.
    queue: BTreeMap<(VmTime, u64), ()>,
    alarms: HashMap<u64, (Option<VmTime>, Callback)>,
}

impl Alarms {
    /// Takes an alarm off the queue: what is to be called.
    fn take(&mut self, (at, id): (VmTime, u64)) -> Option<Callback> {
        self.queue.remove(&(at, id));
        self.alarms.get_mut(&id).map(|(deadline, callback)| {
            *deadline = None;
            Arc::clone(callback)
        })
    }
}

/// A poisoned alarm table means that a thread died inside one of the short sections here, which do not panic.
fn lock(m: &Mutex<Alarms>) -> MutexGuard<'_, Alarms> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clock {
    /// A clock that reads zero and stands still, with the thread that will ring its alarms.
    ///
    /// # Errors
    /// The host's refusal to start a thread.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            origin: Instant::now(),
            state: AtomicU64::new(STILL),
            alarms: Mutex::default(),
            changed: Condvar::new(),
        });
        let weak = Arc::downgrade(&shared);
        std::thread::Builder::new().name("clock".into()).spawn(move || ring(&weak))?;
        Ok(Self(shared))
    }

    /// The virtual time now.
    #[must_use]
    pub fn now(&self) -> VmTime {
        self.0.now()
    }

    /// Stops virtual time; alarms ring no more until [`Clock::resume`]. No effect on a clock that stands still.
    pub fn pause(&self) {
        let guard = lock(&self.0.alarms);
        self.0.state.store(STILL | self.0.now().0, Ordering::SeqCst);
        drop(guard);
        self.0.changed.notify_all();
    }

    /// Lets virtual time go on from where it stood. No effect on a clock that runs.
    pub fn resume(&self) {
        let guard = lock(&self.0.alarms);
        if !self.0.running() {
            let base = self.0.host_nanos().wrapping_sub(self.0.now().0) & !STILL;
            self.0.state.store(base, Ordering::SeqCst);
        }
        drop(guard);
        self.0.changed.notify_all();
    }

    /// Whether virtual time runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.0.running()
    }

    /// How far virtual time is behind the host's, in nanoseconds from an origin of its own. It is constant while the clock
    /// runs, and grows while it stands still: the difference of two values is the time it has stood still in between.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let state = self.0.state.load(Ordering::Acquire);
        if state & STILL == 0 { state } else { self.0.host_nanos().wrapping_sub(state & !STILL) & !STILL }
    }

    /// Sets the virtual time of a clock that stands still, as a restored VM needs it; alarms keep their deadlines.
    pub fn set(&self, time: VmTime) {
        let _guard = lock(&self.0.alarms);
        if !self.0.running() {
            self.0.state.store(STILL | time.0, Ordering::SeqCst);
        }
    }

    /// Moves the virtual time of a clock that stands still on by `by`, ringing the alarms on the way on this thread,
    /// each at its own time: a run without chance, for tests. No effect on a clock that runs.
    pub fn advance(&self, by: Duration) {
        let end = self.now() + by;
        loop {
            let mut alarms = lock(&self.0.alarms);
            if self.0.running() {
                return;
            }
            let first = alarms.queue.keys().next().copied().filter(|(at, _)| *at <= end);
            let time = first.map_or(end, |(at, _)| at.max(self.0.now()));
            self.0.state.store(STILL | time.0, Ordering::SeqCst);
            let Some(key) = first else { return };
            let callback = alarms.take(key);
            drop(alarms);
            if let Some(callback) = callback {
                callback();
            }
        }
    }

    /// An alarm, not yet set, that will call `callback` on the clock's thread, which holds no lock then.
    pub fn alarm(&self, callback: impl Fn() + Send + Sync + 'static) -> Alarm {
        let mut alarms = lock(&self.0.alarms);
        let id = alarms.next_id;
        alarms.next_id += 1;
        alarms.alarms.insert(id, (None, Arc::new(callback)));
        Alarm { clock: self.clone(), id }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Clock").field(&self.now()).finish()
    }
}

impl Shared {
    fn host_nanos(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn now(&self) -> VmTime {
        let state = self.state.load(Ordering::Acquire);
        if state & STILL != 0 {
            return VmTime(state & !STILL);
        }
        // 63 bits of nanoseconds wrap after 292 years.
        VmTime(self.host_nanos().wrapping_sub(state) & !STILL)
    }

    fn running(&self) -> bool {
        self.state.load(Ordering::Acquire) & STILL == 0
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.changed.notify_all();
    }
}

/// The thread that rings the alarms; it ends when the clock is gone.
fn ring(weak: &Weak<Shared>) {
    // A bound on how long the thread keeps an abandoned clock alive.
    const LINGER: Duration = Duration::from_millis(200);
    while let Some(shared) = weak.upgrade() {
        let mut alarms = lock(&shared.alarms);
        alarms.looks_at = VmTime(0);
        let now = shared.now();
        let running = shared.running();
        let first = alarms.queue.keys().next().copied();
        match first {
            Some((at, id)) if running && at <= now => {
                let callback = alarms.take((at, id));
                drop(alarms);
                if let Some(callback) = callback {
                    callback();
                }
            }
            _ => {
                let wait = match first {
                    Some((at, _)) if running => (at - now).min(LINGER),
                    _ => LINGER,
                };
                // While the clock stands still nothing is due.
                alarms.looks_at = if running { now + wait } else { VmTime(u64::MAX) };
                drop(shared.changed.wait_timeout(alarms, wait));
            }
        }
    }
}

/// A point of virtual time at which something is called. Dropping it takes it off.
pub struct Alarm {
    clock: Clock,
    id: u64,
}

impl Alarm {
    /// Sets the deadline, or takes it off; an earlier one is forgotten. A deadline in the past rings at once.
    pub fn set(&self, deadline: Option<VmTime>) {
        let mut alarms = lock(&self.clock.0.alarms);
        let Some((slot, _)) = alarms.alarms.get_mut(&self.id) else { return };
        let old = std::mem::replace(slot, deadline);
        if let Some(old) = old {
            alarms.queue.remove(&(old, self.id));
        }
        if let Some(at) = deadline {
            alarms.queue.insert((at, self.id), ());
            let sooner = at < alarms.looks_at;
            drop(alarms);
            if sooner {
                self.clock.0.changed.notify_one();
            }
        }
    }

    /// The deadline, `None` if not set or already rung.
    #[must_use]
    pub fn deadline(&self) -> Option<VmTime> {
        lock(&self.clock.0.alarms).alarms.get(&self.id).and_then(|(deadline, _)| *deadline)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut alarms = lock(&self.clock.0.alarms);
        if let Some((Some(at), _)) = alarms.alarms.remove(&self.id) {
            alarms.queue.remove(&(at, self.id));
        }
    }
}

impl std::fmt::Debug for Alarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Alarm").field(&self.deadline()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_paused_clock_stands_still() {
        let clock = Clock::start().unwrap();
        assert_eq!(clock.now(), VmTime(0));
        clock.resume();
        std::thread::sleep(Duration::from_millis(2));
        clock.pause();
        let then = clock.now();
        assert!(then >= VmTime(2_000_000));
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(clock.now(), then);
        clock.set(VmTime(7));
        assert_eq!(clock.now(), VmTime(7));
    }

    #[test]
    fn an_advanced_clock_rings_each_alarm_at_its_time() {
        let clock = Clock::start().unwrap();
        let rung = Arc::new(Mutex::new(Vec::new()));
        let (seen, time) = (Arc::clone(&rung), clock.clone());
        let alarm = clock.alarm(move || seen.lock().unwrap().push(time.now().0));
        alarm.set(Some(VmTime(300)));
        clock.advance(Duration::from_nanos(299));
        assert_eq!((clock.now(), rung.lock().unwrap().len()), (VmTime(299), 0));
        clock.advance(Duration::from_nanos(51));
        assert_eq!(clock.now(), VmTime(350));
        alarm.set(Some(VmTime(5)));
        clock.advance(Duration::ZERO);
        assert_eq!(*rung.lock().unwrap(), [300, 350]);
    }

    #[test]
    fn alarms_ring_in_order_and_only_while_running() {
        let clock = Clock::start().unwrap();
        let (tx, rx) = mpsc::channel();
        let make = |name: u32| {
            let tx = tx.clone();
            clock.alarm(move || tx.send(name).unwrap())
        };
        let (a, b, c) = (make(1), make(2), make(3));
        a.set(Some(VmTime(3_000_000)));
        b.set(Some(VmTime(1_000_000)));
        c.set(Some(VmTime(2_000_000)));
        c.set(None);
        assert!(rx.recv_timeout(Duration::from_millis(5)).is_err());
        clock.resume();
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)), Ok(2));
        assert_eq!(rx.recv_timeout(Duration::from_secs(10)), Ok(1));
        assert_eq!(a.deadline(), None);
    }
}

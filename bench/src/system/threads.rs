//! Threads: started, locked out, woken.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Condvar, Mutex, mpsc};
use std::thread;

use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("thread-start", "200 threads started and joined", start),
    Workload::new("futex-ping-pong", "two threads wake each other 1,000 times by a condition", ping_pong),
    Workload::new("channel", "20,000 messages from one thread to another", channel),
    Workload::new("atomics", "locked additions, exchanges and comparisons, 400,000 times", atomics),
    Workload::new("mutex", "a mutex taken and released 300,000 times by one thread", mutex),
];

fn start() -> Unit {
    Box::new(|| (0..200u64).map(|n| thread::spawn(move || n * 3).join().expect("it ends well")).sum())
}

fn ping_pong() -> Unit {
    Box::new(|| {
        let (turn, changed) = (Mutex::new(0u64), Condvar::new());
        let play = |mine: u64| {
            for _ in 0..500 {
                let guard = turn.lock().expect("nobody panics");
                let mut guard = changed.wait_while(guard, |turn| *turn % 2 != mine).expect("nobody panics");
                *guard += 1;
                drop(guard);
                changed.notify_one();
            }
        };
        thread::scope(|scope| {
            scope.spawn(|| play(1));
            play(0);
        });
        *turn.lock().expect("nobody panics")
    })
}

fn channel() -> Unit {
    Box::new(|| {
        let (to, from) = mpsc::sync_channel(64);
        let sender = thread::spawn(move || {
            for n in 0..20_000u64 {
                to.send(n * n).expect("somebody listens");
            }
        });
        let sum = from.iter().fold(0, |sum: u64, x| sum.rotate_left(1) ^ x);
        sender.join().expect("it ends well");
        sum
    })
}

fn atomics() -> Unit {
    let cells = [const { AtomicU64::new(0) }; 8];
    Box::new(move || {
        cells.iter().for_each(|cell| cell.store(1, Relaxed));
        let mut sum = 0u64;
        for n in 0..100_000u64 {
            let cell = &cells[n as usize % 8];
            sum ^= cell.fetch_add(n, Relaxed) ^ cell.swap(sum | 1, Relaxed) ^ cell.fetch_or(n << 3, Relaxed);
            sum += u64::from(cell.compare_exchange(n, sum, Relaxed, Relaxed).is_ok());
        }
        sum
    })
}

fn mutex() -> Unit {
    let value = Mutex::new(0u64);
    Box::new(move || {
        *value.lock().expect("nobody panics") = 0;
        for n in 0..300_000 {
            *value.lock().expect("nobody panics") ^= n * 3;
        }
        *value.lock().expect("nobody panics")
    })
}

//! Threads: contended locks (futexes), atomics of every width, condition variables, channels, ordering.

use std::arch::x86_64::cmpxchg16b;
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering::*, fence};
use std::sync::{Barrier, Condvar, Mutex, RwLock, mpsc};
use std::thread::{scope, yield_now};

const THREADS: u64 = 4;
const ROUNDS: u64 = 5_000;

pub fn run() {
    locks();
    atomics();
    pair();
    ping_pong();
    channels();
    publish();
    dekker();
}

fn locks() {
    let (mutex, rw, barrier) = (Mutex::new(0u64), RwLock::new([0u64; 8]), Barrier::new(THREADS as usize));
    let torn = AtomicU64::new(0);
    scope(|s| {
        for id in 0..THREADS {
            let (mutex, rw, barrier, torn) = (&mutex, &rw, &barrier, &torn);
            s.spawn(move || {
                for i in 0..ROUNDS {
                    let mut guard = mutex.lock().expect("mutex");
                    *guard = guard.wrapping_mul(1).wrapping_add(id + 1);
                    if i % 512 == 0 {
                        yield_now();
                    }
                    drop(guard);
                    if i % 8 == 0 {
                        rw.write().expect("lock").iter_mut().for_each(|x| *x += 1);
                    } else {
                        let seen = rw.read().expect("lock");
                        torn.fetch_add(u64::from(seen.iter().any(|x| *x != seen[0])), Relaxed);
                    }
                    if i % 1_000 == 0 {
                        barrier.wait();
                    }
                }
            });
        }
    });
    println!(
        "locks {} {:?} torn {}",
        mutex.into_inner().expect("mutex"),
        rw.into_inner().expect("lock"),
        torn.into_inner()
    );
}

fn atomics() {
    let (a, b, c, d) = (AtomicU8::new(0), AtomicU16::new(0), AtomicU32::new(0), AtomicU64::new(0));
    let (bits, most, spins, swapped) = (AtomicU64::new(0), AtomicU32::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let token = AtomicU64::new(1 << 40);
    scope(|s| {
        for id in 0..THREADS {
            let (a, b, c, d, bits, most, spins, swapped, token) =
                (&a, &b, &c, &d, &bits, &most, &spins, &swapped, &token);
            s.spawn(move || {
                for i in 0..ROUNDS {
                    a.fetch_add(1, Relaxed);
                    b.fetch_sub(3, Relaxed);
                    c.fetch_add(id as u32 + 1, SeqCst);
                    bits.fetch_xor(1 << ((i * 7 + id * 16) % 64), AcqRel);
                    most.fetch_max((i * 2 + id) as u32, Relaxed);
                    let mut old = d.load(Relaxed);
                    while let Err(now) = d.compare_exchange_weak(old, old + 5, AcqRel, Relaxed) {
                        old = now;
                        std::hint::spin_loop();
                    }
                    // Exchanges conserve what all hold together.
                    swapped.fetch_add(token.swap(i, SeqCst).wrapping_sub(i), Relaxed);
                    spins.fetch_or(1 << (i & 63), Relaxed);
                }
            });
        }
    });
    println!(
        "atomics {} {} {} {} bits {:016x} most {} or {:016x} exchanged {}",
        a.into_inner(),
        b.into_inner(),
        c.into_inner(),
        d.into_inner(),
        bits.into_inner(),
        most.into_inner(),
        spins.into_inner(),
        swapped.into_inner().wrapping_add(token.into_inner()),
    );
}

#[repr(align(16))]
struct Pair(UnsafeCell<u128>);
// SAFETY: only accessed by CMPXCHG16B while there are threads.
unsafe impl Sync for Pair {}

#[target_feature(enable = "cmpxchg16b")]
fn bump(pair: &Pair) {
    let mut old = 0u128;
    loop {
        let (low, high) = (old as u64, (old >> 64) as u64);
        let new = u128::from(low.wrapping_add(1)) | u128::from(high.wrapping_sub(7)) << 64;
        // SAFETY: aligned to 16 bytes, and never accessed otherwise meanwhile.
        let seen = unsafe { cmpxchg16b(pair.0.get(), old, new, SeqCst, SeqCst) };
        if seen == old {
            return;
        }
        old = seen;
    }
}

fn pair() {
    let pair = Pair(UnsafeCell::new(0));
    scope(|s| {
        for _ in 0..THREADS {
            // SAFETY: the workout needs CMPXCHG16B as a whole.
            s.spawn(|| (0..ROUNDS).for_each(|_| unsafe { bump(&pair) }));
        }
    });
    println!("pair {:032x}", pair.0.into_inner());
}

fn ping_pong() {
    let (state, changed) = (Mutex::new((0u64, 0u64)), Condvar::new());
    scope(|s| {
        for id in 0..2 {
            let (state, changed) = (&state, &changed);
            s.spawn(move || {
                for _ in 0..1_000 {
                    let mut guard = changed.wait_while(state.lock().expect("mutex"), |s| s.0 % 2 != id).expect("mutex");
                    guard.0 += 1;
                    guard.1 = guard.1.wrapping_mul(31).wrapping_add(id + 1);
                    drop(guard);
                    changed.notify_all();
                }
            });
        }
    });
    println!("ping pong {:?}", state.into_inner().expect("mutex"));
}

fn channels() {
    let (tx, rx) = mpsc::sync_channel::<u64>(4);
    let total: u64 = scope(|s| {
        for id in 0..THREADS {
            let tx = tx.clone();
            s.spawn(move || (0..500).for_each(|i| tx.send(id * 1_000 + i).expect("receiver")));
        }
        drop(tx);
        rx.iter().sum()
    });
    println!("channel {total}");
}

/// What is written before a flag is seen after it.
fn publish() {
    let (data, flag) = ([const { AtomicU64::new(0) }; 4], AtomicUsize::new(0));
    let wrong = scope(|s| {
        s.spawn(|| {
            for i in 1..=2_000usize {
                data.iter().for_each(|d| d.store(i as u64, Relaxed));
                flag.store(i, Release);
                while flag.load(Acquire) != 0 {
                    std::hint::spin_loop();
                    yield_now();
                }
            }
        });
        let reader = s.spawn(|| {
            let mut wrong = 0;
            for i in 1..=2_000usize {
                while flag.load(Acquire) != i {
                    std::hint::spin_loop();
                    yield_now();
                }
                wrong += data.iter().filter(|d| d.load(Relaxed) != i as u64).count();
                flag.store(0, Release);
            }
            wrong
        });
        reader.join().expect("reader")
    });
    println!("published wrong {wrong}");
}

/// Dekker's mutual exclusion: holds only when a fence orders a store before a load.
fn dekker() {
    let (want, turn) = ([AtomicBool::new(false), AtomicBool::new(false)], AtomicUsize::new(0));
    let count = AtomicU64::new(0);
    scope(|s| {
        for me in 0..2 {
            let (want, turn, count) = (&want, &turn, &count);
            s.spawn(move || {
                for _ in 0..1_000 {
                    want[me].store(true, Relaxed);
                    fence(SeqCst);
                    while want[1 - me].load(Relaxed) {
                        if turn.load(Relaxed) != me {
                            want[me].store(false, Relaxed);
                            while turn.load(Relaxed) != me {
                                yield_now();
                            }
                            want[me].store(true, Relaxed);
                            fence(SeqCst);
                        }
                    }
                    fence(Acquire);
                    // Not one atomic operation: two threads in here at once would lose a count.
                    let n = count.load(Relaxed);
                    count.store(n + 1, Relaxed);
                    turn.store(1 - me, Relaxed);
                    want[me].store(false, Release);
                }
            });
        }
    });
    println!("dekker {}", count.into_inner());
}

//! Waiting without a thread: a value that one task has at a time, and stretches of a disk that exclude each other.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// A lock that no panic of another thread can spoil: the values here are sound at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that one task has at a time, across its waits.
#[derive(Debug)]
pub(crate) struct Shared<T> {
    inner: Mutex<Slot<T>>,
}

#[derive(Debug)]
struct Slot<T> {
    /// `None` while a task has it.
    value: Option<Box<T>>,
    waiting: VecDeque<Waker>,
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { inner: Mutex::new(Slot { value: Some(Box::new(value)), waiting: VecDeque::new() }) }
    }

    /// Waits for the value.
    pub(crate) async fn take(&self) -> Taken<'_, T> {
        poll_fn(|context| {
            let mut slot = lock(&self.inner);
            match slot.value.take() {
                Some(value) => Poll::Ready(Taken { owner: self, value: Some(value) }),
                None => {
                    slot.waiting.push_back(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

/// The value, until this is dropped.
#[derive(Debug)]
pub(crate) struct Taken<'a, T> {
    owner: &'a Shared<T>,
    /// `Some` until the drop.
    value: Option<Box<T>>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.value.as_deref().expect("it is here until the drop")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_deref_mut().expect("it is here until the drop")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        let mut slot = lock(&self.owner.inner);
        slot.value = self.value.take();
        // All of them: one that has been given up since must not swallow the only call.
        let waiting = std::mem::take(&mut slot.waiting);
        drop(slot);
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Stretches of a disk in use: readers of one share it, a writer has it alone. First come, first served.
#[derive(Debug, Default)]
pub(crate) struct Stretches {
    inner: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    next: u64,
    /// In the order of their coming; one is granted when no earlier one excludes it.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    start: u64,
    end: u64,
    alone: bool,
    waker: Option<Waker>,
}

impl Entry {
    fn excludes(&self, other: &Self) -> bool {
        (self.alone || other.alone) && self.start < other.end && other.start < self.end
    }
}

impl Stretches {
    /// Waits for the stretch.
    pub(crate) async fn take(&self, start: u64, end: u64, alone: bool) -> Stretch<'_> {
        let id = {
            let mut queue = lock(&self.inner);
            queue.next += 1;
            let id = queue.next;
            queue.entries.push(Entry { id, start, end, alone, waker: None });
            id
        };
        // Made before the wait, so that giving up leaves the queue.
        let stretch = Stretch { owner: self, id };
        poll_fn(|context| {
            let mut queue = lock(&self.inner);
            let place = queue.entries.iter().position(|e| e.id == id).unwrap_or(0);
            let (before, rest) = queue.entries.split_at_mut(place);
            match rest.first_mut() {
                Some(own) if before.iter().any(|e| e.excludes(own)) => {
                    own.waker = Some(context.waker().clone());
                    Poll::Pending
                }
                _ => Poll::Ready(()),
            }
        })
        .await;
        stretch
    }
}

/// The stretch, until this is dropped.
#[derive(Debug)]
pub(crate) struct Stretch<'a> {
    owner: &'a Stretches,
    id: u64,
}

impl Drop for Stretch<'_> {
    fn drop(&mut self) {
        let mut queue = lock(&self.owner.inner);
        let Some(place) = queue.entries.iter().position(|e| e.id == self.id) else { return };
        let gone = queue.entries.remove(place);
        let wakers: Vec<Waker> =
            queue.entries.iter_mut().filter(|e| gone.excludes(e)).filter_map(|e| e.waker.take()).collect();
        drop(queue);
        wakers.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::image::block_on;

    #[test]
    fn one_task_has_the_value_at_a_time() {
        let shared = Arc::new(Shared::new(0u64));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || {
                    for _ in 0..1000 {
                        *block_on(shared.take()) += 1;
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(*block_on(shared.take()), 4000);
    }

    #[test]
    fn writers_exclude_and_readers_share() {
        let stretches = Arc::new(Stretches::default());
        let inside = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let (stretches, inside) = (Arc::clone(&stretches), Arc::clone(&inside));
                std::thread::spawn(move || {
                    for round in 0..500u64 {
                        let alone = (round + n) % 3 == 0;
                        let _stretch = block_on(stretches.take(round % 5, 8, alone));
                        let add = if alone { 1000 } else { 1 };
                        let before = inside.fetch_add(add, Ordering::SeqCst);
                        assert!(if alone { before == 0 } else { before < 1000 });
                        inside.fetch_sub(add, Ordering::SeqCst);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(lock(&stretches.inner).entries.is_empty());
    }

    #[test]
    fn who_gives_up_waiting_is_out_of_the_way() {
        let stretches = Stretches::default();
        let first = block_on(stretches.take(0, 10, true));
        let mut second = Box::pin(stretches.take(5, 15, true));
        let mut context = std::task::Context::from_waker(Waker::noop());
        assert!(second.as_mut().poll(&mut context).is_pending());
        drop(second);
        drop(first);
        assert_eq!(lock(&stretches.inner).entries.len(), 0);
    }
}

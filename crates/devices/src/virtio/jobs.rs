//! The requests of a device that its disks are at, and how much of them there may be.

use crate::block::{Backend, Data, Operation, Request};

/// No more requests are begun while so many bytes are on their way: a pause has to wait for them.
const MOST_BYTES: u64 = 64 << 20;
/// The tag of what only rings the bell.
const LOOK_AGAIN: u64 = u64::MAX;

/// Requests by their tags.
pub(super) struct Jobs<T> {
    places: Vec<Option<(T, u64)>>,
    free: Vec<usize>,
    bytes: u64,
}

impl<T> Default for Jobs<T> {
    fn default() -> Self {
        Self { places: Vec::new(), free: Vec::new(), bytes: 0 }
    }
}

impl<T> Jobs<T> {
    /// Adds a request that moves so many bytes; returns its tag.
    pub(super) fn add(&mut self, job: T, bytes: u64) -> u64 {
        self.bytes = self.bytes.saturating_add(bytes);
        let entry = Some((job, bytes));
        let index = self.free.pop().unwrap_or(self.places.len());
        match self.places.get_mut(index) {
            Some(place) => *place = entry,
            None => self.places.push(entry),
        }
        index as u64
    }

    /// Takes a request away.
    pub(super) fn take(&mut self, tag: u64) -> Option<T> {
        let index = usize::try_from(tag).ok()?;
        let (job, bytes) = self.places.get_mut(index)?.take()?;
        self.bytes = self.bytes.saturating_sub(bytes);
        self.free.push(index);
        Some(job)
    }

    /// A request that is under way.
    pub(super) fn get_mut(&mut self, tag: u64) -> Option<&mut T> {
        let place = usize::try_from(tag).ok().and_then(|index| self.places.get_mut(index))?;
        place.as_mut().map(|(job, _)| job)
    }

    /// The tags of the requests that are like this.
    pub(super) fn like(&self, like: impl Fn(&T) -> bool) -> Vec<u64> {
        let found = |(place, tag): (&Option<(T, u64)>, u64)| place.as_ref().filter(|(job, _)| like(job)).map(|_| tag);
        self.places.iter().zip(0..).filter_map(found).collect()
    }

    /// Whether another request may begin.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < MOST_BYTES
    }

    /// Whether there are none.
    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.places.len()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Has the disk ring its bell without doing anything.
    pub(super) fn look_again(&self, disk: &Backend) {
        disk.start(LOOK_AGAIN, Request { offset: 0, operation: Operation::Read(Data::Bytes(Vec::new())) });
    }
}

/// Bounds the requests that are begun in one go: a driver could add to its queue as fast as they are done.
pub(super) struct Flow(u32);

impl Flow {
    /// The bound for a queue of this size.
    pub(super) fn new(size: u16) -> Self {
        Self(2 * u32::from(size))
    }

    /// Whether one more may begin; counts it.
    pub(super) fn goes_on(&mut self) -> bool {
        self.0 = self.0.saturating_sub(1);
        self.0 != 0
    }
}

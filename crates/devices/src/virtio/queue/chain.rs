//! What a driver has made available: stretches of memory to read, then stretches to write (virtio 1.2, 2.6).

use memory::{Gpa, GuestMemory};

use super::Broken;
use crate::block::Segment;

/// Buffers that belong together: one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// What the device reads.
    pub readable: Buffers,
    /// What the device writes.
    pub writable: Buffers,
    /// What it is given back by.
    pub token: Token,
}

/// By what a chain is given back to its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// The driver's number of the chain.
    pub(super) id: u16,
    /// The places in the ring that it takes.
    pub(super) places: u16,
}

/// Stretches of the guest's memory, one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Buffers(Vec<Segment>);

impl Buffers {
    /// Bytes in all.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0, |sum, segment| segment.len.saturating_add(sum))
    }

    /// Whether there are no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The stretches.
    #[must_use]
    pub fn into_segments(self) -> Vec<Segment> {
        self.0
    }

    /// Adds a stretch at the end.
    pub(super) fn push(&mut self, at: Gpa, len: u32) {
        if len != 0 {
            self.0.push(Segment { at, len: len.into() });
        }
    }

    /// Takes the first `len` bytes away, or all there are.
    #[must_use]
    pub fn take_front(&mut self, len: u64) -> Self {
        let mut rest = len;
        let mut whole = 0;
        while let Some(segment) = self.0.get(whole)
            && segment.len <= rest
        {
            rest -= segment.len;
            whole += 1;
        }
        let behind = self.0.split_off(whole);
        let mut front = std::mem::replace(&mut self.0, behind);
        if rest != 0
            && let Some(first) = self.0.first_mut()
        {
            front.push(Segment { at: first.at, len: rest });
            *first = Segment { at: Gpa(first.at.0.wrapping_add(rest)), len: first.len - rest };
        }
        Self(front)
    }

    /// Takes the last `len` bytes away, or all there are.
    #[must_use]
    pub fn take_back(&mut self, len: u64) -> Self {
        let front = self.take_front(self.len().saturating_sub(len));
        std::mem::replace(self, front)
    }

    /// Reads all bytes, at most as many as `most`.
    ///
    /// # Errors
    /// [`Broken::Memory`] where there is no memory.
    pub fn read(&self, memory: &GuestMemory, most: usize) -> Result<Vec<u8>, Broken> {
        let mut bytes = vec![0; usize::try_from(self.len()).unwrap_or(usize::MAX).min(most)];
        let mut rest = bytes.as_mut_slice();
        for segment in &self.0 {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at_mut(len);
            memory.read(segment.at, now).map_err(|_| Broken::Memory { at: segment.at })?;
            rest = behind;
        }
        Ok(bytes)
    }

    /// Writes `bytes`, or as many as there is room for, which it returns.
    ///
    /// # Errors
    /// [`Broken::Memory`] where there is no RAM.
    pub fn write(&self, memory: &GuestMemory, bytes: &[u8]) -> Result<usize, Broken> {
        let mut rest = bytes;
        for segment in &self.0 {
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX).min(rest.len());
            let (now, behind) = rest.split_at(len);
            put(memory, segment.at, now)?;
            rest = behind;
        }
        Ok(bytes.len() - rest.len())
    }
}

/// Writes to RAM, and to nothing else.
pub(super) fn put(memory: &GuestMemory, at: Gpa, bytes: &[u8]) -> Result<(), Broken> {
    let broken = Broken::Memory { at };
    if !memory.is_ram(at, bytes.len() as u64) {
        return Err(broken);
    }
    memory.write(at, bytes).map_err(|_| broken)
}

//! Descriptors of both ring layouts, and the walk along a chain of them (virtio 1.2, 2.7.5 and 2.8.6).

use memory::{Gpa, GuestMemory};

use super::chain::Buffers;
use super::{Broken, within};

/// The chain goes on.
pub(super) const NEXT: u16 = 1;
/// The device writes the buffer.
pub(super) const WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub(super) const INDIRECT: u16 = 4;

/// Bytes of a descriptor.
pub(super) const LEN: u64 = 16;
/// The most descriptors of a chain with an indirect table. A chain without has at most as many as its queue.
pub(super) const MOST: u32 = 1024;

/// A descriptor as both layouts have it: what stands in its last two fields is theirs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Descriptor {
    pub(super) at: Gpa,
    pub(super) len: u32,
    /// Split: the flags. Packed: the number of the chain.
    third: u16,
    /// Split: the next descriptor. Packed: the flags.
    fourth: u16,
}

impl Descriptor {
    /// Reads descriptor `index` of the table.
    pub(super) fn read(memory: &GuestMemory, table: Gpa, index: u64) -> Result<Self, Broken> {
        let from = within(table, index * LEN)?;
        let bytes: [u8; LEN as usize] = memory.read_array(from).map_err(|_| Broken::Memory { at: from })?;
        let bits = u128::from_le_bytes(bytes);
        Ok(Self {
            at: Gpa(bits as u64),
            len: (bits >> 64) as u32,
            third: (bits >> 96) as u16,
            fourth: (bits >> 112) as u16,
        })
    }

    pub(super) fn split(self) -> (u16, u16) {
        (self.third, self.fourth)
    }

    pub(super) fn packed(self) -> (u16, u16) {
        (self.third, self.fourth)
    }
}

/// A chain that is being walked.
#[derive(Debug, Default)]
pub(super) struct Walk {
    pub(super) readable: Buffers,
    pub(super) writable: Buffers,
    /// The descriptors so far.
    count: u32,
}

impl Walk {
    /// Takes the buffer of a descriptor; there may be `most` in all.
    pub(super) fn take(&mut self, descriptor: Descriptor, flags: u16, most: u32) -> Result<(), Broken> {
        self.count += 1;
        if self.count > most {
            return Err(Broken::Long);
        }
        if flags & WRITE != 0 {
            self.writable.push(descriptor.at, descriptor.len);
        } else if self.writable.is_empty() {
            self.readable.push(descriptor.at, descriptor.len);
        } else {
            return Err(Broken::Order);
        }
        Ok(())
    }

    /// The number of descriptors of an indirect table.
    pub(super) fn table(descriptor: Descriptor, flags: u16, allowed: bool) -> Result<u32, Broken> {
        let count = descriptor.len / LEN as u32;
        let sound = allowed && flags & NEXT == 0 && count != 0 && u64::from(descriptor.len).is_multiple_of(LEN);
        if !sound {
            return Err(Broken::Table);
        }
        if count > MOST { Err(Broken::Long) } else { Ok(count) }
    }
}

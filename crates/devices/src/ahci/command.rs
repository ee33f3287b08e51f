//! A command in memory: its header in the list, and its table with the frame, the packet and the regions of data (AHCI
//! 1.3.1, 4.2.2 and 4.2.3).

use memory::{Gpa, GuestMemory};

use crate::block::Segment;

/// Where packet and regions are in a table.
const PACKET: u64 = 0x40;
const REGIONS: u64 = 0x80;
/// The entries of a table that are read at once.
const BATCH: usize = 64;
/// The lengths of the structures.
const HEADER_LENGTH: u64 = 32;
const REGION_LENGTH: usize = 16;

/// The header of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Where it lies.
    at: u64,
    table: u64,
    regions: u16,
}

impl Header {
    /// The header in `slot` of a list; `None` when there is no memory.
    pub(super) fn read(memory: &GuestMemory, list: u64, slot: u32) -> Option<Self> {
        let at = list.checked_add(u64::from(slot) * HEADER_LENGTH)?;
        let [_, _, c, d, _, _, _, _, t0, t1, t2, t3, t4, t5, t6, t7] = memory.read_array::<16>(Gpa(at)).ok()?;
        let table = u64::from_le_bytes([t0 & 0x80, t1, t2, t3, t4, t5, t6, t7]);
        Some(Self { at, table, regions: u16::from_le_bytes([c, d]) })
    }

    /// The frame for the drive.
    pub(super) fn frame(&self, memory: &GuestMemory) -> Option<[u8; 64]> {
        memory.read_array(Gpa(self.table)).ok()
    }

    /// The packet for the drive.
    pub(super) fn packet(&self, memory: &GuestMemory) -> Option<[u8; 16]> {
        memory.read_array(Gpa(self.table.checked_add(PACKET)?)).ok()
    }

    /// The stretches of memory that the regions name, `len` bytes in all; `None` when they have less room or cannot be
    /// read.
    pub(super) fn segments(&self, memory: &GuestMemory, len: u64) -> Option<Vec<Segment>> {
        let mut segments: Vec<Segment> = Vec::new();
        let mut left = len;
        let mut at = self.table.checked_add(REGIONS)?;
        let mut regions = usize::from(self.regions);
        let mut buffer = [0; BATCH * REGION_LENGTH];
        while left != 0 && regions != 0 {
            let now = regions.min(BATCH);
            let bytes = buffer.get_mut(..now * REGION_LENGTH)?;
            memory.read(Gpa(at), bytes).ok()?;
            for [a, b, c, d, e, f, g, h, _, _, _, _, l0, l1, l2, _] in bytes.as_chunks::<REGION_LENGTH>().0 {
                let base = u64::from_le_bytes([a & !1, *b, *c, *d, *e, *f, *g, *h]);
                // One less than the length, which is even.
                let size = u64::from(u32::from_le_bytes([l0 | 1, *l1, l2 & 0x3f, 0])) + 1;
                let size = size.min(left);
                match segments.last_mut() {
                    Some(last) if last.at.0.checked_add(last.len) == Some(base) => last.len += size,
                    _ => segments.push(Segment { at: Gpa(base), len: size }),
                }
                left -= size;
                if left == 0 {
                    break;
                }
            }
            regions -= now;
            at = at.checked_add((now * REGION_LENGTH) as u64)?;
        }
        (left == 0).then_some(segments)
    }

    /// Reads so many bytes from the memory that the regions name.
    pub(super) fn gather(&self, memory: &GuestMemory, len: u64) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        let mut rest = bytes.as_mut_slice();
        for Segment { at, len } in self.segments(memory, len)? {
            let (now, behind) = std::mem::take(&mut rest).split_at_mut_checked(len as usize)?;
            memory.read(at, now).ok()?;
            rest = behind;
        }
        Some(bytes)
    }

    /// Tells the guest how many bytes have been moved.
    pub(super) fn tell_moved(&self, memory: &GuestMemory, bytes: u64) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Where the header was, there is memory, but for a guest that harms itself.
        let at = Gpa(self.at + 4);
        if memory.is_ram(at, 4) {
            let _ = memory.write(at, &bytes.to_le_bytes());
        }
    }

    /// Writes bytes to the memory that the regions name; whether all of it is RAM.
    pub(super) fn scatter(&self, memory: &GuestMemory, mut bytes: &[u8]) -> bool {
        let Some(segments) = self.segments(memory, bytes.len() as u64) else { return false };
        for Segment { at, len } in segments {
            let (now, rest) = bytes.split_at((len as usize).min(bytes.len()));
            if !memory.is_ram(at, len) || memory.write(at, now).is_err() {
                return false;
            }
            bytes = rest;
        }
        true
    }
}

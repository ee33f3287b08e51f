//! Address spaces: which device answers where.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::device::{At, Device, Effect};

/// An address space, ports or memory: ranges that do not overlap, each a window of a device.
#[derive(Default)]
pub struct Bus {
    ranges: RwLock<BTreeMap<u64, Entry>>,
}

#[derive(Clone)]
struct Entry {
    end: u64,
    device: Arc<Mutex<dyn Device>>,
    window: u8,
}

/// A range of a bus that is taken already.
#[derive(Debug, thiserror::Error)]
#[error("bus range {:#x}..{:#x} overlaps another one", .0.start, .0.end)]
pub struct Overlap(pub Range<u64>);

impl Bus {
    /// Gives `range` to `device` as its window `window`.
    ///
    /// # Errors
    /// [`Overlap`] when part of the range is taken, or it is empty.
    pub fn map(&self, range: Range<u64>, device: Arc<Mutex<dyn Device>>, window: u8) -> Result<(), Overlap> {
        let mut ranges = self.ranges.write().unwrap_or_else(PoisonError::into_inner);
        let before = ranges.range(..range.end).next_back();
        if range.is_empty() || before.is_some_and(|(_, e)| e.end > range.start) {
            return Err(Overlap(range));
        }
        ranges.insert(range.start, Entry { end: range.end, device, window });
        Ok(())
    }

    /// Takes away the range that starts at `start`. Returns whether there was one.
    pub fn unmap(&self, start: u64) -> bool {
        self.ranges.write().unwrap_or_else(PoisonError::into_inner).remove(&start).is_some()
    }

    /// Reads; ones where nobody answers. An access that leaves its window is split by bytes.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr, data.len()) {
            Found::Whole(entry, at) => lock(&entry.device).read(at, data),
            Found::Nobody => data.fill(0xff),
            Found::Split => {
                for (i, byte) in data.chunks_mut(1).enumerate() {
                    self.read(addr.wrapping_add(i as u64), byte);
                }
            }
        }
    }

    /// Writes; nothing happens where nobody answers.
    pub fn write(&self, addr: u64, data: &[u8]) -> Effect {
        match self.find(addr, data.len()) {
            Found::Whole(entry, at) => lock(&entry.device).write(at, data),
            Found::Nobody => Effect::None,
            Found::Split => {
                let effects = data.chunks(1).enumerate().map(|(i, byte)| self.write(addr.wrapping_add(i as u64), byte));
                effects.fold(Effect::None, |all, one| if one == Effect::None { all } else { one })
            }
        }
    }

    fn find(&self, addr: u64, len: usize) -> Found {
        let ranges = self.ranges.read().unwrap_or_else(PoisonError::into_inner);
        let end = addr.saturating_add(len as u64);
        match ranges.range(..end).next_back() {
            Some((start, entry)) if *start <= addr && entry.end >= end => {
                Found::Whole(entry.clone(), At { window: entry.window, offset: addr - start })
            }
            Some((_, entry)) if entry.end > addr && len > 1 => Found::Split,
            _ => Found::Nobody,
        }
    }
}

enum Found {
    Whole(Entry, At),
    Split,
    Nobody,
}

fn lock(device: &Arc<Mutex<dyn Device>>) -> std::sync::MutexGuard<'_, dyn Device + 'static> {
    device.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Drained, Schema, Snapshot, State, StateError};

    /// Reads give window and offset of each access; writes reset the machine.
    struct Echo;

    impl Device for Echo {
        fn read(&mut self, at: At, data: &mut [u8]) {
            data.fill(at.window << 4 | at.offset as u8);
        }

        fn write(&mut self, _: At, _: &[u8]) -> Effect {
            Effect::Reset
        }

        fn reset(&mut self) {}

        fn pause(&mut self) -> Drained {
            Drained
        }

        fn resume(&mut self) {}
    }

    impl Snapshot for Echo {
        fn schema(&self) -> Schema {
            Schema { name: "echo", version: 1 }
        }

        fn save(&mut self) -> Result<State, StateError> {
            State::of(&())
        }

        fn load(&mut self, _: u16, state: State) -> Result<(), StateError> {
            state.to()
        }
    }

    fn bus() -> Bus {
        let bus = Bus::default();
        bus.map(0x100..0x104, Arc::new(Mutex::new(Echo)), 1).unwrap();
        bus.map(0x104..0x105, Arc::new(Mutex::new(Echo)), 2).unwrap();
        bus
    }

    fn read<const N: usize>(bus: &Bus, at: u64) -> [u8; N] {
        let mut data = [0; N];
        bus.read(at, &mut data);
        data
    }

    #[test]
    fn accesses_go_whole_or_by_bytes() {
        let bus = bus();
        assert_eq!(read(&bus, 0x102), [0x12; 2]);
        assert_eq!(read(&bus, 0x102), [0x12, 0x13, 0x20, 0xff]);
        assert_eq!(read(&bus, 0xff), [0xff, 0x10]);
        assert_eq!(read(&bus, 0x105), [0xff; 4]);
        assert_eq!(read(&bus, u64::MAX), [0xff; 8]);
        assert_eq!(bus.write(0xff, &[0; 2]), Effect::Reset);
        assert_eq!(bus.write(0x105, &[0; 2]), Effect::None);
    }

    #[test]
    fn ranges_do_not_overlap() {
        let bus = bus();
        for taken in [0xff..0x101, 0x103..0x110, 0x101..0x102, 0..0x1000, 0x200..0x200] {
            assert!(bus.map(taken, Arc::new(Mutex::new(Echo)), 0).is_err());
        }
        assert!(bus.unmap(0x104) && !bus.unmap(0x104) && !bus.unmap(0x101));
        bus.map(0x104..0x108, Arc::new(Mutex::new(Echo)), 3).unwrap();
        assert_eq!(read(&bus, 0x105), [0x31]);
    }
}

//! The firmware's image and the memory that a machine with firmware has.

use std::ops::Range;
use std::sync::Arc;

use memory::{Gpa, GuestMemory, Kind, PAGE_SIZE, Region, StoreConfig};

use super::shadow;
use crate::Board;
use crate::board::{HIGH_RAM, VGA_HOLE};

/// The largest image: below it are the APICs.
const LARGEST: u64 = 16 << 20;
/// The least: what is seen at the end of the first megabyte.
const SMALLEST: u64 = shadow::IMAGE.end - shadow::IMAGE.start;

/// Why an image is no firmware.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{len} bytes: not the image of a firmware, which has 128 KiB to 16 MiB in whole pages; give it one like SeaBIOS's bios-256k.bin"
)]
pub struct RomError {
    /// The length of the image in bytes.
    pub len: u64,
}

/// A firmware's image, which ends where the first 4 GiB do.
#[derive(Debug, Clone)]
pub struct FirmwareRom {
    image: Arc<[u8]>,
}

impl FirmwareRom {
    /// Checks the image.
    ///
    /// # Errors
    /// [`RomError`] for a length that no firmware has.
    pub fn new(image: &[u8]) -> Result<Self, RomError> {
        let len = image.len() as u64;
        let good = len.is_multiple_of(PAGE_SIZE) && (SMALLEST..=LARGEST).contains(&len);
        if good { Ok(Self { image: image.into() }) } else { Err(RomError { len }) }
    }

    /// Where it lies.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        HIGH_RAM - self.image.len() as u64..HIGH_RAM
    }

    /// Where a flash chip of `bytes` for its variables lies: just below it. `None` when they do not go together: firmware and
    /// variables are the two parts of one device, whose size is a whole number of megabytes.
    #[must_use]
    pub fn variables(&self, bytes: u64) -> Option<Range<u64>> {
        const MIB: u64 = 1 << 20;
        let end = self.range().start;
        let whole = (self.image.len() as u64).checked_add(bytes)?;
        let fits = bytes.is_multiple_of(PAGE_SIZE) && whole.is_multiple_of(MIB) && whole <= LARGEST;
        fits.then(|| end - bytes..end)
    }

    /// The memory of `board` with `ram` bytes of RAM and this firmware: the memory from the video hole to the end of the
    /// first megabyte is switched by the host bridge, and devices bring `stores` along.
    ///
    /// # Errors
    /// [`memory::Error::Reserve`] when the host refuses.
    pub fn memory(&self, board: &Board, ram: u64, stores: &[StoreConfig]) -> memory::Result<GuestMemory> {
        const MIB: u64 = 1 << 20;
        let (low, high) = board.split_ram(ram & !(PAGE_SIZE - 1));
        let range = self.range();
        let parts = [
            (0..VGA_HOLE.start.min(low), Kind::Ram),
            (MIB..low, Kind::Ram),
            (range, Kind::Rom),
            (HIGH_RAM..HIGH_RAM + high, Kind::Ram),
        ];
        let parts = parts.into_iter().filter(|(part, _)| part.start < part.end);
        let regions: Vec<_> =
            parts.map(|(part, kind)| Region { start: Gpa(part.start), len: part.end - part.start, kind }).collect();
        let mut all = vec![StoreConfig::switched(shadow::NAME, shadow::RANGE, shadow::STORE)];
        all.extend_from_slice(stores);
        GuestMemory::with_stores(&regions, &all)
    }

    /// Puts the image to where it belongs, as at power-on. RAM stays as it is.
    ///
    /// # Errors
    /// [`memory::Error`] for a memory that is not [`FirmwareRom::memory`]'s.
    pub fn write(&self, memory: &GuestMemory) -> memory::Result<()> {
        let range = self.range();
        // A ROM that is what it was costs no translated code.
        if !memory.holds(Gpa(range.start), &self.image) {
            memory.write(Gpa(range.start), &self.image)?;
        }
        let end = self.image.len() - SMALLEST as usize;
        let store = memory.store(shadow::NAME).ok_or(memory::Error::Layout(Gpa(shadow::RANGE.start)))?;
        store.write(shadow::IMAGE_STORE, self.image.get(end..).unwrap_or_default())
    }
}

//! Shadow RAM: which memory is seen between the video hole and the first megabyte's end (Intel 440FX datasheet, 290549,
//! 3.2.18, PAM, and 3.2.19, SMRAM; the Q35's are alike).
//!
//! The store behind the range is the RAM of the range itself, and behind that a copy of the firmware's last 128 KiB,
//! which are what is seen at the end of the megabyte when it is not shadowed.

use std::ops::Range;
use std::sync::Arc;

use memory::{GuestMemory, Kind, Store};

/// The name of the store.
pub(super) const NAME: &str = "shadow";
/// What is switched: the memory under the video hole, and 256 KiB for ROMs.
pub(super) const RANGE: Range<u64> = 0xa_0000..0x10_0000;
/// Where the firmware's image is seen.
pub(super) const IMAGE: Range<u64> = 0xe_0000..0x10_0000;
/// Where the store holds the image.
pub(super) const IMAGE_STORE: u64 = RANGE.end - RANGE.start;
/// The size of the store.
pub(super) const STORE: u64 = IMAGE_STORE + (IMAGE.end - IMAGE.start);
/// Where the segments that PAM registers switch start.
const FIRST: u64 = 0xc_0000;
/// The segments of 16 KiB, and the last one of 64 KiB.
const SEGMENT: u64 = 0x4000;
const LAST: u64 = 0xf_0000;

/// How accesses to a segment are decoded: two bits of a PAM register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shadowing {
    /// Reads go to RAM, not to the ROM.
    pub read: bool,
    /// Writes go to RAM, and are not lost.
    pub write: bool,
}

impl Shadowing {
    /// The segments: C0000h, C4000h, and so on to EC000h, and F0000h.
    pub const SEGMENTS: usize = 13;

    /// The two bits of a register.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        Self { read: bits & 1 != 0, write: bits & 2 != 0 }
    }
}

/// The shadow RAM of a machine.
pub struct ShadowRam {
    /// `None` in a memory that has none.
    store: Option<Store>,
    /// Tells the engine.
    changed: Box<dyn Fn() + Send + Sync>,
}

impl ShadowRam {
    /// The shadow RAM in `memory`, which [`super::FirmwareRom::memory`] has made; `changed` tells the engine of a new layout.
    pub fn new(memory: &GuestMemory, changed: impl Fn() + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { store: memory.store(NAME), changed: Box::new(changed) })
    }

    /// The addresses of a segment.
    fn segment(index: usize) -> Range<u64> {
        let start = FIRST + SEGMENT * index as u64;
        if start >= LAST { LAST..RANGE.end } else { start..start + SEGMENT }
    }

    /// Makes the segments what a host bridge says, and the memory under the video hole RAM if that is `open`.
    pub fn set(&self, segments: &[Shadowing; Shadowing::SEGMENTS], open: bool) {
        let store = |at: u64| at - RANGE.start;
        for (shadowing, index) in segments.iter().zip(0..) {
            let at = Self::segment(index);
            let to = match shadowing {
                Shadowing { read: true, write: true } => Some((store(at.start), Kind::Ram)),
                Shadowing { read: true, write: false } => Some((store(at.start), Kind::Rom)),
                // The bus's: nobody is there, but for the firmware. Writes come by `write`.
                _ if at.start >= IMAGE.start => Some((IMAGE_STORE + at.start - IMAGE.start, Kind::Rom)),
                _ => None,
            };
            self.switch(at, to);
        }
        let hole = crate::board::VGA_HOLE;
        self.switch(hole.clone(), open.then_some((store(hole.start), Kind::Ram)));
        (self.changed)();
    }

    /// A write to a segment whose writes go to RAM, while its reads go to the ROM.
    pub fn write(&self, at: u64, data: &[u8]) {
        if RANGE.contains(&at)
            && let Some(store) = &self.store
            && let Err(error) = store.write(at - RANGE.start, data)
        {
            tracing::debug!(%error, "write to shadow RAM");
        }
    }

    /// The segment that holds `at`, and the offset of `at` in the range of all segments.
    #[must_use]
    pub fn segment_of(at: u64) -> Option<usize> {
        let inside = at.checked_sub(FIRST).filter(|_| at < RANGE.end)?;
        Some(((inside / SEGMENT) as usize).min(Shadowing::SEGMENTS - 1))
    }

    /// The addresses of all segments.
    #[must_use]
    pub fn range() -> Range<u64> {
        FIRST..RANGE.end
    }

    fn switch(&self, at: Range<u64>, to: Option<(u64, Kind)>) {
        if let Some(store) = &self.store
            && let Err(error) = store.switch(at, to)
        {
            tracing::warn!(%error, "shadow RAM");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Board;
    use crate::firmware::FirmwareRom;
    use memory::Gpa;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn image() -> Vec<u8> {
        (0..0x4_0000u32).map(|n| (n >> 12) as u8 + 1).collect()
    }

    #[test]
    fn segments_are_rom_ram_or_nothing() {
        let rom = FirmwareRom::new(&image()).unwrap();
        let memory = rom.memory(Board::named("pc-1").unwrap(), 64 << 20, &[]).unwrap();
        rom.write(&memory).unwrap();
        let told = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&told);
        let shadow = ShadowRam::new(&memory, move || _ = count.fetch_add(1, Ordering::Relaxed));
        let mut segments = [Shadowing::default(); Shadowing::SEGMENTS];
        shadow.set(&segments, false);
        let byte = |at: u64| memory.read_array::<1>(Gpa(at)).map(|[byte]| byte).ok();
        assert_eq!([0xf_ffff, 0xe_0000, 0xffff_ffff, 0xfffc_0000].map(byte), [64, 33, 64, 1].map(Some));
        assert_eq!([0xd_ffff, 0xc_0000, 0xa_0000].map(byte), [None; 3]);
        assert!(!memory.is_ram(Gpa(0xf_0000), 1));
        // Writes to RAM, reads from ROM; then the other way round.
        shadow.write(0xf_0000, &[77]);
        assert_eq!(byte(0xf_0000), Some(49));
        segments[12] = Shadowing::from_bits(1);
        segments[0] = Shadowing::from_bits(3);
        shadow.set(&segments, true);
        assert_eq!(byte(0xf_0000), Some(77));
        assert!(!memory.is_ram(Gpa(0xf_0000), 1) && memory.is_ram(Gpa(0xa_0000), 0x2_4000));
        assert_eq!(byte(0xc_4000), None);
        shadow.set(&[Shadowing::default(); Shadowing::SEGMENTS], false);
        assert_eq!([byte(0xf_0000), byte(0xc_0000), byte(0xb_8000)], [Some(49), None, None]);
        assert_eq!(told.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn segments_are_found() {
        for index in 0..Shadowing::SEGMENTS {
            let at = ShadowRam::segment(index);
            assert_eq!([at.start, at.end - 1].map(ShadowRam::segment_of), [Some(index); 2]);
        }
        assert_eq!([0xb_ffff, 0x10_0000].map(ShadowRam::segment_of), [None; 2]);
    }

    #[test]
    fn images_are_checked() {
        for bad in [0, 4096, 0x1_0000, 0x2_0001, 0x101_0000] {
            assert!(FirmwareRom::new(&vec![0; bad]).is_err());
        }
    }
}

//! The regions of guest-physical memory and checked access to them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use base::{HUGE_PAGE, Mapping};

use crate::movable::Movable;
use crate::store::{Store, StoreConfig, StorePlace};
use crate::switched::Table;
use crate::{Error, Gpa, PAGE_SIZE, PageFlags, Result};

/// What a region is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory that the guest reads and writes.
    Ram,
    /// Memory that the guest reads; its writes go to the bus.
    Rom,
}

/// A range of guest-physical addresses backed by host memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// The first address, a multiple of [`PAGE_SIZE`].
    pub start: Gpa,
    /// The length in bytes, a multiple of [`PAGE_SIZE`].
    pub len: u64,
    /// What it is.
    pub kind: Kind,
}

/// A page of guest memory as an engine sees it.
#[derive(Debug, Clone, Copy)]
pub struct HostPage {
    /// The first byte of the page in this process.
    pub ptr: *mut u8,
    /// The index of the page in [`PageFlags`].
    pub index: usize,
    /// What the page is to the guest.
    pub kind: Kind,
}

/// The memory of one guest. Cheap to clone.
#[derive(Clone)]
pub struct GuestMemory(Arc<Shared>);

struct Shared {
    mapping: Mapping,
    /// In order of address, each with its offset in the mapping.
    regions: Vec<(Region, u64)>,
    /// The largest of them, where most accesses go.
    main: (Region, u64),
    /// What comes and goes while the guest runs.
    stores: Vec<Held>,
    /// Held by who moves a store. Nobody who looks for memory takes it.
    moving: Mutex<()>,
    flags: PageFlags,
}

/// A store with what is seen of it.
struct Held {
    name: &'static str,
    /// Where it lies in the mapping.
    span: Range<u64>,
    seen: Seen,
}

enum Seen {
    Pages(Table),
    Whole(Movable),
}

impl Seen {
    #[inline]
    fn locate(&self, at: u64) -> Option<(Kind, u64, u64)> {
        match self {
            Self::Pages(table) => table.locate(at),
            Self::Whole(movable) => movable.locate(at),
        }
    }

    fn regions(&self) -> Vec<Region> {
        match self {
            Self::Pages(table) => table.regions(),
            Self::Whole(movable) => movable.region().into_iter().collect(),
        }
    }

    /// The addresses that are taken by it.
    fn taken(&self) -> Option<Range<u64>> {
        match self {
            Self::Pages(table) => Some(table.range.clone()),
            Self::Whole(movable) => movable.region().map(|region| region.start.0..region.start.0 + region.len),
        }
    }
}

impl GuestMemory {
    /// Reserves memory for `regions`, all zero. Nothing is touched yet: the host gives pages as they are used.
    ///
    /// # Errors
    /// [`Error::Layout`] for regions that are empty, unaligned or overlap; [`Error::Reserve`] when the host refuses.
    pub fn new(regions: &[Region]) -> Result<Self> {
        Self::with_stores(regions, &[])
    }

    /// As [`GuestMemory::new`], with stores whose memory comes and goes while the guest runs.
    ///
    /// # Errors
    /// As [`GuestMemory::new`]; [`Error::Layout`] also for stores and ranges that are empty or not of whole pages, a name
    /// that is taken, and ranges that overlap `regions` or each other.
    pub fn with_stores(regions: &[Region], stores: &[StoreConfig]) -> Result<Self> {
        let mut sorted = regions.to_vec();
        sorted.sort_by_key(|r| r.start);
        let mut placed = Vec::with_capacity(sorted.len());
        let (mut offset, mut free_from) = (0u64, 0u64);
        for region in sorted {
            let bad = Error::Layout(region.start);
            let Some(end) = region.start.0.checked_add(region.len) else { return Err(bad) };
            let aligned = region.start.0 % PAGE_SIZE == 0 && region.len % PAGE_SIZE == 0;
            if region.len == 0 || !aligned || region.start.0 < free_from {
                return Err(bad);
            }
            // Congruent, so that the host's huge pages can be the guest's.
            let huge = HUGE_PAGE as u64;
            let skew = if region.len < huge { 0 } else { region.start.0.wrapping_sub(offset) % huge };
            offset = offset.checked_add(skew).ok_or(Error::Layout(region.start))?;
            placed.push((region, offset));
            free_from = end;
            offset = offset.checked_add(region.len).ok_or(Error::Layout(region.start))?;
        }
        let mut held: Vec<Held> = Vec::with_capacity(stores.len());
        for StoreConfig { name, bytes, place } in stores {
            let range = if let StorePlace::Pages(range) = place { range.clone() } else { 0..PAGE_SIZE };
            let bad = || Error::Layout(Gpa(range.start));
            let whole = [range.start, range.end, *bytes].iter().all(|n| n % PAGE_SIZE == 0);
            let free = *place == StorePlace::Anywhere
                || placed.iter().all(|(r, _)| range.end <= r.start.0 || r.start.0 + r.len <= range.start)
                    && held.iter().filter_map(|other| other.seen.taken()).all(|other| apart(&range, &other));
            if !whole || !free || *bytes == 0 || range.is_empty() || held.iter().any(|other| other.name == *name) {
                return Err(bad());
            }
            if *bytes >= HUGE_PAGE as u64 {
                offset = offset.checked_next_multiple_of(HUGE_PAGE as u64).ok_or_else(bad)?;
            }
            let span = offset..offset.checked_add(*bytes).ok_or_else(bad)?;
            offset = span.end;
            let seen = match place {
                StorePlace::Pages(_) => Seen::Pages(Table::new(range, span.clone())),
                StorePlace::Anywhere => Seen::Whole(Movable::new(span.clone())),
            };
            held.push(Held { name, span, seen });
        }
        let refused = |source| Error::Reserve { bytes: offset, source };
        let len = usize::try_from(offset).map_err(|_| refused(std::io::ErrorKind::OutOfMemory.into()))?;
        let mapping = Mapping::anonymous(len).map_err(refused)?;
        let flags = PageFlags::new(len / PAGE_SIZE as usize);
        let none = (Region { start: Gpa(0), len: 0, kind: Kind::Ram }, 0);
        let main = placed.iter().copied().max_by_key(|(region, _)| region.len).unwrap_or(none);
        Ok(Self(Arc::new(Shared { mapping, regions: placed, main, stores: held, moving: Mutex::default(), flags })))
    }

    /// Has the host back the memory with huge pages where it can, for an engine whose CPU walks the host's tables too.
    pub fn prefer_huge_pages(&self) {
        self.0.mapping.prefer_huge_pages();
    }

    /// The regions in order of address, as they are now.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        let mut regions: Vec<_> = self.0.regions.iter().map(|(region, _)| *region).collect();
        if !self.0.stores.is_empty() {
            regions.extend(self.0.stores.iter().flat_map(|store| store.seen.regions()));
            regions.sort_by_key(|region| region.start);
        }
        regions.into_iter()
    }

    /// The store of this name.
    #[must_use]
    pub fn store(&self, name: &str) -> Option<Store> {
        let index = self.0.stores.iter().position(|store| store.name == name)?;
        Some(Store::new(self.clone(), index, self.0.stores.get(index)?.span.clone()))
    }

    /// Switches pages of a store. Returns false, with nothing changed, when that is not possible.
    pub(crate) fn switch_store(&self, index: usize, at: Range<u64>, to: Option<(u64, Kind)>) -> bool {
        let _moving = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(self.0.stores.get(index), Some(Held { seen: Seen::Pages(table), .. }) if table.switch(at, to))
    }

    /// Moves a store. Returns false, with the store seen nowhere, when it cannot be there.
    pub(crate) fn place_store(&self, index: usize, at: Option<Gpa>) -> bool {
        let _moving = self.0.moving.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Held { seen: Seen::Whole(movable), .. }) = self.0.stores.get(index) else { return false };
        movable.place(None);
        let Some(at) = at else { return true };
        let Some(range) = movable.range_at(at.0) else { return false };
        let fixed = self.0.regions.iter().map(|(r, _)| r.start.0..r.start.0 + r.len);
        let others = self.0.stores.iter().filter_map(|store| store.seen.taken());
        let free = fixed.chain(others).all(|other| apart(&range, &other));
        if free {
            movable.place(Some(at.0));
        }
        free
    }

    /// Reads bytes of the mapping, which the caller has checked to be inside of it.
    pub(crate) fn read_mapping(&self, start: usize, data: &mut [u8]) {
        assert!(start.checked_add(data.len()).is_some_and(|end| end <= self.0.mapping.len()), "inside of the mapping");
        // SAFETY: the range is inside of the mapping. The guest may write the bytes meanwhile; they are copied as bytes,
        // of which every value is valid.
        unsafe { std::ptr::copy_nonoverlapping(self.0.mapping.as_ptr().add(start), data.as_mut_ptr(), data.len()) };
    }

    /// Writes bytes of the mapping, which the caller has checked to be inside of it.
    pub(crate) fn write_mapping(&self, start: usize, data: &[u8]) {
        assert!(start.checked_add(data.len()).is_some_and(|end| end <= self.0.mapping.len()), "inside of the mapping");
        // SAFETY: as in `read_mapping`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.0.mapping.as_ptr().add(start), data.len()) };
        self.note_written(start, data.len());
    }

    /// Whether all `len` bytes at `at` are RAM, which a device may write to.
    #[must_use]
    pub fn is_ram(&self, at: Gpa, len: u64) -> bool {
        let Some(end) = at.0.checked_add(len) else { return false };
        let mut at = at.0;
        while at < end {
            let Some((Kind::Ram, _, left)) = self.locate(Gpa(at)) else { return false };
            at = at.saturating_add(left);
        }
        true
    }

    /// Tells of `len` bytes at `offset` of the mapping that have been written.
    fn note_written(&self, offset: usize, len: usize) {
        let (page_size, end) = (PAGE_SIZE as usize, offset + len);
        for page in offset / page_size..end.div_ceil(page_size) {
            let from = offset.max(page * page_size);
            self.0.flags.written(page, from % page_size, end.min((page + 1) * page_size) - from);
        }
    }

    /// The per-page flags.
    #[inline]
    #[must_use]
    pub fn flags(&self) -> &PageFlags {
        &self.0.flags
    }

    /// The page that holds `at`, `None` where there is no memory.
    #[inline]
    #[must_use]
    pub fn host_page(&self, at: Gpa) -> Option<HostPage> {
        let (kind, offset, _) = self.locate(at)?;
        let page = offset & !(PAGE_SIZE - 1);
        let index = (page / PAGE_SIZE) as usize;
        // SAFETY: `locate` only gives offsets inside of the mapping.
        let ptr = unsafe { self.0.mapping.as_ptr().add(page as usize) };
        Some(HostPage { ptr, index, kind })
    }

    /// Reads `data.len()` bytes at `at`.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of memory; `data` is then partly filled.
    pub fn read(&self, at: Gpa, data: &mut [u8]) -> Result<()> {
        self.chunks(at, data.len(), |_, offset, range| {
            // SAFETY: `chunks` gives ranges inside of the mapping and of `data`. The guest may write the bytes
            // meanwhile; they are copied as bytes, of which every value is valid.
            unsafe {
                let from = self.0.mapping.as_ptr().add(offset);
                std::ptr::copy_nonoverlapping(from, data[range.clone()].as_mut_ptr(), range.len());
            }
        })
    }

    /// Whether there are `bytes` at `at`; somewhere outside of memory there is nothing.
    #[must_use]
    pub fn holds(&self, at: Gpa, bytes: &[u8]) -> bool {
        let mut now = [0; 256];
        let mut at = at.0;
        bytes.chunks(now.len()).all(|bytes| {
            let now = &mut now[..bytes.len()];
            let same = self.read(Gpa(at), now).is_ok() && now == bytes;
            at = at.wrapping_add(bytes.len() as u64);
            same
        })
    }

    /// Writes `data` at `at`, ROM too: the guest's own writes do not come this way.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of memory; the bytes before it are then written.
    pub fn write(&self, at: Gpa, data: &[u8]) -> Result<()> {
        self.chunks(at, data.len(), |_, offset, range| {
            // SAFETY: as in `read`.
            unsafe {
                let to = self.0.mapping.as_ptr().add(offset);
                std::ptr::copy_nonoverlapping(data[range.clone()].as_ptr(), to, range.len());
            }
            self.note_written(offset, range.len());
        })
    }

    /// Reads a little-endian number of `N` bytes.
    ///
    /// # Errors
    /// As [`GuestMemory::read`].
    pub fn read_array<const N: usize>(&self, at: Gpa) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }

    /// The address just behind the last byte of memory.
    #[must_use]
    pub fn end(&self) -> Gpa {
        Gpa(self.0.regions.last().map_or(0, |(r, _)| r.start.0 + r.len))
    }

    /// The amount of RAM in bytes.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.regions().filter(|r| r.kind == Kind::Ram).map(|r| r.len).sum()
    }

    /// Kind, offset in the mapping and bytes left in the region.
    #[inline]
    fn locate(&self, at: Gpa) -> Option<(Kind, u64, u64)> {
        let look = |(region, offset): &(Region, u64)| {
            let inside = at.0.wrapping_sub(region.start.0);
            (inside < region.len).then(|| (region.kind, offset + inside, region.len - inside))
        };
        let stores = || self.0.stores.iter().find_map(|store| store.seen.locate(at.0));
        look(&self.0.main).or_else(|| self.0.regions.iter().find_map(look)).or_else(stores)
    }

    fn chunks(&self, at: Gpa, len: usize, mut each: impl FnMut(Kind, usize, std::ops::Range<usize>)) -> Result<()> {
        let mut done = 0;
        while done < len {
            let hole = Error::Hole { at, len };
            let Some(here) = at.0.checked_add(done as u64) else { return Err(hole) };
            let Some((kind, offset, left)) = self.locate(Gpa(here)) else { return Err(hole) };
            let n = (len - done).min(usize::try_from(left).unwrap_or(usize::MAX));
            each(kind, offset as usize, done..done + n);
            done += n;
        }
        Ok(())
    }
}

fn apart(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.end <= b.start || b.end <= a.start
}

impl std::fmt::Debug for GuestMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.regions()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(start: u64, len: u64) -> Region {
        Region { start: Gpa(start), len, kind: Kind::Ram }
    }

    #[test]
    fn regions_read_back_and_holes_are_refused() {
        let mem = GuestMemory::new(&[ram(0x10_0000, 0x2000), ram(0, 0x1000)]).unwrap();
        mem.write(Gpa(0x10_0ffe), &[1, 2, 3, 4]).unwrap();
        assert_eq!(mem.read_array(Gpa(0x10_0ffe)).unwrap(), [1, 2, 3, 4]);
        assert!(mem.flags().take_dirty(1) && mem.flags().take_dirty(2) && !mem.flags().take_dirty(0));
        assert!(matches!(mem.write(Gpa(0xfff), &[0; 2]), Err(Error::Hole { .. })));
        assert!(matches!(mem.read(Gpa(u64::MAX), &mut [0; 2]), Err(Error::Hole { .. })));
        assert_eq!(mem.ram_bytes(), 0x3000);
        assert_eq!(mem.end(), Gpa(0x10_2000));
        assert!(mem.host_page(Gpa(0x2000)).is_none());
    }

    #[test]
    fn writes_from_outside_reach_code_and_only_code() {
        let mem = GuestMemory::new(&[ram(0, 0x3000)]).unwrap();
        let flags = mem.flags();
        for page in 0..3 {
            flags.arm_code(page);
            assert!(flags.set_code(page));
            assert!(flags.mark_code(page, 1 | 1 << 63).is_some());
        }
        mem.write(Gpa(0x1040), &[0; 0xf80]).unwrap();
        assert_eq!([0, 1, 2].map(|page| flags.marked(page)), [1 | 1 << 63; 3]);
        mem.write(Gpa(0xfff), &[0; 0x1041]).unwrap();
        assert_eq!([0, 1, 2].map(|page| flags.marked(page)), [1, 0, 1 << 63]);
        assert_eq!([0, 1, 2].map(|page| flags.generation(page)), [1; 3]);
    }

    #[test]
    fn pages_are_switched_under_the_guest() {
        let config = StoreConfig::switched("shadow", 0x1000..0x5000, 0x6000);
        let regions = [ram(0, 0x1000), ram(0x8000, 0x2000)];
        let mem = GuestMemory::with_stores(&regions, std::slice::from_ref(&config)).unwrap();
        let store = mem.store("shadow").unwrap();
        assert!(mem.store("other").is_none());
        assert!(mem.host_page(Gpa(0x1000)).is_none() && mem.read(Gpa(0xffe), &mut [0; 4]).is_err());
        store.write(0x1ffe, &[1, 2, 3, 4]).unwrap();
        store.switch(0x1000..0x3000, Some((0x2000, Kind::Rom))).unwrap();
        store.switch(0x3000..0x4000, Some((0x1000, Kind::Ram))).unwrap();
        assert_eq!(mem.read_array(Gpa(0x1000)).unwrap(), [3, 4]);
        assert_eq!(mem.read_array(Gpa(0x3ffe)).unwrap(), [1, 2]);
        let regions: Vec<_> = mem.regions().map(|r| (r.start.0, r.len, r.kind)).collect();
        let (region, ram, rom) = (ram, Kind::Ram, Kind::Rom);
        assert_eq!(regions, [(0, 0x1000, ram), (0x1000, 0x2000, rom), (0x3000, 0x1000, ram), (0x8000, 0x2000, ram)]);
        assert!(mem.is_ram(Gpa(0x3000), 0x1000) && !mem.is_ram(Gpa(0x2fff), 2) && !mem.is_ram(Gpa(0x3fff), 2));
        assert!(mem.is_ram(Gpa(0x8000), 0x2000) && !mem.is_ram(Gpa(0x8000), 0x2001) && !mem.is_ram(Gpa(u64::MAX), 2));
        mem.write(Gpa(0x3000), &[9]).unwrap();
        store.switch(0x3000..0x4000, None).unwrap();
        assert!(mem.write(Gpa(0x3000), &[9]).is_err());
        let mut kept = [0];
        store.read(0x1000, &mut kept).unwrap();
        assert_eq!(kept, [9]);
        for (at, to) in
            [(0..0x1000, 0), (0x4000..0x6000, 0), (0x1000..0x3000, 0x5000), (0x1000..0x2000, 1), (0x1000..0x1800, 0)]
        {
            assert!(store.switch(at, Some((to, Kind::Ram))).is_err());
        }
        assert!(store.write(0x5fff, &[0; 2]).is_err() && store.read(u64::MAX, &mut [0]).is_err());
        assert!(store.place(Some(Gpa(0x10_0000))).is_err());
        let refused = |configs: &[StoreConfig]| GuestMemory::with_stores(&[region(0x1000, 0x1000)], configs).is_err();
        assert!(refused(std::slice::from_ref(&config)));
        let other = |at| StoreConfig::switched("other", at, 0x1000);
        assert!(refused(&[other(0x4000..0x6000), StoreConfig::switched("b", 0x5000..0x6000, 0x1000)]));
        assert!(refused(&[StoreConfig::movable("a", 0x1001)]) && refused(&[StoreConfig::movable("a", 0)]));
        assert!(refused(&[other(0x4000..0x4000)]) && refused(&[other(0x4000..0x5000), other(0x6000..0x7000)]));
    }

    #[test]
    fn stores_are_moved_under_the_guest() {
        let configs = [
            StoreConfig::movable("a", 0x2000),
            StoreConfig::switched("shadow", 0x4000..0x5000, 0x1000),
            StoreConfig::movable("b", 0x1000),
        ];
        let mem = GuestMemory::with_stores(&[ram(0, 0x2000)], &configs).unwrap();
        let [a, b] = ["a", "b"].map(|name| mem.store(name).unwrap());
        assert_eq!((a.bytes(), mem.ram_bytes()), (0x2000, 0x2000));
        a.write(0x1fff, &[7]).unwrap();
        assert!(a.write(0x1fff, &[7, 8]).is_err() && b.read(0x1000, &mut [0]).is_err());
        assert!(mem.read(Gpa(0x1_1fff), &mut [0]).is_err());
        a.place(Some(Gpa(0x1_0000))).unwrap();
        assert_eq!(mem.read_array(Gpa(0x1_1fff)).unwrap(), [7]);
        assert!(mem.is_ram(Gpa(0x1_0000), 0x2000) && !mem.is_ram(Gpa(0x1_0000), 0x2001));
        let page = mem.host_page(Gpa(0x1_1000)).unwrap();
        assert!(mem.flags().take_dirty(page.index) && !mem.flags().take_dirty(page.index));
        // It is what it was wherever it is seen, and there only.
        a.place(Some(Gpa(0x8000_0000))).unwrap();
        assert_eq!(mem.read_array(Gpa(0x8000_1fff)).unwrap(), [7]);
        assert!(mem.host_page(Gpa(0x1_1000)).is_none());
        mem.write(Gpa(0x8000_1ffe), &[9]).unwrap();
        assert_eq!(mem.host_page(Gpa(0x8000_1000)).unwrap().index, page.index);
        assert!(mem.flags().take_dirty(page.index));
        let regions: Vec<_> = mem.regions().map(|r| (r.start.0, r.len)).collect();
        assert_eq!(regions, [(0, 0x2000), (0x8000_0000, 0x2000)]);
        // Not over RAM, over a range that is switched, over each other; not in the middle of a page, not at the end.
        for taken in [0x1000, 0x3000, 0x4000, 0x1_0800, u64::MAX - 0xfff] {
            assert!(a.place(Some(Gpa(taken))).is_err() && mem.regions().count() == 1, "{taken:#x}");
        }
        b.place(Some(Gpa(0x6000))).unwrap();
        assert!(a.place(Some(Gpa(0x5000))).is_err() && a.place(Some(Gpa(0x7000))).is_ok());
        assert!(a.switch(0x7000..0x8000, None).is_err());
        a.place(None).unwrap();
        assert!(mem.read(Gpa(0x7000), &mut [0]).is_err());
    }

    #[test]
    fn large_regions_can_have_huge_pages() {
        let mem = GuestMemory::new(&[ram(0, 0xa_0000), ram(0xc_0000, 0x50_0000)]).unwrap();
        for at in [0xc_0000, 0x20_0000, 0x40_0000] {
            let page = mem.host_page(Gpa(at)).unwrap();
            assert_eq!(page.ptr as u64 % HUGE_PAGE as u64, at % HUGE_PAGE as u64, "{at:#x}");
        }
        mem.write(Gpa(0x5b_fffc), &[1, 2, 3, 4]).unwrap();
        assert_eq!(mem.read_array(Gpa(0x5b_fffc)).unwrap(), [1, 2, 3, 4]);
    }

    #[test]
    fn bad_layouts_are_refused() {
        for bad in [vec![ram(0, 0)], vec![ram(1, 0x1000)], vec![ram(0, 0x2000), ram(0x1000, 0x1000)]] {
            assert!(matches!(GuestMemory::new(&bad), Err(Error::Layout(_))));
        }
    }
}

//! The regions of guest-physical memory and checked access to them.

use std::sync::Arc;

use base::{HUGE_PAGE, Mapping};

use crate::switched::{Switched, Table};
use crate::{Error, Gpa, PAGE_SIZE, PageFlags, Result};

/// What a region is to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Memory that the guest reads and writes.
    Ram,
    /// Memory that the guest reads; its writes go to the bus, where nobody listens.
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
    /// The pages that are switched while the guest runs.
    switched: Option<Table>,
    flags: PageFlags,
}

impl GuestMemory {
    /// Reserves memory for `regions`, all zero. Nothing is touched yet: the host gives pages as they are used.
    ///
    /// # Errors
    /// [`Error::Layout`] for regions that are empty, unaligned or overlap; [`Error::Reserve`] when the host refuses.
    pub fn new(regions: &[Region]) -> Result<Self> {
        Self::with_switched(regions, None)
    }

    /// As [`GuestMemory::new`], with a range beside `regions` whose pages are switched while the guest runs.
    ///
    /// # Errors
    /// As [`GuestMemory::new`]; [`Error::Layout`] also for a range that overlaps `regions` or is not of whole pages.
    pub fn with_switched(regions: &[Region], switched: Option<&Switched>) -> Result<Self> {
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
        let mut table = None;
        if let Some(Switched { range, store }) = switched {
            let free = placed.iter().all(|(r, _)| range.end <= r.start.0 || r.start.0 + r.len <= range.start);
            let whole = [range.start, range.end, *store].iter().all(|n| n % PAGE_SIZE == 0);
            let end = offset.checked_add(*store).filter(|_| free && whole && range.start < range.end);
            let end = end.ok_or(Error::Layout(Gpa(range.start)))?;
            table = Some(Table::new(range.clone(), offset..end));
            offset = end;
        }
        let refused = |source| Error::Reserve { bytes: offset, source };
        let len = usize::try_from(offset).map_err(|_| refused(std::io::ErrorKind::OutOfMemory.into()))?;
        let mapping = Mapping::anonymous(len).map_err(refused)?;
        let flags = PageFlags::new(len / PAGE_SIZE as usize);
        let none = (Region { start: Gpa(0), len: 0, kind: Kind::Ram }, 0);
        let main = placed.iter().copied().max_by_key(|(region, _)| region.len).unwrap_or(none);
        Ok(Self(Arc::new(Shared { mapping, regions: placed, main, switched: table, flags })))
    }

    /// Has the host back the memory with huge pages where it can, for an engine whose CPU walks the host's tables too.
    pub fn prefer_huge_pages(&self) {
        self.0.mapping.prefer_huge_pages();
    }

    /// The regions in order of address, as they are now.
    pub fn regions(&self) -> impl Iterator<Item = Region> + use<> {
        let mut regions: Vec<_> = self.0.regions.iter().map(|(region, _)| *region).collect();
        if let Some(table) = &self.0.switched {
            regions.extend(table.regions());
            regions.sort_by_key(|region| region.start);
        }
        regions.into_iter()
    }

    /// Switches the pages at the addresses `at` to offset `to` of the store of the [`Switched`] range, as this kind of
    /// memory, or to nothing. The engine has to be told then: `engine::Partition::layout_changed`.
    ///
    /// # Errors
    /// [`Error::Layout`] when a page is outside of the range or of its store.
    pub fn switch(&self, at: std::ops::Range<u64>, to: Option<(u64, Kind)>) -> Result<()> {
        let bad = Error::Layout(Gpa(at.start));
        let done = self.0.switched.as_ref().is_some_and(|table| table.switch(at, to));
        if done { Ok(()) } else { Err(bad) }
    }

    /// Reads the store of the [`Switched`] range at `offset`, wherever that is mapped.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of the store.
    pub fn read_store(&self, offset: u64, data: &mut [u8]) -> Result<()> {
        let start = self.in_store(offset, data.len())?;
        // SAFETY: `in_store` only gives ranges inside of the mapping. The guest may write the bytes meanwhile; they are
        // copied as bytes, of which every value is valid.
        unsafe { std::ptr::copy_nonoverlapping(self.0.mapping.as_ptr().add(start), data.as_mut_ptr(), data.len()) };
        Ok(())
    }

    /// Writes the store of the [`Switched`] range at `offset`, wherever that is mapped.
    ///
    /// # Errors
    /// [`Error::Hole`] when a byte is outside of the store.
    pub fn write_store(&self, offset: u64, data: &[u8]) -> Result<()> {
        let start = self.in_store(offset, data.len())?;
        // SAFETY: as in `read_store`.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), self.0.mapping.as_ptr().add(start), data.len()) };
        self.note_written(start, data.len());
        Ok(())
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

    /// Where `len` bytes of the store lie in the mapping.
    fn in_store(&self, offset: u64, len: usize) -> Result<usize> {
        let store = self.0.switched.as_ref().map_or(0..0, |table| table.store.clone());
        let start = store.start.checked_add(offset);
        let fits = start.and_then(|start| start.checked_add(len as u64)).is_some_and(|end| end <= store.end);
        start.filter(|_| fits).map(|start| start as usize).ok_or(Error::Hole { at: Gpa(offset), len })
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
        let switched = || self.0.switched.as_ref().and_then(|table| table.locate(at.0));
        look(&self.0.main).or_else(|| self.0.regions.iter().find_map(look)).or_else(switched)
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
        let range = Switched { range: 0x1000..0x5000, store: 0x6000 };
        let mem = GuestMemory::with_switched(&[ram(0, 0x1000), ram(0x8000, 0x2000)], Some(&range)).unwrap();
        assert!(mem.host_page(Gpa(0x1000)).is_none() && mem.read(Gpa(0xffe), &mut [0; 4]).is_err());
        mem.write_store(0x1ffe, &[1, 2, 3, 4]).unwrap();
        mem.switch(0x1000..0x3000, Some((0x2000, Kind::Rom))).unwrap();
        mem.switch(0x3000..0x4000, Some((0x1000, Kind::Ram))).unwrap();
        assert_eq!(mem.read_array(Gpa(0x1000)).unwrap(), [3, 4]);
        assert_eq!(mem.read_array(Gpa(0x3ffe)).unwrap(), [1, 2]);
        let regions: Vec<_> = mem.regions().map(|r| (r.start.0, r.len, r.kind)).collect();
        let (region, ram, rom) = (ram, Kind::Ram, Kind::Rom);
        assert_eq!(regions, [(0, 0x1000, ram), (0x1000, 0x2000, rom), (0x3000, 0x1000, ram), (0x8000, 0x2000, ram)]);
        assert!(mem.is_ram(Gpa(0x3000), 0x1000) && !mem.is_ram(Gpa(0x2fff), 2) && !mem.is_ram(Gpa(0x3fff), 2));
        assert!(mem.is_ram(Gpa(0x8000), 0x2000) && !mem.is_ram(Gpa(0x8000), 0x2001) && !mem.is_ram(Gpa(u64::MAX), 2));
        mem.write(Gpa(0x3000), &[9]).unwrap();
        mem.switch(0x3000..0x4000, None).unwrap();
        assert!(mem.write(Gpa(0x3000), &[9]).is_err());
        let mut kept = [0];
        mem.read_store(0x1000, &mut kept).unwrap();
        assert_eq!(kept, [9]);
        for (at, to) in
            [(0..0x1000, 0), (0x4000..0x6000, 0), (0x1000..0x3000, 0x5000), (0x1000..0x2000, 1), (0x1000..0x1800, 0)]
        {
            assert!(mem.switch(at, Some((to, Kind::Ram))).is_err());
        }
        assert!(mem.write_store(0x5fff, &[0; 2]).is_err() && mem.read_store(u64::MAX, &mut [0]).is_err());
        assert!(GuestMemory::with_switched(&[region(0x1000, 0x1000)], Some(&range)).is_err());
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

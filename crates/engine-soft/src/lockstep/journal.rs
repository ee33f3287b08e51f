//! The pages that are written while a journal is open, as they were before.

use crate::cpu::Cpu;

const PAGE: usize = 4096;
/// What is put back at once: a line of code, so that code beside what was written stays valid.
const LINE: usize = memory::CODE_LINE;

/// A page of guest memory, and what it holds in the end or held before.
struct Page {
    /// The index of the page in `memory::PageFlags`.
    index: usize,
    host: *mut u8,
    /// What it held before.
    before: Box<[u8]>,
    /// What the run that was rolled back had made of it.
    after: Box<[u8]>,
}

/// A record of the memory that a vCPU changes. While it is open, the MMU tells it of each page before the first write,
/// and refuses accesses to the bus: what devices do cannot be taken back.
pub(crate) struct Journal {
    pages: Vec<Page>,
    /// An access to the bus has been refused: the fault that was raised instead is none of the guest's.
    pub(crate) refused: bool,
}

/// Bytes of guest memory that two runs have left differently.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct MemoryDifference {
    /// The index of the page in guest RAM.
    pub(crate) page: usize,
    /// Where in the page the first difference is.
    pub(crate) offset: usize,
    /// The eight bytes from there: of the run that was rolled back, and of the other.
    pub(crate) first: Vec<u8>,
    pub(crate) second: Vec<u8>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Self { pages: Vec::new(), refused: false }
    }

    /// Notes that page `index`, which is at `host`, is about to be written.
    ///
    /// # Safety
    /// `host` must be the first byte of a page of guest RAM that outlives the journal.
    pub(crate) unsafe fn save(&mut self, index: usize, host: *mut u8) {
        if self.pages.iter().rev().any(|page| page.index == index) {
            return;
        }
        // SAFETY: the caller's promise.
        let before = unsafe { copy_of(host) };
        self.pages.push(Page { index, host, before, after: Box::default() });
    }

    /// Puts memory back to what it was and keeps what is there now.
    pub(crate) fn roll_back(&mut self, cpu: &mut Cpu) {
        for page in &mut self.pages {
            // SAFETY: the promise that `save` was given.
            page.after = unsafe { copy_of(page.host) };
            page.put(&page.before, cpu);
        }
    }

    /// Where memory is not what it was when it was rolled back. With `walked`, A and D bits may differ: one of the two
    /// runs has found translations that the other one had cached.
    pub(crate) fn differences(&self, walked: bool) -> Vec<MemoryDifference> {
        self.pages.iter().filter_map(|page| page.difference(walked)).collect()
    }

    /// Brings memory back to what the run that was rolled back had made of it.
    pub(crate) fn roll_forward(&self, cpu: &mut Cpu) {
        self.pages.iter().filter(|page| !page.after.is_empty()).for_each(|page| page.put(&page.after, cpu));
    }
}

impl Page {
    /// Writes those lines of `bytes` that differ, and tells of it as any writer does.
    fn put(&self, bytes: &[u8], cpu: &mut Cpu) {
        // SAFETY: the promise that `save` was given.
        let now = unsafe { copy_of(self.host) };
        for (line, (new, old)) in bytes.chunks(LINE).zip(now.chunks(LINE)).enumerate() {
            if new != old {
                // SAFETY: as above; the line is within the page.
                unsafe { std::ptr::copy_nonoverlapping(new.as_ptr(), self.host.add(line * LINE), new.len()) };
                cpu.wrote(self.index, (line * LINE) as u64, new.len() as u64);
            }
        }
    }

    fn difference(&self, walked: bool) -> Option<MemoryDifference> {
        // SAFETY: the promise that `save` was given.
        let now = unsafe { copy_of(self.host) };
        // A page that only the second run has written: it should be as before.
        let first = if self.after.is_empty() { &self.before } else { &self.after };
        // A and D are bits 5 and 6 of an entry, and entries are of 4 or 8 bytes.
        let but_for_walks =
            |a: &[u8], b: &[u8]| a.iter().zip(b).enumerate().all(|(at, (a, b))| (a ^ b) & !walk_bits(at) == 0);
        let differs = |a: &[u8], b: &[u8]| a != b && !(walked && but_for_walks(a, b));
        if !differs(first, &now) {
            return None;
        }
        let word = (0..PAGE / 8).find(|word| differs(&first[word * 8..word * 8 + 8], &now[word * 8..word * 8 + 8]))?;
        let range = word * 8..word * 8 + 8;
        Some(MemoryDifference {
            page: self.index,
            offset: range.start,
            first: first[range.clone()].into(),
            second: now[range].into(),
        })
    }
}

/// The bits of the byte at `at` that a page walk may set.
fn walk_bits(at: usize) -> u8 {
    if at.is_multiple_of(4) { 0x60 } else { 0 }
}

/// # Safety
/// `host` must be the first byte of a page of guest RAM.
unsafe fn copy_of(host: *const u8) -> Box<[u8]> {
    let mut bytes = Vec::with_capacity(PAGE);
    // SAFETY: the caller's promise; all of the new bytes are written before they count.
    unsafe {
        std::ptr::copy_nonoverlapping(host, bytes.as_mut_ptr(), PAGE);
        bytes.set_len(PAGE);
    }
    bytes.into()
}

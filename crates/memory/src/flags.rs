//! Per-page flags, shared by all vCPUs and devices without locks.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering, fence};

/// What is known of each page of guest RAM, by its index in the reservation.
///
/// The protocol for decoded code. A page becomes a code page in two steps: [`PageFlags::arm_code`] lets nobody take a
/// new right to write it silently and tells whether somebody has one; when those rights are gone,
/// [`PageFlags::set_code`]. Only then does the engine read the bytes that it decodes, with [`PageFlags::generation`]
/// before them. Whoever writes to a page calls [`PageFlags::written`] *after* the write, which bumps the generation of
/// a code page: decoded code whose generation is not the page's has to be looked at again.
pub struct PageFlags {
    flags: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
}

/// The page has been written since the dirty log was last collected.
const DIRTY: u8 = 1;
/// Some engine holds decoded code of this page.
const CODE: u8 = 2;
/// The page is code or about to be: no silent writes any more.
const ARMED: u8 = 4;
/// Some vCPU may hold a translation through which it writes silently.
const WRITE_CACHED: u8 = 8;

impl PageFlags {
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            flags: (0..pages).map(|_| AtomicU8::new(0)).collect(),
            generations: (0..pages).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Notes that page `index` has just been written by someone who holds no right to do so silently.
    #[inline]
    pub fn written(&self, index: usize) {
        // The write comes before the look at the flag, as decoding sets the flag before it reads.
        fence(Ordering::SeqCst);
        let flags = self.flags[index].load(Ordering::SeqCst);
        if flags & DIRTY == 0 {
            self.flags[index].fetch_or(DIRTY, Ordering::SeqCst);
        }
        if flags & ARMED != 0 {
            self.generations[index].fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Whether page `index` holds decoded code and nobody writes it silently.
    #[inline]
    #[must_use]
    pub fn is_code(&self, index: usize) -> bool {
        self.flags[index].load(Ordering::SeqCst) & CODE != 0
    }

    /// Whether page `index` is code or about to be: writes to it must not be silent.
    #[inline]
    #[must_use]
    pub fn is_armed(&self, index: usize) -> bool {
        self.flags[index].load(Ordering::SeqCst) & ARMED != 0
    }

    /// First step to a code page: refuses silent writes from now on. Returns whether some vCPU may still have a right
    /// to them, which the caller then has dropped before [`PageFlags::set_code`].
    pub fn arm_code(&self, index: usize) -> bool {
        self.flags[index].fetch_or(ARMED, Ordering::SeqCst) & WRITE_CACHED != 0
    }

    /// Second step to a code page. Returns `false` when a writer has disarmed it meanwhile: arm it again.
    pub fn set_code(&self, index: usize) -> bool {
        let set = |flags: u8| (flags & ARMED != 0).then_some(flags & !WRITE_CACHED | CODE);
        self.flags[index].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set).is_ok()
    }

    /// Bumps the code generation of page `index` and makes it an ordinary page again, so that writes are fast.
    /// Called after a write.
    pub fn release_code(&self, index: usize) {
        self.flags[index].fetch_and(!(CODE | ARMED), Ordering::SeqCst);
        self.generations[index].fetch_add(1, Ordering::SeqCst);
    }

    /// Asks for the right to write page `index` silently; the page counts as dirty from now on. Refused (`false`) for
    /// a page that holds code.
    #[must_use]
    pub fn cache_write(&self, index: usize) -> bool {
        let set = |flags: u8| (flags & ARMED == 0).then_some(flags | DIRTY | WRITE_CACHED);
        self.flags[index].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set).is_ok()
    }

    /// The code generation of page `index`.
    #[inline]
    #[must_use]
    pub fn generation(&self, index: usize) -> u32 {
        self.generations[index].load(Ordering::Acquire)
    }

    /// Where the code generation of page `index` is kept, for an engine that looks at it before each block.
    #[must_use]
    pub fn generation_cell(&self, index: usize) -> &AtomicU32 {
        &self.generations[index]
    }

    /// Whether page `index` is dirty; forgets it.
    #[must_use]
    pub fn take_dirty(&self, index: usize) -> bool {
        self.flags[index].fetch_and(!DIRTY, Ordering::SeqCst) & DIRTY != 0
    }

    /// The number of pages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// Whether there are no pages.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_to_code_bump_the_generation() {
        let flags = PageFlags::new(1);
        flags.written(0);
        assert_eq!(flags.generation(0), 0);
        assert!(flags.take_dirty(0) && !flags.take_dirty(0));
        assert!(!flags.arm_code(0) && flags.set_code(0) && flags.is_code(0));
        flags.written(0);
        assert_eq!(flags.generation(0), 1);
        assert!(!flags.cache_write(0));
        flags.release_code(0);
        assert_eq!(flags.generation(0), 2);
        assert!(flags.cache_write(0) && !flags.is_code(0));
        assert!(flags.arm_code(0));
    }

    #[test]
    fn a_writer_between_the_two_steps_wins() {
        let flags = PageFlags::new(1);
        assert!(!flags.arm_code(0));
        flags.release_code(0);
        assert!(!flags.set_code(0) && !flags.is_code(0));
    }
}

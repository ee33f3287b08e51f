//! Per-page flags, shared by all vCPUs and devices without locks.

use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// The length in bytes of a code line: what [`PageFlags`] tells apart within a page.
pub const CODE_LINE: usize = 64;

/// Who is told of writes to code: called with the index of a page and those of its lines (bit `n` is the `n`th
/// [`CODE_LINE`] bytes) that have been written and are no longer marked. See [`PageFlags::listen`].
pub type CodeListener = dyn Fn(usize, u64) + Send + Sync;

/// The code lines that `len` bytes at `offset` of a page lie in; no bytes count as one. What lies beyond the page is
/// left out.
#[inline]
#[must_use]
pub const fn code_lines(offset: usize, len: usize) -> u64 {
    let first = offset / CODE_LINE;
    let last = offset.saturating_add(len.saturating_sub(1)) / CODE_LINE;
    if first > 63 {
        return 0;
    }
    let last = if last > 63 { 63 } else { last };
    u64::MAX << first & u64::MAX >> (63 - last)
}

/// What is known of each page of guest RAM, by its index in the reservation.
///
/// The protocol for decoded code. A page becomes a code page in two steps: [`PageFlags::arm_code`] lets nobody take a
/// new right to write it silently and tells whether somebody has one; when those rights are gone,
/// [`PageFlags::set_code`]. Then [`PageFlags::mark_code`] marks the lines with code and gives the page's generation, and
/// only after that the engine reads the bytes that it decodes.
///
/// Whoever writes to a page calls [`PageFlags::written`] *after* the write. If that overlaps a marked line, these lines
/// lose their marks, the generation is bumped and the listeners are told. So as long as the generation of a page is
/// what it was, the lines that were marked then still are, and nothing in them has been written. Between the write and
/// the look at the marks there is a full fence, as there is between the mark and the decoder's read: of a write and a
/// mark at the same time, either the decoder sees the write or the writer sees the mark. Marks are set and taken away
/// under one lock, and taken away last: a writer who finds no mark knows that whoever took it has told everybody.
///
/// A code page without marked lines is an ordinary page again, so that writes to it are fast. So is one that is
/// written beside its code many times: see [`PageFlags::written`].
pub struct PageFlags {
    flags: Box<[AtomicU8]>,
    generations: Box<[AtomicU32]>,
    /// The code lines of each page.
    lines: Box<[AtomicU64]>,
    /// How many writes beside its code each page has taken ([`COUNT`]), and above that how often it was too many.
    beside: Box<[AtomicU32]>,
    /// Held while marks change.
    listeners: Mutex<Vec<Weak<CodeListener>>>,
}

/// The page has been written since the dirty log was last collected.
const DIRTY: u8 = 1;
/// Some engine holds decoded code of this page.
const CODE: u8 = 2;
/// The page is code or about to be: no silent writes any more.
const ARMED: u8 = 4;
/// Some vCPU may hold a translation through which it writes silently.
const WRITE_CACHED: u8 = 8;

/// The part of [`PageFlags::beside`] that counts writes.
const COUNT: u32 = 0x00ff_ffff;
/// How many writes beside its code make a page an ordinary one for the first time.
const MOST_BESIDE: u32 = 64;
/// How often that number doubles.
const MOST_DOUBLINGS: u32 = 10;

/// Zeroes that the host gives no memory for before they are touched.
macro_rules! zeroes {
    ($n:expr) => {
        // SAFETY: the type is an array of atomic integers, for which zero is a valid value.
        unsafe { Box::new_zeroed_slice($n).assume_init() }
    };
}

impl PageFlags {
    pub(crate) fn new(pages: usize) -> Self {
        Self {
            flags: zeroes!(pages),
            generations: zeroes!(pages),
            lines: zeroes!(pages),
            beside: zeroes!(pages),
            listeners: Mutex::new(Vec::new()),
        }
    }

    /// Notes that `len` bytes at `offset` of page `index` have just been written by someone who holds no right to do so
    /// silently. Gives the code lines that have lost their marks by it; the listeners have been told of them.
    ///
    /// Those are the lines that were written. But a page that has been written beside its code 64 times, while nobody
    /// found new code in it, loses all of them and becomes an ordinary page: it may be on its way to be data only, and
    /// each such write is slow. For a page where that was wrong, the number doubles each time, up to 65536, so a page
    /// that holds code and data for long remains a code page and pays for its writes, which costs less.
    #[inline]
    pub fn written(&self, index: usize, offset: usize, len: usize) -> u64 {
        // The write comes before the look at the flag, as decoding sets the flag before it reads.
        fence(Ordering::SeqCst);
        let flags = self.flags[index].load(Ordering::SeqCst);
        if flags & DIRTY == 0 {
            self.flags[index].fetch_or(DIRTY, Ordering::SeqCst);
        }
        if flags & ARMED == 0 {
            return 0;
        }
        let lines = code_lines(offset, len);
        if self.lines[index].load(Ordering::SeqCst) & lines != 0 {
            self.unmark(index, lines)
        } else if self.is_too_many(index) {
            self.release_code(index)
        } else {
            0
        }
    }

    /// Counts a write beside the code of page `index`. Counts may get lost when several vCPUs do it.
    fn is_too_many(&self, index: usize) -> bool {
        let beside = self.beside[index].load(Ordering::Relaxed) + 1;
        let doublings = beside / (COUNT + 1);
        let too_many = beside & COUNT >= MOST_BESIDE << doublings;
        let next = if too_many { (doublings + 1).min(MOST_DOUBLINGS) * (COUNT + 1) } else { beside };
        self.beside[index].store(next, Ordering::Relaxed);
        too_many
    }

    fn listeners(&self) -> MutexGuard<'_, Vec<Weak<CodeListener>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the marks of `lines` away. Gives those that had one.
    #[cold]
    fn unmark(&self, index: usize, lines: u64) -> u64 {
        let listeners = self.listeners();
        let marked = self.lines[index].load(Ordering::SeqCst);
        let lost = marked & lines;
        if lost != 0 {
            self.generations[index].fetch_add(1, Ordering::SeqCst);
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener(index, lost));
            self.lines[index].store(marked & !lost, Ordering::SeqCst);
            if marked == lost {
                self.beside[index].store(0, Ordering::Relaxed);
                self.flags[index].fetch_and(!(CODE | ARMED), Ordering::SeqCst);
            }
        }
        lost
    }

    /// Makes page `index` an ordinary page, whatever code it holds. Gives the lines that have lost their marks.
    #[cold]
    pub fn release_code(&self, index: usize) -> u64 {
        let listeners = self.listeners();
        let lost = self.lines[index].load(Ordering::SeqCst);
        if lost != 0 {
            self.generations[index].fetch_add(1, Ordering::SeqCst);
            listeners.iter().filter_map(Weak::upgrade).for_each(|listener| listener(index, lost));
            self.lines[index].store(0, Ordering::SeqCst);
        }
        self.flags[index].fetch_and(!(CODE | ARMED), Ordering::SeqCst);
        lost
    }

    /// Has `listener` told of each line that loses its mark, for as long as the caller keeps it: after the write, and
    /// before the thread that wrote goes on. It is called under a lock, so it must be quick and must not call back.
    pub fn listen(&self, listener: &Arc<CodeListener>) {
        let mut listeners = self.listeners();
        listeners.retain(|other| other.strong_count() > 0);
        listeners.push(Arc::downgrade(listener));
    }

    /// Whether page `index` holds decoded code and nobody writes it silently.
    #[inline]
    #[must_use]
    pub fn is_code(&self, index: usize) -> bool {
        self.flags[index].load(Ordering::SeqCst) & CODE != 0
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

    /// Marks `lines` of code page `index`. Gives the page's generation: while it stays the same, the bytes in the lines
    /// are those that are read after this returns. `None` if it is no code page (any more): arm it first.
    #[must_use]
    pub fn mark_code(&self, index: usize, lines: u64) -> Option<u32> {
        let listeners = self.listeners();
        if !self.is_code(index) {
            return None;
        }
        let before = self.lines[index].fetch_or(lines, Ordering::SeqCst);
        if before & lines != lines {
            // Somebody runs new code here: the writes since have not been in a row.
            self.beside[index].fetch_and(!COUNT, Ordering::Relaxed);
        }
        let generation = self.generations[index].load(Ordering::SeqCst);
        drop(listeners);
        // The mark comes before the reads that follow, as a write comes before the look at the marks.
        fence(Ordering::SeqCst);
        Some(generation)
    }

    /// The marked lines of page `index`.
    #[inline]
    #[must_use]
    pub fn marked(&self, index: usize) -> u64 {
        self.lines[index].load(Ordering::SeqCst)
    }

    /// Asks for the right to write page `index` silently; the page counts as dirty from now on. Refused (`false`) for
    /// a page that holds code.
    #[must_use]
    pub fn cache_write(&self, index: usize) -> bool {
        if self.is_write_cached(index) {
            return true;
        }
        let set = |flags: u8| (flags & ARMED == 0).then_some(flags | DIRTY | WRITE_CACHED);
        self.flags[index].fetch_update(Ordering::SeqCst, Ordering::SeqCst, set).is_ok()
    }

    /// Whether somebody may have the right to write page `index` silently already and it counts as dirty: another one
    /// who asks changes nothing.
    #[inline]
    #[must_use]
    pub fn is_write_cached(&self, index: usize) -> bool {
        let flags = self.flags[index].load(Ordering::SeqCst);
        flags & (ARMED | DIRTY | WRITE_CACHED) == DIRTY | WRITE_CACHED
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

    /// One page, a code page with `lines` marked.
    fn code(lines: u64) -> PageFlags {
        let flags = PageFlags::new(1);
        mark(&flags, lines);
        flags
    }

    fn mark(flags: &PageFlags, lines: u64) -> u32 {
        flags.arm_code(0);
        assert!(flags.set_code(0));
        flags.mark_code(0, lines).unwrap()
    }

    #[test]
    fn lines_are_64_bytes() {
        assert_eq!(code_lines(0, 1), 1);
        assert_eq!(code_lines(63, 1), 1);
        assert_eq!(code_lines(63, 2), 3);
        assert_eq!(code_lines(64, 0), 2);
        assert_eq!(code_lines(4095, 1), 1 << 63);
        assert_eq!(code_lines(0, 4096), u64::MAX);
        assert_eq!(code_lines(130, 9999), u64::MAX << 2);
        assert_eq!(code_lines(4096, 1), 0);
    }

    #[test]
    fn writes_to_code_bump_the_generation() {
        let flags = PageFlags::new(1);
        assert_eq!(flags.written(0, 0, 4096), 0);
        assert_eq!(flags.generation(0), 0);
        assert!(flags.take_dirty(0) && !flags.take_dirty(0));
        assert_eq!(flags.mark_code(0, 1), None);
        assert_eq!(mark(&flags, 0b101), 0);
        assert!(flags.is_code(0) && !flags.cache_write(0));
        // Beside the code: only dirty.
        assert_eq!(flags.written(0, 64, 64), 0);
        assert_eq!((flags.generation(0), flags.marked(0)), (0, 0b101));
        assert!(flags.take_dirty(0));
        // Into one line of it: the page remains one of code.
        assert_eq!(flags.written(0, 60, 8), 1);
        assert_eq!((flags.generation(0), flags.marked(0)), (1, 0b100));
        assert!(flags.is_code(0) && !flags.cache_write(0));
        assert_eq!(flags.written(0, 60, 8), 0);
        // Into the last one.
        assert_eq!(flags.written(0, 0, 4096), 0b100);
        assert_eq!((flags.generation(0), flags.marked(0)), (2, 0));
        assert!(!flags.is_code(0) && flags.cache_write(0));
        assert!(flags.arm_code(0));
    }

    #[test]
    fn many_writes_beside_the_code_make_an_ordinary_page() {
        let flags = code(1);
        for limit in [64, 128, 256] {
            for _ in 1..limit {
                assert_eq!(flags.written(0, 64, 8), 0);
            }
            assert!(flags.is_code(0));
            assert_eq!(flags.written(0, 64, 8), 1);
            assert!(!flags.is_code(0) && flags.cache_write(0));
            mark(&flags, 1);
        }
        // New code makes the count start anew, the same code does not.
        for lines in [1, 2] {
            for _ in 1..512 {
                assert_eq!(flags.written(0, 128, 8), 0);
            }
            assert!(flags.mark_code(0, 1 << lines).is_some());
        }
        for _ in 1..512 {
            assert_eq!(flags.written(0, 256, 8), 0);
        }
        assert!(flags.mark_code(0, 1).is_some());
        assert_eq!(flags.written(0, 256, 8), 0b111);
    }

    #[test]
    fn a_page_that_is_written_for_ever_remains_one_of_code() {
        let flags = code(1);
        let mut released = 0;
        for _ in 0..1_000_000 {
            if flags.written(0, 64, 8) != 0 {
                released += 1;
                mark(&flags, 1);
            }
        }
        assert_eq!(released, 10 + (1_000_000 - 64 * 1023) / 65536);
    }

    #[test]
    fn a_writer_between_the_two_steps_wins() {
        let flags = PageFlags::new(1);
        assert!(!flags.arm_code(0));
        assert_eq!(flags.release_code(0), 0);
        assert!(!flags.set_code(0) && !flags.is_code(0));
    }

    #[test]
    fn listeners_are_told_until_they_are_dropped() {
        let flags = code(0b11);
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = |who: &'static str| -> Arc<CodeListener> {
            let told = Arc::clone(&told);
            Arc::new(move |page, lines| told.lock().unwrap().push((who, page, lines)))
        };
        let (a, b) = (listener("a"), listener("b"));
        flags.listen(&a);
        flags.listen(&b);
        flags.written(0, 200, 8);
        assert_eq!(*told.lock().unwrap(), []);
        flags.written(0, 64, 8);
        drop(b);
        flags.release_code(0);
        assert_eq!(*told.lock().unwrap(), [("a", 0, 2), ("b", 0, 2), ("a", 0, 1)]);
    }

    /// What a decoder has read is the latest that was written and reported, or its generation is not the page's.
    #[test]
    fn no_write_is_lost_between_a_writer_and_a_decoder() {
        let flags = code(1);
        let (memory, reported, done) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU8::new(0));
        let lost = std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut value = 0;
                while done.load(Ordering::Relaxed) == 0 {
                    value += 1;
                    memory.store(value, Ordering::Relaxed);
                    flags.written(0, 0, 1);
                    reported.store(value, Ordering::Release);
                }
            });
            let lost = (0..1_000_000).any(|_| {
                let generation = loop {
                    flags.arm_code(0);
                    if flags.set_code(0)
                        && let Some(generation) = flags.mark_code(0, 1)
                    {
                        break generation;
                    }
                };
                let read = memory.load(Ordering::Relaxed);
                (0..5).any(|_| reported.load(Ordering::Acquire) > read && flags.generation(0) == generation)
            });
            done.store(1, Ordering::Relaxed);
            lost
        });
        assert!(!lost);
    }
}

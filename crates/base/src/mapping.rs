//! Host memory mappings.

use std::io;
use std::ptr::NonNull;

/// An anonymous, zeroed mapping that others may share by pointer; unmapped when dropped.
pub struct Mapping {
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: the mapping is plain memory; who reads and writes it through the pointer answers for the races.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

/// The size of a huge page of the host (x86-64: one entry of a page directory).
pub const HUGE_PAGE: usize = 2 << 20;

impl Mapping {
    /// Maps `len` bytes, which the host backs with pages as they are touched. Those of [`HUGE_PAGE`] and more start at
    /// a multiple of it.
    ///
    /// # Errors
    /// The host's refusal; `InvalidInput` for a length of zero.
    pub fn anonymous(len: usize) -> io::Result<Self> {
        if len == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // What is too much for alignment is given back.
        let slack = if len < HUGE_PAGE { 0 } else { HUGE_PAGE };
        let reserved = len.checked_add(slack).ok_or(io::ErrorKind::OutOfMemory)?;
        let (rights, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), reserved, rights, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let head = if slack == 0 { 0 } else { (start as usize).next_multiple_of(HUGE_PAGE) - start as usize };
        let ptr = start.cast::<u8>().wrapping_add(head);
        for (from, len) in [(start, head), (ptr.wrapping_add(len).cast(), slack - head)] {
            if len != 0 {
                // SAFETY: a part of the new mapping that nobody knows of. What is not unmapped is never touched.
                unsafe { libc::munmap(from, len) };
            }
        }
        NonNull::new(ptr).map(|ptr| Self { ptr, len }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// Asks the host to back the mapping with huge pages where it can: fewer faults, and fewer misses of the host's TLB.
    /// A host that does not know them is none the worse for it.
    pub fn prefer_huge_pages(&self) {
        // SAFETY: advice for a mapping of ours, whose contents it does not change.
        unsafe { libc::madvise(self.ptr.as_ptr().cast(), self.len, libc::MADV_HUGEPAGE) };
    }

    /// The first byte.
    #[inline]
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The length in bytes, never zero.
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `ptr` and `len` are those of the mapping, which nobody uses after this.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
    }
}

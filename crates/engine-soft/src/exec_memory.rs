//! Memory for host code that is never writable and executable at once: one memory file, mapped twice.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How much memory the host is asked for at once. Page by page, each first write is a fault.
const AHEAD: usize = 256 << 10;

/// A range of memory that is written through one mapping and run through another.
pub(crate) struct ExecMemory {
    writable: *mut u8,
    code: *const u8,
    len: usize,
    /// Up to here the host has been asked for pages.
    asked: AtomicUsize,
}

// SAFETY: plain memory; who writes and who runs it is the owner's business.
unsafe impl Send for ExecMemory {}
// SAFETY: as above.
unsafe impl Sync for ExecMemory {}

impl ExecMemory {
    /// Maps `len` bytes under a `name` that shows in `/proc`; pages are taken as they are used.
    ///
    /// # Errors
    /// The host's refusal of a memory file or its mappings.
    pub(crate) fn map(name: &std::ffi::CStr, len: usize) -> io::Result<Self> {
        // SAFETY: a new memory file, mapped twice at addresses of the kernel's choice; the descriptor is closed once.
        unsafe {
            let fd = libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            let map = |prot| {
                let ptr = libc::mmap(std::ptr::null_mut(), len, prot, libc::MAP_SHARED, fd, 0);
                if ptr == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(ptr.cast::<u8>()) }
            };
            let sized = if libc::ftruncate(fd, len as i64) == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
            let maps = sized.and_then(|()| {
                let writable = map(libc::PROT_READ | libc::PROT_WRITE)?;
                match map(libc::PROT_READ | libc::PROT_EXEC) {
                    Ok(code) => Ok((writable, code)),
                    Err(error) => {
                        libc::munmap(writable.cast(), len);
                        Err(error)
                    }
                }
            });
            libc::close(fd);
            let (writable, code) = maps?;
            Ok(Self { writable, code, len, asked: AtomicUsize::new(0) })
        }
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The address at which the byte at `offset` is run.
    pub(crate) fn address(&self, offset: usize) -> *const u8 {
        self.code.wrapping_add(offset)
    }

    /// The offset of the code address `at`, if it lies within.
    pub(crate) fn offset(&self, at: u64) -> Option<usize> {
        let offset = at.wrapping_sub(self.code as u64);
        (offset < self.len as u64).then_some(offset as usize)
    }

    /// Writes `bytes` at `offset`; nothing happens where they do not fit.
    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        if let Some(end) = offset.checked_add(bytes.len()).filter(|end| *end <= self.len) {
            if end > self.asked.load(Ordering::Relaxed) {
                self.ask(end);
            }
            // SAFETY: within the mapping.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.writable.add(offset), bytes.len()) };
        }
    }

    /// Asks the host for the pages up to `end` and some more. If it gives none they come as they are written.
    #[cold]
    fn ask(&self, end: usize) {
        let from = self.asked.load(Ordering::Relaxed);
        let to = end.max(from).saturating_add(AHEAD).next_multiple_of(4096).min(self.len);
        // SAFETY: within the mapping, from a page boundary on; writing nothing, it changes no contents.
        unsafe { libc::madvise(self.writable.add(from).cast(), to - from, libc::MADV_POPULATE_WRITE) };
        self.asked.store(to, Ordering::Relaxed);
    }

    /// Has the mapping that is written through let go of its pages; they come back when they are written again.
    pub(crate) fn let_go(&self) {
        // SAFETY: the whole of a shared mapping, whose contents the file keeps.
        unsafe { libc::madvise(self.writable.cast(), self.len, libc::MADV_DONTNEED) };
    }

    /// Gives the memory from `offset` on back to the host; it reads as zeros until it is written again.
    pub(crate) fn discard(&self, offset: usize) {
        let from = offset.next_multiple_of(4096);
        if from < self.len {
            self.asked.store(from.min(self.asked.load(Ordering::Relaxed)), Ordering::Relaxed);
            // SAFETY: within the mapping, from a page boundary on; the file's pages go, not the mapping.
            unsafe { libc::madvise(self.writable.add(from).cast(), self.len - from, libc::MADV_REMOVE) };
        }
    }
}

impl Drop for ExecMemory {
    fn drop(&mut self) {
        // SAFETY: the two mappings that `map` has made.
        unsafe {
            libc::munmap(self.writable.cast(), self.len);
            libc::munmap(self.code.cast_mut().cast(), self.len);
        }
    }
}

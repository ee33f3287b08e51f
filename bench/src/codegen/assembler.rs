//! Machine code, put together in memory.

use crate::system::call;

/// A buffer of code in a mapping of its own.
pub(super) struct Buffer {
    place: *mut u8,
    len: usize,
    at: usize,
}

impl Buffer {
    /// An empty buffer with so many bytes, with these rights.
    pub(super) fn new(len: usize, rights: i32) -> Self {
        Self { place: call::map(len, rights), len, at: 0 }
    }

    /// Where the next byte goes.
    pub(super) fn here(&self) -> usize {
        self.at
    }

    /// Goes on writing elsewhere.
    pub(super) fn go(&mut self, at: usize) {
        self.at = at;
    }

    /// Appends bytes.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        assert!(self.at + bytes.len() <= self.len, "the buffer is full");
        // SAFETY: inside of the mapping.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.place.add(self.at), bytes.len()) };
        self.at += bytes.len();
    }

    /// Appends bytes and a 32-bit value.
    pub(super) fn put_with(&mut self, bytes: &[u8], value: u32) {
        self.put(bytes);
        self.put(&value.to_le_bytes());
    }

    /// Changes bytes that are there already.
    pub(super) fn patch(&mut self, at: usize, bytes: &[u8]) {
        let here = std::mem::replace(&mut self.at, at);
        self.put(bytes);
        self.at = here;
    }

    /// Changes the rights of the whole buffer.
    pub(super) fn protect(&mut self, rights: i32) {
        call::protect(self.place, self.len, rights);
    }

    /// Calls the function at a place with an argument (in EDI); its result is in EAX.
    pub(super) fn call(&self, at: usize, argument: u32) -> u32 {
        assert!(at < self.len);
        // SAFETY: callers have written a whole function there that follows the C calling convention.
        let function: extern "C" fn(u32) -> u32 = unsafe { std::mem::transmute(self.place.add(at)) };
        function(argument)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        call::unmap(self.place, self.len);
    }
}

/// Reading, writing and executing.
pub(super) const RWX: i32 = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
/// Reading and writing.
pub(super) const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
/// Reading and executing.
pub(super) const RX: i32 = libc::PROT_READ | libc::PROT_EXEC;

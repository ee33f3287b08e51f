//! Where characters go that a guest writes.

/// Takes the bytes that a character device sends. Called under the device's lock: it must not block for long.
pub trait CharOut: Send {
    /// Takes `bytes`, all of them.
    fn put(&mut self, bytes: &[u8]);
}

impl<F: FnMut(&[u8]) + Send> CharOut for F {
    fn put(&mut self, bytes: &[u8]) {
        self(bytes);
    }
}

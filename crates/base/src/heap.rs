//! The heap of this process.

/// Gives the heap's unused memory back to the host. What large buffers leave behind is kept by glibc otherwise, up to
/// tens of megabytes for good.
pub fn trim_heap() {
    // SAFETY: malloc_trim(3) only touches memory that nobody has allocated.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

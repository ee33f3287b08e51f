//! The dirty rings: one per vCPU, in which the kernel notes each page that the vCPU writes first (Linux,
//! Documentation/virt/kvm/api.rst, 8.29).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use kvm_bindings::{KVM_DIRTY_LOG_PAGE_OFFSET, kvm_dirty_gfn};
use kvm_ioctls::VmFd;
use memory::PAGE_SIZE;

use crate::ioctl;

/// The entries of a ring: 16 MiB of fresh pages until it is full, in 64 KiB.
const ENTRIES: usize = 4096;
/// The size of a ring in bytes.
pub(crate) const BYTES: u32 = (ENTRIES * size_of::<kvm_dirty_gfn>()) as u32;

/// In an entry's flags: the kernel has filled it.
const DIRTY: u32 = 1;
/// In an entry's flags: it has been read, and the kernel may have it back.
const READ: u32 = 2;

/// Pages by slot: bit `n % 64` of word `n / 64` is page `n` of the slot.
pub(crate) type Pages = BTreeMap<u32, Vec<u64>>;

/// Sets the bit of a page.
pub(crate) fn set(words: &mut Vec<u64>, page: u64) {
    let Ok(word) = usize::try_from(page / 64) else { return };
    if words.len() <= word {
        words.resize(word + 1, 0);
    }
    words[word] |= 1 << (page % 64);
}

/// The ring of one vCPU, mapped.
struct Ring {
    entries: NonNull<kvm_dirty_gfn>,
    /// Where the next entry to be read is.
    next: usize,
}

// SAFETY: the ring is plain memory shared with the kernel; its flags are accessed atomically, the rest of an entry only
// while the flags say that it is ours.
unsafe impl Send for Ring {}

impl Ring {
    fn map(vcpu: &impl AsRawFd) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let offset = i64::from(KVM_DIRTY_LOG_PAGE_OFFSET) * PAGE_SIZE as i64;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let entries = unsafe {
            libc::mmap(std::ptr::null_mut(), BYTES as usize, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), offset)
        };
        if entries == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(entries.cast()).map(|entries| Self { entries, next: 0 }).ok_or(io::ErrorKind::OutOfMemory.into())
    }

    /// Takes the next entry: slot and page.
    fn take(&mut self) -> Option<(u32, u64)> {
        // SAFETY: `next` is below the number of entries; the flags are aligned, and the kernel too uses them as one word.
        let (flags, entry) = unsafe {
            let entry = self.entries.add(self.next).as_ptr();
            (AtomicU32::from_ptr(&raw mut (*entry).flags), entry)
        };
        if flags.load(Ordering::Acquire) & (DIRTY | READ) != DIRTY {
            return None;
        }
        // SAFETY: a filled entry is not written by the kernel before it has it back.
        let (slot, page) = unsafe { ((&raw const (*entry).slot).read(), (&raw const (*entry).offset).read()) };
        flags.store(READ, Ordering::Release);
        self.next = (self.next + 1) % ENTRIES;
        Some((slot, page))
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, which nobody uses after this.
        unsafe { libc::munmap(self.entries.as_ptr().cast(), BYTES as usize) };
    }
}

/// The rings of all vCPUs, and what has been read from them and not been asked for.
#[derive(Default)]
pub(crate) struct Rings {
    rings: Vec<Ring>,
    pages: Pages,
}

impl Rings {
    /// Takes the ring of a new vCPU in.
    pub(crate) fn add(&mut self, vcpu: &impl AsRawFd) -> io::Result<()> {
        self.rings.push(Ring::map(vcpu)?);
        Ok(())
    }

    /// Empties all rings into [`Rings::take`]'s pages. `most` is the number of pages of a slot.
    pub(crate) fn drain(&mut self, vm: &VmFd, most: impl Fn(u32) -> u64) -> io::Result<()> {
        for ring in &mut self.rings {
            // A bound, since the vCPUs go on writing.
            for _ in 0..ENTRIES {
                let Some((slot, page)) = ring.take() else { break };
                // The number of the address space, in the upper half, tells of SMM, whose memory is the same here.
                let slot = slot & 0xffff;
                if page < most(slot) {
                    set(self.pages.entry(slot).or_default(), page);
                }
            }
        }
        ioctl::reset_dirty_rings(vm).map(drop)
    }

    /// The pages that were drained.
    pub(crate) fn take(&mut self) -> Pages {
        std::mem::take(&mut self.pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_pages() {
        let mut words = Vec::new();
        for page in [0, 63, 64, 200, 63] {
            set(&mut words, page);
        }
        assert_eq!(words, [1 | 1 << 63, 1, 0, 1 << 8]);
    }
}

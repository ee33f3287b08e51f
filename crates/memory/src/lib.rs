//! Guest RAM: one reservation of host memory, seen as regions of guest-physical addresses.
//!
//! [`GuestMemory`] is a cheap handle that everybody shares. Devices and loaders use its checked
//! [`GuestMemory::read`] and [`GuestMemory::write`]; engines also use host pointers ([`GuestMemory::host_page`]) and
//! the per-page flags ([`PageFlags`]): which pages are dirty and which hold code that an engine has decoded.
//! Memory that comes and goes while the guest runs, as behind a BAR, is in a [`Store`].
//! The guest changes its memory at any time from any vCPU, so nothing here hands out references to it.

mod flags;
mod guest;
mod movable;
mod store;
mod switched;

pub use flags::{CODE_LINE, CodeListener, PageFlags, code_lines};
pub use guest::{GuestMemory, HostPage, Kind, Region};
pub use store::{Store, StoreConfig, StorePlace};

/// The size of a page in bytes.
pub const PAGE_SIZE: u64 = 4096;

/// A guest-physical address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

impl std::fmt::Display for Gpa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// What went wrong with guest memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no such amount of memory to give.
    #[error("cannot reserve {bytes} bytes of guest memory: {source}; give the VM less memory")]
    Reserve {
        /// The amount asked for.
        bytes: u64,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A region that is empty, not page-aligned, or overlaps another one.
    #[error("bad memory region at {0}")]
    Layout(Gpa),
    /// An access outside of RAM.
    #[error("no guest memory at {at} for {len} bytes")]
    Hole {
        /// Where the access starts.
        at: Gpa,
        /// Its length in bytes.
        len: usize,
    },
}

/// The result of an operation on guest memory.
pub type Result<T> = std::result::Result<T, Error>;

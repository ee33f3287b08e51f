//! What a controller asks of a disk, and what comes back.

use memory::Gpa;

/// A piece of work for a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The first byte on the disk.
    pub offset: u64,
    /// What is done there.
    pub operation: Operation,
}

/// Kinds of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Bytes of the disk go to `Data`.
    Read(Data),
    /// `Data` goes to the disk.
    Write {
        /// Where it comes from.
        data: Data,
        /// It is on stable storage when the request is done (forced unit access).
        durable: bool,
    },
    /// What was done before is on stable storage when this is done; the offset does not matter.
    Flush,
    /// Nobody needs these bytes any more: they read as zeros, or as they were.
    Discard {
        /// Bytes.
        len: u64,
    },
    /// These bytes become zeros.
    Zero {
        /// Bytes.
        len: u64,
    },
}

/// The other end of a transfer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// The guest's memory, one stretch after the other.
    Guest(Vec<Segment>),
    /// Bytes of the controller's own. Those read come with the [`Completion`].
    Bytes(Vec<u8>),
}

impl Data {
    /// Bytes in all; saturates.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Guest(segments) => segments.iter().fold(0, |sum, segment| segment.len.saturating_add(sum)),
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Whether there is nothing to transfer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A stretch of the guest's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it starts.
    pub at: Gpa,
    /// Bytes.
    pub len: u64,
}

/// A request that is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// What the controller called the request.
    pub tag: u64,
    /// The bytes read for [`Data::Bytes`], nothing for other requests; or why it failed. A part may have been done.
    pub result: Result<Vec<u8>, Failure>,
}

/// Why a request has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The disk ends before the request does.
    Beyond,
    /// The disk cannot be written.
    ReadOnly,
    /// The host has no more room for what is written.
    NoSpace,
    /// The image or the host's file failed; the log has the reason.
    Disk,
    /// A stretch of the guest's memory is no memory.
    Memory,
}

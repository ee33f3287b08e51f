//! A node of a disk's graph: the trait that files, formats and what lies between them share.

use std::future::Future;
use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use crate::error::{Error, Result};
use crate::qcow2::Qcow2;

/// Work under way. Dropping it gives it up at its next wait: a write may then be done, undone or, per byte, in between,
/// and the image stays sound.
pub type Work<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A disk's content, at any level: the file of the host, a format, a chain of images.
///
/// Requests may be in flight side by side; those that touch the same bytes take effect in some order. Offsets and lengths
/// are bytes, of any alignment (formats that need more read around and write back). Nothing here panics on any content
/// of an image or any argument. Host I/O of [`crate::file::HostFile`] completes on the thread that polls, for now: an
/// executor has a thread for it.
pub trait Image: Send + Sync {
    /// What it is.
    fn info(&self) -> Info;

    /// Fills the buffers, one after the other, from `offset`.
    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()>;

    /// Writes the buffers, one after the other, at `offset`. With `durable` it is on stable storage when this is done.
    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()>;

    /// Makes bytes zeros, or says that they are not needed.
    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()>;

    /// When it is done, everything whose work was done before is on stable storage.
    fn flush(&self) -> Work<'_, ()>;

    /// What lies at `offset`: the longest stretch of one kind from there that is cheap to know, `len` at most and one byte
    /// at least. `len` must not be 0.
    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent>;

    /// Makes the disk longer or shorter; what is new reads as zeros.
    fn resize(&self, size: u64) -> Work<'_, ()>;

    /// Flushes, and leaves the image as one that nobody uses. Work after it is allowed and opens it again.
    fn close(&self) -> Work<'_, ()> {
        self.flush()
    }

    /// The image as qcow2, for what only that can do: snapshots, check, compressed writes, another backing file.
    fn as_qcow2(&self) -> Option<&Qcow2> {
        None
    }
}

/// What an image is.
#[derive(Clone, Debug)]
pub struct Info {
    /// The file.
    pub path: PathBuf,
    /// The format as commands name it: `file`, `raw`, `qcow2`...
    pub format: &'static str,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes that the host spends on the file, where it can say.
    pub on_host: Option<u64>,
    /// Bytes of a cluster, the unit of allocation, where the format has one.
    pub cluster: Option<u32>,
    /// Bytes of a block: requests of whole blocks need no reading around.
    pub logical_block: u32,
    /// Bytes of a block that is written at once.
    pub physical_block: u32,
    /// The image behind it.
    pub backing: Option<Backing>,
    /// It cannot be changed.
    pub read_only: bool,
    /// It was not closed (qcow2's dirty bit).
    pub dirty: bool,
    /// It was found damaged, and refuses writes.
    pub corrupt: bool,
    /// Its content is encrypted.
    pub encrypted: bool,
    /// More about the format, for people and tools: names and values such as `compat` and `1.1`.
    pub details: Vec<(&'static str, String)>,
}

impl Info {
    /// An image of a path, a format and a size, with blocks of 512 bytes and nothing special.
    #[must_use]
    pub fn new(path: PathBuf, format: &'static str, size: u64) -> Self {
        Self {
            path,
            format,
            size,
            on_host: None,
            cluster: None,
            logical_block: 512,
            physical_block: 4096,
            backing: None,
            read_only: false,
            dirty: false,
            corrupt: false,
            encrypted: false,
            details: Vec::new(),
        }
    }

    /// Whether `len` bytes at `offset` are inside of the disk.
    ///
    /// # Errors
    /// [`Error::Beyond`] when not.
    pub fn within(&self, offset: u64, len: u64) -> Result<()> {
        within(&self.path, self.size, offset, len)
    }
}

/// Whether `len` bytes at `offset` are inside of a disk of `size` bytes.
///
/// # Errors
/// [`Error::Beyond`] when not.
pub fn within(path: &std::path::Path, size: u64, offset: u64, len: u64) -> Result<()> {
    if offset.checked_add(len).is_some_and(|end| end <= size) {
        return Ok(());
    }
    Err(Error::Beyond { path: path.into(), offset, len, size })
}

/// The image behind an image, as the image names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// As it is written in the image: relative to the image's folder when it is relative.
    pub name: String,
    /// Its format, where the image says so.
    pub format: Option<String>,
    /// The file that was opened for it.
    pub path: PathBuf,
}

/// Two ways to have bytes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Erase {
    /// They read as zeros afterwards; space may be given back.
    Zero,
    /// Nobody needs them: they read as zeros, or as they were.
    Discard,
}

/// A stretch of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Its length in bytes.
    pub len: u64,
    /// What it holds.
    pub kind: Kind,
    /// Which image of the chain holds it: 0 for this, 1 for the one behind it, and so on.
    pub depth: u32,
    /// Where in the image's file it lies, when it lies there as it reads.
    pub at: Option<u64>,
}

/// What a stretch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes that must be read.
    Data,
    /// Zeros, which some image says outright.
    Zero,
    /// Nothing in any image of the chain: zeros.
    Hole,
}

/// Reads one buffer.
///
/// # Errors
/// Those of the image.
pub async fn read_at(image: &dyn Image, offset: u64, buffer: &mut [u8]) -> Result<()> {
    image.read(offset, &mut [IoSliceMut::new(buffer)]).await
}

/// Writes one buffer, not durably.
///
/// # Errors
/// Those of the image.
pub async fn write_at(image: &dyn Image, offset: u64, buffer: &[u8]) -> Result<()> {
    image.write(offset, &[IoSlice::new(buffer)], false).await
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Does the work on this thread: for tools and tests, which have nothing else to do.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut work = pin!(work);
    loop {
        match work.as_mut().poll(&mut context) {
            Poll::Ready(result) => return result,
            Poll::Pending => std::thread::park(),
        }
    }
}

//! What images need of files that the standard library does not offer: vectored I/O at a position, holes, locks of open
//! files, block devices.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::AsRawFd;

/// Most buffers that one call of the kernel takes (`IOV_MAX`).
const MOST_BUFFERS: usize = 1024;

fn offset(value: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(value).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn count(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn done(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Reads at `at` into the buffers in order; returns how many bytes came, which may be fewer than asked for (preadv(2)).
///
/// # Errors
/// The host's refusal.
pub fn read_vectored_at(file: &File, buffers: &mut [IoSliceMut<'_>], at: u64) -> io::Result<usize> {
    let most = buffers.len().min(MOST_BUFFERS);
    let list = buffers.as_mut_ptr().cast::<libc::iovec>();
    // SAFETY: IoSliceMut is ABI compatible with iovec; the first `most` are borrowed for the length of the call.
    count(unsafe { libc::preadv(file.as_raw_fd(), list, most as libc::c_int, offset(at)?) })
}

/// Writes the buffers in order at `at`; returns how many bytes went, which may be fewer than given (pwritev(2)).
///
/// # Errors
/// The host's refusal.
pub fn write_vectored_at(file: &File, buffers: &[IoSlice<'_>], at: u64) -> io::Result<usize> {
    let most = buffers.len().min(MOST_BUFFERS);
    let list = buffers.as_ptr().cast::<libc::iovec>();
    // SAFETY: IoSlice is ABI compatible with iovec; the first `most` are borrowed for the length of the call.
    count(unsafe { libc::pwritev(file.as_raw_fd(), list, most as libc::c_int, offset(at)?) })
}

fn seek(file: &File, at: u64, whence: libc::c_int) -> io::Result<Option<u64>> {
    // SAFETY: the call touches no memory; nobody relies on the position of files of images.
    let found = unsafe { libc::lseek(file.as_raw_fd(), offset(at)?, whence) };
    match u64::try_from(found) {
        Ok(found) => Ok(Some(found)),
        Err(_) => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
            error => Err(error),
        },
    }
}

/// Where data begins at or after `at`; `None` when there is none to the end. Moves the position of the file.
///
/// # Errors
/// The host's refusal, as where the file system knows no holes.
pub fn next_data(file: &File, at: u64) -> io::Result<Option<u64>> {
    seek(file, at, libc::SEEK_DATA)
}

/// Where a hole begins at or after `at`, the end of the file at the latest; `None` when `at` is beyond the end. Moves the
/// position of the file.
///
/// # Errors
/// The host's refusal.
pub fn next_hole(file: &File, at: u64) -> io::Result<Option<u64>> {
    seek(file, at, libc::SEEK_HOLE)
}

fn fallocate(file: &File, mode: libc::c_int, at: u64, len: u64) -> io::Result<()> {
    // SAFETY: the call touches no memory.
    done(unsafe { libc::fallocate(file.as_raw_fd(), mode, offset(at)?, offset(len)?) })
}

/// Gives the bytes back to the file system; they read as zeros, the length stays.
///
/// # Errors
/// The host's refusal, as where the file system cannot.
pub fn punch_hole(file: &File, at: u64, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, at, len)
}

/// Makes the bytes zeros that keep their space; the length stays.
///
/// # Errors
/// The host's refusal, as where the file system cannot.
pub fn zero_range(file: &File, at: u64, len: u64) -> io::Result<()> {
    fallocate(file, libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, at, len)
}

/// Takes space for the bytes, and makes the file as long.
///
/// # Errors
/// The host's refusal, as when the file system is full.
pub fn allocate(file: &File, at: u64, len: u64) -> io::Result<()> {
    fallocate(file, 0, at, len)
}

fn lock_of(kind: libc::c_int, byte: u64) -> io::Result<libc::flock> {
    // SAFETY: flock is plain data, for which zeros are valid.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = offset(byte)?;
    lock.l_len = 1;
    Ok(lock)
}

/// Takes a shared lock of one byte for as long as the file is open (fcntl(2), `F_OFD_SETLK`). Whether it was got.
///
/// # Errors
/// The host's refusal, as where the file system has no locks.
pub fn lock_byte(file: &File, byte: u64) -> io::Result<bool> {
    let lock = lock_of(libc::F_RDLCK, byte)?;
    // SAFETY: the lock's description is read during the call only.
    let result = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) };
    match done(result) {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        other => other.map(|()| true),
    }
}

/// Gives back all locks that this open file has. Closing does so too, but only once no process has the file open any more:
/// a program that is being started has it until it begins.
///
/// # Errors
/// The host's refusal.
pub fn unlock(file: &File) -> io::Result<()> {
    let mut lock = lock_of(libc::F_UNLCK, 0)?;
    lock.l_len = 0;
    // SAFETY: the lock's description is read during the call only.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &lock) })
}

/// Whether another open file holds any lock of the byte.
///
/// # Errors
/// The host's refusal.
pub fn byte_is_locked(file: &File, byte: u64) -> io::Result<bool> {
    let mut lock = lock_of(libc::F_WRLCK, byte)?;
    // SAFETY: the lock's description is ours, and written during the call only.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &mut lock) })?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Whether the file was opened for writing.
#[must_use]
pub fn is_writable(file: &File) -> bool {
    // SAFETY: F_GETFL takes no third argument and touches no memory of ours.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags >= 0 && flags & libc::O_ACCMODE != libc::O_RDONLY
}

const BLKDISCARD: libc::c_ulong = 0x1277;
const BLKZEROOUT: libc::c_ulong = 0x127f;
const BLKSSZGET: libc::c_ulong = 0x1268;

/// Bytes of a block of a block device, as its driver addresses them.
///
/// # Errors
/// The host's refusal, as when it is no block device.
pub fn device_block_size(file: &File) -> io::Result<u32> {
    let mut size: libc::c_int = 0;
    // SAFETY: the call writes one int.
    done(unsafe { libc::ioctl(file.as_raw_fd(), BLKSSZGET, &mut size) })?;
    u32::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn device_range(file: &File, request: libc::c_ulong, at: u64, len: u64) -> io::Result<()> {
    let range = [at, len];
    // SAFETY: the call reads two numbers of 64 bits.
    done(unsafe { libc::ioctl(file.as_raw_fd(), request, range.as_ptr()) })
}

/// Tells a block device that the bytes are not needed.
///
/// # Errors
/// The host's refusal.
pub fn device_discard(file: &File, at: u64, len: u64) -> io::Result<()> {
    device_range(file, BLKDISCARD, at, len)
}

/// Makes bytes of a block device zeros.
///
/// # Errors
/// The host's refusal.
pub fn device_zero(file: &File, at: u64, len: u64) -> io::Result<()> {
    device_range(file, BLKZEROOUT, at, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("husk-disk-file-{}-{name}", std::process::id()));
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn vectors_go_and_come_at_their_place() {
        let (path, file) = scratch("vectors");
        let list = [IoSlice::new(b"abc"), IoSlice::new(b"defg")];
        assert_eq!(write_vectored_at(&file, &list, 10).unwrap(), 7);
        let (mut a, mut b) = ([0; 2], [0; 9]);
        let mut list = [IoSliceMut::new(&mut a), IoSliceMut::new(&mut b)];
        assert_eq!(read_vectored_at(&file, &mut list, 11).unwrap(), 6);
        assert_eq!((&a, &b[..4]), (b"bc", &b"defg"[..]));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_punched_hole_reads_as_zeros_and_is_found() {
        let (path, file) = scratch("hole");
        write_vectored_at(&file, &[IoSlice::new(&vec![7; 1 << 20])], 0).unwrap();
        punch_hole(&file, 256 << 10, 512 << 10).unwrap();
        let hole = next_hole(&file, 0).unwrap();
        assert!(hole == Some(256 << 10) || hole == Some(1 << 20), "a file system without holes says the end: {hole:?}");
        assert_eq!(file.metadata().unwrap().len(), 1 << 20);
        assert_eq!(next_data(&file, 1 << 20).unwrap(), None);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_lock_is_seen_by_another_open_file() {
        let (path, file) = scratch("lock");
        let other = File::options().read(true).write(true).open(&path).unwrap();
        assert!(lock_byte(&file, 100).unwrap() && lock_byte(&other, 100).unwrap());
        assert!(lock_byte(&file, 101).unwrap());
        assert!(byte_is_locked(&other, 101).unwrap());
        assert!(!byte_is_locked(&file, 101).unwrap(), "one's own lock is no hindrance");
        drop(file);
        assert!(!byte_is_locked(&other, 101).unwrap());
        std::fs::remove_file(path).unwrap();
    }
}

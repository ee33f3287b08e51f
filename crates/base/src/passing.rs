//! Open files handed from one process to another, through a socket (`unix(7)`, `SCM_RIGHTS`).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;

/// Room for the control message with one descriptor, aligned as its header has to be.
type Control = [u64; 4];

/// A message of one byte with room for a descriptor.
fn message(byte: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: `msghdr` is plain data, for which zeros are valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = byte;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // Without the padding behind it, in which there would be room for a second one. SAFETY: it only computes.
    message.msg_controllen = unsafe { libc::CMSG_LEN(size_of::<RawFd>() as u32) } as usize;
    message
}

/// Sends an open file, with one byte that means nothing.
///
/// # Errors
/// Those of the host.
pub fn send_file(over: &UnixStream, file: impl AsFd) -> io::Result<()> {
    let (mut byte, mut control) = ([0u8], Control::default());
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let message = message(&mut part, &mut control);
    // SAFETY: the message's control buffer has room for this header and a descriptor behind it, and lives until the end.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        (*header).cmsg_level = libc::SOL_SOCKET;
        (*header).cmsg_type = libc::SCM_RIGHTS;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<RawFd>().write_unaligned(file.as_fd().as_raw_fd());
    }
    // SAFETY: the message and all that it points to are alive.
    let sent = unsafe { libc::sendmsg(over.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent == 1 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Receives what [`send_file`] has sent.
///
/// # Errors
/// Those of the host; [`io::ErrorKind::InvalidData`] when something else came.
pub fn receive_file(over: &UnixStream) -> io::Result<File> {
    let (mut byte, mut control) = ([0u8], Control::default());
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut message = message(&mut part, &mut control);
    // SAFETY: the message and all that it points to are alive, and the lengths in it are theirs.
    let got = unsafe { libc::recvmsg(over.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has filled in the control buffer as far as the message says; the header is looked at only when it
    // is there, and a descriptor only when the header says so, which is then ours.
    unsafe {
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        let one = libc::CMSG_LEN(size_of::<RawFd>() as u32) as usize;
        if !header.is_null()
            && (*header).cmsg_level == libc::SOL_SOCKET
            && (*header).cmsg_type == libc::SCM_RIGHTS
            && (*header).cmsg_len == one
        {
            return Ok(File::from_raw_fd(libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned()));
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "no file came"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn a_file_arrives() {
        let (a, b) = UnixStream::pair().unwrap();
        send_file(&a, File::open("/proc/self/comm").unwrap()).unwrap();
        let mut text = String::new();
        receive_file(&b).unwrap().read_to_string(&mut text).unwrap();
        assert!(!text.is_empty());
        (&a).write_all(b"x").unwrap();
        assert_eq!(receive_file(&b).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert!(receive_file(&b).is_err());
    }
}

//! Opening files that somebody else has named.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Opens a file for reading without waiting: a named pipe that nobody writes to is empty, and a terminal does not become the
/// process's own. Reading blocks as ever.
///
/// # Errors
/// The host's refusal.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    // SAFETY: F_GETFL takes no third argument and touches no memory of ours.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: F_SETFL takes a number; the descriptor is ours.
    if flags < 0 || unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_opened_at_once_is_read_to_its_end() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
        let mut file = super::open_at_once(path.as_ref()).unwrap();
        let late = std::thread::spawn(move || writer.write_all(b"kernel").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        late.join().unwrap();
        assert_eq!(text, "kernel");
        assert!(super::open_at_once("/nowhere/at/all".as_ref()).is_err());
    }
}

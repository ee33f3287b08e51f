//! Files for the guest, opened by the caller.

use std::borrow::Cow;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::Error;

/// A file for the guest: read when the machine is built, and again at each reset, so that it takes no memory meanwhile.
#[derive(Debug)]
pub struct Payload {
    name: String,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// A regular file, which can be read again.
    File(File),
    /// What came out of something that can be read once.
    Bytes(Vec<u8>),
}

impl Payload {
    /// An open file; `name` is what messages call it.
    #[must_use]
    pub fn file(name: impl Into<String>, file: File) -> Self {
        Self { name: name.into(), source: Source::File(file) }
    }

    /// Bytes; `name` is what messages call them.
    #[must_use]
    pub fn bytes(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), source: Source::Bytes(bytes) }
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The contents, which must be less than the `memory` bytes that they can go to.
    pub(crate) fn read(&mut self, memory: u64) -> Result<Cow<'_, [u8]>, Error> {
        let refused = |source| Error::Read { name: self.name.clone(), source };
        let too_large = || Error::TooLarge { name: self.name.clone(), memory };
        if let Source::File(file) = &self.source {
            let metadata = file.metadata().map_err(refused)?;
            if metadata.is_file() {
                if metadata.len() >= memory {
                    return Err(too_large());
                }
                let mut bytes = vec![0; usize::try_from(metadata.len()).map_err(|_| too_large())?];
                file.read_exact_at(&mut bytes, 0).map_err(refused)?;
                return Ok(Cow::Owned(bytes));
            }
            let mut bytes = Vec::new();
            file.take(memory).read_to_end(&mut bytes).map_err(refused)?;
            if bytes.len() as u64 >= memory {
                return Err(too_large());
            }
            self.source = Source::Bytes(bytes);
        }
        match &self.source {
            Source::Bytes(bytes) => Ok(Cow::Borrowed(bytes)),
            Source::File(_) => Ok(Cow::Borrowed(&[])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_read_again_and_are_bounded() {
        let mut regular = Payload::file("a", File::open("/proc/self/exe").unwrap());
        let first = regular.read(1 << 40).unwrap().into_owned();
        assert!(first.starts_with(b"\x7fELF"));
        assert_eq!(regular.read(1 << 40).unwrap(), first);
        assert!(matches!(regular.read(64), Err(Error::TooLarge { .. })));
        let mut endless = Payload::file("z", File::open("/dev/zero").unwrap());
        assert!(matches!(endless.read(1 << 16), Err(Error::TooLarge { .. })));
        let mut folder = Payload::file("d", File::open("/").unwrap());
        assert!(matches!(folder.read(1 << 16), Err(Error::Read { .. })));
    }

    #[test]
    fn a_pipe_is_read_once_and_kept() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"kernel").unwrap();
        drop(writer);
        let mut pipe = Payload::file("p", File::from(std::os::fd::OwnedFd::from(reader)));
        assert_eq!(*pipe.read(100).unwrap(), *b"kernel");
        assert_eq!(*pipe.read(100).unwrap(), *b"kernel");
    }
}

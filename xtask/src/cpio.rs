//! The archive that Linux unpacks as its initial RAM disk: cpio, format `newc`
//! (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive in the making. The same entries always give the same bytes.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl Archive {
    pub(crate) fn directory(&mut self, name: &str) -> &mut Self {
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[])
    }

    pub(crate) fn file(&mut self, name: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entry(name, FILE | mode, (0, 0), content)
    }

    pub(crate) fn symlink(&mut self, name: &str, to: &str) -> &mut Self {
        self.entry(name, SYMLINK | 0o777, (0, 0), to.as_bytes())
    }

    pub(crate) fn character_device(&mut self, name: &str, major: u32, minor: u32) -> &mut Self {
        self.entry(name, CHARACTER_DEVICE | 0o600, (major, minor), &[])
    }

    /// The whole archive; another may follow it in the same file.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> &mut Self {
        self.entries += 1;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let size = content.len() as u32;
        let name_size = name.len() as u32 + 1;
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0]
            .map(|f| format!("{f:08X}"));
        self.bytes.extend_from_slice(b"070701");
        self.bytes.extend_from_slice(fields.concat().as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_laid_out_as_linux_reads_them() {
        let mut archive = Archive::default();
        archive.directory("dev").character_device("dev/console", 5, 1).file("a", 0o644, b"hello");
        let bytes = archive.finish();
        assert_eq!(bytes.len(), 512);
        let header = "070701000000010000".to_owned() + "41ED" + "0000000000000000" + "00000002";
        assert!(bytes.starts_with(header.as_bytes()));
        // Header of 110 bytes, name with its zero, padding to four.
        assert_eq!(&bytes[110..116], b"dev\0\0\0");
        let console = &bytes[116..];
        assert_eq!(&console[..6], b"070701");
        assert_eq!(&console[6 + 9 * 8..6 + 11 * 8], b"0000000500000001");
        assert_eq!(&console[110..122], b"dev/console\0");
        let file = &console[124..];
        assert_eq!(&file[6 + 6 * 8..6 + 7 * 8], b"00000005");
        assert_eq!(&file[112..120], b"hello\0\0\0");
    }
}

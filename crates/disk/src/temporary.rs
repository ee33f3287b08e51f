//! A disk whose writes are forgotten.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::file::{Access, HostFile};
use crate::image::Image;
use crate::qcow2::{self, Layout, Parts, Qcow2};

/// Puts an overlay over a disk that takes what is written and is gone with its last user: a qcow2 image in a file of the
/// `folder` that has no name any more.
///
/// # Errors
/// Refusals of the host.
pub async fn temporary(behind: Arc<dyn Image>, folder: &Path) -> Result<Arc<dyn Image>> {
    let path = behind.info().path;
    let file = unnamed(folder).map_err(|e| Error::host(folder, "make a temporary file", e))?;
    let file: Arc<dyn Image> = Arc::new(HostFile::over(file, &path, Access::Write)?);
    // A disk of whole sectors; what is behind it reads as zeros behind its end.
    let size = behind.info().size.next_multiple_of(512);
    let layout = Layout { lazy_refcounts: true, ..Layout::default() };
    qcow2::make(Arc::clone(&file), None, size, &layout).await?;
    let parts = Parts { backing: Some(behind), ..Parts::default() };
    Ok(Arc::new(Qcow2::open(file, parts).await?))
}

/// A new file that nobody else finds.
fn unnamed(folder: &Path) -> std::io::Result<File> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = format!(".husk-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let path = folder.join(name);
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{block_on, read_at, write_at};
    use crate::{Format, OpenOptions, open};

    #[test]
    fn writes_are_seen_and_then_forgotten() {
        let folder = std::env::temp_dir().join(format!("husk-temporary-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("disk");
        std::fs::write(&path, vec![7; (1 << 20) + 5]).unwrap();
        let options = OpenOptions { format: Some(Format::Raw), read_only: true, ..OpenOptions::new(&path) };
        let disk = block_on(temporary(block_on(open(options)).unwrap(), &folder)).unwrap();
        assert_eq!(disk.info().size, (1 << 20) + 512);
        block_on(write_at(&*disk, 1000, b"new")).unwrap();
        let mut seen = [0; 5];
        block_on(read_at(&*disk, 999, &mut seen)).unwrap();
        assert_eq!(&seen, b"\x07new\x07");
        block_on(disk.close()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), vec![7; (1 << 20) + 5]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1, "the overlay has no name");
        drop(disk);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

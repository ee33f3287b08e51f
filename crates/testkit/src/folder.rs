//! Folders that tests put files into.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// A folder of a test's own, which only its user may write to; gone with the value.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// An empty folder. `name` tells it from those of the other tests of its process.
    ///
    /// # Panics
    /// When the host refuses.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("husk-test-{}-{name}", std::process::id()));
        // A process of this number may have left it behind.
        let _ = fs::remove_dir_all(&path);
        fs::DirBuilder::new().mode(0o700).create(&path).expect("a folder can be made");
        Self(path)
    }

    /// A folder with these files, by their paths in it and their text.
    ///
    /// # Panics
    /// When the host refuses.
    #[must_use]
    pub fn with(name: &str, files: &[(&str, &str)]) -> Self {
        let folder = Self::new(name);
        for (path, text) in files {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap_or(&folder)).expect("a folder can be made");
            fs::write(path, text).expect("a file can be written");
        }
        folder
    }
}

impl Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the folder for what is temporary.
        let _ = fs::remove_dir_all(&self.0);
    }
}

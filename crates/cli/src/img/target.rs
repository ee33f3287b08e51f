//! A new file that appears when it is complete, and never before.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base::{Interrupt, Interrupts};
use disk::file::{Access, HostFile};

use super::failed;
use crate::failure::{Failure, cause};

/// A temporary file beside its target; removed unless it is finished.
pub(crate) struct Target {
    path: PathBuf,
    temporary: PathBuf,
    /// What a signal has to remove; nothing any more when the target is complete.
    unfinished: Arc<Mutex<Option<PathBuf>>>,
    /// The file that is to be replaced, locked.
    replaced: Option<HostFile>,
}

impl Target {
    /// Checks that the target may be made, and takes over the signals that end the process.
    pub(crate) fn new(path: &Path, force: bool) -> Result<Self, Failure> {
        let shown = path.display();
        let there = std::fs::symlink_metadata(path).ok();
        if there.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(Failure::input(shown, "it is a folder", "name a file in it"));
        }
        if there.is_some() && !force {
            return Err(Failure::input(
                shown,
                "it is there already",
                "choose another name, or replace it with --force",
            ));
        }
        // A rename would replace the device's node, or the link, and not what is behind it.
        if there.as_ref().is_some_and(|there| !there.is_file()) {
            return Err(Failure::input(shown, "it is no ordinary file", "choose another name"));
        }
        // Refused if somebody has it open.
        let replaced =
            there.map(|_| HostFile::open(path, Access::Write)).transpose().map_err(|error| failed(&error))?;
        let Some(name) = path.file_name() else {
            return Err(Failure::input(shown, "it names no file", "choose another name"));
        };
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}.unfinished", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let unfinished = Arc::new(Mutex::new(Some(temporary.clone())));
        remove_on_signal(Arc::clone(&unfinished))?;
        Ok(Self { path: path.to_owned(), temporary, unfinished, replaced })
    }

    /// Where it is made.
    pub(crate) fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// A failure, told about the target and not about the temporary file.
    pub(crate) fn failed(&self, error: &disk::Error) -> Failure {
        let failure = failed(error);
        let hidden = self.temporary.display().to_string();
        Failure::new(failure.to_string().replace(&hidden, &self.path.display().to_string()), failure.code)
    }

    /// Puts the complete file in its place.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let shown = self.path.display();
        let refused = |what: &str, error: &io::Error| {
            Failure::internal(format!("{shown}: cannot {what}: {}; check the file system", cause(error)))
        };
        File::open(&self.temporary)
            .and_then(|file| file.sync_all())
            .map_err(|error| refused("flush the image", &error))?;
        // From here on a signal must not remove anything.
        let mut unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner);
        if self.replaced.is_some() {
            std::fs::rename(&self.temporary, &self.path).map_err(|error| refused("replace it", &error))?;
        } else {
            // A link refuses what has appeared meanwhile, which a rename would replace.
            match std::fs::hard_link(&self.temporary, &self.path) {
                Ok(()) => std::fs::remove_file(&self.temporary).map_err(|error| refused("tidy up", &error))?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(Failure::input(shown, "it has appeared meanwhile", "choose another name"));
                }
                // File systems without hard links.
                Err(_) => std::fs::rename(&self.temporary, &self.path).map_err(|error| refused("make it", &error))?,
            }
        }
        *unfinished = None;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        // The name is durable when the folder is; some file systems cannot, and have nothing to lose.
        let _ = File::open(folder.unwrap_or_else(|| Path::new("."))).and_then(|folder| folder.sync_all());
        Ok(())
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let unfinished = self.unfinished.lock().unwrap_or_else(PoisonError::into_inner).take();
        // It may never have been made.
        unfinished.into_iter().for_each(|path| _ = std::fs::remove_file(path));
    }
}

/// Removes the unfinished file when a signal ends the process.
fn remove_on_signal(unfinished: Arc<Mutex<Option<PathBuf>>>) -> Result<(), Failure> {
    let refused = |error: io::Error| Failure::internal(format!("signals: {}; the host refuses them", cause(&error)));
    let mut interrupts = Interrupts::take().map_err(refused)?;
    let wait = move || {
        while let Some(interrupt) = interrupts.wait() {
            let Interrupt::Terminate(signal) = interrupt else { continue };
            let unfinished = unfinished.lock().unwrap_or_else(PoisonError::into_inner);
            unfinished.iter().for_each(|path| _ = std::fs::remove_file(path));
            // The lock is held to the end, so nothing is finished behind our back.
            std::process::exit(128 + signal);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).map(drop).map_err(refused)
}

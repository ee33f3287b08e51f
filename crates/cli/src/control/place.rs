//! Where the control sockets of the running VMs are: a folder for each in the user's own folder for such things.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOCKET: &str = "control.sock";
const LOCK: &str = "lock";

/// A VM that bears the usual name, which nobody has chosen, may have a number behind it.
pub(crate) const USUAL_NAME: &str = "husk";
const MOST_OF_ONE_NAME: u32 = 1000;

/// The folder of a running VM, which is gone when this is dropped. A lock that ends with the process says whether a VM
/// that left its folder behind still runs.
#[derive(Debug)]
pub(crate) struct Place {
    folder: PathBuf,
    name: String,
    listener: Option<UnixListener>,
    #[expect(dead_code, reason = "held for its lock")]
    lock: File,
}

/// Why a VM gets no place.
#[derive(Debug)]
pub(crate) enum NoPlace {
    /// Another VM of this name runs.
    Taken,
    /// The host refuses.
    Refused(PathBuf, io::Error),
}

impl Place {
    /// Takes the place of the VM `name`.
    pub(crate) fn take(name: &str) -> Result<Self, NoPlace> {
        let all = folder().map_err(|error| NoPlace::Refused("$XDG_RUNTIME_DIR".into(), error))?;
        let numbers = if name == USUAL_NAME { 1..MOST_OF_ONE_NAME } else { 1..2 };
        for number in numbers {
            let name = if number == 1 { name.to_owned() } else { format!("{name}-{number}") };
            let folder = all.join(&name);
            match Self::take_folder(&folder, name) {
                Ok(Some(place)) => return Ok(place),
                Ok(None) => {}
                Err(error) => return Err(NoPlace::Refused(folder, error)),
            }
        }
        Err(NoPlace::Taken)
    }

    /// `None` when a VM has it.
    fn take_folder(folder: &Path, name: String) -> io::Result<Option<Self>> {
        let Some(lock) = lock_surely(folder)? else { return Ok(None) };
        let socket = folder.join(SOCKET);
        // One that is there is of a VM that runs no more.
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        Ok(Some(Self { folder: folder.to_owned(), name, listener: Some(listener), lock }))
    }

    /// The name under which the VM is known.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where the requests come in; can be taken once.
    pub(crate) fn listener(&mut self) -> Option<UnixListener> {
        self.listener.take()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}

/// The names of the VMs that run, in order. What others have left behind is cleared away.
pub(crate) fn running() -> io::Result<Vec<String>> {
    let all = folder()?;
    let entries = match fs::read_dir(&all) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let folder = entry.path();
        if !folder.join(LOCK).exists() {
            continue;
        }
        match lock(&folder) {
            Ok(Some(_lock)) => remove(&folder),
            Ok(None) => names.push(name),
            // It has just gone, or is not ours.
            Err(_) => {}
        }
    }
    names.sort();
    Ok(names)
}

/// Connects to the VM `name`.
pub(crate) fn connect(name: &str) -> io::Result<UnixStream> {
    if name.contains('/') || name.starts_with('.') || name.is_empty() {
        return Err(ErrorKind::NotFound.into());
    }
    UnixStream::connect(folder()?.join(name).join(SOCKET))
}

/// Takes the lock in a folder; `None` when a VM has it.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    let path = folder.join(LOCK);
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(&path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Who has it may have removed it before letting go.
        let is_there = fs::metadata(&path).is_ok_and(|there| file.metadata().is_ok_and(|own| own.ino() == there.ino()));
        if is_there {
            return Ok(Some(file));
        }
        own_folder(folder)?;
    }
}

/// How often a lock is tried that somebody may have taken only to look whether its VM still runs.
const TRIES: u32 = 20;

/// Makes the folder and takes the lock in it; `None` when a VM has it, and not somebody who only looks.
fn lock_surely(folder: &Path) -> io::Result<Option<File>> {
    for _ in 0..TRIES {
        own_folder(folder)?;
        match lock(folder) {
            // The folder of a VM that runs no more has just been cleared away.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Ok(None) if UnixStream::connect(folder.join(SOCKET)).is_err() => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other,
        }
    }
    Ok(None)
}

/// Removes the folder of a VM whose lock the caller has. What cannot be removed is cleared away later.
fn remove(folder: &Path) {
    for path in [folder.join(SOCKET), folder.join(LOCK)] {
        let _ = fs::remove_file(path);
    }
    let _ = fs::remove_dir(folder);
}

/// The folder of all control sockets of this user.
fn folder() -> io::Result<PathBuf> {
    let own = own_user()?;
    // `sudo` and `su` may keep the variables of the user who calls them.
    let foreign = |path: &Path| fs::metadata(path).is_ok_and(|found| found.uid() != own);
    let from = |name: &str| {
        let path = std::env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute() && !foreign(path))
    };
    if let Some(runtime) = from("XDG_RUNTIME_DIR") {
        return Ok(runtime.join("husk"));
    }
    let usual = PathBuf::from(format!("/run/user/{own}"));
    if usual.is_dir() {
        return Ok(usual.join("husk"));
    }
    let state = from("XDG_STATE_HOME").or_else(|| from("HOME").map(|home| home.join(".local/state")));
    state.map(|state| state.join("husk/run")).ok_or_else(|| io::Error::new(ErrorKind::NotFound, "there is no $HOME"))
}

/// The user that this process runs as.
fn own_user() -> io::Result<u32> {
    Ok(fs::metadata("/proc/self")?.uid())
}

/// Makes a folder that nobody but this user can look into, or checks that it is one.
fn own_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let found = fs::symlink_metadata(folder)?;
    if found.uid() != own_user()? || found.mode() & 0o077 != 0 || !found.is_dir() {
        let why = "the folder is open to others; remove it";
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    Ok(())
}

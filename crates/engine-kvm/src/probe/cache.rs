//! What a probe has found is kept until the next boot: the probe costs time, on a bad KVM a lot of it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Host, Ring0};

/// Raised when the probe finds out something else than before.
const VERSION: u32 = 1;
const FILE: &str = "kvm-probe.json";
/// No cache is larger, in bytes.
const MOST: u64 = 4096;

/// A folder of the user's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    folder: PathBuf,
}

/// What a finding holds for: this boot of this kernel, and this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Key {
    version: u32,
    boot: String,
    kernel: String,
    /// The device's file system, inode, number, owner, group and permissions.
    device: [u64; 6],
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    key: Key,
    ring0: Ring0,
}

/// The key of now; `None` if the kernel does not tell its boot.
pub(super) fn key(device: &Path, host: &Host) -> Option<Key> {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned();
    let of = fs::metadata(device).ok()?;
    let device = [of.dev(), of.ino(), of.rdev(), of.uid().into(), of.gid().into(), of.mode().into()];
    Some(Key { version: VERSION, boot, kernel: host.kernel.clone(), device })
}

impl Cache {
    /// The user's cache: `husk` in `$XDG_RUNTIME_DIR`, else in `$XDG_CACHE_HOME` or `~/.cache`; `None` if there is no such
    /// place.
    #[must_use]
    pub fn of_user() -> Option<Self> {
        let var = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = || var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")));
        let parent = var("XDG_RUNTIME_DIR").or_else(home)?;
        Some(Self::within(&parent))
    }

    /// The folder `husk` in `parent`.
    #[must_use]
    pub fn within(parent: &Path) -> Self {
        Self { folder: parent.join("husk") }
    }

    /// What is known for `key`. Whatever is damaged, or another user could have written, is not.
    pub(super) fn read(&self, key: &Key) -> Option<Ring0> {
        if !is_own_folder(&self.folder) {
            return None;
        }
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(self.folder.join(FILE)).ok()?;
        if !is_own_file(&file).ok()? {
            return None;
        }
        let mut text = String::new();
        file.take(MOST).read_to_string(&mut text).ok()?;
        let entry: Entry = serde_json::from_str(&text).ok()?;
        (entry.key == *key).then_some(entry.ring0)
    }

    /// Keeps `ring0` for `key`, if the folder is there or can be made. Without a cache all is well, but slower.
    pub(super) fn write(&self, key: &Key, ring0: &Ring0) {
        let entry = Entry { key: key.clone(), ring0: ring0.clone() };
        if let Err(error) = self.try_write(&entry) {
            tracing::debug!(folder = %self.folder.display(), %error, "the finding about KVM is not kept");
        }
    }

    fn try_write(&self, entry: &Entry) -> io::Result<()> {
        let above = |folder: &Path| folder.parent().map(Path::to_owned).unwrap_or_default();
        let parent = above(&self.folder);
        for (folder, within) in [(&parent, above(&parent)), (&self.folder, parent.clone())] {
            // With somebody else's home (sudo), a folder would get in the other's way.
            if !folder.exists() && is_own_folder(&within) {
                DirBuilder::new().mode(0o700).create(folder)?;
            }
        }
        if !is_own_folder(&self.folder) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let new = self.folder.join(format!("{FILE}.{}", std::process::id()));
        // What a process of this number has left behind is nobody's.
        let _ = fs::remove_file(&new);
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(serde_json::to_string(entry)?.as_bytes()))
            .and_then(|()| fs::rename(&new, self.folder.join(FILE)));
        if written.is_err() {
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// A folder, no link to one, that only this user may write to.
fn is_own_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|of| of.is_dir() && is_own(&of))
}

fn is_own_file(file: &File) -> io::Result<bool> {
    let of = file.metadata()?;
    Ok(of.is_file() && of.len() <= MOST && is_own(&of))
}

fn is_own(of: &fs::Metadata) -> bool {
    // SAFETY: geteuid touches no memory of ours and cannot fail.
    let user = unsafe { libc::geteuid() };
    of.uid() == user && of.mode() & 0o022 == 0
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use testkit::folder::Folder;

    use super::*;

    fn a_key() -> Key {
        key(Path::new("/dev/null"), &Host::read(Path::new("/"))).unwrap()
    }

    const FOUND: Ring0 = Ring0::Hardware { mips: 1234 };

    #[test]
    fn a_finding_is_kept_for_its_key_only() {
        let parent = Folder::new("cache-keeps");
        let cache = Cache::within(&parent);
        let key = a_key();
        assert_eq!(cache.read(&key), None);
        cache.write(&key, &FOUND);
        assert_eq!(cache.read(&key), Some(FOUND));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&cache.folder), mode(&cache.folder.join(FILE))), (0o700, 0o600));
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 1, "something is left over");

        let others = [
            Key { version: VERSION + 1, ..key.clone() },
            Key { boot: "another".into(), ..key.clone() },
            Key { kernel: "another".into(), ..key.clone() },
            Key { device: [0; 6], ..key.clone() },
        ];
        assert!(others.iter().all(|other| cache.read(other).is_none()));
        cache.write(&key, &Ring0::Hangs);
        assert_eq!(cache.read(&key), Some(Ring0::Hangs));

        let cache = Cache::within(&parent.join("made"));
        cache.write(&key, &FOUND);
        assert_eq!(cache.read(&key), Some(FOUND), "the folder above is made");
        let cache = Cache::within(&parent.join("not/made"));
        cache.write(&key, &FOUND);
        assert!(!parent.join("not").exists());
    }

    #[test]
    fn what_is_damaged_or_not_ours_is_ignored() {
        let parent = Folder::new("cache-damaged");
        let cache = Cache::within(&parent);
        let key = a_key();
        cache.write(&key, &FOUND);
        let file = cache.folder.join(FILE);
        let good = fs::read(&file).unwrap();
        for end in 0..good.len() {
            fs::write(&file, &good[..end]).unwrap();
            assert_eq!(cache.read(&key), None, "cut at {end}");
        }
        fs::write(&file, [good.clone(), vec![b' '; MOST as usize]].concat()).unwrap();
        assert_eq!(cache.read(&key), None, "too large");
        fs::write(&file, &good).unwrap();
        assert_eq!(cache.read(&key), Some(FOUND));

        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        set(&file, 0o666);
        assert_eq!(cache.read(&key), None, "all may write it");
        set(&file, 0o600);
        set(&cache.folder, 0o777);
        assert_eq!(cache.read(&key), None, "all may write to the folder");
        cache.write(&key, &Ring0::Hangs);
        set(&cache.folder, 0o700);
        assert_eq!(cache.read(&key), Some(FOUND), "a folder of all was written to");

        fs::rename(&file, cache.folder.join("elsewhere")).unwrap();
        symlink(cache.folder.join("elsewhere"), &file).unwrap();
        assert_eq!(cache.read(&key), None, "a link");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert_eq!(cache.read(&key), None, "a folder");
        cache.write(&key, &FOUND);
        assert_eq!(fs::read_dir(&cache.folder).unwrap().count(), 2, "something is left over");
    }

    #[test]
    fn a_foreign_folder_is_left_alone() {
        let parent = Folder::new("cache-foreign");
        fs::set_permissions(&*parent, fs::Permissions::from_mode(0o777)).unwrap();
        Cache::within(&parent).write(&a_key(), &FOUND);
        assert_eq!(fs::read_dir(&*parent).unwrap().count(), 0);
        Cache::within(&parent.join("nowhere")).write(&a_key(), &FOUND);
        assert_eq!(fs::read_dir(&*parent).unwrap().count(), 0);
        Cache::within(Path::new("/proc/self/status")).write(&a_key(), &FOUND);
    }
}

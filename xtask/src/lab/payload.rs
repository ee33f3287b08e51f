//! What is brought into the lab: files and folders, each program with the shared libraries it needs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::cpio::Archive;
use crate::{guest, shell};

/// Where files are in the lab.
pub(super) const HOME: &str = "lab";

/// A file or folder for the lab.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Where it is here.
    pub(crate) from: PathBuf,
    /// Its name in the lab's folder `/lab`; `a/b` lies in a folder.
    pub(crate) name: String,
}

impl Item {
    /// `from` under its own name.
    pub(crate) fn plain(from: &Path) -> Result<Self> {
        let name = from.canonicalize().with_context(|| format!("cannot find {}", from.display()))?;
        let name = name.file_name().with_context(|| format!("{} has no name", from.display()))?;
        Ok(Self { from: from.to_path_buf(), name: name.to_string_lossy().into_owned() })
    }

    /// `from` under another name.
    pub(crate) fn named(from: impl Into<PathBuf>, name: &str) -> Self {
        Self { from: from.into(), name: name.to_owned() }
    }
}

/// Collects files, folders and libraries.
#[derive(Default)]
struct Payload {
    archive: Archive,
    folders: BTreeSet<String>,
    libraries: BTreeSet<PathBuf>,
}

/// The archive of `items`, their libraries, and the lab's own files.
pub(super) fn archive(items: &[Item], own: &[(&str, Vec<u8>)]) -> Result<Vec<u8>> {
    let mut payload = Payload::default();
    payload.folder(HOME);
    for item in items {
        payload.add(&item.from, &format!("{HOME}/{}", item.name))?;
    }
    for path in std::mem::take(&mut payload.libraries) {
        let name = path.to_string_lossy().trim_start_matches('/').to_owned();
        payload.file(&name, 0o755, &guest::read(&path)?);
    }
    for (name, bytes) in own {
        payload.file(name, 0o644, bytes);
    }
    Ok(payload.archive.finish())
}

impl Payload {
    fn add(&mut self, from: &Path, name: &str) -> Result<()> {
        let about = from.metadata().with_context(|| format!("cannot find {}", from.display()))?;
        if about.is_dir() {
            self.folder(name);
            let entries = fs::read_dir(from).with_context(|| format!("cannot read {}", from.display()))?;
            let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
            paths.sort();
            for path in paths {
                let own = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                self.add(&path, &format!("{name}/{own}"))?;
            }
            return Ok(());
        }
        if !about.is_file() {
            bail!("{} is neither a file nor a folder", from.display());
        }
        let bytes = guest::read(from)?;
        if !bytes.starts_with(b"\x7fELF") {
            self.file(name, about.permissions().mode() & 0o777, &bytes);
            return Ok(());
        }
        self.libraries.extend(libraries(from)?);
        self.file(name, 0o755, &stripped(from)?.unwrap_or(bytes));
        Ok(())
    }

    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if let Some((folder, _)) = name.rsplit_once('/') {
            self.folder(folder);
        }
        self.archive.file(name, mode, bytes);
    }

    /// A folder and those it lies in.
    fn folder(&mut self, name: &str) {
        if self.folders.contains(name) {
            return;
        }
        if let Some((outer, _)) = name.rsplit_once('/') {
            self.folder(outer);
        }
        self.archive.directory(name);
        self.folders.insert(name.to_owned());
    }
}

/// The shared libraries of a program, and the one that loads them; none of a static program.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let out = shell::command("ldd").arg(program).output().context("cannot start `ldd` (package libc-bin)")?;
    let text = String::from_utf8_lossy(&out.stdout);
    if let Some(line) = text.lines().find(|line| line.contains("not found")) {
        bail!("{} needs a library that is not here: {}", program.display(), line.trim());
    }
    Ok(text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect())
}

/// The program without its lines for debuggers, which would fill the lab's memory.
fn stripped(program: &Path) -> Result<Option<Vec<u8>>> {
    const WORTH_IT: u64 = 1 << 20;
    if program.metadata().is_ok_and(|about| about.len() < WORTH_IT) || !shell::installed("strip") {
        return Ok(None);
    }
    let to = super::folder().join(format!("stripped.{}", std::process::id()));
    let done = shell::output(shell::command("strip").arg("--strip-debug").arg("-o").arg(&to).arg(program)).is_ok();
    let bytes = if done { Some(guest::read(&to)?) } else { None };
    let _ = fs::remove_file(&to);
    Ok(bytes)
}

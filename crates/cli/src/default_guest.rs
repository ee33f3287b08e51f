//! The guest that runs when the user names none: assembled by `cargo xtask guest`.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The two files of a guest.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Guest {
    /// The kernel.
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk.
    pub(crate) initrd: PathBuf,
}

/// Finds the default guest.
pub(crate) fn find() -> Result<Guest, Failure> {
    let places = places();
    places.iter().find_map(|place| guest_in(place)).ok_or_else(|| {
        let list: Vec<_> = places.iter().map(|p| p.display().to_string()).collect();
        Failure::input(
            "default guest",
            format!("not found in {}", list.join(", ")),
            "run `cargo xtask guest`, or name a kernel with --kernel",
        )
    })
}

fn places() -> Vec<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(told) = var("HUSK_GUEST") {
        return vec![told];
    }
    let mut places = vec![PathBuf::from("target/guest/cloud")];
    // target/release/husk: the target directory is two up.
    let target = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.parent()?.to_owned()));
    places.extend(target.map(|target| target.join("guest/cloud")));
    let data = var("XDG_DATA_HOME").or_else(|| Some(var("HOME")?.join(".local/share")));
    places.extend(data.map(|data| data.join("husk/guest")));
    places
}

fn guest_in(place: &Path) -> Option<Guest> {
    let guest = Guest { kernel: place.join("vmlinuz"), initrd: place.join("initrd") };
    (guest.kernel.is_file() && guest.initrd.is_file()).then_some(guest)
}

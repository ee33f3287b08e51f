//! Where workloads find and put files.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// A folder in memory, there from now on.
pub(crate) fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = named(0);
        std::fs::create_dir_all(&folder).expect("a folder in memory (the variable BENCH_FOLDER names it)");
        folder
    })
}

/// Gives the server with this process ID, and what it starts, a folder of its own.
pub(crate) fn own(id: u32) {
    // SAFETY: there is one thread.
    unsafe { std::env::set_var("BENCH_FOLDER", named(id)) };
}

/// Removes that folder.
pub(crate) fn clean() {
    let _ = std::fs::remove_dir_all(named(0));
}

fn named(id: u32) -> PathBuf {
    let base = std::env::var_os("BENCH_FOLDER").map_or_else(|| PathBuf::from("/dev/shm/husk-bench"), PathBuf::from);
    if id == 0 { base } else { base.with_file_name(format!("husk-bench-{id}")) }
}

/// The busybox to run.
pub(crate) fn busybox() -> String {
    std::env::var("BENCH_BUSYBOX").expect("the variable BENCH_BUSYBOX names a static busybox")
}

//! Who has a file open and locked, for the message that refuses it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Most processes that are looked at.
const MOST_PROCESSES: usize = 100_000;

/// Who else than `file` holds a lock of the file: `PID 123 (command)`, or that this cannot be seen.
pub(crate) fn name(path: &Path, file: &File) -> String {
    let Ok(wanted) = fs::metadata(path) else { return unknown() };
    let own = std::process::id();
    let tried = file.as_raw_fd().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return unknown() };
    for process in processes.flatten().take(MOST_PROCESSES) {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let same =
                fs::metadata(descriptor.path()).is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino()));
            let ours = pid == own && descriptor.file_name().to_str() == Some(tried.as_str());
            if same && !ours && locks(pid, &descriptor.file_name().to_string_lossy()) {
                let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                let which = if pid == own { "this process, " } else { "" };
                return format!("{which}PID {pid} ({})", command.trim());
            }
        }
    }
    unknown()
}

/// Whether the descriptor holds a lock (proc(5), `fdinfo`).
fn locks(pid: u32, descriptor: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/fdinfo/{descriptor}"))
        .is_ok_and(|text| text.lines().any(|l| l.starts_with("lock:")))
}

fn unknown() -> String {
    "a process of another user".into()
}

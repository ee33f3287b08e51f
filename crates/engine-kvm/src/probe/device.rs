//! The device `/dev/kvm`: whether it opens, and who may.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use kvm_ioctls::Kvm;
use serde::{Deserialize, Serialize};

use super::{Host, Problem};

/// The version of the KVM API, the only one since Linux 2.6.22.
const API_VERSION: i32 = 12;

/// The device and what became of opening it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Where it is.
    pub path: PathBuf,
    /// What became of opening it.
    pub access: Access,
}

/// Who may open the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub enum Access {
    /// It opens, and is KVM.
    Open,
    /// There is nothing at its path.
    Missing,
    /// There is something else.
    Other {
        /// What it is: a file, a folder.
        what: String,
    },
    /// The user may not open it.
    Denied {
        /// The permission bits.
        mode: u32,
        /// The group that owns it.
        group: String,
        /// Whether that group, and nobody else but the owner, may open it.
        group_may: bool,
        /// Whether this process is in the group.
        member: bool,
        /// Whether the user is in the group from the next login on.
        enrolled: bool,
        /// The user's name.
        user: String,
    },
    /// The device is there and nothing is behind it (`ENODEV`, `ENXIO`).
    NoDriver,
    /// Something else holds the CPU's virtualization (`EBUSY`).
    Busy,
    /// KVM speaks another version of its API.
    Version {
        /// Which one.
        version: i32,
    },
    /// Something else went wrong.
    Failed {
        /// The operating system's answer.
        error: String,
    },
}

impl Device {
    /// Opens the device at `path`, without waiting for anything.
    pub(super) fn open(path: &Path) -> (Self, Option<Kvm>) {
        let (access, kvm) = match try_open(path) {
            Ok(kvm) => (Access::Open, Some(kvm)),
            Err(access) => (access, None),
        };
        (Self { path: path.to_owned(), access }, kvm)
    }

    /// What keeps it closed, and what to do.
    pub(super) fn problem(&self, host: &Host) -> Option<Problem> {
        let path = self.path.display();
        let (cause, fix) = match &self.access {
            Access::Open => return None,
            Access::Missing => (format!("{path} is not there"), host.missing_device()),
            Access::Other { what } => {
                (format!("{path} is {what}, not KVM"), "remove it and load the module kvm again".into())
            }
            Access::NoDriver => (format!("nothing is behind {path}"), host.missing_driver()),
            Access::Busy => {
                let cause = format!("{path} is busy: another hypervisor has the CPU's virtualization");
                (cause, "stop the other one, as VirtualBox or VMware".into())
            }
            Access::Version { version } => {
                (format!("{path} speaks version {version} of its interface"), "run a newer Linux kernel".into())
            }
            Access::Failed { error } => (format!("{path}: {error}"), "see the kernel's log (dmesg)".into()),
            Access::Denied { mode, group, group_may, member, enrolled, user } => {
                let cause = format!("no permission to open {path}");
                let all_may = mode & 0o006 == 0o006;
                let fix = match (group_may, member, enrolled) {
                    _ if all_may => "the sandbox or container forbids it: hand the device in".to_string(),
                    (true, false, true) => format!("user {user} joins group {group} at the next login: log in again"),
                    (true, false, false) => {
                        format!("join its group, then log in again: sudo usermod -aG {group} {user}")
                    }
                    // The permission bits would let the user in, so something else does not.
                    (true, true, _) => "the sandbox or container forbids it: hand the device in".to_string(),
                    (false, ..) => format!("let a group in: sudo chgrp kvm {path} && sudo chmod 660 {path}"),
                };
                (cause, fix)
            }
        };
        Some(Problem { cause, fix })
    }
}

fn try_open(path: &Path) -> Result<Kvm, Access> {
    // O_NONBLOCK: what stands in the device's place may be a pipe.
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let opened = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| refusal(path, &error))?;
    let metadata = file.metadata().map_err(|error| failed(&error))?;
    if !metadata.file_type().is_char_device() {
        return Err(Access::Other { what: kind(&metadata) });
    }
    let kvm = kvm_of(file);
    match kvm.get_api_version() {
        API_VERSION => Ok(kvm),
        // Other devices do not know the request.
        -1 => Err(Access::Other { what: "another device".into() }),
        version => Err(Access::Version { version }),
    }
}

fn kvm_of(file: File) -> Kvm {
    // SAFETY: the descriptor is open and nobody else owns it; requests to what is not KVM fail.
    unsafe { Kvm::from_raw_fd(file.into_raw_fd()) }
}

fn refusal(path: &Path, error: &io::Error) -> Access {
    match error.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => Access::Missing,
        Some(libc::EACCES | libc::EPERM) => denied(path).unwrap_or_else(|| failed(error)),
        Some(libc::ENODEV | libc::ENXIO) => match fs::metadata(path) {
            Ok(metadata) if !metadata.file_type().is_char_device() => Access::Other { what: kind(&metadata) },
            _ => Access::NoDriver,
        },
        Some(libc::EISDIR) => Access::Other { what: "a folder".into() },
        Some(libc::EBUSY) => Access::Busy,
        _ => failed(error),
    }
}

fn failed(error: &io::Error) -> Access {
    let text = error.to_string();
    Access::Failed { error: text.split(" (os error").next().unwrap_or_default().to_lowercase() }
}

fn kind(metadata: &fs::Metadata) -> String {
    let kind = metadata.file_type();
    let names = [
        (kind.is_dir(), "a folder"),
        (kind.is_fifo(), "a pipe"),
        (kind.is_socket(), "a socket"),
        (kind.is_block_device(), "a disk"),
    ];
    names.iter().find(|(is, _)| *is).map_or("a file", |(_, name)| name).to_owned()
}

fn denied(path: &Path) -> Option<Access> {
    let metadata = fs::metadata(path).ok()?;
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    // SAFETY: geteuid and getegid touch no memory of ours and cannot fail.
    let (uid, gid) = unsafe { (libc::geteuid(), libc::getegid()) };
    let user = named(&users, uid).unwrap_or_else(|| uid.to_string());
    let group = named(&groups, metadata.gid());
    let listed = groups.lines().find(|line| field(line, 2) == Some(&metadata.gid().to_string()));
    let enrolled = listed.and_then(|line| field(line, 3)).is_some_and(|names| names.split(',').any(|n| n == user));
    Some(Access::Denied {
        mode: metadata.mode() & 0o7777,
        group_may: metadata.mode() & 0o060 == 0o060 && metadata.gid() != 0,
        group: group.unwrap_or_else(|| metadata.gid().to_string()),
        member: gid == metadata.gid() || supplementary_groups().contains(&metadata.gid()),
        enrolled,
        user,
    })
}

/// The name of a number in `/etc/passwd` or `/etc/group`, where it is the third field.
fn named(table: &str, number: u32) -> Option<String> {
    let line = table.lines().find(|line| field(line, 2) == Some(&number.to_string()))?;
    field(line, 0).map(str::to_owned)
}

fn field(line: &str, index: usize) -> Option<&str> {
    line.split(':').nth(index)
}

fn supplementary_groups() -> Vec<libc::gid_t> {
    // SAFETY: with a size of zero the call only counts.
    let count = unsafe { libc::getgroups(0, std::ptr::null_mut()) };
    let mut groups = vec![0; usize::try_from(count).unwrap_or(0)];
    // SAFETY: the list has room for `count` entries.
    let count = unsafe { libc::getgroups(count.max(0), groups.as_mut_ptr()) };
    groups.truncate(usize::try_from(count).unwrap_or(0));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(access: Access) -> String {
        let device = Device { path: "/dev/kvm".into(), access };
        device.problem(&Host::read(Path::new("/nowhere"))).unwrap().to_string()
    }

    #[test]
    fn who_may_not_is_told_how() {
        let denied = |mode, group_may, member, enrolled| {
            let (group, user) = ("kvm".to_owned(), "alice".to_owned());
            problem(Access::Denied { mode, group, group_may, member, enrolled, user })
        };
        let text = denied(0o660, true, false, false);
        let fix = "join its group, then log in again: sudo usermod -aG kvm alice";
        assert_eq!(text, format!("no permission to open /dev/kvm; {fix}"));
        assert!(denied(0o660, true, false, true).contains("user alice joins group kvm at the next login"));
        assert!(denied(0o660, true, true, true).contains("container"));
        assert!(denied(0o666, false, false, false).contains("container"));
        assert!(denied(0o600, false, false, false).contains("sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm"));
    }

    #[test]
    fn each_obstacle_has_a_fix() {
        let cases = [
            (Access::Missing, "/dev/kvm is not there; "),
            (Access::Other { what: "a pipe".into() }, "/dev/kvm is a pipe, not KVM; "),
            (Access::NoDriver, "nothing is behind /dev/kvm; "),
            (Access::Busy, "another hypervisor has the CPU's virtualization; "),
            (Access::Version { version: 11 }, "version 11"),
            (Access::Failed { error: "too many open files".into() }, "/dev/kvm: too many open files; "),
        ];
        for (access, part) in cases {
            let text = problem(access);
            assert!(text.contains(part) && text.lines().count() == 1, "{text}");
        }
    }

    #[test]
    fn what_is_not_kvm_is_told_apart() {
        let access = |path: &str| Device::open(Path::new(path)).0.access;
        let other = |what: &str| Access::Other { what: what.into() };
        assert_eq!(access("/nowhere/kvm"), Access::Missing);
        assert_eq!(access("/etc/passwd/kvm"), Access::Missing);
        assert_eq!(access("/dev"), other("a folder"));
        assert_eq!(access("/dev/null"), other("another device"));
    }

    #[test]
    fn names_come_from_the_tables() {
        let table = "root:x:0:\nkvm:x:104:alice,bob\ndamaged\n";
        assert_eq!(named(table, 104).as_deref(), Some("kvm"));
        assert_eq!(named(table, 7), None);
    }
}

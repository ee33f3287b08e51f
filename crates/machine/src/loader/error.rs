//! Why a kernel cannot be loaded.

use super::EntryMode;

/// Why a kernel cannot be loaded: the object, the cause and what to do, in one line.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file is something else.
    #[error(
        "the kernel file is not a Linux kernel: it {looks}; give a bzImage (vmlinuz) or an ELF vmlinux with a PVH entry"
    )]
    NotKernel {
        /// What it looks like.
        looks: &'static str,
    },
    /// The file ends too early.
    #[error(
        "the kernel file is truncated: {part} ends at byte {need}, the file at byte {have}; fetch or build it again"
    )]
    Truncated {
        /// The part that is cut.
        part: &'static str,
        /// Where it should end.
        need: u64,
        /// Where the file ends.
        have: u64,
    },
    /// The boot protocol is too old.
    #[error("the kernel speaks boot protocol {}.{:02}, older than 2.06; use a kernel of version 2.6.22 or newer", .version >> 8, .version & 0xff)]
    TooOld {
        /// The protocol version, major in the high byte.
        version: u16,
    },
    /// A zImage.
    #[error("the kernel is a zImage, which is loaded below 1 MiB; use a bzImage")]
    ZImage,
    /// The header contradicts itself.
    #[error("the kernel file is damaged: {reason}; fetch or build it again")]
    Damaged {
        /// What is wrong.
        reason: &'static str,
    },
    /// The kernel has no such entry.
    #[error("the kernel is {file} and has no {entry} entry; use {use_instead} or auto")]
    NoEntry {
        /// The entry asked for.
        entry: EntryMode,
        /// What the kernel is.
        file: &'static str,
        /// What it has.
        use_instead: &'static str,
    },
    /// Kernel and initrd do not fit into memory.
    #[error("{have_mib} MiB of memory are too little for this kernel and initrd; give the VM at least {need_mib} MiB")]
    MemoryTooSmall {
        /// The least memory that holds both.
        need_mib: u64,
        /// What the VM has.
        have_mib: u64,
    },
    /// Kernel and initrd do not fit below 4 GiB at all.
    #[error(
        "kernel and initrd need {need_mib} MiB, but there are never more than {most_mib} MiB below 4 GiB; use a smaller initrd"
    )]
    TooLarge {
        /// What they need.
        need_mib: u64,
        /// What a VM can have.
        most_mib: u64,
    },
    /// The kernel wants its initrd lower than it fits.
    #[error("the initrd has {len} bytes, but this kernel takes {room} at most; use a smaller initrd")]
    InitrdLimit {
        /// Its length.
        len: u64,
        /// The room between the kernel and its limit.
        room: u64,
    },
    /// The initrd file has no bytes.
    #[error("the initrd file is empty; give an initramfs or leave it out")]
    InitrdEmpty,
    /// The command line is longer than the kernel takes.
    #[error("the kernel command line has {len} bytes, but this kernel takes {max} at most; shorten it")]
    CommandLineLong {
        /// Its length.
        len: u64,
        /// The most the kernel takes.
        max: u64,
    },
    /// The command line has a zero byte inside.
    #[error("the kernel command line has a zero byte in it; remove it")]
    CommandLineZero,
    /// Guest memory refused.
    #[error("the kernel cannot be put into guest memory: {0}")]
    Memory(#[from] memory::Error),
}

/// What a file that is no kernel looks like, from its first bytes.
pub(super) fn looks_like(data: &[u8]) -> &'static str {
    const MAGICS: &[(usize, &[u8], &str)] = &[
        (0, b"\x1f\x8b", "is gzip data; decompress it first"),
        (0, b"\xfd7zXZ\0", "is xz data; decompress it first"),
        (0, b"\x28\xb5\x2f\xfd", "is zstd data; decompress it first"),
        (0, b"BZh", "is bzip2 data; decompress it first"),
        (0, b"\x02\x21\x4c\x18", "is lz4 data; decompress it first"),
        (0, b"070701", "is a cpio archive, which is an initramfs"),
        (0, b"!<arch>\n", "is a Debian package or static library; unpack it first"),
        (0, b"QFI\xfb", "is a qcow2 disk image"),
        (0x8001, b"CD001", "is a CD image"),
        (0x38, b"ARM\x64", "is a kernel for 64-bit ARM"),
        (0, b"MZ", "is a Windows or EFI program without a Linux header"),
        (510, b"\x55\xaa", "is a boot sector or disk image"),
    ];
    if data.is_empty() {
        return "is empty";
    }
    for (at, magic, looks) in MAGICS {
        if data.get(*at..).is_some_and(|rest| rest.starts_with(magic)) {
            return looks;
        }
    }
    let start = &data[..data.len().min(512)];
    if start.iter().all(|b| matches!(b, b'\t' | b'\n' | b'\r' | b' '..=b'~')) {
        return "is text";
    }
    if start.iter().all(|b| *b == 0) { "starts with zeros" } else { "has no header that is known" }
}

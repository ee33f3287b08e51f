//! Direct boot: a Linux kernel put into guest memory without firmware.
//!
//! A bzImage starts by the Linux/x86 boot protocol (`Documentation/arch/x86/boot.rst`), an ELF file by the PVH boot
//! ABI (Xen, `docs/misc/pvh.pandoc`). What the loader itself puts into memory is in the first 192 KiB;
//! kernels are loaded at 1 MiB and above.
//!
//! A bzImage is the kernel, compressed, behind code that decompresses it. That takes a software engine seconds, so the
//! loader does it, and starts the kernel proper as that code would have done: with the same `boot_params` at the
//! address it was linked for. So it runs without address space randomisation, which is that code's work too.

mod bzimage;
pub mod e820;
mod elf;
mod entry;
mod error;
mod fill;
mod pvh;
mod unpack;
mod vmlinux;

pub use entry::{Entry, EntryMode, set_memory_types};
pub use error::LoadError;

use memory::{Gpa, GuestMemory};

use crate::Board;
use bzimage::BzImage;
pub(crate) use bzimage::split as split_bzimage;
use elf::Elf;

/// Where the loader puts its own things: conventional memory that a kernel reads before it uses any of it.
mod place {
    pub(super) const GDT: u64 = 0x1000;
    pub(super) const PVH_INFO: u64 = 0x3000;
    pub(super) const BOOT_PARAMS: u64 = 0x7000;
    pub(super) const PAGE_TABLES: u64 = 0x9000;
    pub(super) const STACK_TOP: u64 = 0x2_0000;
    pub(super) const COMMAND_LINE: u64 = 0x2_0000;
    /// The most bytes of the command line, its final zero included.
    pub(super) const COMMAND_LINE_ROOM: u64 = 0x1_0000;
    pub(super) const KERNEL_LEAST: u64 = 0x10_0000;
}

/// Puts a kernel with its initrd and command line into `mem`, which is laid out as `board` says, and tells where to
/// start. The ACPI tables are expected at the board's place for them.
///
/// # Errors
/// [`LoadError`] names what is wrong with which file, and what to do.
pub fn load(
    mem: &GuestMemory,
    board: &Board,
    kernel: &[u8],
    initrd: Option<&[u8]>,
    cmdline: &str,
    entry: EntryMode,
) -> Result<Entry, LoadError> {
    if cmdline.contains('\0') {
        return Err(LoadError::CommandLineZero);
    }
    // A file of no bytes is no initrd, but certainly not what was meant.
    if initrd.is_some_and(<[u8]>::is_empty) {
        return Err(LoadError::InitrdEmpty);
    }
    let boot = Boot { mem, board, initrd, cmdline };
    if Elf::is_elf(kernel) {
        return match entry {
            EntryMode::Auto | EntryMode::Pvh => pvh::load(&boot, kernel),
            EntryMode::Boot32 | EntryMode::Boot64 => {
                Err(LoadError::NoEntry { entry, file: "an ELF file", use_instead: "pvh" })
            }
        };
    }
    let image = BzImage::parse(kernel)?;
    match entry {
        EntryMode::Auto | EntryMode::Boot32 => image.load(&boot, entry),
        EntryMode::Boot64 if image.has_64() => image.load(&boot, entry),
        EntryMode::Boot64 => Err(LoadError::NoEntry { entry, file: "a 32-bit bzImage", use_instead: "boot32" }),
        EntryMode::Pvh => Err(LoadError::NoEntry { entry, file: "a bzImage", use_instead: "boot32 or boot64" }),
    }
}

/// What is booted beside the kernel itself.
struct Boot<'a> {
    mem: &'a GuestMemory,
    board: &'a Board,
    initrd: Option<&'a [u8]>,
    cmdline: &'a str,
}

impl Boot<'_> {
    /// The end of the RAM that starts at 1 MiB or below and goes on without a hole.
    fn low_ram_end(&self) -> u64 {
        let mut regions = self.mem.regions().filter(|r| r.start.0 <= place::KERNEL_LEAST);
        regions.by_ref().map(|r| r.start.0.saturating_add(r.len)).max().unwrap_or(0)
    }

    /// Writes the command line, of `max` bytes at most.
    fn write_command_line(&self, max: u64) -> Result<Gpa, LoadError> {
        let max = max.min(place::COMMAND_LINE_ROOM - 1);
        let len = self.cmdline.len() as u64;
        if len > max {
            return Err(LoadError::CommandLineLong { len, max });
        }
        let at = Gpa(place::COMMAND_LINE);
        self.mem.write(at, self.cmdline.as_bytes())?;
        self.mem.write(Gpa(at.0 + len), &[0])?;
        Ok(at)
    }

    /// Checks that the kernel's memory, up to `kernel_end`, and the initrd fit, and writes the initrd as high as
    /// `limit` and RAM allow. Gives its address and length, zero without one.
    fn write_initrd(&self, kernel_end: u64, limit: u64) -> Result<(Gpa, u64), LoadError> {
        const MIB: u64 = 1 << 20;
        let len = self.initrd.map_or(0, |i| i.len() as u64);
        let ram_end = self.low_ram_end();
        let room = len.next_multiple_of(memory::PAGE_SIZE);
        let need = kernel_end.saturating_add(room);
        if need > ram_end {
            let (need_mib, have_mib) = (need.div_ceil(MIB), ram_end / MIB);
            // More memory does not help when the room below the PCI hole is all used.
            if need > self.board.low_ram_limit {
                return Err(LoadError::TooLarge { need_mib, most_mib: self.board.low_ram_limit / MIB });
            }
            return Err(LoadError::MemoryTooSmall { need_mib, have_mib });
        }
        let Some(initrd) = self.initrd else { return Ok((Gpa(0), 0)) };
        let top = ram_end.min(limit) & !(memory::PAGE_SIZE - 1);
        let start = top.checked_sub(room).filter(|start| *start >= kernel_end);
        let start = start.ok_or(LoadError::InitrdLimit { len, room: top.saturating_sub(kernel_end) })?;
        self.mem.write(Gpa(start), initrd)?;
        Ok((Gpa(start), len))
    }
}

/// The little-endian bytes at `at`, if they are there.
fn bytes<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn u16_at(data: &[u8], at: usize) -> Option<u16> {
    bytes(data, at).map(u16::from_le_bytes)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    bytes(data, at).map(u32::from_le_bytes)
}

fn u64_at(data: &[u8], at: usize) -> Option<u64> {
    bytes(data, at).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests;

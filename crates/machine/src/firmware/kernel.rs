//! A kernel that firmware boots: its parts as items of the firmware configuration, and where they go
//! (Linux, `Documentation/arch/x86/boot.rst`; QEMU, *fw_cfg* specification).

use super::items::{Items, key};
use crate::Board;
use crate::loader::LoadError;

/// Where the parts go.
const SETUP: u32 = 0x1_0000;
const COMMAND_LINE: u32 = 0x2_0000;
const KERNEL: u32 = 0x10_0000;
/// The end of the setup code's heap, from its start.
const HEAP_END: u16 = 0xe000;
/// At the end of RAM below 4 GiB firmware has its own tables.
const FIRMWARE_ROOM: u64 = 1 << 20;
/// The longest command line in bytes, its final zero included: what is between it and the extended BIOS data.
const COMMAND_LINE_ROOM: usize = 0x1_0000;

/// The files of a kernel.
pub struct KernelFiles<'a> {
    /// The bzImage.
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub command_line: &'a str,
}

/// A kernel taken apart.
#[derive(Debug, Clone)]
pub struct KernelParts {
    setup: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    initrd_address: u32,
    command_line: Vec<u8>,
}

/// Offsets in the setup header.
mod header {
    pub(super) const VIDEO_MODE: usize = 0x1fa;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const HEAP_END: usize = 0x224;
    pub(super) const COMMAND_LINE: usize = 0x228;
}

/// Takes a bzImage apart for a machine on `board` with `ram` bytes of RAM.
///
/// # Errors
/// [`LoadError`] names what is wrong with which file.
pub fn kernel_parts(board: &Board, ram: u64, files: &KernelFiles<'_>) -> Result<KernelParts, LoadError> {
    const CAN_USE_HEAP: u8 = 0x80;
    const UNDEFINED_LOADER: u8 = 0xff;
    if files.command_line.contains('\0') {
        return Err(LoadError::CommandLineZero);
    }
    if files.initrd.is_some_and(<[u8]>::is_empty) {
        return Err(LoadError::InitrdEmpty);
    }
    let split = crate::loader::split_bzimage(files.kernel)?;
    let len = files.command_line.len() as u64;
    let most = split.cmdline_max.min(COMMAND_LINE_ROOM as u64 - 1);
    if len > most {
        return Err(LoadError::CommandLineLong { len, max: most });
    }
    let initrd = files.initrd.unwrap_or_default();
    let (low, _) = board.split_ram(ram);
    let top = low.saturating_sub(FIRMWARE_ROOM).min(split.initrd_max.saturating_add(1)) & !(memory::PAGE_SIZE - 1);
    let initrd_len = initrd.len() as u64;
    // The kernel is moved and unpacked before it looks at the initrd.
    let need = split.end.saturating_add(initrd_len.next_multiple_of(memory::PAGE_SIZE));
    if need > top {
        const MIB: u64 = 1 << 20;
        return Err(LoadError::MemoryTooSmall { need_mib: (need + FIRMWARE_ROOM).div_ceil(MIB), have_mib: low / MIB });
    }
    let initrd_address = u32::try_from((top - initrd_len) & !(memory::PAGE_SIZE - 1)).unwrap_or(0);

    let mut setup = split.setup.to_vec();
    let flags = setup.get(header::LOADFLAGS).copied().unwrap_or(0) | CAN_USE_HEAP;
    put(&mut setup, header::VIDEO_MODE, &video_mode(files.command_line).to_le_bytes());
    put(&mut setup, header::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
    put(&mut setup, header::LOADFLAGS, &[flags]);
    put(&mut setup, header::HEAP_END, &(HEAP_END - 0x200).to_le_bytes());
    put(&mut setup, header::COMMAND_LINE, &COMMAND_LINE.to_le_bytes());
    if !initrd.is_empty() {
        put(&mut setup, header::RAMDISK_IMAGE, &initrd_address.to_le_bytes());
        put(&mut setup, header::RAMDISK_SIZE, &(initrd_len as u32).to_le_bytes());
    }
    let mut command_line = files.command_line.as_bytes().to_vec();
    command_line.push(0);
    Ok(KernelParts { setup, kernel: split.code.to_vec(), initrd: initrd.to_vec(), initrd_address, command_line })
}

/// The video mode that the setup code is to set: the option `vga=`, which is the loader's and not the kernel's (Linux,
/// *The Linux/x86 Boot Protocol*, special command line options).
fn video_mode(command_line: &str) -> u16 {
    const NORMAL: u16 = 0xffff;
    let value = command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("vga=")).next_back();
    let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    };
    match value {
        None | Some("normal") => NORMAL,
        Some("ext") => 0xfffe,
        Some("ask") => 0xfffd,
        Some(text) => number(text).unwrap_or(NORMAL),
    }
}

fn put(page: &mut [u8], at: usize, data: &[u8]) {
    page.iter_mut().skip(at).zip(data).for_each(|(to, from)| *to = *from);
}

impl KernelParts {
    /// The stack of the setup code, from its start.
    pub(super) const STACK: u16 = HEAP_END;

    /// Adds the parts to the items.
    pub fn add_to(&self, items: &mut Items) {
        let parts = [
            (key::SETUP_ADDRESS, SETUP, key::SETUP_SIZE, key::SETUP_DATA, &self.setup),
            (key::KERNEL_ADDRESS, KERNEL, key::KERNEL_SIZE, key::KERNEL_DATA, &self.kernel),
            (key::INITRD_ADDRESS, self.initrd_address, key::INITRD_SIZE, key::INITRD_DATA, &self.initrd),
            (
                key::COMMAND_LINE_ADDRESS,
                COMMAND_LINE,
                key::COMMAND_LINE_SIZE,
                key::COMMAND_LINE_DATA,
                &self.command_line,
            ),
        ];
        for (address_key, address, size_key, data_key, data) in parts {
            items.number(address_key, &address.to_le_bytes());
            items.number(size_key, &(data.len() as u32).to_le_bytes());
            items.number(data_key, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_video_mode_is_read_from_the_command_line() {
        let modes = [
            ("quiet", 0xffff),
            ("vga=normal", 0xffff),
            ("vga=ext quiet", 0xfffe),
            ("a vga=ask", 0xfffd),
            ("vga=0x317", 0x317),
            ("vga=791 vga=792", 792),
            ("vga=70000", 0xffff),
            ("vga=", 0xffff),
            ("novga=1", 0xffff),
        ];
        for (line, mode) in modes {
            assert_eq!(video_mode(line), mode, "{line}");
        }
    }
}

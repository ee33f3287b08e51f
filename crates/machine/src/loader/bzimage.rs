//! The Linux/x86 boot protocol (`Documentation/arch/x86/boot.rst`, `zero-page.rst`).

use memory::{Gpa, GuestMemory};

use super::error::looks_like;
use super::vmlinux::{self, Unfit, Vmlinux};
use super::{Boot, Entry, EntryMode, LoadError, e820, place, u16_at, u32_at, u64_at};

/// Offsets of the setup header's fields, in the file as in `boot_params`.
mod header {
    pub(super) const START: usize = 0x1f1;
    pub(super) const SYSSIZE: usize = 0x1f4;
    pub(super) const BOOT_FLAG: usize = 0x1fe;
    pub(super) const JUMP: usize = 0x200;
    pub(super) const MAGIC: usize = 0x202;
    pub(super) const VERSION: usize = 0x206;
    pub(super) const TYPE_OF_LOADER: usize = 0x210;
    pub(super) const LOADFLAGS: usize = 0x211;
    pub(super) const CODE32_START: usize = 0x214;
    pub(super) const RAMDISK_IMAGE: usize = 0x218;
    pub(super) const RAMDISK_SIZE: usize = 0x21c;
    pub(super) const CMD_LINE_PTR: usize = 0x228;
    pub(super) const INITRD_ADDR_MAX: usize = 0x22c;
    pub(super) const RELOCATABLE: usize = 0x234;
    pub(super) const XLOADFLAGS: usize = 0x236;
    pub(super) const CMDLINE_SIZE: usize = 0x238;
    pub(super) const PAYLOAD_OFFSET: usize = 0x248;
    pub(super) const PAYLOAD_LENGTH: usize = 0x24c;
    pub(super) const PREF_ADDRESS: usize = 0x258;
    pub(super) const INIT_SIZE: usize = 0x260;
    /// The most that the header takes: the fields of `boot_params` behind it start here.
    pub(super) const END: usize = 0x290;
}

/// Offsets of other fields of `boot_params`.
mod params {
    pub(super) const ACPI_RSDP_ADDR: usize = 0x70;
    pub(super) const E820_ENTRIES: usize = 0x1e8;
    pub(super) const E820_TABLE: usize = 0x2d0;
    pub(super) const E820_MAX: usize = 128;
    pub(super) const LEN: usize = 4096;
}

const LOADED_HIGH: u8 = 1;
/// What the code of a bzImage tells the kernel: that it has chosen its address at random.
const KASLR: u8 = 1 << 1;
const XLF_KERNEL_64: u16 = 1;
/// A loader without a registered number.
const UNDEFINED_LOADER: u8 = 0xff;
/// The 64-bit entry, from the start of the protected-mode part.
const ENTRY_64: u64 = 0x200;

/// A bzImage whose header has been checked.
#[derive(Debug)]
pub(super) struct BzImage<'a> {
    header: &'a [u8],
    /// The protected-mode part.
    code: &'a [u8],
    load_at: u64,
    /// The kernel, compressed, if the header tells where it is and what memory it needs.
    payload: Option<&'a [u8]>,
    /// Where the kernel is to run.
    run_at: u64,
    /// The memory it needs from `run_at` on until it runs.
    init_len: u64,
    initrd_max: u64,
    cmdline_max: u64,
    flags64: u16,
}

impl<'a> BzImage<'a> {
    /// Reads and checks the header.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LoadError> {
        let not = || LoadError::NotKernel { looks: looks_like(file) };
        if file.get(header::MAGIC..header::MAGIC + 4) != Some(b"HdrS")
            || u16_at(file, header::BOOT_FLAG) != Some(0xaa55)
        {
            return Err(not());
        }
        let have = file.len() as u64;
        let cut = |part, need: u64| LoadError::Truncated { part, need, have };
        let version = u16_at(file, header::VERSION).ok_or_else(not)?;
        if version < 0x206 {
            return Err(LoadError::TooOld { version });
        }
        // The jump at 200h leads behind the header.
        let [opcode, distance] = super::bytes(file, header::JUMP).ok_or_else(not)?;
        let header_end = header::MAGIC + usize::from(distance);
        if opcode != 0xeb || header_end < header::CMDLINE_SIZE + 4 {
            return Err(LoadError::Damaged { reason: "its setup header is too short" });
        }
        let header = file.get(..header_end).ok_or_else(|| cut("the setup header", header_end as u64))?;
        let byte = |at: usize| header.get(at).copied().unwrap_or(0);
        let word = |at: usize| u32_at(header, at).unwrap_or(0);
        if byte(header::LOADFLAGS) & LOADED_HIGH == 0 {
            return Err(LoadError::ZImage);
        }
        let sectors = match byte(header::START) {
            0 => 4,
            n => usize::from(n),
        };
        let code_start = (sectors + 1) * 512;
        let code = file.get(code_start..).unwrap_or(&[]);
        // In units of 16 bytes, rounded up.
        let code_len = u64::from(word(header::SYSSIZE)) * 16;
        if code.len() as u64 + 15 < code_len.max(ENTRY_64 + 16) {
            return Err(cut("the kernel proper", code_start as u64 + code_len));
        }
        let modern = version >= 0x20a && header_end >= header::INIT_SIZE + 4;
        let relocatable = modern && byte(header::RELOCATABLE) != 0;
        let preferred = u64_at(header, header::PREF_ADDRESS).unwrap_or(0);
        let entry = match u64::from(word(header::CODE32_START)) {
            // Who does not say it is where all are that are loaded high.
            0 => place::KERNEL_LEAST,
            entry => entry,
        };
        let load_at = if relocatable { preferred } else { entry };
        let run_at = if modern { preferred.max(load_at) } else { load_at };
        if load_at < place::KERNEL_LEAST || run_at >= 1 << 32 {
            return Err(LoadError::Damaged { reason: "it wants to be loaded below 1 MiB or above 4 GiB" });
        }
        // Old kernels do not tell; four times is what their compression gains at most.
        let init_len = if modern { u64::from(word(header::INIT_SIZE)) } else { code.len() as u64 * 4 };
        let payload = || {
            let start = word(header::PAYLOAD_OFFSET) as usize;
            let len = word(header::PAYLOAD_LENGTH) as usize;
            code.get(start..start.checked_add(len)?).filter(|payload| !payload.is_empty())
        };
        Ok(Self {
            header,
            code,
            load_at,
            payload: payload().filter(|_| modern),
            run_at,
            init_len: init_len.max(code.len() as u64),
            initrd_max: u64::from(word(header::INITRD_ADDR_MAX)),
            cmdline_max: u64::from(word(header::CMDLINE_SIZE)),
            flags64: if version >= 0x20c { u16_at(header, header::XLOADFLAGS).unwrap_or(0) } else { 0 },
        })
    }

    /// Whether it has the 64-bit entry.
    pub(super) fn has_64(&self) -> bool {
        self.flags64 & XLF_KERNEL_64 != 0
    }

    /// Puts it into memory, decompressed for [`EntryMode::Auto`] if that is possible.
    pub(super) fn load(&self, boot: &Boot<'_>, entry: EntryMode) -> Result<Entry, LoadError> {
        let kernel_end = self.run_at.saturating_add(self.init_len).next_multiple_of(memory::PAGE_SIZE);
        let (initrd, initrd_len) = boot.write_initrd(kernel_end, self.initrd_max + 1)?;
        let (mode, ip) = match entry {
            EntryMode::Auto => match self.unpack(boot.mem) {
                Ok(kernel) => (if kernel.wide { EntryMode::Boot64 } else { EntryMode::Boot32 }, kernel.entry),
                Err(reason) => {
                    tracing::info!("the kernel decompresses itself, which takes longer: {reason}");
                    self.write_code(boot.mem, if self.has_64() { EntryMode::Boot64 } else { EntryMode::Boot32 })?
                }
            },
            mode => self.write_code(boot.mem, mode)?,
        };
        let cmdline = boot.write_command_line(self.cmdline_max)?;

        let mut page = vec![0; params::LEN];
        let copied = &self.header[header::START..self.header.len().min(header::END)];
        put(&mut page, header::START, copied);
        put(&mut page, header::TYPE_OF_LOADER, &[UNDEFINED_LOADER]);
        let loadflags = self.header.get(header::LOADFLAGS).copied().unwrap_or(0);
        put(&mut page, header::LOADFLAGS, &[loadflags & !KASLR]);
        put(&mut page, header::CODE32_START, &(self.load_at as u32).to_le_bytes());
        put(&mut page, header::RAMDISK_IMAGE, &(initrd.0 as u32).to_le_bytes());
        put(&mut page, header::RAMDISK_SIZE, &(initrd_len as u32).to_le_bytes());
        put(&mut page, header::CMD_LINE_PTR, &(cmdline.0 as u32).to_le_bytes());
        put(&mut page, params::ACPI_RSDP_ADDR, &boot.board.acpi.start.to_le_bytes());
        let map = e820::map(boot.mem, boot.board);
        let map = &map[..map.len().min(params::E820_MAX)];
        put(&mut page, params::E820_ENTRIES, &[map.len() as u8]);
        for (i, range) in map.iter().enumerate() {
            let at = params::E820_TABLE + 20 * i;
            put(&mut page, at, &range.start.to_le_bytes());
            put(&mut page, at + 8, &range.len.to_le_bytes());
            put(&mut page, at + 16, &(range.kind as u32).to_le_bytes());
        }
        let info = Gpa(place::BOOT_PARAMS);
        boot.mem.write(info, &page)?;
        let entry = Entry { mode, ip: Gpa(ip), info };
        entry.write_tables(boot.mem)?;
        Ok(entry)
    }

    /// Puts the kernel inside to where it runs. [`Boot::write_initrd`] has checked that there is RAM.
    fn unpack(&self, mem: &GuestMemory) -> Result<Vmlinux, Unfit> {
        let payload = self.payload.ok_or(Unfit::NoPayload)?;
        let started = std::time::Instant::now();
        let kernel = vmlinux::load(mem, payload, self.run_at..self.run_at.saturating_add(self.init_len))?;
        let Vmlinux { compression, unpacked, .. } = kernel;
        tracing::debug!(?compression, packed = payload.len(), unpacked, took = ?started.elapsed(), "kernel decompressed");
        Ok(kernel)
    }

    /// Puts the code that decompresses the kernel and the compressed kernel into memory. Gives the entry.
    fn write_code(&self, mem: &GuestMemory, mode: EntryMode) -> Result<(EntryMode, u64), LoadError> {
        mem.write(Gpa(self.load_at), self.code)?;
        Ok((mode, self.load_at + if mode == EntryMode::Boot64 { ENTRY_64 } else { 0 }))
    }
}

/// A bzImage taken apart, for a loader that enters it at its setup code.
pub(crate) struct Split<'a> {
    /// The boot sector and the setup code.
    pub(crate) setup: &'a [u8],
    /// The protected-mode part.
    pub(crate) code: &'a [u8],
    /// The end of the memory that the kernel needs until it looks at its initrd.
    pub(crate) end: u64,
    /// The last address that an initrd may take.
    pub(crate) initrd_max: u64,
    /// The longest command line, without the final zero.
    pub(crate) cmdline_max: u64,
}

/// Takes a bzImage apart.
pub(crate) fn split(file: &[u8]) -> Result<Split<'_>, LoadError> {
    let image = BzImage::parse(file)?;
    let (setup, _) = file.split_at_checked(file.len() - image.code.len()).unwrap_or((file, &[]));
    Ok(Split {
        setup,
        code: image.code,
        end: image.run_at.saturating_add(image.init_len),
        initrd_max: image.initrd_max,
        cmdline_max: image.cmdline_max,
    })
}

/// Writes into the page; what is beyond it is cut off.
fn put(page: &mut [u8], at: usize, data: &[u8]) {
    for (to, from) in page.iter_mut().skip(at).zip(data) {
        *to = *from;
    }
}

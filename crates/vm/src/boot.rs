//! What the guest starts with: a kernel put into memory, or firmware and what it is told.

use std::ops::Range;

use devices::video::Vga;
use machine::acpi::{self, Contents};
use machine::board::HIGH_RAM;
use machine::firmware::{self, FirmwareRom, Items, KernelFiles};
use machine::loader::{self, Entry, LoadError};
use machine::{Board, smbios};
use memory::{GuestMemory, StoreConfig};

use crate::{Config, Error, Payload, Video};

/// The largest firmware, and more than the files for it: they are held in memory.
const FIRMWARE_LIMIT: u64 = 64 << 20;

/// The order of systems to boot when there is a kernel: before all others.
const KERNEL_FIRST: &str = "/rom@genroms/linuxboot.bin";

/// What the caller has opened.
pub(crate) struct Given {
    pub(crate) firmware: Option<Payload>,
    pub(crate) kernel: Option<Payload>,
    pub(crate) initrd: Option<Payload>,
    pub(crate) files: Vec<(String, Payload)>,
    /// The name and the size in bytes of the firmware's variables.
    pub(crate) variables: Option<(String, u64)>,
}

/// The name of the memory of the flash chip with the firmware's variables.
pub(crate) const VARIABLES: &str = "variables";

/// What is put into memory at power-on.
pub(crate) struct Boot {
    start: Start,
    /// The memory is as [`Boot::load`] has left it.
    fresh: bool,
    flash: Option<Range<u64>>,
}

enum Start {
    Firmware(FirmwareRom),
    Kernel { kernel: Payload, initrd: Option<Payload>, tables: acpi::Tables, identity: smbios::Tables },
}

impl Boot {
    /// What the guest starts with, the memory that it has, and with firmware what that is told.
    pub(crate) fn prepare(
        board: &Board,
        config: &Config,
        contents: &Contents,
        given: Given,
    ) -> Result<(Self, GuestMemory, Option<Items>), Error> {
        // A UUID of zeros: the VM has none (SMBIOS 3.7, 7.2.1).
        let identity = smbios::build(board, config.cpus.count, config.memory, [0; 16]);
        let video = (config.video == Video::Std).then(Vga::store);
        let Some(mut image) = given.firmware else {
            let kernel = given.kernel.ok_or(Error::NothingToRun)?;
            let memory = GuestMemory::with_stores(&board.layout(config.memory), video.as_slice())?;
            let tables = acpi::build(board, contents)?;
            let start = Start::Kernel { kernel, initrd: given.initrd, tables, identity };
            return Ok((Self { start, fresh: false, flash: None }, memory, None));
        };
        let rom = FirmwareRom::new(&image.read(FIRMWARE_LIMIT)?)
            .map_err(|source| Error::Firmware { name: image.name().to_owned(), source })?;
        let flash = given.variables.map(|(name, bytes)| {
            let apart = || Error::VariablesApart { name, bytes, firmware: HIGH_RAM - rom.range().start };
            rom.variables(bytes).ok_or_else(apart)
        });
        let flash = flash.transpose()?;
        let variables = flash.clone().map(|at| StoreConfig::switched(VARIABLES, at.clone(), at.end - at.start));
        let stores: Vec<_> = variables.into_iter().chain(video).collect();
        let memory = rom.memory(board, config.memory, &stores)?;
        let (anchor, structures) = identity.split();
        let port = config.firmware_console && contents.serial_ports > 0;
        let mut items = Items::of(&firmware::Machine {
            board,
            ram: config.memory,
            cpus: config.cpus.count,
            acpi: &acpi::loader_files(board, contents)?,
            smbios: (&anchor, structures),
            serial_console: port.then_some(board.ports.serial[0]),
        });
        let mut order = config.boot_order.clone();
        if let Some(mut kernel) = given.kernel {
            add_kernel(&mut items, board, config, &mut kernel, given.initrd)?;
            order.insert(0, KERNEL_FIRST.to_owned());
        }
        if !order.is_empty() {
            items.boot_order(&order);
        }
        for (name, mut file) in given.files {
            firmware::check_file_name(&name)?;
            items.file(&name, &file.read(FIRMWARE_LIMIT)?);
        }
        Ok((Self { start: Start::Firmware(rom), fresh: false, flash }, memory, Some(items)))
    }

    /// Where the flash chip with the firmware's variables is.
    pub(crate) fn flash(&self) -> Option<Range<u64>> {
        self.flash.clone()
    }

    /// Puts it into memory. Where a kernel is entered; firmware is at the reset vector.
    pub(crate) fn load(
        &mut self,
        memory: &GuestMemory,
        board: &Board,
        config: &Config,
    ) -> Result<Option<Entry>, Error> {
        let entry = match &mut self.start {
            Start::Firmware(rom) => {
                rom.write(memory)?;
                None
            }
            Start::Kernel { kernel, initrd, tables, identity } => {
                // Neither can lie above the hole below 4 GiB.
                let room = config.memory.min(board.low_ram_limit);
                let loaded = {
                    let image = kernel.read(room)?;
                    let disk = initrd.as_mut().map(|initrd| initrd.read(room)).transpose()?;
                    loader::load(memory, board, &image, disk.as_deref(), &config.append, config.entry.into())
                };
                // They, and what unpacked the kernel, were the largest buffers that there will ever be.
                base::trim_heap();
                let entry = loaded.map_err(|source| refused(kernel, initrd.as_ref(), source))?;
                tables.write(memory)?;
                identity.write(memory)?;
                Some(entry)
            }
        };
        self.fresh = true;
        Ok(entry)
    }

    /// Whether the memory is as [`Boot::load`] has left it; it will not be when this is asked again.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }
}

/// A kernel for firmware to boot.
fn add_kernel(
    items: &mut Items,
    board: &Board,
    config: &Config,
    kernel: &mut Payload,
    mut initrd: Option<Payload>,
) -> Result<(), Error> {
    let room = config.memory.min(board.low_ram_limit);
    let parts = {
        let image = kernel.read(room)?;
        let disk = initrd.as_mut().map(|initrd| initrd.read(room)).transpose()?;
        let files = KernelFiles { kernel: &image, initrd: disk.as_deref(), command_line: &config.append };
        firmware::kernel_parts(board, config.memory, &files)
    };
    parts.map_err(|source| refused(kernel, initrd.as_ref(), source))?.add_to(items);
    if let Some(rom) = firmware::boot_rom() {
        items.file(firmware::BOOT_ROM_NAME, &rom);
    }
    base::trim_heap();
    Ok(())
}

/// An error of the loader with the file that it is about.
fn refused(kernel: &Payload, initrd: Option<&Payload>, source: LoadError) -> Error {
    let file = match source {
        LoadError::NotKernel { .. } | LoadError::Truncated { .. } | LoadError::Damaged { .. } => Some(kernel),
        LoadError::InitrdEmpty => initrd,
        _ => None,
    };
    Error::Load { file: file.map(|file| file.name().to_owned()), source }
}

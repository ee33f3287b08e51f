//! What firmware is told, and how it comes into the machine: the ROM with its shadow RAM, and the items of the firmware
//! configuration device (QEMU, *fw_cfg* specification), which SeaBIOS and OVMF read.

mod boot_rom;
mod items;
mod kernel;
mod rom;
mod shadow;

pub use boot_rom::{BOOT_ROM_NAME, boot_rom};
pub use items::{FileNameError, Items, Machine, check_file_name, key};
pub use kernel::{KernelFiles, KernelParts, kernel_parts};
pub use rom::{FirmwareRom, RomError};
pub use shadow::{ShadowRam, Shadowing};

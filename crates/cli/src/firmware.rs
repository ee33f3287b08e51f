//! Firmware and what is given to it: found and opened.

use std::path::Path;

use vm::Payload;

use crate::failure::Failure;
use crate::run;
use crate::values::{Firmware, FirmwareContent, FirmwareFile};

/// Where distributions put SeaBIOS: Debian and Ubuntu; Fedora, openSUSE and Arch with QEMU; Red Hat.
const BIOS: &[&str] = &[
    "/usr/share/seabios/bios-256k.bin",
    "/usr/share/qemu/bios-256k.bin",
    "/usr/share/qemu-kvm/bios-256k.bin",
    "/usr/local/share/qemu/bios-256k.bin",
];

/// Opens the firmware.
pub(crate) fn open(firmware: &Firmware) -> Result<Payload, Failure> {
    match firmware {
        Firmware::File(path) => run::open("firmware", path),
        Firmware::Bios => match BIOS.iter().map(Path::new).find(|path| path.exists()) {
            Some(path) => run::open("firmware", path),
            None => Err(Failure::input(
                "--firmware bios",
                format!("SeaBIOS is not at {}", BIOS.join(", ")),
                "install the package seabios, or give the path of its bios-256k.bin",
            )),
        },
    }
}

/// Opens the files of the firmware configuration.
pub(crate) fn files(files: &[FirmwareFile]) -> Result<Vec<(String, Payload)>, Failure> {
    let open = |file: &FirmwareFile| {
        let payload = match &file.content {
            FirmwareContent::File(path) => run::open("firmware file", path)?,
            FirmwareContent::Text(text) => {
                Payload::bytes(format!("firmware file {}", file.name), text.clone().into_bytes())
            }
        };
        Ok((file.name.clone(), payload))
    };
    files.iter().map(open).collect()
}

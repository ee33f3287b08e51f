//! Firmware and what is given to it: found and opened.

mod descriptor;
mod uefi;

use std::path::Path;

use vm::{Payload, Variables};

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

/// Opens the firmware, and what holds its variables if that is a chip of its own: in the file that the user names.
pub(crate) fn open(firmware: &Firmware, variables: Option<&Path>) -> Result<(Payload, Option<Variables>), Failure> {
    let pair = match firmware {
        Firmware::Uefi => uefi::find()?,
        Firmware::File(path) => uefi::beside(path)?,
        Firmware::Bios => {
            if let Some(file) = variables {
                return Err(no_variables(file, "SeaBIOS keeps none"));
            }
            return match BIOS.iter().map(Path::new).find(|path| path.exists()) {
                Some(path) => Ok((run::open("firmware", path)?, None)),
                None => Err(Failure::input(
                    "--firmware bios",
                    format!("SeaBIOS is not at {}", BIOS.join(", ")),
                    "install the package seabios, or give the path of its bios-256k.bin",
                )),
            };
        }
    };
    let code = run::open("firmware", &pair.code)?;
    Ok((code, uefi::variables(&pair, variables)?))
}

fn no_variables(file: &Path, cause: &str) -> Failure {
    Failure::input(format!("--firmware-vars {}", file.display()), cause, "leave it out, or take --firmware uefi")
}

/// Refuses what only firmware has any use for.
pub(crate) fn without(files: &[FirmwareFile], variables: Option<&Path>) -> Result<(), Failure> {
    if !files.is_empty() {
        let cause = "there is no firmware configuration without firmware";
        return Err(Failure::input("--fw-cfg", cause, "add --firmware bios"));
    }
    variables.map_or(Ok(()), |file| Err(no_variables(file, "there is no firmware that keeps variables")))
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

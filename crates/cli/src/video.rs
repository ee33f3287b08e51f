//! The display of a VM, and the ROM with which a BIOS uses it.

use std::path::{Path, PathBuf};

use vm::{Payload, Video};

use crate::run;
use crate::values::Firmware;

/// The ROM's file, which is SeaBIOS's own.
const NAME: &str = "vgabios-stdvga.bin";
/// Where distributions put it: Debian and Ubuntu; Fedora; openSUSE and Arch with QEMU; Red Hat.
const FOLDERS: &[&str] =
    &["/usr/share/seabios", "/usr/share/seavgabios", "/usr/share/qemu", "/usr/share/qemu-kvm", "/usr/local/share/qemu"];

/// The display that a VM has, of which the user has said this: a machine whose screen is `used` has one.
pub(crate) fn card(said: Option<Video>, used: bool) -> Video {
    said.unwrap_or(if used { Video::Std } else { Video::None })
}

/// The ROM, beside the firmware or where it usually is. A UEFI firmware can do without, and so can a guest.
pub(crate) fn rom(firmware: &Firmware) -> Option<Payload> {
    let beside = if let Firmware::File(path) = firmware { path.parent().map(Path::to_path_buf) } else { None };
    let folders = beside.into_iter().chain(FOLDERS.iter().map(PathBuf::from));
    let path = folders.map(|folder| folder.join(NAME)).find(|path| path.exists())?;
    match run::open("video ROM", &path) {
        Ok(rom) => Some(rom),
        Err(failure) => {
            tracing::warn!("{failure:?}: the firmware shows nothing");
            None
        }
    }
}

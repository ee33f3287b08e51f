//! Systems that Debian packages as files to boot, in `target/guest/systems`: memtest86+, GRUB's rescue disc, iPXE, and the
//! Debian installer for the network.

use std::fs;

use anyhow::{Context, Result};

use crate::apt::{self, Apt};
use crate::{guest, shell};

/// A package, the folder of it that is unpacked, and which files are taken, with their names here.
type Source = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const INSTALLER: &str = "usr/lib/debian-installer/images/12/amd64/text/debian-installer/amd64";

const SOURCES: [Source; 4] = [
    ("memtest86+", "./boot", &[("boot/memtest86+x64.bin", "memtest86+.bin")]),
    ("grub-rescue-pc", "./usr/lib/grub-rescue", &[("usr/lib/grub-rescue/grub-rescue-cdrom.iso", "grub-rescue.iso")]),
    ("ipxe", "./boot", &[("boot/ipxe.lkrn", "ipxe.lkrn")]),
    (
        "debian-installer-12-netboot-amd64",
        "./usr/lib/debian-installer/images/12/amd64/text",
        &[("linux", "installer.vmlinuz"), ("initrd.gz", "installer.initrd")],
    ),
];

/// Fetches what is not there; with `update`, all.
pub(crate) fn assemble(update: bool) -> Result<()> {
    let folder = guest::folder("systems");
    let wanted = |source: &&Source| update || source.2.iter().any(|(_, name)| !folder.join(name).is_file());
    let wanted: Vec<&Source> = SOURCES.iter().filter(wanted).collect();
    if !wanted.is_empty() {
        let apt = Apt::open(&guest::folders().join("apt"), "amd64")?;
        for (package, inside, files) in wanted {
            let unpacked = folder.join("unpacked");
            apt::unpack(&apt.fetch(package)?, inside, &unpacked)?;
            for (file, name) in *files {
                let file = if file.contains('/') { unpacked.join(file) } else { unpacked.join(INSTALLER).join(file) };
                shell::write(&folder.join(name), &guest::read(&file)?)?;
            }
            fs::remove_dir_all(&unpacked).with_context(|| format!("cannot remove {}", unpacked.display()))?;
        }
    }
    shell::say(&format!("systems in {}", folder.display()));
    Ok(())
}

//! Modules of Debian's kernel for guests that use drives: what PCs have, and file systems.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::guest;

/// Each behind those that it needs.
const MODULES: [&str; 28] = [
    "drivers/scsi/scsi_common",
    "drivers/scsi/scsi_mod",
    "drivers/ata/libata",
    "drivers/ata/ata_piix",
    "drivers/ata/libahci",
    "drivers/ata/ahci",
    "crypto/crct10dif_common",
    "lib/crc-t10dif",
    "lib/crc64",
    "lib/crc64-rocksoft",
    "block/t10-pi",
    "crypto/crct10dif_generic",
    "drivers/scsi/sd_mod",
    "drivers/cdrom/cdrom",
    "drivers/scsi/sr_mod",
    "drivers/virtio/virtio_ring",
    "drivers/virtio/virtio",
    "drivers/virtio/virtio_pci_legacy_dev",
    "drivers/virtio/virtio_pci_modern_dev",
    "drivers/virtio/virtio_pci",
    "drivers/block/virtio_blk",
    "drivers/scsi/virtio_scsi",
    "fs/isofs/isofs",
    "fs/jbd2/jbd2",
    "fs/mbcache",
    "lib/crc16",
    "fs/ext4/ext4",
    "crypto/crc32c_generic",
];

/// An archive of them in `/m`, with the script `/m/load` that loads them, out of a kernel's folder `lib/modules`.
pub(crate) fn archive(modules: &Path) -> Result<Vec<u8>> {
    let entries = fs::read_dir(modules).with_context(|| format!("cannot read {}", modules.display()))?;
    let version = entries.flatten().next().with_context(|| format!("no modules in {}", modules.display()))?;
    let mut archive = Archive::default();
    archive.directory("m");
    let mut load = String::new();
    for module in MODULES {
        let name = module.rsplit_once('/').map_or(module, |(_, name)| name);
        let content = guest::read(&version.path().join("kernel").join(format!("{module}.ko")))?;
        archive.file(&format!("m/{name}.ko"), 0o644, &content);
        load.push_str(&format!("insmod /m/{name}.ko\n"));
    }
    archive.file("m/load", 0o755, load.as_bytes());
    Ok(archive.finish())
}

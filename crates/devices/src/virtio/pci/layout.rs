//! Where a virtio function has its parts: one memory BAR, and capabilities that tell of it (virtio 1.2, 4.1.4).

use machine::pci::{Bar, BarKind, ConfigError, ConfigSpace, MsixPlace};

/// The BAR.
pub(super) const WINDOW: u8 = 0;
/// Its bytes.
pub(super) const LEN: u64 = 0x8000;

/// Parts of the BAR, a page for each.
pub(super) const COMMON: u64 = 0x0000;
pub(super) const ISR: u64 = 0x1000;
pub(super) const DEVICE: u64 = 0x2000;
pub(super) const NOTIFY: u64 = 0x3000;
pub(super) const PART: u64 = 0x1000;
/// The queues' notification addresses are so far apart.
pub(super) const NOTIFY_STEP: u32 = 4;

/// Where MSI-X is.
pub(super) const MSIX: MsixPlace = MsixPlace { window: WINDOW, table: 0x4000, pending: 0x5000 };
/// The most messages that have room there.
pub(super) const MOST_MESSAGES: usize = 256;

/// The vendor-specific capability.
const VENDOR: u8 = 9;
/// Kinds of them.
const COMMON_CFG: u8 = 1;
const NOTIFY_CFG: u8 = 2;
const ISR_CFG: u8 = 3;
const DEVICE_CFG: u8 = 4;
const PCI_CFG: u8 = 5;
/// Bytes of the common configuration.
pub(super) const COMMON_LEN: u32 = 60;

/// Adds the BAR and the capabilities. Returns the offset of the one through which configuration space reaches the BAR.
pub(super) fn lay_out(config: ConfigSpace, device_len: u32) -> Result<(ConfigSpace, usize), ConfigError> {
    let mut config = config.with_bar(usize::from(WINDOW), Bar { kind: BarKind::Memory32, size: LEN })?;
    let mut add = |kind, offset: u64, len: u32, more: &[u8], writable: &[u8]| {
        // Length, kind, BAR, ID, two bytes of nothing, offset and length in the BAR.
        let mut body = vec![(16 + more.len()) as u8, kind, WINDOW, 0, 0, 0];
        body.extend((offset as u32).to_le_bytes());
        body.extend(len.to_le_bytes());
        body.extend(more);
        config.add_capability(VENDOR, &body, writable)
    };
    add(COMMON_CFG, COMMON, COMMON_LEN, &[], &[])?;
    add(NOTIFY_CFG, NOTIFY, PART as u32, &NOTIFY_STEP.to_le_bytes(), &[])?;
    add(ISR_CFG, ISR, 1, &[], &[])?;
    if device_len != 0 {
        add(DEVICE_CFG, DEVICE, device_len, &[], &[])?;
    }
    // BAR, offset, length and the data are the driver's.
    let mut writable = [0xff; 18];
    writable[..6].copy_from_slice(&[0, 0, 0xff, 0, 0, 0]);
    let access = add(PCI_CFG, 0, 0, &[0; 4], &writable)?;
    Ok((config, usize::from(access)))
}

/// The access to the BAR that the capability at `access` tells of: offset and length.
pub(super) fn access(config: &ConfigSpace, access: usize) -> Option<(u64, usize)> {
    let (window, offset, len) = (config.u8(access + 4), config.u32(access + 8), config.u32(access + 12));
    let sound = window == WINDOW && matches!(len, 1 | 2 | 4) && offset.is_multiple_of(len);
    (sound && u64::from(offset) < LEN).then_some((offset.into(), len as usize))
}

/// The offset of the data in that capability.
pub(super) const ACCESS_DATA: usize = 16;

//! The registers by which a drive is commanded (ATA-7, volume 1, 5; volume 2, 9.2).

use serde::{Deserialize, Serialize};

/// Bits of the status register.
pub(crate) mod status {
    pub(crate) const ERROR: u8 = 1;
    pub(crate) const DATA: u8 = 1 << 3;
    pub(crate) const SEEK_DONE: u8 = 1 << 4;
    pub(crate) const READY: u8 = 1 << 6;
    pub(crate) const BUSY: u8 = 1 << 7;
}

/// Bits of the error register.
pub(crate) mod error {
    pub(crate) const ABORTED: u8 = 1 << 2;
    pub(crate) const NOT_FOUND: u8 = 1 << 4;
    pub(crate) const UNCORRECTABLE: u8 = 1 << 6;
}

/// The registers that a command takes. Each is written twice for 48-bit addresses: `before` holds the earlier bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Registers {
    pub(crate) features: u8,
    pub(crate) features_before: u8,
    /// Count, and the three bytes of the address.
    pub(crate) now: [u8; 4],
    pub(crate) before: [u8; 4],
    pub(crate) device: u8,
}

impl Registers {
    /// What a disk shows after a reset.
    pub(crate) const DISK: Self = Self::signature(0, 0);
    /// What a drive that takes packets shows after a reset.
    pub(crate) const PACKET: Self = Self::signature(0x14, 0xeb);

    const fn signature(middle: u8, high: u8) -> Self {
        Self { features: 0, features_before: 0, now: [1, 1, middle, high], before: [0; 4], device: 0 }
    }

    /// The 48-bit address.
    pub(crate) fn long_address(&self) -> u64 {
        let [_, low, middle, high] = self.now.map(u64::from);
        let [_, fourth, fifth, sixth] = self.before.map(u64::from);
        low | middle << 8 | high << 16 | fourth << 24 | fifth << 32 | sixth << 40
    }

    /// The 16-bit count of a 48-bit command; 0 stands for 65536.
    pub(crate) fn long_count(&self) -> u32 {
        whole(self.now[0], self.before[0])
    }

    /// The 16-bit features, in which queued commands have their count; 0 stands for 65536.
    pub(crate) fn long_features(&self) -> u32 {
        whole(self.features, self.features_before)
    }

    /// Shows an address of 28 or 48 bits.
    pub(crate) fn show_address(&mut self, sector: u64, long: bool) {
        let [a, b, c, d, e, f, ..] = sector.to_le_bytes();
        (self.now[1], self.now[2], self.now[3]) = (a, b, c);
        if long {
            (self.before[1], self.before[2], self.before[3]) = (d, e, f);
        } else {
            self.device = self.device & 0xf0 | d & 0xf;
        }
    }
}

fn whole(low: u8, high: u8) -> u32 {
    match u32::from(low) | u32::from(high) << 8 {
        0 => 0x1_0000,
        count => count,
    }
}

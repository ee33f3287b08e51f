//! Why a command has failed, as a drive tells it (SPC-3, 4.5).

use serde::{Deserialize, Serialize};

/// Sense data: the key, and the additional code with its qualifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sense {
    /// The sense key.
    pub key: u8,
    /// The additional sense code.
    pub code: u8,
    /// Its qualifier.
    pub qualifier: u8,
}

impl Sense {
    /// Nothing is wrong.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// There is no medium, and the tray is closed.
    pub const NO_MEDIUM: Self = Self::new(2, 0x3a, 1);
    /// There is no medium: the tray is open.
    pub const TRAY_OPEN: Self = Self::new(2, 0x3a, 2);
    /// The medium could not be read.
    pub const UNREADABLE: Self = Self::new(3, 0x11, 0);
    /// The drive does not know the command.
    pub const BAD_COMMAND: Self = Self::new(5, 0x20, 0);
    /// The medium has no such block.
    pub const BEYOND: Self = Self::new(5, 0x21, 0);
    /// A field of the command is bad.
    pub const BAD_FIELD: Self = Self::new(5, 0x24, 0);
    /// What is asked for cannot be saved.
    pub const NOT_SAVED: Self = Self::new(5, 0x39, 0);
    /// The medium may not be taken out.
    pub const REMOVAL_PREVENTED: Self = Self::new(5, 0x53, 2);
    /// Blocks of this kind are not on this medium.
    pub const OTHER_MODE: Self = Self::new(5, 0x64, 0);
    /// The medium may have changed.
    pub const CHANGED: Self = Self::new(6, 0x28, 0);
    /// The drive was switched on or reset.
    pub const RESET: Self = Self::new(6, 0x29, 0);
    /// The transfer has failed on its way.
    pub const FAILED: Self = Self::new(0xb, 0x08, 0);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    /// The 18 bytes of the fixed format (SPC-3, 4.5.3).
    #[must_use]
    pub fn bytes(self) -> [u8; 18] {
        let mut bytes = [0; 18];
        (bytes[0], bytes[2], bytes[7], bytes[12], bytes[13]) = (0x70, self.key, 10, self.code, self.qualifier);
        bytes
    }
}

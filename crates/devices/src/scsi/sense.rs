//! Sense data: what was wrong with a command (SPC-4, 4.5), of a disk or of a drive with a disc in it.

use serde::{Deserialize, Serialize};

use crate::block::Failure;

/// Sense key, additional sense code and its qualifier.
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
    /// Nothing to say.
    pub const NONE: Self = Self::new(0, 0, 0);
    /// There is no medium, and the tray is closed.
    pub const NO_MEDIUM: Self = Self::new(2, 0x3a, 1);
    /// There is no medium: the tray is open.
    pub const TRAY_OPEN: Self = Self::new(2, 0x3a, 2);
    /// The medium cannot be read.
    pub const READ_ERROR: Self = Self::new(3, 0x11, 0);
    /// The medium cannot be written.
    pub const WRITE_ERROR: Self = Self::new(3, 0x0c, 0);
    /// The memory of the initiator cannot be reached.
    pub const INTERNAL: Self = Self::new(4, 0x44, 0);
    /// The length of the parameters is wrong.
    pub const PARAMETER_LENGTH: Self = Self::new(5, 0x1a, 0);
    /// There is no such command.
    pub const NO_COMMAND: Self = Self::new(5, 0x20, 0);
    /// The disk ends before.
    pub const BEYOND: Self = Self::new(5, 0x21, 0);
    /// A field of the command is not supported.
    pub const FIELD: Self = Self::new(5, 0x24, 0);
    /// There is no such logical unit.
    pub const NO_UNIT: Self = Self::new(5, 0x25, 0);
    /// A field of the parameters is not supported.
    pub const PARAMETER: Self = Self::new(5, 0x26, 0);
    /// Saved values are not there.
    pub const NO_SAVING: Self = Self::new(5, 0x39, 0);
    /// The medium may not be taken out.
    pub const REMOVAL_PREVENTED: Self = Self::new(5, 0x53, 2);
    /// Blocks of this kind are not on this medium.
    pub const OTHER_MODE: Self = Self::new(5, 0x64, 0);
    /// The medium may have changed.
    pub const CHANGED: Self = Self::new(6, 0x28, 0);
    /// The unit has been powered on or reset.
    pub const RESET: Self = Self::new(6, 0x29, 0);
    /// The unit cannot be written.
    pub const PROTECTED: Self = Self::new(7, 0x27, 0);
    /// The host has no more room.
    pub const NO_SPACE: Self = Self::new(7, 0x27, 7);

    /// The transfer has failed on its way.
    pub const FAILED: Self = Self::new(0xb, 0x08, 0);

    const fn new(key: u8, code: u8, qualifier: u8) -> Self {
        Self { key, code, qualifier }
    }

    /// The sense data, fixed format (SPC-4, 4.5.3).
    #[must_use]
    pub fn fixed(self) -> [u8; 18] {
        let mut data = [0; 18];
        data[0] = 0x70;
        data[2] = self.key;
        data[7] = 10;
        data[12] = self.code;
        data[13] = self.qualifier;
        data
    }

    /// The sense data, descriptor format (SPC-4, 4.5.2).
    #[must_use]
    pub fn described(self) -> [u8; 8] {
        [0x72, self.key, self.code, self.qualifier, 0, 0, 0, 0]
    }

    /// Why a disk has failed.
    #[must_use]
    pub fn of(failure: Failure, write: bool) -> Self {
        match failure {
            Failure::Beyond => Self::BEYOND,
            Failure::ReadOnly => Self::PROTECTED,
            Failure::NoSpace => Self::NO_SPACE,
            Failure::Disk if write => Self::WRITE_ERROR,
            Failure::Disk => Self::READ_ERROR,
            Failure::Memory => Self::INTERNAL,
        }
    }
}

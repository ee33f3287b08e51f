//! Command descriptor blocks (SPC-4, 4.2; SBC-3, 5).

/// Operation codes.
pub(super) mod op {
    pub(crate) const TEST_UNIT_READY: u8 = 0x00;
    pub(crate) const REQUEST_SENSE: u8 = 0x03;
    pub(crate) const READ_6: u8 = 0x08;
    pub(crate) const WRITE_6: u8 = 0x0a;
    pub(crate) const INQUIRY: u8 = 0x12;
    pub(crate) const MODE_SELECT_6: u8 = 0x15;
    pub(crate) const MODE_SENSE_6: u8 = 0x1a;
    pub(crate) const START_STOP_UNIT: u8 = 0x1b;
    pub(crate) const SEND_DIAGNOSTIC: u8 = 0x1d;
    pub(crate) const PREVENT_REMOVAL: u8 = 0x1e;
    pub(crate) const READ_CAPACITY_10: u8 = 0x25;
    pub(crate) const READ_10: u8 = 0x28;
    pub(crate) const WRITE_10: u8 = 0x2a;
    pub(crate) const WRITE_VERIFY_10: u8 = 0x2e;
    pub(crate) const VERIFY_10: u8 = 0x2f;
    pub(crate) const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub(crate) const WRITE_SAME_10: u8 = 0x41;
    pub(crate) const UNMAP: u8 = 0x42;
    pub(crate) const MODE_SELECT_10: u8 = 0x55;
    pub(crate) const MODE_SENSE_10: u8 = 0x5a;
    pub(crate) const READ_16: u8 = 0x88;
    pub(crate) const WRITE_16: u8 = 0x8a;
    pub(crate) const WRITE_VERIFY_16: u8 = 0x8e;
    pub(crate) const VERIFY_16: u8 = 0x8f;
    pub(crate) const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub(crate) const WRITE_SAME_16: u8 = 0x93;
    pub(crate) const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub(crate) const REPORT_LUNS: u8 = 0xa0;
    pub(crate) const READ_12: u8 = 0xa8;
    pub(crate) const WRITE_12: u8 = 0xaa;
    pub(crate) const WRITE_VERIFY_12: u8 = 0xae;
    pub(crate) const VERIFY_12: u8 = 0xaf;
}

/// The service action that reads the capacity.
pub(super) const READ_CAPACITY_16: u8 = 0x10;

/// A command. Bytes that it does not have are zeros.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cdb([u8; 16]);

impl Cdb {
    pub(super) fn new(bytes: &[u8]) -> Self {
        let mut cdb = [0; 16];
        cdb.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(cdb)
    }

    /// The operation code.
    pub(super) fn op(self) -> u8 {
        self.0[0]
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from(self.u8(at)) << 8 | u16::from(self.u8(at + 1))
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }

    pub(super) fn u64(self, at: usize) -> u64 {
        u64::from(self.u32(at)) << 32 | u64::from(self.u32(at + 4))
    }

    /// The first block and the number of blocks, of commands that have them at the usual places.
    pub(super) fn blocks(self) -> (u64, u64) {
        // The three highest bits of the operation code tell the length of the command.
        match self.op() >> 5 {
            0 => {
                // Six bytes: 0 stands for 256 blocks.
                let count = if self.u8(4) == 0 { 256 } else { u64::from(self.u8(4)) };
                (u64::from(self.u32(0) & 0x1f_ffff), count)
            }
            1 | 2 => (self.u32(2).into(), self.u16(7).into()),
            5 => (self.u32(2).into(), self.u32(6).into()),
            _ => (self.u64(2), self.u32(10).into()),
        }
    }
}

//! One drive: its registers, its content, and the block of data that is on its way.

use std::sync::Arc;

use disk::Image;
use serde::{Deserialize, Serialize};

/// The size of a sector in bytes.
pub(super) const SECTOR: usize = 512;

/// Bits of the status register.
pub(super) mod status {
    pub(in super::super) const ERROR: u8 = 1;
    pub(in super::super) const DATA: u8 = 1 << 3;
    pub(in super::super) const SEEK_DONE: u8 = 1 << 4;
    pub(in super::super) const READY: u8 = 1 << 6;
}

/// Bits of the error register.
pub(super) mod error {
    pub(in super::super) const ABORTED: u8 = 1 << 2;
    pub(in super::super) const NOT_FOUND: u8 = 1 << 4;
    pub(in super::super) const UNCORRECTABLE: u8 = 1 << 6;
}

/// A disk for a drive.
#[derive(Clone)]
pub struct IdeDisk {
    /// Its content. Requests are done while the CPU waits that asks for them.
    pub image: Arc<dyn Image>,
    /// Its serial number, of at most 20 characters.
    pub serial: String,
}

/// How cylinders, heads and sectors are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Geometry {
    pub(super) heads: u8,
    pub(super) sectors: u8,
}

impl Geometry {
    pub(super) const DEFAULT: Self = Self { heads: 16, sectors: 63 };

    /// The cylinders of a disk, as far as they can be told.
    pub(super) fn cylinders(self, total: u64) -> u16 {
        let one = u64::from(self.heads).max(1) * u64::from(self.sectors).max(1);
        (total / one).min(16383) as u16
    }
}

/// The registers that a command takes. Each is written twice for 48-bit addresses: `before` holds the earlier bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct TaskFile {
    pub(super) features: u8,
    /// Count, and the three bytes of the address.
    pub(super) now: [u8; 4],
    pub(super) before: [u8; 4],
    pub(super) device: u8,
}

/// Data on its way by the data port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Block {
    pub(super) bytes: Vec<u8>,
    pub(super) at: usize,
    pub(super) kind: BlockKind,
}

/// Where it comes from or goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum BlockKind {
    /// The answer of a command, for the guest to read.
    Answer,
    /// Sectors for the guest to read, the rest of the request behind them.
    Read(Request),
    /// Sectors that the guest writes, the rest behind.
    Write(Request),
}

/// Sectors to transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) first: u64,
    pub(super) count: u32,
    /// The sectors of a block.
    pub(super) block: u32,
}

/// What of a drive a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DriveState {
    pub(super) task: TaskFile,
    pub(super) status: u8,
    pub(super) error: u8,
    pub(super) multiple: u8,
    pub(super) geometry: Geometry,
    pub(super) block: Option<Block>,
    /// A transfer that waits for the bus master: whether it writes to the disk.
    pub(super) dma: Option<(Request, bool)>,
}

impl DriveState {
    /// As after a reset: with the signature of a disk (ATA-7, volume 2, 9.2).
    pub(super) fn after_reset() -> Self {
        Self {
            task: TaskFile { now: [1, 1, 0, 0], ..TaskFile::default() },
            status: status::READY | status::SEEK_DONE,
            error: 1,
            multiple: 0,
            geometry: Geometry::DEFAULT,
            block: None,
            dma: None,
        }
    }
}

/// A drive.
pub(super) struct Drive {
    disk: IdeDisk,
    pub(super) sectors: u64,
    pub(super) state: DriveState,
}

impl Drive {
    pub(super) fn new(disk: IdeDisk) -> Self {
        let sectors = disk.image.info().size / SECTOR as u64;
        Self { disk, sectors, state: DriveState::after_reset() }
    }

    pub(super) fn serial(&self) -> &str {
        &self.disk.serial
    }

    /// Reads sectors, which are inside of the disk.
    pub(super) fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<(), u8> {
        disk::block_on(self.disk.image.read(offset, &mut [std::io::IoSliceMut::new(bytes)])).map_err(|why| {
            tracing::warn!(offset, error = %why, "disk {}: read", self.disk.serial);
            error::UNCORRECTABLE
        })
    }

    /// Writes sectors, which are inside of the disk.
    pub(super) fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), u8> {
        disk::block_on(self.disk.image.write(offset, &[std::io::IoSlice::new(bytes)], false)).map_err(|why| {
            tracing::warn!(offset, error = %why, "disk {}: write", self.disk.serial);
            error::ABORTED
        })
    }

    /// Brings all that was written to stable storage.
    pub(super) fn flush(&self) -> Result<(), u8> {
        disk::block_on(self.disk.image.flush()).map_err(|why| {
            tracing::warn!(error = %why, "disk {}: flush", self.disk.serial);
            error::ABORTED
        })
    }

    /// The command is done, or has failed with these error bits.
    pub(super) fn end(&mut self, result: Result<(), u8>) {
        self.state.block = None;
        self.state.dma = None;
        self.state.status = status::READY | status::SEEK_DONE | if result.is_err() { status::ERROR } else { 0 };
        self.state.error = result.err().unwrap_or(0);
    }

    /// Data waits at the data port.
    pub(super) fn offer(&mut self, bytes: Vec<u8>, kind: BlockKind) {
        self.state.block = Some(Block { bytes, at: 0, kind });
        self.state.status = status::READY | status::SEEK_DONE | status::DATA;
        self.state.error = 0;
    }
}

/// The most sectors of a block, and of a request.
const MOST_BLOCK: u32 = 16;
const MOST_COUNT: u32 = 0x1_0000;

impl Drive {
    /// Whether this drive can be in `state`: what its requests reach has to be on the disk.
    pub(super) fn accepts(&self, state: &DriveState) -> bool {
        let on_disk = |request: &Request| {
            let end = request.first.checked_add(request.count.into());
            let sizes = (1..=MOST_BLOCK).contains(&request.block) && request.count <= MOST_COUNT;
            sizes && end.is_some_and(|end| end <= self.sectors)
        };
        let block = state.block.as_ref().is_none_or(|block| {
            let len = block.bytes.len();
            let sound = len.is_multiple_of(SECTOR) && len <= MOST_BLOCK as usize * SECTOR && block.at < len;
            sound
                && match &block.kind {
                    BlockKind::Answer => true,
                    BlockKind::Read(request) => on_disk(request),
                    BlockKind::Write(request) => {
                        on_disk(request) && len == request.count.min(request.block) as usize * SECTOR
                    }
                }
        });
        let dma = state.dma.as_ref().is_none_or(|(request, _)| on_disk(request));
        block
            && dma
            && u32::from(state.multiple) <= MOST_BLOCK
            && state.geometry.sectors != 0
            && state.geometry.heads != 0
    }
}

//! What a drive says of a disc: one session with one track of data, on a CD or, when it is larger, on a DVD.

use super::commands::Block;
use super::{BLOCK, Sense};

/// The most blocks of a CD: 80 minutes of 60 seconds of 75 blocks.
const MOST_ON_CD: u32 = 80 * 60 * 75;
/// The blocks before block 0 that times count: two seconds.
const LEAD_IN: u32 = 150;
/// The number of the track behind the last one.
const LEAD_OUT: u8 = 0xaa;
/// A track of data, its position in the sub-channel (MMC-6, 6.25.3.2.3).
const DATA_TRACK: u8 = 0x14;

/// The profiles (MMC-6, 5.3.1).
const CD_ROM: u16 = 0x08;
const DVD_ROM: u16 = 0x10;

/// A disc.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disc {
    pub(super) blocks: u32,
}

impl Disc {
    pub(super) fn of(bytes: u64) -> Self {
        Self { blocks: u32::try_from(bytes / BLOCK).unwrap_or(u32::MAX) }
    }

    pub(super) fn profile(self) -> u16 {
        if self.blocks > MOST_ON_CD { DVD_ROM } else { CD_ROM }
    }

    /// READ TOC/PMA/ATIP (MMC-6, 6.25).
    pub(super) fn toc(self, block: Block) -> Result<Vec<u8>, Sense> {
        let msf = block.u8(1) & 2 != 0;
        // Older systems give the format in the last byte.
        let format = if block.u8(2) & 0xf != 0 { block.u8(2) & 0xf } else { block.u8(9) >> 6 };
        let body = match format {
            0 => {
                let first = block.u8(6);
                if first > 1 && first != LEAD_OUT {
                    return Err(Sense::FIELD);
                }
                let mut body = vec![1, 1];
                for (track, at) in [(1, 0), (LEAD_OUT, self.blocks)] {
                    if track >= first {
                        body.extend([0, DATA_TRACK, track, 0]);
                        body.extend(address(at, msf));
                    }
                }
                body
            }
            // Sessions: one, which starts at the first block.
            1 => [&[1, 1, 0, DATA_TRACK, 1, 0][..], &address(0, msf)].concat(),
            // The raw table: first track, last track, the end, and the track itself.
            2 => {
                let mut body = vec![1, 1];
                let entry = |point: u8, [_, m, s, f]: [u8; 4]| [1, DATA_TRACK, 0, point, 0, 0, 0, 0, m, s, f];
                body.extend(entry(0xa0, [0, 1, 0, 0]));
                body.extend(entry(0xa1, [0, 1, 0, 0]));
                body.extend(entry(0xa2, address(self.blocks, true)));
                body.extend(entry(1, address(0, true)));
                body
            }
            _ => return Err(Sense::FIELD),
        };
        Ok([&(body.len() as u16).to_be_bytes()[..], &body].concat())
    }

    /// READ DISC INFORMATION (MMC-6, 6.21.2): complete, one session, one track.
    pub(super) fn information(self) -> Vec<u8> {
        let mut answer = vec![0; 34];
        answer.splice(..8, [0, 32, 0x0e, 1, 1, 1, 1, 0x20]);
        answer
    }

    /// READ TRACK INFORMATION (MMC-6, 6.26.3).
    pub(super) fn track_information(self, block: Block) -> Result<Vec<u8>, Sense> {
        let number = block.u32(2);
        let known = match block.u8(1) & 3 {
            0 => number < self.blocks,
            1 | 2 => number == 1,
            _ => false,
        };
        if !known {
            return Err(Sense::FIELD);
        }
        let mut answer = vec![0; 36];
        answer.splice(..8, [0, 34, 1, 1, 0, 4, 1, 0]);
        answer.splice(24..28, self.blocks.to_be_bytes());
        Ok(answer)
    }

    /// READ DISC STRUCTURE (MMC-6, 6.22.3.2): the physical format of a DVD.
    pub(super) fn structure(self, format: u8, layer: u8) -> Result<Vec<u8>, Sense> {
        /// The first block of the data area, as a DVD counts.
        const FIRST: u32 = 0x3_0000;
        if self.profile() != DVD_ROM || layer != 0 {
            return Err(Sense::FIELD);
        }
        let body = match format {
            0 => {
                let mut body = vec![0; 2048];
                let last = FIRST.saturating_add(self.blocks.saturating_sub(1)).to_be_bytes();
                body.splice(..4, [0x01, 0x0f, 0x01, 0]);
                body.splice(4..8, FIRST.to_be_bytes());
                body.splice(8..12, last);
                body
            }
            // Copyright: none.
            1 => vec![0; 4],
            _ => return Err(Sense::FIELD),
        };
        let [high, low] = (body.len() as u16 + 2).to_be_bytes();
        Ok([&[high, low, 0, 0][..], &body].concat())
    }
}

/// An address: the block's number, or minutes, seconds and blocks.
fn address(block: u32, msf: bool) -> [u8; 4] {
    if !msf {
        return block.to_be_bytes();
    }
    let at = block.saturating_add(LEAD_IN);
    [0, (at / 75 / 60).min(255) as u8, (at / 75 % 60) as u8, (at % 75) as u8]
}

/// A feature of a drive (MMC-6, 5.2.2).
pub(super) struct Feature {
    pub(super) number: u16,
    /// It can be used now.
    pub(super) current: bool,
    /// Version and whether it is always there, as in the descriptor.
    flags: u8,
    data: Vec<u8>,
}

impl Feature {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let [high, low] = self.number.to_be_bytes();
        let head = [high, low, self.flags | u8::from(self.current), self.data.len() as u8];
        [&head[..], &self.data].concat()
    }
}

/// The features of a drive with this disc, or none.
pub(super) fn features(disc: Option<Disc>, serial: &str) -> Vec<Feature> {
    const ALWAYS: u8 = 2;
    let is = |profile| disc.is_some_and(|disc| disc.profile() == profile);
    let mut profiles = Vec::new();
    for profile in [DVD_ROM, CD_ROM] {
        let [high, low] = profile.to_be_bytes();
        profiles.extend([high, low, u8::from(is(profile)), 0]);
    }
    let mut serial: Vec<u8> = serial.bytes().take(20).collect();
    serial.resize(serial.len().next_multiple_of(4), b' ');
    let feature = |number, current, flags, data: &[u8]| Feature { number, current, flags, data: data.to_vec() };
    vec![
        feature(0x0000, true, ALWAYS, &profiles),
        // Core: ATAPI; it knows asynchronous events not, INQUIRY fully.
        feature(0x0001, true, 2 << 2 | ALWAYS, &[0, 0, 0, 2, 0, 0, 0, 0]),
        // Morphing: events by polling.
        feature(0x0002, true, 1 << 2 | ALWAYS, &[0, 0, 0, 0]),
        // A tray, which ejects and can be locked.
        feature(0x0003, true, 1 << 2 | ALWAYS, &[0x39, 0, 0, 0]),
        // Random reads of blocks of 2048 bytes, one at a time.
        feature(0x0010, disc.is_some(), 0, &[0, 0, 8, 0, 0, 1, 0, 0]),
        feature(0x001e, is(CD_ROM), 2 << 2, &[0, 0, 0, 0]),
        feature(0x001f, is(DVD_ROM), 0, &[]),
        // Power management and time-outs.
        feature(0x0100, true, ALWAYS, &[]),
        feature(0x0105, true, 1 << 2 | ALWAYS, &[0, 0, 0, 0]),
        feature(0x0108, true, ALWAYS, &serial),
    ]
}

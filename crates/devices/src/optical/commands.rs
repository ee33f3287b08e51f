//! The commands of a drive that reads (SPC-3, chapter 6; MMC-6, chapter 6).

use super::drive::{CdDrive, Reply};
use super::media::{self, Disc};
use super::{BLOCK, Sense};

/// A command block, at most 16 bytes, zeros behind its end.
#[derive(Clone, Copy)]
pub(super) struct Block([u8; 16]);

impl Block {
    fn new(bytes: &[u8]) -> Self {
        let mut block = [0; 16];
        block.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        Self(block)
    }

    pub(super) fn u8(self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn u16(self, at: usize) -> u16 {
        u16::from_be_bytes([self.u8(at), self.u8(at + 1)])
    }

    pub(super) fn u32(self, at: usize) -> u32 {
        u32::from(self.u16(at)) << 16 | u32::from(self.u16(at + 2))
    }
}

/// The codes of the commands.
mod op {
    pub(super) const TEST_UNIT_READY: u8 = 0x00;
    pub(super) const REQUEST_SENSE: u8 = 0x03;
    pub(super) const INQUIRY: u8 = 0x12;
    pub(super) const MODE_SELECT_6: u8 = 0x15;
    pub(super) const MODE_SENSE_6: u8 = 0x1a;
    pub(super) const START_STOP_UNIT: u8 = 0x1b;
    pub(super) const PREVENT_ALLOW: u8 = 0x1e;
    pub(super) const READ_CAPACITY: u8 = 0x25;
    pub(super) const READ_10: u8 = 0x28;
    pub(super) const SEEK: u8 = 0x2b;
    pub(super) const SYNCHRONIZE_CACHE: u8 = 0x35;
    pub(super) const READ_SUB_CHANNEL: u8 = 0x42;
    pub(super) const READ_TOC: u8 = 0x43;
    pub(super) const READ_HEADER: u8 = 0x44;
    pub(super) const GET_CONFIGURATION: u8 = 0x46;
    pub(super) const GET_EVENT: u8 = 0x4a;
    pub(super) const STOP_PLAY: u8 = 0x4e;
    pub(super) const READ_DISC_INFORMATION: u8 = 0x51;
    pub(super) const READ_TRACK_INFORMATION: u8 = 0x52;
    pub(super) const MODE_SELECT_10: u8 = 0x55;
    pub(super) const MODE_SENSE_10: u8 = 0x5a;
    pub(super) const READ_12: u8 = 0xa8;
    pub(super) const READ_DISC_STRUCTURE: u8 = 0xad;
    pub(super) const SET_CD_SPEED: u8 = 0xbb;
    pub(super) const MECHANISM_STATUS: u8 = 0xbd;
    pub(super) const READ_CD: u8 = 0xbe;
}

impl CdDrive {
    pub(super) fn perform(&mut self, bytes: &[u8]) -> Result<Reply, Sense> {
        let block = Block::new(bytes);
        // These answer whatever has happened (SPC-3, 4.5.6; MMC-6, 4.1.6.1).
        let unconcerned =
            matches!(block.u8(0), op::INQUIRY | op::REQUEST_SENSE | op::GET_CONFIGURATION | op::GET_EVENT);
        if !unconcerned && let Some(attention) = self.tray.take_attention() {
            return Err(attention);
        }
        if block.u8(0) != op::REQUEST_SENSE {
            self.sense = Sense::NONE;
        }
        let long = usize::from(block.u16(7));
        match block.u8(0) {
            op::TEST_UNIT_READY => self.disc().map(|_| Reply::Done),
            op::REQUEST_SENSE => {
                let waiting = std::mem::take(&mut self.sense);
                let told = if waiting == Sense::NONE { self.tray.take_attention() } else { Some(waiting) };
                cut(told.unwrap_or_default().fixed().to_vec(), block.u8(4).into())
            }
            op::INQUIRY => self.inquiry(block),
            op::MODE_SENSE_6 => {
                let pages = self.mode_pages(block)?;
                let head = [(pages.len() + 3) as u8, 0, 0, 0];
                cut([&head[..], &pages].concat(), block.u8(4).into())
            }
            op::MODE_SENSE_10 => {
                let pages = self.mode_pages(block)?;
                let [high, low] = ((pages.len() + 6) as u16).to_be_bytes();
                cut([&[high, low, 0, 0, 0, 0, 0, 0][..], &pages].concat(), long)
            }
            op::MODE_SELECT_6 => Ok(ignore(block.u8(4).into())),
            op::MODE_SELECT_10 => Ok(ignore(block.u16(7).into())),
            op::START_STOP_UNIT => {
                let load_eject = block.u8(4) & 2 != 0;
                let result = if load_eject { self.tray.slide(block.u8(4) & 1 == 0) } else { Ok(()) };
                result.map(|()| Reply::Done)
            }
            op::PREVENT_ALLOW => {
                self.tray.lock(block.u8(4) & 1 != 0);
                Ok(Reply::Done)
            }
            op::READ_CAPACITY => {
                let last = self.disc()?.blocks.saturating_sub(1);
                Ok(Reply::Data([last.to_be_bytes(), (BLOCK as u32).to_be_bytes()].concat()))
            }
            op::READ_10 => self.read(block.u32(2), block.u16(7).into()),
            op::READ_12 => self.read(block.u32(2), block.u32(6)),
            op::READ_CD => self.read_cd(block),
            op::SEEK => {
                let blocks = self.disc()?.blocks;
                if block.u32(2) < blocks { Ok(Reply::Done) } else { Err(Sense::BEYOND) }
            }
            op::SYNCHRONIZE_CACHE | op::STOP_PLAY | op::SET_CD_SPEED => Ok(Reply::Done),
            op::READ_SUB_CHANNEL => {
                self.disc()?;
                // No audio status, and no data behind the header.
                cut(vec![0, 0x15, 0, 0], long)
            }
            op::READ_TOC => cut(self.disc()?.toc(block)?, long),
            op::READ_HEADER => {
                let blocks = self.disc()?.blocks;
                let at = block.u32(2);
                let [a, b, c, d] = at.to_be_bytes();
                if at < blocks { cut(vec![1, 0, 0, 0, a, b, c, d], long) } else { Err(Sense::BEYOND) }
            }
            op::GET_CONFIGURATION => cut(self.configuration(block), long),
            op::GET_EVENT => self.event(block),
            op::READ_DISC_INFORMATION => {
                if block.u8(1) & 7 != 0 {
                    return Err(Sense::FIELD);
                }
                cut(self.disc()?.information(), long)
            }
            op::READ_TRACK_INFORMATION => cut(self.disc()?.track_information(block)?, long),
            op::READ_DISC_STRUCTURE => {
                let disc = self.disc()?;
                let length = usize::from(block.u16(8));
                cut(disc.structure(block.u8(7), block.u8(6))?, length)
            }
            op::MECHANISM_STATUS => {
                let open = if self.tray.is_open() { 0x10 } else { 0 };
                cut(vec![0, open, 0, 0, 0, 0, 0, 0], block.u16(8).into())
            }
            _ => Err(Sense::NO_COMMAND),
        }
    }

    fn disc(&self) -> Result<Disc, Sense> {
        Ok(Disc::of(self.tray.medium()?.size()))
    }

    fn read(&self, first: u32, count: u32) -> Result<Reply, Sense> {
        let blocks = self.disc()?.blocks;
        if first.checked_add(count).is_none_or(|end| end > blocks) {
            return Err(Sense::BEYOND);
        }
        // What READ (10) can ask for: a longer one could not be cut short.
        if count > u32::from(u16::MAX) {
            return Err(Sense::FIELD);
        }
        Ok(match u64::from(count) * BLOCK {
            0 => Reply::Done,
            len => Reply::Read { offset: u64::from(first) * BLOCK, len },
        })
    }

    /// READ CD (MMC-6, 6.19), for the user data of blocks of mode 1.
    fn read_cd(&self, block: Block) -> Result<Reply, Sense> {
        let count = block.u32(6) & 0x00ff_ffff;
        match block.u8(9) & 0xf8 {
            _ if !matches!(block.u8(1) >> 2 & 7, 0 | 2) => Err(Sense::OTHER_MODE),
            0 => self.read(block.u32(2), count).map(|_| Reply::Done),
            0x10 => self.read(block.u32(2), count),
            _ => Err(Sense::FIELD),
        }
    }

    /// INQUIRY (SPC-3, 6.4).
    fn inquiry(&self, block: Block) -> Result<Reply, Sense> {
        let length = usize::from(block.u16(3));
        if block.u8(1) & 1 == 0 {
            if block.u8(2) != 0 {
                return Err(Sense::FIELD);
            }
            // A CD drive, removable; SPC-3; this answer's form.
            let mut answer = vec![5, 0x80, 5, 2, 31, 0, 0, 0];
            answer.extend(b"HUSK    CD/DVD drive    1   ");
            return cut(answer, length);
        }
        let page = match block.u8(2) {
            0 => vec![0, 0x80],
            0x80 => self.serial.bytes().take(20).collect(),
            _ => return Err(Sense::FIELD),
        };
        cut([&[5, block.u8(2), 0, page.len() as u8][..], &page].concat(), length)
    }

    /// The pages of MODE SENSE (MMC-6, 7; SPC-3, 7.4).
    fn mode_pages(&self, block: Block) -> Result<Vec<u8>, Sense> {
        // Changeable values: there are none. Saved ones: neither.
        let (changeable, saved) = (block.u8(2) >> 6 == 1, block.u8(2) >> 6 == 3);
        if saved {
            return Err(Sense::NO_SAVING);
        }
        let locked = if self.tray.is_locked() { 2 } else { 0 };
        let pages: [&[u8]; 3] = [
            // Read error recovery.
            &[1, 10, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0],
            // Capabilities: reads CD-R, CD-RW, DVD-ROM, DVD-R; a tray that can be locked and opened; 16 times as fast
            // as a CD player.
            &[0x2a, 18, 0x1f, 0, 0, 0x03, 0x29 | locked, 0, 0x0b, 0x00, 0, 2, 0, 0, 0x0b, 0x00, 0, 0, 0, 0],
            // Time-outs.
            &[0x1d, 8, 0, 0, 0, 0, 0, 60, 0, 60],
        ];
        let wanted = block.u8(2) & 0x3f;
        let mut answer = Vec::new();
        for page in pages.iter().filter(|page| wanted == 0x3f || page.first() == Some(&wanted)) {
            let (head, rest) = page.split_at(2);
            answer.extend(head);
            answer.extend(rest.iter().map(|byte| if changeable { 0 } else { *byte }));
        }
        if answer.is_empty() { Err(Sense::FIELD) } else { Ok(answer) }
    }

    /// GET CONFIGURATION (MMC-6, 6.5).
    fn configuration(&self, block: Block) -> Vec<u8> {
        let disc = self.disc().ok();
        let features = media::features(disc, &self.serial);
        let (one, from) = (block.u8(1) & 3 == 2, block.u16(2));
        let current_only = block.u8(1) & 3 == 1;
        let chosen = features.iter().filter(|feature| {
            let wanted = if one { feature.number == from } else { feature.number >= from };
            wanted && (feature.current || !current_only)
        });
        let body: Vec<u8> = chosen.flat_map(media::Feature::bytes).collect();
        let length = (body.len() as u32 + 4).to_be_bytes();
        let profile = disc.map_or(0, Disc::profile).to_be_bytes();
        [&length[..], &[0, 0], &profile, &body].concat()
    }

    /// GET EVENT STATUS NOTIFICATION (MMC-6, 6.6), by polling, for the class of media.
    fn event(&self, block: Block) -> Result<Reply, Sense> {
        const MEDIA: u8 = 1 << 4;
        if block.u8(1) & 1 == 0 {
            return Err(Sense::FIELD);
        }
        let length = usize::from(block.u16(7));
        if block.u8(4) & MEDIA == 0 {
            return cut(vec![0, 2, 0x80, MEDIA], length);
        }
        let event = self.tray.take_event().map_or(0, |event| event as u8);
        let (open, present) = (self.tray.is_open(), self.tray.medium().is_ok());
        let status = u8::from(open) | u8::from(present) << 1;
        cut(vec![0, 6, 4, MEDIA, event, status, 0, 0], length)
    }
}

/// Data, as much of it as the command allows.
fn cut(mut bytes: Vec<u8>, most: usize) -> Result<Reply, Sense> {
    bytes.truncate(most);
    Ok(if bytes.is_empty() { Reply::Done } else { Reply::Data(bytes) })
}

fn ignore(len: u64) -> Reply {
    if len == 0 { Reply::Done } else { Reply::Ignore { len } }
}

//! What the commands come to (ATA-7, volume 1, 6; ACS-2, 7).

use std::collections::VecDeque;

use super::SECTOR;
use super::drive::{Cable, Disk, Drive, Geometry, Unit};
use super::identify::{self, MOST_MULTIPLE};
use super::registers::{Registers, error};

/// The address is that of a sector, not of cylinder, head and sector.
const LBA: u8 = 1 << 6;
/// In the device register of a queued write: on stable storage.
const FORCE_UNIT_ACCESS: u8 = 1 << 7;

/// What a command comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// It is done, or has failed with these error bits; the registers may show something.
    Done(Result<(), u8>),
    /// These bytes go to the guest.
    Answer(Vec<u8>),
    /// Sectors go to or from the guest; all of them are on the disk.
    Transfer(Transfer),
    /// All that was written goes to stable storage.
    Flush,
    /// The guest sends so many blocks of ranges of sectors that it does not need any more; [`Drive::unneeded`] reads them.
    Discard { blocks: u32 },
    /// The guest sends a packet of 12 bytes.
    Packet,
    /// The drive has been reset and shows its signature.
    Reset,
}

/// Sectors to transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Transfer {
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) write: bool,
    /// What is written is on stable storage when the command is done.
    pub(crate) durable: bool,
    pub(crate) how: How,
}

/// How sectors get to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum How {
    /// By the data port, so many sectors at a time.
    Port(u32),
    /// By the controller itself.
    Dma,
    /// As one of several commands, by this tag.
    Queued(u8),
}

impl Drive {
    /// Carries out a command as far as it needs no data.
    pub(crate) fn command(&mut self, command: u8, registers: &mut Registers) -> Action {
        match (command, &mut self.unit) {
            // CHECK POWER MODE: active.
            (0xe5, _) => {
                registers.now[0] = 0xff;
                Action::Done(Ok(()))
            }
            // STANDBY and IDLE, at once.
            (0xe0..=0xe3, _) => Action::Done(Ok(())),
            // SET FEATURES: the transfer mode, the write cache and look-ahead, on; nothing of it changes anything here.
            (0xef, _) => {
                let known = matches!(registers.features, 0x02 | 0x03 | 0x82 | 0xaa | 0x55 | 0x66 | 0xcc);
                done(known)
            }
            // EXECUTE DEVICE DIAGNOSTIC.
            (0x90, _) => {
                self.reset();
                Action::Reset
            }
            (_, Unit::Disk(disk)) => disk.command(command, registers, self.cable),
            (0x08, Unit::Cd(_)) => Action::Reset,
            (0xa0, Unit::Cd(_)) => Action::Packet,
            (0xa1, Unit::Cd(drive)) => Action::Answer(identify::packet_drive(drive.serial())),
            // IDENTIFY DEVICE and READ SECTORS show that it is no disk (ATA-7, volume 1, 4.19).
            (0xec | 0x20 | 0x21, Unit::Cd(_)) => {
                let device = registers.device;
                *registers = Registers { device, ..Registers::PACKET };
                done(false)
            }
            _ => done(false),
        }
    }
}

impl Drive {
    /// The bytes that a [discard](Action::Discard) is about: the first one and how many, of each range (ACS-2, 7.5).
    pub(crate) fn unneeded(&self, blocks: &[u8]) -> Result<VecDeque<(u64, u64)>, u8> {
        let Unit::Disk(disk) = &self.unit else { return Err(error::ABORTED) };
        let mut ranges = VecDeque::new();
        for entry in blocks.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            let (first, count) = (entry & 0xffff_ffff_ffff, (entry >> 48) as u32);
            if count != 0 {
                disk.within(first, count)?;
                ranges.push_back((first * SECTOR, u64::from(count) * SECTOR));
            }
        }
        Ok(ranges)
    }
}

fn done(good: bool) -> Action {
    Action::Done(if good { Ok(()) } else { Err(error::ABORTED) })
}

impl Disk {
    fn command(&mut self, command: u8, registers: &mut Registers, cable: Cable) -> Action {
        let multiple = How::Port(self.multiple.into());
        let has_multiple = self.multiple != 0;
        match command {
            // READ and WRITE SECTORS, EXT, MULTIPLE, DMA.
            0x20 | 0x21 => self.transfer(registers, false, false, How::Port(1)),
            0x24 => self.transfer(registers, true, false, How::Port(1)),
            0xc4 if has_multiple => self.transfer(registers, false, false, multiple),
            0x29 if has_multiple => self.transfer(registers, true, false, multiple),
            0x30 | 0x31 => self.transfer(registers, false, true, How::Port(1)),
            0x34 => self.transfer(registers, true, true, How::Port(1)),
            0xc5 if has_multiple => self.transfer(registers, false, true, multiple),
            0x39 if has_multiple => self.transfer(registers, true, true, multiple),
            0xce if has_multiple => durable(self.transfer(registers, true, true, multiple)),
            0xc8 | 0xc9 => self.transfer(registers, false, false, How::Dma),
            0x25 => self.transfer(registers, true, false, How::Dma),
            0xca | 0xcb => self.transfer(registers, false, true, How::Dma),
            0x35 => self.transfer(registers, true, true, How::Dma),
            0x3d => durable(self.transfer(registers, true, true, How::Dma)),
            0x60 | 0x61 if cable == Cable::Serial => self.queued(registers, command == 0x61),
            // READ VERIFY: that it is there.
            0x40..=0x42 => Action::Done(self.sectors(registers, command == 0x42).map(|_| ())),
            0xec => Action::Answer(identify::disk(self, cable)),
            // FLUSH CACHE.
            0xe7 | 0xea => Action::Flush,
            // DATA SET MANAGEMENT: trim.
            0x06 if cable == Cable::Serial && registers.features == 1 => match registers.long_count() {
                blocks @ 1..=identify::MOST_RANGE_BLOCKS => Action::Discard { blocks },
                _ => done(false),
            },
            // READ LOG EXT.
            0x2f if cable == Cable::Serial => self.log(registers),
            // SET MULTIPLE MODE.
            0xc6 => {
                let [count, ..] = registers.now;
                let good = count <= MOST_MULTIPLE && (count == 0 || count.is_power_of_two());
                if good {
                    self.multiple = count;
                }
                done(good)
            }
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => {
                let (heads, sectors) = ((registers.device & 0xf) + 1, registers.now[0]);
                if sectors != 0 {
                    self.geometry = Geometry { heads, sectors };
                }
                done(sectors != 0)
            }
            // RECALIBRATE and SEEK, at once.
            0x10..=0x1f | 0x70..=0x7f => done(true),
            // READ NATIVE MAX ADDRESS.
            0xf8 | 0x27 => {
                let last = self.sectors.saturating_sub(1);
                let last = if command == 0xf8 { last.min(0x0fff_ffff) } else { last };
                registers.show_address(last, command == 0x27);
                done(true)
            }
            _ => done(false),
        }
    }

    fn transfer(&self, registers: &Registers, long: bool, write: bool, how: How) -> Action {
        match self.sectors(registers, long) {
            Ok((first, count)) => Action::Transfer(Transfer { first, count, write, durable: false, how }),
            Err(error) => Action::Done(Err(error)),
        }
    }

    /// READ and WRITE FPDMA QUEUED (ACS-2, 7.24 and 7.63).
    fn queued(&self, registers: &Registers, write: bool) -> Action {
        let (first, count) = (registers.long_address(), registers.long_features());
        let durable = write && registers.device & FORCE_UNIT_ACCESS != 0;
        match self.within(first, count) {
            Ok(()) => {
                let how = How::Queued(registers.now[0] >> 3);
                Action::Transfer(Transfer { first, count, write, durable, how })
            }
            Err(error) => Action::Done(Err(error)),
        }
    }

    /// The sectors that the registers name, all of them on the disk.
    fn sectors(&self, registers: &Registers, long: bool) -> Result<(u64, u32), u8> {
        let (first, count) = if long {
            (registers.long_address(), registers.long_count())
        } else {
            let [count, low, middle, high] = registers.now.map(u64::from);
            let head = u64::from(registers.device & 0xf);
            let Geometry { heads, sectors } = self.geometry;
            let first = if registers.device & LBA != 0 {
                low | middle << 8 | high << 16 | head << 24
            } else {
                let sector = low.checked_sub(1).ok_or(error::NOT_FOUND)?;
                ((middle | high << 8) * u64::from(heads) + head) * u64::from(sectors) + sector
            };
            (first, if count == 0 { 0x100 } else { count as u32 })
        };
        self.within(first, count).map(|()| (first, count))
    }

    fn within(&self, first: u64, count: u32) -> Result<(), u8> {
        let fits = first.checked_add(count.into()).is_some_and(|end| end <= self.sectors);
        if fits { Ok(()) } else { Err(error::NOT_FOUND) }
    }

    /// READ LOG EXT (ACS-2, 7.30): the list of logs, and that of the queued command that has failed.
    fn log(&mut self, registers: &Registers) -> Action {
        let page = u16::from_le_bytes([registers.now[2], registers.before[2]]);
        if page != 0 || registers.long_count() != 1 {
            return done(false);
        }
        let mut log = vec![0u8; SECTOR as usize];
        match registers.now[1] {
            0 => {
                // The version; one page of log 10h.
                log.splice(..2, [1, 0]);
                log.splice(0x20..0x22, [1, 0]);
            }
            0x10 => {
                match self.queue_error.take() {
                    Some(failed) => {
                        let [a, b, c, d, e, f, ..] = failed.first.to_le_bytes();
                        let [count, count_high] = failed.count.to_le_bytes();
                        let entry =
                            [failed.tag, 0, failed.status, failed.error, a, b, c, LBA, d, e, f, 0, count, count_high];
                        log.splice(..entry.len(), entry);
                    }
                    // No queued command has failed.
                    None => log.splice(..1, [0x80]).for_each(drop),
                }
                let sum = log.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                if let Some(last) = log.last_mut() {
                    *last = sum.wrapping_neg();
                }
            }
            _ => return done(false),
        }
        Action::Answer(log)
    }
}

fn durable(action: Action) -> Action {
    match action {
        Action::Transfer(transfer) => Action::Transfer(Transfer { durable: true, ..transfer }),
        other => other,
    }
}

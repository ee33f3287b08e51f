//! What a drive does at a command (ATA-7, volume 1, 6), and with data at its data port.

use super::drive::{BlockKind, Drive, DriveState, Geometry, Request, SECTOR, error, status};
use super::identify::{MOST_MULTIPLE, identify};

/// The address is that of a sector, not of cylinder, head and sector.
const LBA: u8 = 1 << 6;

/// Whether the drive asks for an interrupt.
pub(super) type Asks = bool;

impl Drive {
    /// Carries out a command.
    pub(super) fn command(&mut self, command: u8) -> Asks {
        let multiple = u32::from(self.state.multiple);
        match command {
            // READ and WRITE SECTORS, EXT, MULTIPLE.
            0x20 | 0x21 => self.read_sectors(false, 1),
            0x24 => self.read_sectors(true, 1),
            0xc4 if multiple != 0 => self.read_sectors(false, multiple),
            0x29 if multiple != 0 => self.read_sectors(true, multiple),
            0x30 | 0x31 => self.write_sectors(false, 1),
            0x34 => self.write_sectors(true, 1),
            0xc5 if multiple != 0 => self.write_sectors(false, multiple),
            0x39 if multiple != 0 => self.write_sectors(true, multiple),
            0xc8 | 0xc9 => self.begin_dma(false, false),
            0x25 => self.begin_dma(true, false),
            0xca | 0xcb => self.begin_dma(false, true),
            0x35 => self.begin_dma(true, true),
            // READ VERIFY: that it is there.
            0x40..=0x42 => {
                let result = self.request(command == 0x42, 1).map(|_| ());
                self.finish(result)
            }
            0xec => {
                let answer = identify(self.sectors, self.serial(), self.state.geometry, self.state.multiple);
                self.offer(answer, BlockKind::Answer);
                true
            }
            // FLUSH CACHE.
            0xe7 | 0xea => {
                let result = self.flush();
                self.finish(result)
            }
            // SET MULTIPLE MODE.
            0xc6 => {
                let [count, ..] = self.state.task.now;
                let good = count <= MOST_MULTIPLE && (count == 0 || count.is_power_of_two());
                if good {
                    self.state.multiple = count;
                }
                self.finish(if good { Ok(()) } else { Err(error::ABORTED) })
            }
            // INITIALIZE DEVICE PARAMETERS.
            0x91 => {
                let (heads, sectors) = ((self.state.task.device & 0xf) + 1, self.state.task.now[0]);
                if sectors != 0 {
                    self.state.geometry = Geometry { heads, sectors };
                }
                self.finish(if sectors == 0 { Err(error::ABORTED) } else { Ok(()) })
            }
            // SET FEATURES: the transfer mode, the write cache and look-ahead, on; nothing of it changes anything here.
            0xef => {
                let known = matches!(self.state.task.features, 0x02 | 0x03 | 0xaa | 0x55 | 0x66 | 0xcc);
                self.finish(if known { Ok(()) } else { Err(error::ABORTED) })
            }
            // EXECUTE DEVICE DIAGNOSTIC: the answer is the signature.
            0x90 => {
                self.state = DriveState::after_reset();
                true
            }
            // CHECK POWER MODE: active.
            0xe5 => {
                self.state.task.now[0] = 0xff;
                self.finish(Ok(()))
            }
            // RECALIBRATE, SEEK, STANDBY and IDLE, at once.
            0x10..=0x1f | 0x70..=0x7f | 0xe0..=0xe3 => self.finish(Ok(())),
            // READ NATIVE MAX ADDRESS.
            0xf8 | 0x27 => {
                let last = self.sectors.saturating_sub(1);
                let last = if command == 0xf8 { last.min(0x0fff_ffff) } else { last };
                self.show_address(last, command == 0x27);
                self.finish(Ok(()))
            }
            _ => self.finish(Err(error::ABORTED)),
        }
    }

    fn finish(&mut self, result: Result<(), u8>) -> Asks {
        self.end(result);
        true
    }

    /// The sectors that the registers name, all of them on the disk.
    fn request(&self, long: bool, block: u32) -> Result<Request, u8> {
        let task = &self.state.task;
        let [count, low, middle, high] = task.now.map(u64::from);
        let [count_before, fourth, fifth, sixth] = task.before.map(u64::from);
        let (first, count) = if long {
            let first = low | middle << 8 | high << 16 | fourth << 24 | fifth << 32 | sixth << 40;
            (first, if count | count_before == 0 { 0x1_0000 } else { count | count_before << 8 })
        } else {
            let head = u64::from(task.device & 0xf);
            let Geometry { heads, sectors } = self.state.geometry;
            let first = if task.device & LBA != 0 {
                low | middle << 8 | high << 16 | head << 24
            } else {
                let sector = low.checked_sub(1).ok_or(error::NOT_FOUND)?;
                ((middle | high << 8) * u64::from(heads) + head) * u64::from(sectors) + sector
            };
            (first, if count == 0 { 0x100 } else { count })
        };
        let fits = first.checked_add(count).is_some_and(|end| end <= self.sectors);
        if fits { Ok(Request { first, count: count as u32, block }) } else { Err(error::NOT_FOUND) }
    }

    fn show_address(&mut self, sector: u64, long: bool) {
        let byte = |n: u32| (sector >> (8 * n)) as u8;
        let task = &mut self.state.task;
        (task.now[1], task.now[2], task.now[3]) = (byte(0), byte(1), byte(2));
        if long {
            (task.before[1], task.before[2], task.before[3]) = (byte(3), byte(4), byte(5));
        } else {
            task.device = task.device & 0xf0 | byte(3) & 0xf;
        }
    }

    fn read_sectors(&mut self, long: bool, block: u32) -> Asks {
        let result = self.request(long, block).and_then(|request| self.next_read(request));
        result.map_or_else(|error| self.finish(Err(error)), |()| true)
    }

    /// Brings the next block of a request to the data port.
    fn next_read(&mut self, request: Request) -> Result<(), u8> {
        let (bytes, rest) = next_block(request);
        let mut bytes = vec![0; bytes];
        self.read(request.first * SECTOR as u64, &mut bytes)?;
        self.offer(bytes, BlockKind::Read(rest));
        Ok(())
    }

    fn write_sectors(&mut self, long: bool, block: u32) -> Asks {
        match self.request(long, block) {
            Ok(request) => {
                self.offer(vec![0; next_block(request).0], BlockKind::Write(request));
                false
            }
            Err(error) => self.finish(Err(error)),
        }
    }

    fn begin_dma(&mut self, long: bool, write: bool) -> Asks {
        match self.request(long, 1) {
            Ok(request) => {
                self.state.dma = Some((request, write));
                self.state.status = status::READY | status::SEEK_DONE | status::DATA;
                self.state.error = 0;
                false
            }
            Err(error) => self.finish(Err(error)),
        }
    }

    /// The guest reads the data port.
    pub(super) fn read_data(&mut self, data: &mut [u8]) -> Asks {
        data.fill(0xff);
        let Some(block) = self.state.block.as_mut().filter(|block| !matches!(block.kind, BlockKind::Write(_))) else {
            return false;
        };
        let rest = block.bytes.get(block.at..).unwrap_or_default();
        data.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
        block.at += data.len();
        if block.at < block.bytes.len() {
            return false;
        }
        match block.kind {
            BlockKind::Read(rest) if rest.count != 0 => match self.next_read(rest) {
                Ok(()) => true,
                Err(error) => self.finish(Err(error)),
            },
            _ => {
                self.end(Ok(()));
                false
            }
        }
    }

    /// The guest writes the data port.
    pub(super) fn write_data(&mut self, data: &[u8]) -> Asks {
        let Some(block) = &mut self.state.block else { return false };
        let BlockKind::Write(request) = block.kind else { return false };
        block.bytes.iter_mut().skip(block.at).zip(data).for_each(|(to, from)| *to = *from);
        block.at += data.len();
        if block.at < block.bytes.len() {
            return false;
        }
        let bytes = std::mem::take(&mut block.bytes);
        if let Err(error) = self.write(request.first * SECTOR as u64, &bytes) {
            return self.finish(Err(error));
        }
        let (_, rest) = next_block(request);
        if rest.count == 0 {
            return self.finish(Ok(()));
        }
        self.offer(vec![0; next_block(rest).0], BlockKind::Write(rest));
        true
    }
}

/// The bytes of the next block of a request, and what is left behind it.
fn next_block(request: Request) -> (usize, Request) {
    let now = request.count.min(request.block);
    let rest = Request { first: request.first + u64::from(now), count: request.count - now, ..request };
    (now as usize * SECTOR, rest)
}

//! What a drive says of itself (ATA-7, volume 1, 6.17 and 6.18; ACS-2, 7.12 and 7.13).

use super::SECTOR;
use super::drive::{Cable, Disk};

/// The most sectors of a block of READ MULTIPLE.
pub(super) const MOST_MULTIPLE: u8 = 16;
/// The most blocks of ranges of a trim.
pub(super) const MOST_RANGE_BLOCKS: u32 = 8;
/// What 28 bits of an address reach.
const LBA28: u64 = 0x0fff_ffff;

/// 256 words.
struct Words([u16; 256]);

impl Words {
    fn set(&mut self, at: usize, value: u16) {
        if let Some(word) = self.0.get_mut(at) {
            *word = value;
        }
    }

    /// Text in words, the first character in the upper half, padded with spaces.
    fn text(&mut self, at: usize, len: usize, text: &str) {
        let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
        for word in at..at + len {
            let (first, second) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
            self.set(word, u16::from_be_bytes([first, second]));
        }
    }

    /// Names, and the ways to transfer that all drives have.
    fn common(&mut self, serial: &str, model: &str) {
        self.text(10, 10, serial);
        self.text(23, 4, "1");
        self.text(27, 20, model);
        // Words 54 to 58, 64 to 70 and 88 are valid.
        self.set(53, 7);
        // Multiword DMA 0 to 2, PIO 3 and 4, at 120 ns.
        self.set(63, 7);
        self.set(64, 3);
        (65..69).for_each(|at| self.set(at, 120));
        // Ultra DMA 0 to 5, the last one selected.
        self.set(88, 0x203f);
    }

    fn bytes(&self) -> Vec<u8> {
        debug_assert_eq!(self.0.len() as u64 * 2, SECTOR);
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

/// The answer to IDENTIFY DEVICE.
pub(super) fn disk(disk: &Disk, cable: Cable) -> Vec<u8> {
    let Disk { sectors, geometry, multiple, .. } = *disk;
    let mut words = Words([0; 256]);
    let cylinders = geometry.cylinders(sectors);
    words.common(disk.backend.serial(), "Husk disk");
    // A disk that is not removable.
    words.set(0, 0x40);
    words.set(1, cylinders);
    words.set(3, u16::from(geometry.heads));
    words.set(6, u16::from(geometry.sectors));
    words.set(47, 0x8000 | u16::from(MOST_MULTIPLE));
    // LBA and DMA.
    words.set(49, 0x0300);
    words.set(50, 0x4000);
    words.set(51, 0x0200);
    words.set(54, cylinders);
    words.set(55, u16::from(geometry.heads));
    words.set(56, u16::from(geometry.sectors));
    let reached = u32::from(cylinders) * u32::from(geometry.heads) * u32::from(geometry.sectors);
    words.set(57, reached as u16);
    words.set(58, (reached >> 16) as u16);
    words.set(59, if multiple == 0 { 0 } else { 0x100 | u16::from(multiple) });
    let short = sectors.min(LBA28) as u32;
    words.set(60, short as u16);
    words.set(61, (short >> 16) as u16);
    // A write cache; flushes and 48-bit addresses; writes that are durable; all of that enabled.
    words.set(82, 0x20);
    words.set(83, 0x7400);
    words.set(84, 0x4040);
    words.set(85, 0x20);
    words.set(86, 0x3400);
    words.set(87, 0x4040);
    match cable {
        Cable::Parallel => {
            // ATA-4 to ATA-7, and an 80-wire cable.
            words.set(80, 0xf0);
            words.set(93, 0x6001);
        }
        Cable::Serial => {
            // ATA-5 to ACS-2; a queue of 32 commands; both speeds; logs.
            words.set(75, 31);
            words.set(76, 0x0106);
            words.set(80, 0x3e0);
            words.set(84, 0x4060);
            words.set(87, 0x4060);
            // Trim.
            words.set(105, MOST_RANGE_BLOCKS as u16);
            words.set(169, 1);
            // Sectors of 512 bytes, eight of which the host writes at once.
            words.set(106, 0x6003);
            // It does not turn: a flash disk.
            words.set(217, 1);
        }
    }
    (0..4).for_each(|n| words.set(100 + n, (sectors >> (16 * n)) as u16));
    words.bytes()
}

/// The answer to IDENTIFY PACKET DEVICE.
pub(super) fn packet_drive(serial: &str) -> Vec<u8> {
    let mut words = Words([0; 256]);
    words.common(serial, "Husk CD/DVD drive");
    // Packets of 12 bytes, at once; a CD drive, removable.
    words.set(0, 0x85c0);
    // LBA and DMA.
    words.set(49, 0x0300);
    // ATA-4 to ATA-7.
    words.set(80, 0xf0);
    // Packets, DEVICE RESET.
    words.set(82, 0x0210);
    words.set(83, 0x4000);
    words.set(84, 0x4000);
    words.set(85, 0x0210);
    words.set(87, 0x4000);
    words.bytes()
}

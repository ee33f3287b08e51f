//! What a drive says of itself (ATA-7, volume 1, 6.17).

use super::drive::{Geometry, SECTOR};

/// The most sectors of a block of READ MULTIPLE.
pub(super) const MOST_MULTIPLE: u8 = 16;
/// What 28 bits of an address reach.
const LBA28: u64 = 0x0fff_ffff;

/// The answer to IDENTIFY DEVICE.
pub(super) fn identify(sectors: u64, serial: &str, geometry: Geometry, multiple: u8) -> Vec<u8> {
    let mut words = [0u16; 256];
    let mut set = |at: usize, value: u16| words.iter_mut().skip(at).take(1).for_each(|word| *word = value);
    let cylinders = geometry.cylinders(sectors);
    // A disk that is not removable.
    set(0, 0x40);
    set(1, cylinders);
    set(3, u16::from(geometry.heads));
    set(6, u16::from(geometry.sectors));
    text(&mut set, 10, 10, serial);
    text(&mut set, 23, 4, "1");
    text(&mut set, 27, 20, "Husk disk");
    set(47, 0x8000 | u16::from(MOST_MULTIPLE));
    // LBA and DMA.
    set(49, 0x0300);
    set(50, 0x4000);
    set(51, 0x0200);
    // Words 54 to 58, 64 to 70 and 88 are valid.
    set(53, 7);
    set(54, cylinders);
    set(55, u16::from(geometry.heads));
    set(56, u16::from(geometry.sectors));
    let reached = u32::from(cylinders) * u32::from(geometry.heads) * u32::from(geometry.sectors);
    set(57, reached as u16);
    set(58, (reached >> 16) as u16);
    set(59, if multiple == 0 { 0 } else { 0x100 | u16::from(multiple) });
    let short = sectors.min(LBA28) as u32;
    set(60, short as u16);
    set(61, (short >> 16) as u16);
    // Multiword DMA 0 to 2, PIO 3 and 4, at 120 ns.
    set(63, 7);
    set(64, 3);
    (65..69).for_each(|at| set(at, 120));
    // ATA-4 to ATA-7.
    set(80, 0xf0);
    // A write cache; flushes and 48-bit addresses; all of that enabled.
    set(82, 0x20);
    set(83, 0x7400);
    set(84, 0x4000);
    set(85, 0x20);
    set(86, 0x3400);
    set(87, 0x4000);
    // Ultra DMA 0 to 5, the last one selected; an 80-wire cable.
    set(88, 0x203f);
    set(93, 0x6001);
    (0..4).for_each(|n| set(100 + n, (sectors >> (16 * n)) as u16));
    debug_assert_eq!(words.len() * 2, SECTOR);
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Text in words, the first character in the upper half, padded with spaces.
fn text(set: &mut impl FnMut(usize, u16), at: usize, len: usize, text: &str) {
    let mut bytes = text.bytes().chain(std::iter::repeat(b' '));
    for word in at..at + len {
        let (first, second) = (bytes.next().unwrap_or(b' '), bytes.next().unwrap_or(b' '));
        set(word, u16::from_be_bytes([first, second]));
    }
}

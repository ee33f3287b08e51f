//! What the chip says of itself: the Common Flash Interface (JEDEC JESD68.01; JEP137 for the numbers of command sets;
//! Intel StrataFlash J3 datasheet, 290667, 4.3 and 4.4).

use super::FLASH_BLOCK;

/// The manufacturer and the chip that the identifier codes tell: Intel, 28F320J3.
const MANUFACTURER: u8 = 0x89;
const CHIP: u8 = 0x16;

/// The write buffer holds two to this power of bytes.
const BUFFER_BITS: u8 = 5;
/// The bytes of the write buffer.
pub(super) const BUFFER: usize = 1 << BUFFER_BITS;

/// Where the table of the Intel command set begins.
const PRIMARY: u8 = 0x31;

/// A byte of the identifier codes. No block is locked.
pub(super) fn identifier(offset: u64) -> u8 {
    match offset % FLASH_BLOCK {
        0 => MANUFACTURER,
        1 => CHIP,
        _ => 0,
    }
}

/// A byte of the answer to a query, for a chip of `size` bytes with an 8-bit bus.
pub(super) fn query(size: u64, offset: u64) -> u8 {
    let last_block = (size / FLASH_BLOCK).saturating_sub(1);
    match offset & 0xff {
        // The manufacturer and the chip once more.
        0x00 => MANUFACTURER,
        0x01 => CHIP,
        0x10 => b'Q',
        0x11 => b'R',
        0x12 => b'Y',
        // The command set: Intel's extended one, and no other.
        0x13 => 0x01,
        0x15 => PRIMARY,
        // 2.7 to 3.6 V, and no voltage apart for programming.
        0x1b => 0x27,
        0x1c => 0x36,
        // Times as powers of two: a byte and a buffer in 128 µs, a block in 1 s, 16 times as long at most.
        0x1f | 0x20 => 0x07,
        0x21 => 0x0a,
        0x23..=0x25 => 0x04,
        // The size as a power of two that holds it; its true size follows from the blocks.
        0x27 => size.max(1).next_power_of_two().trailing_zeros() as u8,
        // An 8-bit bus, 0000h.
        0x2a => BUFFER_BITS,
        // One region of blocks of the same size: how many, less one, and how many times 256 bytes each has.
        0x2c => 1,
        0x2d => last_block as u8,
        0x2e => (last_block >> 8) as u8,
        0x2f => (FLASH_BLOCK / 256) as u8,
        0x30 => ((FLASH_BLOCK / 256) >> 8) as u8,
        // The table of the command set: version 1.0, nothing optional.
        0x31 => b'P',
        0x32 => b'R',
        0x33 => b'I',
        0x34 => b'1',
        0x35 => b'0',
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_make_up_the_size() {
        let size = 528 << 10;
        let bytes: Vec<u64> = (0..0x40).map(|at| query(size, at).into()).collect();
        let (blocks, block) = (bytes[0x2d] + (bytes[0x2e] << 8) + 1, (bytes[0x2f] + (bytes[0x30] << 8)) * 256);
        assert_eq!((blocks * block, bytes[0x27]), (size, 20));
        assert_eq!([0x10, 0x11, 0x12].map(|at| query(size, at)), *b"QRY");
        assert_eq!([0, 1, 2, 0x3002].map(identifier), [MANUFACTURER, CHIP, 0, 0]);
    }
}

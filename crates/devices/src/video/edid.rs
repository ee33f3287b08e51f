//! What the monitor says of itself (VESA *Enhanced Extended Display Identification Data Standard*, release A, revision 2:
//! EDID 1.4).

/// The size of the block in bytes.
pub(super) const BYTES: usize = 128;

/// The parts of the block: each with its offset.
const PARTS: &[(usize, &[u8])] = &[
    (0, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]),
    // The maker, three letters of five bits: HSK. Product 1, of 2024.
    (8, &[0x22, 0x6b, 1, 0, 0, 0, 0, 0, 0, 34]),
    // Version 1.4; digital, eight bits for each color; 33 by 21 cm; gamma 2.2; sRGB, the first mode is its own.
    (18, &[1, 4, 0xa0, 33, 21, 0x78, 0x06]),
    (25, &[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54]),
    // 640 by 480, 800 by 600, 1024 by 768, at 60 Hz.
    (35, &[0x21, 0x08, 0]),
    // At 60 Hz: 1280 by 1024, 1920 by 1080, 1600 by 1200, 1440 by 900, 1680 by 1050, 1280 by 720, 1152 by 864.
    (38, &[0x81, 0x80, 0xd1, 0xc0, 0xa9, 0x40, 0x95, 0, 0xb3, 0, 0x81, 0xc0, 0x71, 0x40, 1, 1]),
    // The mode that it likes best: 1280 by 800 at 60 Hz with a clock of 71 MHz (VESA CVT, reduced blanking).
    (54, &[0xbc, 0x1b, 0, 0xa0, 0x50, 0x20, 0x17, 0x30, 0x30, 0x20, 0x36, 0, 0x4b, 0xcf, 0x10, 0, 0, 0x1a]),
    // Its name.
    (72, &[0, 0, 0, 0xfc, 0, b'H', b'u', b's', b'k', b'\n', b' ', b' ', b' ', b' ', b' ', b' ', b' ', b' ']),
    // Its limits: 50 to 75 Hz, 30 to 160 kHz, 300 MHz.
    (90, &[0, 0, 0, 0xfd, 0, 50, 75, 30, 160, 30, 1, b'\n', b' ', b' ', b' ', b' ', b' ', b' ']),
    // A descriptor that says nothing.
    (108, &[0, 0, 0, 0x10, 0]),
];

/// The block.
pub(super) fn block() -> [u8; BYTES] {
    let mut block = [0; BYTES];
    for (at, part) in PARTS {
        block.iter_mut().skip(*at).zip(*part).for_each(|(to, from)| *to = *from);
    }
    let sum = block.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte));
    if let Some(last) = block.last_mut() {
        *last = sum;
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_do_not_overlap_and_sum_up() {
        let mut end = 0;
        for (at, part) in PARTS {
            assert!(*at >= end);
            end = at + part.len();
        }
        assert!(end < BYTES);
        assert_eq!(block().iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)), 0);
    }
}

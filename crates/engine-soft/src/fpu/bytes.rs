//! Little-endian words within saved states; bytes that are not there read as zero.

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    word::<2>(bytes, at) as u16
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    word::<4>(bytes, at) as u32
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    word::<8>(bytes, at)
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    bytes.iter().skip(at).take(N).rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

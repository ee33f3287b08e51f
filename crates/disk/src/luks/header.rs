//! The header of LUKS1: LUKS On-Disk Format Specification 1.2.3, section 3.

use super::LuksError;
use super::hash::Hash;
use super::sectors::Mode;

/// What every header of LUKS starts with.
pub const MAGIC: [u8; 6] = *b"LUKS\xba\xbe";
/// Bytes of the header of version 1.
pub(super) const LEN: usize = 592;
/// The number of key slots.
pub(super) const SLOTS: usize = 8;
/// The stripes of key material that everybody writes.
pub(super) const STRIPES: u32 = 4000;
/// Key material starts at multiples of this.
pub(super) const ALIGNMENT: u64 = 4096;
const ENABLED: u32 = 0x00ac_71f3;
const DISABLED: u32 = 0x0000_dead;
/// More than anything makes, and a minute of work: a hostile header must not ask for hours.
const MOST_ITERATIONS: u32 = 1 << 27;

/// A slot that holds the key, encrypted with one of the passphrases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) iterations: u32,
    pub(super) salt: [u8; 32],
    /// Bytes from the start of the header.
    pub(super) material: u64,
    pub(super) stripes: u32,
}

/// The header of version 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) mode: Mode,
    pub(super) hash: Hash,
    /// Bytes from the start of the header.
    pub(super) payload: u64,
    /// Bytes.
    pub(super) key_len: usize,
    pub(super) digest: [u8; 20],
    pub(super) digest_salt: [u8; 32],
    pub(super) digest_iterations: u32,
    pub(super) uuid: String,
    /// Where the material of each slot is, and what is in it if it is in use.
    pub(super) slots: Vec<(u64, Option<Slot>)>,
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_be_bytes)
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|b| b.try_into().ok()).unwrap_or([0; N])
}

fn text(bytes: &[u8], at: usize, len: usize) -> String {
    let field = bytes.get(at..at + len).unwrap_or_default();
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    field[..end].iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

impl Header {
    /// Reads and checks a header.
    pub(super) fn parse(bytes: &[u8; LEN]) -> Result<Self, LuksError> {
        let cipher = text(bytes, 8, 32);
        if cipher != "aes" {
            return Err(LuksError::Unsupported(format!("the cipher {cipher}")));
        }
        let mode = Mode::by_name(&text(bytes, 40, 32))?;
        let hash = Hash::by_name(&text(bytes, 72, 32))?;
        let key_len = be32(bytes, 108) as usize;
        let lengths: &[usize] = match mode {
            Mode::Xts(_) => &[32, 64],
            Mode::Cbc(_) => &[16, 24, 32],
        };
        if !lengths.contains(&key_len) {
            return Err(LuksError::Corrupt(format!("a key of {key_len} bytes for {}", mode.name())));
        }
        let iterations = |at| match be32(bytes, at) {
            count @ 1..=MOST_ITERATIONS => Ok(count),
            count => Err(LuksError::Corrupt(format!("{count} iterations of key derivation"))),
        };
        let mut slots = Vec::with_capacity(SLOTS);
        for number in 0..SLOTS {
            let at = 208 + number * 48;
            let material = u64::from(be32(bytes, at + 40)) * 512;
            let slot = match be32(bytes, at) {
                DISABLED => None,
                ENABLED => {
                    let stripes = be32(bytes, at + 44);
                    if stripes == 0 || stripes > STRIPES {
                        return Err(LuksError::Corrupt(format!("key slot {number} has {stripes} stripes")));
                    }
                    if material < LEN as u64 {
                        return Err(LuksError::Corrupt(format!("key slot {number} lies in the header")));
                    }
                    Some(Slot { iterations: iterations(at + 4)?, salt: array(bytes, at + 8), material, stripes })
                }
                _ => return Err(LuksError::Corrupt(format!("key slot {number} is neither on nor off"))),
            };
            slots.push((material, slot));
        }
        Ok(Self {
            mode,
            hash,
            payload: u64::from(be32(bytes, 104)) * 512,
            key_len,
            digest: array(bytes, 112),
            digest_salt: array(bytes, 132),
            digest_iterations: iterations(164)?,
            uuid: text(bytes, 168, 40),
            slots,
        })
    }

    /// The header as it is written.
    pub(super) fn bytes(&self) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        let sectors = |offset: u64| ((offset / 512) as u32).to_be_bytes();
        put(0, &MAGIC);
        put(6, &1u16.to_be_bytes());
        put(8, b"aes");
        put(40, self.mode.name().as_bytes());
        put(72, self.hash.name().as_bytes());
        put(104, &sectors(self.payload));
        put(108, &(self.key_len as u32).to_be_bytes());
        put(112, &self.digest);
        put(132, &self.digest_salt);
        put(164, &self.digest_iterations.to_be_bytes());
        put(168, self.uuid.as_bytes());
        for (number, (material, slot)) in self.slots.iter().enumerate() {
            let at = 208 + number * 48;
            put(at + 40, &sectors(*material));
            put(at + 44, &STRIPES.to_be_bytes());
            match slot {
                None => put(at, &DISABLED.to_be_bytes()),
                Some(slot) => {
                    put(at, &ENABLED.to_be_bytes());
                    put(at + 4, &slot.iterations.to_be_bytes());
                    put(at + 8, &slot.salt);
                    put(at + 44, &slot.stripes.to_be_bytes());
                }
            }
        }
        bytes
    }
}

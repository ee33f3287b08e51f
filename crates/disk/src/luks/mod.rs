//! Encryption by LUKS: whole images, and the sectors inside of a qcow2.
//!
//! Version 1 (LUKS On-Disk Format Specification 1.2.3) is read and written, version 2 (LUKS2 On-Disk Format Specification
//! 1.1.1) is read. The cipher is AES in XTS or CBC mode. What unlocks and creates works on the *area* of the header, wherever
//! that lies: the start of a plain image, or some clusters of a qcow2.

mod hash;
mod header;
mod image;
mod passphrase;
mod sectors;
mod version2;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::cipher::Cipher;
use crate::error::Error;

pub use hash::Hash;
pub use header::MAGIC;
pub use image::LuksImage;
pub use passphrase::Passphrase;
pub use sectors::{Mode, Numbering, Sectors};

use header::{ALIGNMENT, Header, LEN, SLOTS, STRIPES, Slot};

const FORMAT: &str = "luks";

/// Why an encrypted image cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum LuksError {
    /// No key slot opens with it.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// Something that LUKS has and this crate does not.
    #[error("its encryption has {0}, which is not supported")]
    Unsupported(String),
    /// The header contradicts itself.
    #[error("its LUKS header is corrupt: {0}")]
    Corrupt(String),
    /// The host cannot read or write it, or has no random numbers.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl LuksError {
    /// The error as one of the image at this path.
    #[must_use]
    pub fn of(self, path: &Path) -> Error {
        match self {
            Self::WrongPassphrase => {
                Error::Locked { path: path.into(), what: format!("{self}; check the file that it comes from") }
            }
            Self::Unsupported(_) => Error::unsupported(path, self.to_string()),
            Self::Corrupt(what) => Error::damaged(path, FORMAT, what),
            Self::Io(cause) => Error::host(path, "read the LUKS header", cause),
        }
    }
}

/// What an unlocked header says.
#[derive(Debug)]
pub struct Unlocked {
    /// The key of the payload.
    pub sectors: Sectors,
    /// Where the payload starts, in bytes from the start of the header. Of no meaning in a qcow2.
    pub payload: u64,
    /// The payload's size in bytes, where the header fixes it.
    pub payload_len: Option<u64>,
    /// The number of the payload's first sector, in units of 512 bytes.
    pub first_sector: u64,
    /// The bytes of a sector: 512 to 4096.
    pub sector: usize,
}

/// What a header says without a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// 1 or 2.
    pub version: u16,
    /// Like `aes-xts-plain64`.
    pub cipher: String,
    /// Like `sha256`; empty where each slot has one of its own.
    pub hash: String,
    /// Unique to this image.
    pub uuid: String,
    /// The numbers of the key slots in use.
    pub slots: Vec<u32>,
    /// Where the payload starts, in bytes from the start of the header.
    pub payload: u64,
}

/// How a new image is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// The mode of AES.
    pub mode: Mode,
    /// The bytes of the key: for XTS 32 or 64, for CBC 16, 24 or 32.
    pub key_len: usize,
    /// The hash of the key derivation and the splitter.
    pub hash: Hash,
    /// How long a passphrase takes to try, on this host.
    pub effort: Duration,
}

impl Default for Parameters {
    /// What `qemu-img` and `cryptsetup` do: AES-256 in XTS, SHA-256, two seconds.
    fn default() -> Self {
        let mode = Mode::Xts(Numbering::Plain64);
        Self { mode, key_len: 64, hash: Hash::Sha256, effort: Duration::from_secs(2) }
    }
}

/// Reads bytes at an offset from the start of the header; all of them, or an error.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> io::Result<()> + 'a;

/// The version of the LUKS header that starts with these bytes, if it is one.
#[must_use]
pub fn version(start: &[u8]) -> Option<u16> {
    let found = start.starts_with(&MAGIC);
    start.get(6..8).filter(|_| found).map(|v| u16::from_be_bytes([v[0], v[1]]))
}

fn checked_version(read: &mut ReadAt<'_>) -> Result<u16, LuksError> {
    let mut start = [0; 8];
    read(0, &mut start)?;
    match version(&start) {
        Some(known @ (1 | 2)) => Ok(known),
        Some(other) => Err(LuksError::Unsupported(format!("version {other}"))),
        None => Err(LuksError::Corrupt("it has no magic number".to_owned())),
    }
}

/// What the header says, without a passphrase.
///
/// # Errors
/// Everything but wrong passphrases.
pub fn summary(read: &mut ReadAt<'_>) -> Result<Summary, LuksError> {
    if checked_version(read)? == 2 {
        return version2::summary(read);
    }
    let mut bytes = [0; LEN];
    read(0, &mut bytes)?;
    let header = Header::parse(&bytes)?;
    let slots = (0..).zip(&header.slots).filter(|(_, (_, slot))| slot.is_some()).map(|(number, _)| number).collect();
    let cipher = format!("aes-{}", header.mode.name());
    let hash = header.hash.name().to_owned();
    Ok(Summary { version: 1, cipher, hash, uuid: header.uuid, slots, payload: header.payload })
}

/// Unlocks the payload with a passphrase, which is tried on every key slot.
///
/// # Errors
/// [`LuksError`].
pub fn unlock(read: &mut ReadAt<'_>, passphrase: &[u8]) -> Result<Unlocked, LuksError> {
    if checked_version(read)? == 2 {
        return version2::unlock(read, passphrase);
    }
    let mut bytes = [0; LEN];
    read(0, &mut bytes)?;
    let header = Header::parse(&bytes)?;
    let mut used = false;
    for slot in header.slots.iter().filter_map(|(_, slot)| slot.as_ref()) {
        used = true;
        let key = header.hash.pbkdf2(passphrase, &slot.salt, slot.iterations, header.key_len);
        // At most 64 bytes times 4000 stripes.
        let mut split = Zeroizing::new(vec![0; (header.key_len * slot.stripes as usize).next_multiple_of(512)]);
        read(slot.material, &mut split)?;
        Sectors::new(header.mode, &key, 512)?.decrypt(0, &mut split);
        let split = split.get(..header.key_len * slot.stripes as usize).unwrap_or_default();
        let Some(master) = header.hash.merge(split, slot.stripes as usize) else { continue };
        let digest = header.hash.pbkdf2(&master, &header.digest_salt, header.digest_iterations, 20);
        if **digest == header.digest {
            let sectors = Sectors::new(header.mode, &master, 512)?;
            return Ok(Unlocked { sectors, payload: header.payload, payload_len: None, first_sector: 0, sector: 512 });
        }
    }
    if used { Err(LuksError::WrongPassphrase) } else { Err(LuksError::Corrupt("no key slot is in use".to_owned())) }
}

/// Makes the area of a header of version 1 whose first key slot opens with the passphrase: the bytes in front of the payload,
/// and the unlocked key.
///
/// # Errors
/// [`LuksError::Io`] without random numbers, [`LuksError::Unsupported`] for a length of key that the mode does not have.
pub fn create(parameters: &Parameters, passphrase: &[u8]) -> Result<(Vec<u8>, Unlocked), LuksError> {
    let Parameters { mode, key_len, hash, effort } = *parameters;
    let mut master = Zeroizing::new(vec![0; key_len]);
    random(&mut master)?;
    let sectors = Sectors::new(mode, &master, 512)?;
    // The digest gets an eighth of the effort, as the specification has it; both have the floors of its section 4.1.
    let digest_iterations = iterations(hash, effort / 8, 20);
    let slot_iterations = iterations(hash, effort, key_len);
    let material_len = (key_len as u64 * u64::from(STRIPES)).next_multiple_of(ALIGNMENT);
    let material = |number: usize| ALIGNMENT + number as u64 * material_len;
    let payload = material(SLOTS);
    let (mut salt, mut digest_salt, mut uuid) = ([0; 32], [0; 32], [0; 16]);
    random(&mut salt)?;
    random(&mut digest_salt)?;
    random(&mut uuid)?;
    let mut digest = [0; 20];
    digest.copy_from_slice(&hash.pbkdf2(&master, &digest_salt, digest_iterations, 20));
    let slot = Slot { iterations: slot_iterations, salt, material: material(0), stripes: STRIPES };

    let mut filler = Zeroizing::new(vec![0; key_len * STRIPES as usize]);
    random(&mut filler)?;
    let mut split = hash.split(&master, filler);
    let whole = split.len().next_multiple_of(512);
    split.resize(whole, 0);
    let key = hash.pbkdf2(passphrase, &salt, slot_iterations, key_len);
    Sectors::new(mode, &key, 512)?.encrypt(0, &mut split);

    let slots = (0..SLOTS).map(|number| (material(number), (number == 0).then(|| slot.clone()))).collect();
    let uuid = show_uuid(uuid);
    let header = Header { mode, hash, payload, key_len, digest, digest_salt, digest_iterations, uuid, slots };
    let mut area = vec![0; payload as usize];
    area[..LEN].copy_from_slice(&header.bytes());
    area[ALIGNMENT as usize..][..split.len()].copy_from_slice(&split);
    Ok((area, Unlocked { sectors, payload, payload_len: None, first_sector: 0, sector: 512 }))
}

/// The key of the encryption that qcow2 had before LUKS: the passphrase itself, AES-128 in CBC. The sectors are numbered by
/// their places on the disk. To read old images by; it is weak.
///
/// # Errors
/// None today.
pub fn legacy(passphrase: &[u8]) -> Result<Sectors, LuksError> {
    let mut key = Zeroizing::new([0; 16]);
    key.iter_mut().zip(passphrase).for_each(|(key, byte)| *key = *byte);
    Sectors::new(Mode::Cbc(Numbering::Plain64), &*key, 512)
}

fn random(bytes: &mut [u8]) -> Result<(), LuksError> {
    getrandom::fill(bytes).map_err(|error| LuksError::Io(io::Error::other(format!("no random numbers: {error}"))))
}

/// A random UUID: RFC 9562, version 4.
fn show_uuid(mut uuid: [u8; 16]) -> String {
    uuid[6] = uuid[6] & 0x0f | 0x40;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    let hex: String = uuid.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// The iterations that take this long here.
fn iterations(hash: Hash, effort: Duration, len: usize) -> u32 {
    const LEAST: u32 = 1000;
    let mut tried = 1 << 12;
    loop {
        let start = Instant::now();
        hash.pbkdf2(b"a passphrase", &[0; 32], tried, len);
        let taken = start.elapsed();
        if taken >= Duration::from_millis(20) || tried >= 1 << 22 || taken * 4 >= effort {
            let count = f64::from(tried) * effort.as_secs_f64() / taken.as_secs_f64().max(1e-6);
            return (count as u32).clamp(LEAST, 1 << 26);
        }
        tried *= 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cipher::Cipher;

    fn quick(mode: &str, key_len: usize, hash: Hash) -> Parameters {
        Parameters { mode: Mode::by_name(mode).unwrap(), key_len, hash, effort: Duration::from_millis(1) }
    }

    fn reader(area: &[u8]) -> impl FnMut(u64, &mut [u8]) -> io::Result<()> + '_ {
        |at, data| {
            let from = usize::try_from(at).ok().and_then(|at| area.get(at..)?.get(..data.len()));
            data.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        }
    }

    #[test]
    fn what_is_created_unlocks_with_its_passphrase_only() {
        for (mode, len, hash) in [
            ("xts-plain64", 64, Hash::Sha256),
            ("xts-plain64", 32, Hash::Sha1),
            ("cbc-essiv:sha256", 32, Hash::Sha512),
            ("cbc-plain64", 16, Hash::Sha1),
            ("cbc-essiv:sha256", 24, Hash::Sha384),
        ] {
            let (area, made) = create(&quick(mode, len, hash), b"open sesame").unwrap();
            let opened = unlock(&mut reader(&area), b"open sesame").unwrap();
            assert_eq!((opened.payload, opened.sector), (made.payload, 512));
            assert_eq!(area.len() as u64, made.payload);
            let mut data = vec![7; 1024];
            made.sectors.encrypt(8, &mut data);
            opened.sectors.decrypt(8, &mut data);
            assert_eq!(data, vec![7; 1024], "{mode} {len}");
            let wrong = unlock(&mut reader(&area), b"open barley");
            assert!(matches!(wrong, Err(LuksError::WrongPassphrase)), "{mode}: {wrong:?}");
            let said = summary(&mut reader(&area)).unwrap();
            assert_eq!((said.version, said.cipher.as_str(), said.slots), (1, format!("aes-{mode}").as_str(), vec![0]));
        }
    }

    #[test]
    fn broken_headers_are_refused() {
        let (area, _) = create(&quick("xts-plain64", 64, Hash::Sha256), b"x").unwrap();
        let refused = |at: usize, bytes: &[u8], says: &str| {
            let mut area = area.clone();
            area[at..at + bytes.len()].copy_from_slice(bytes);
            let error = unlock(&mut reader(&area), b"x").unwrap_err().to_string();
            assert!(error.contains(says), "{at}: {error}");
        };
        refused(0, b"X", "magic");
        refused(6, &[0, 3], "version 3");
        refused(8, b"serpent\0", "serpent");
        refused(40, b"ctr-plain64", "ctr-plain64");
        refused(72, b"md5\0", "md5");
        refused(108, &[0xff; 4], "a key of");
        refused(108, &[0, 0, 0, 24], "a key of 24 bytes");
        refused(164, &[0xff; 4], "iterations");
        refused(208, &[1; 4], "neither on nor off");
        refused(208, &[0, 0, 0xde, 0xad], "no key slot");
        refused(212, &[0; 4], "iterations");
        refused(208 + 40, &[0; 4], "lies in the header");
        refused(208 + 40, &[0xff; 4], "end of file");
        refused(208 + 44, &[0xff; 4], "stripes");
        refused(112, &[0; 20], "passphrase is wrong");
        for len in [0, 7, 8, 591, 592, 4096, 100_000] {
            assert!(unlock(&mut reader(&area[..len]), b"x").is_err(), "{len}");
        }
    }
}

//! Encryption of sectors: AES in XTS (IEEE 1619) and in CBC, with the numbering of the Linux kernel's dm-crypt.

use aes::cipher::{BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256, Block};

use super::LuksError;
use super::hash::Hash;
use crate::cipher::{Cipher, SECTOR};

/// How sectors are encrypted, as a header names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// `xts-plain64`, the default, and `xts-plain`.
    Xts(Numbering),
    /// `cbc-essiv:HASH`, `cbc-plain64` and `cbc-plain`.
    Cbc(Numbering),
}

/// How a sector's initialisation vector comes from its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbering {
    /// The low 32 bits of the number.
    Plain,
    /// The number.
    Plain64,
    /// The number, encrypted with a hash of the key.
    Essiv(Hash),
}

impl Mode {
    /// The mode that a header of the cipher AES names.
    ///
    /// # Errors
    /// [`LuksError::Unsupported`] for another.
    pub fn by_name(name: &str) -> Result<Self, LuksError> {
        let unsupported = || LuksError::Unsupported(format!("the cipher mode {name}"));
        let (chaining, numbering) = name.split_once('-').ok_or_else(unsupported)?;
        let numbering = match numbering.split_once(':') {
            None if numbering == "plain" => Numbering::Plain,
            None if numbering == "plain64" => Numbering::Plain64,
            Some(("essiv", hash)) => Numbering::Essiv(Hash::by_name(hash)?),
            _ => return Err(unsupported()),
        };
        match chaining {
            "xts" => Ok(Self::Xts(numbering)),
            "cbc" => Ok(Self::Cbc(numbering)),
            _ => Err(unsupported()),
        }
    }

    /// Its name in a header.
    #[must_use]
    pub fn name(self) -> String {
        let (chaining, numbering) = match self {
            Self::Xts(numbering) => ("xts", numbering),
            Self::Cbc(numbering) => ("cbc", numbering),
        };
        match numbering {
            Numbering::Plain => format!("{chaining}-plain"),
            Numbering::Plain64 => format!("{chaining}-plain64"),
            Numbering::Essiv(hash) => format!("{chaining}-essiv:{}", hash.name()),
        }
    }
}

enum Aes {
    Short(Aes128),
    Middle(Aes192),
    Long(Aes256),
}

impl Aes {
    fn new(key: &[u8]) -> Result<Self, LuksError> {
        let refused = |_| LuksError::Unsupported(format!("AES with a key of {} bits", key.len() * 8));
        match key.len() {
            16 => Aes128::new_from_slice(key).map(Self::Short).map_err(refused),
            24 => Aes192::new_from_slice(key).map(Self::Middle).map_err(refused),
            _ => Aes256::new_from_slice(key).map(Self::Long).map_err(refused),
        }
    }

    fn encrypt(&self, blocks: &mut [Block]) {
        match self {
            Self::Short(aes) => aes.encrypt_blocks(blocks),
            Self::Middle(aes) => aes.encrypt_blocks(blocks),
            Self::Long(aes) => aes.encrypt_blocks(blocks),
        }
    }

    fn decrypt(&self, blocks: &mut [Block]) {
        match self {
            Self::Short(aes) => aes.decrypt_blocks(blocks),
            Self::Middle(aes) => aes.decrypt_blocks(blocks),
            Self::Long(aes) => aes.decrypt_blocks(blocks),
        }
    }

    fn one(&self, number: u128) -> u128 {
        let mut block = [Block::from(number.to_le_bytes())];
        self.encrypt(&mut block);
        u128::from_le_bytes(block[0].into())
    }
}

/// A key, ready for work. Its round keys are zeroed when it goes.
pub struct Sectors {
    aes: Aes,
    /// The second key of XTS.
    tweak: Option<Aes>,
    /// The key of ESSIV.
    salt: Option<Aes>,
    numbering: Numbering,
    /// Bytes.
    sector: usize,
}

impl std::fmt::Debug for Sectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sectors")
            .field("numbering", &self.numbering)
            .field("sector", &self.sector)
            .finish_non_exhaustive()
    }
}

impl Sectors {
    /// The key for sectors of this many bytes, a multiple of 512.
    ///
    /// # Errors
    /// [`LuksError::Unsupported`] for a key of a length that AES does not have.
    pub fn new(mode: Mode, key: &[u8], sector: usize) -> Result<Self, LuksError> {
        debug_assert!(sector > 0 && sector.is_multiple_of(512));
        let (numbering, own, second) = match mode {
            Mode::Cbc(numbering) => (numbering, key, None),
            Mode::Xts(numbering) => {
                let (own, second) = key.split_at(key.len() / 2);
                (numbering, own, Some(second))
            }
        };
        let tweak = second.map(Aes::new).transpose()?;
        let salt = match numbering {
            Numbering::Essiv(hash) => Some(Aes::new(&hash.digest(&[own]))?),
            _ => None,
        };
        Ok(Self { aes: Aes::new(own)?, tweak, salt, numbering, sector })
    }

    fn numbered<'a>(&self, first: u64, data: &'a mut [u8]) -> impl Iterator<Item = (&'a mut [u8], u64)> {
        let step = self.sector as u64 / SECTOR;
        debug_assert!(data.len().is_multiple_of(self.sector));
        data.chunks_exact_mut(self.sector).enumerate().map(move |(n, data)| (data, first.wrapping_add(n as u64 * step)))
    }

    fn vector(&self, number: u64) -> u128 {
        match (self.numbering, &self.salt) {
            (Numbering::Plain, _) => u128::from(number as u32),
            (_, Some(salt)) => salt.one(u128::from(number)),
            _ => u128::from(number),
        }
    }
}

/// Sectors are numbered in units of 512 bytes, whatever their own size is.
impl Cipher for Sectors {
    fn encrypt(&self, sector: u64, data: &mut [u8]) {
        for (sector, number) in self.numbered(sector, data) {
            let vector = self.vector(number);
            let (blocks, _) = Block::slice_as_chunks_mut(sector);
            match &self.tweak {
                Some(tweak) => xts(tweak.one(vector), blocks, |blocks| self.aes.encrypt(blocks)),
                None => {
                    let mut before = vector.to_le_bytes();
                    for block in blocks {
                        xor(block, &before);
                        self.aes.encrypt(std::slice::from_mut(block));
                        before = (*block).into();
                    }
                }
            }
        }
    }

    fn decrypt(&self, sector: u64, data: &mut [u8]) {
        let mut cipher = Vec::new();
        for (sector, number) in self.numbered(sector, data) {
            let vector = self.vector(number);
            match &self.tweak {
                Some(tweak) => {
                    let (blocks, _) = Block::slice_as_chunks_mut(sector);
                    xts(tweak.one(vector), blocks, |blocks| self.aes.decrypt(blocks));
                }
                None => {
                    cipher.clear();
                    cipher.extend_from_slice(&vector.to_le_bytes());
                    cipher.extend_from_slice(sector);
                    let (blocks, _) = Block::slice_as_chunks_mut(sector);
                    self.aes.decrypt(blocks);
                    for (block, before) in blocks.iter_mut().zip(cipher.chunks_exact(16)) {
                        xor(block, before);
                    }
                }
            }
        }
    }
}

fn xor(block: &mut Block, with: &[u8]) {
    block.iter_mut().zip(with).for_each(|(byte, with)| *byte ^= with);
}

/// XTS around one direction of the cipher, in batches that keep the host's AES unit busy.
fn xts(mut tweak: u128, blocks: &mut [Block], crypt: impl Fn(&mut [Block])) {
    let mut tweaks = [[0u8; 16]; 32];
    for batch in blocks.chunks_mut(tweaks.len()) {
        for (block, kept) in batch.iter_mut().zip(&mut tweaks) {
            *kept = tweak.to_le_bytes();
            xor(block, kept);
            // Times alpha in GF(2^128), without a branch on the secret.
            tweak = (tweak << 1) ^ ((tweak >> 127) * 0x87);
        }
        crypt(batch);
        for (block, kept) in batch.iter_mut().zip(&tweaks) {
            xor(block, kept);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xts_is_that_of_ieee_1619() {
        // Vector 2: keys of 11h and 22h, data unit 3333333333h, plain text of 44h.
        let mut key = vec![0x11; 16];
        key.extend([0x22; 16]);
        let sectors = Sectors::new(Mode::Xts(Numbering::Plain64), &key, 512).unwrap();
        let mut data = vec![0x44; 512];
        sectors.encrypt(0x33_3333_3333, &mut data);
        let known = [0xc4, 0x54, 0x18, 0x5e, 0x6a, 0x16, 0x93, 0x6e, 0x39, 0x33, 0x40, 0x38, 0xac, 0xef, 0x83, 0x8b];
        assert_eq!(data[..16], known);
        sectors.decrypt(0x33_3333_3333, &mut data);
        assert_eq!(data, [0x44; 512]);
    }

    #[test]
    fn what_is_encrypted_decrypts_in_every_mode() {
        let names = ["xts-plain", "xts-plain64", "cbc-plain", "cbc-plain64", "cbc-essiv:sha256", "xts-essiv:sha256"];
        for (name, len) in names.into_iter().flat_map(|name| [16, 32, 64].map(|len| (name, len))) {
            let mode = Mode::by_name(name).unwrap();
            assert_eq!(mode.name(), name);
            if (len == 16 && name.starts_with("xts")) || (len == 64 && name.starts_with("cbc")) {
                assert!(Sectors::new(mode, &vec![1; len], 512).is_err(), "{name} {len}");
                continue;
            }
            let sectors = Sectors::new(mode, &vec![1; len], 512).unwrap();
            let plain: Vec<u8> = (0..4096u32).map(|n| (n / 16 * 3) as u8).collect();
            let mut data = plain.clone();
            sectors.encrypt(2048, &mut data);
            assert_ne!(data, plain);
            // Sectors are independent of each other.
            sectors.decrypt(2048 + 1, &mut data[512..1024]);
            assert_eq!(data[512..1024], plain[512..1024]);
            sectors.encrypt(2048 + 1, &mut data[512..1024]);
            sectors.decrypt(2048, &mut data);
            assert_eq!(data, plain);
        }
        for bad in ["xts", "ctr-plain64", "ecb", "cbc-essiv", "cbc-essiv:md5", "xts-random", ""] {
            assert!(Mode::by_name(bad).is_err(), "{bad}");
        }
    }
}

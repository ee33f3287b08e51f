//! The hashes of LUKS: key derivation (PBKDF2, RFC 8018), and the anti-forensic splitter (LUKS On-Disk Format 1.2.3, section 2.4).

use hmac::Hmac;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use zeroize::{Zeroize, Zeroizing};

use super::LuksError;

/// A hash by its name in a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hash {
    /// `sha1`, the only one that old headers have.
    Sha1,
    /// `sha224`.
    Sha224,
    /// `sha256`, the default.
    Sha256,
    /// `sha384`.
    Sha384,
    /// `sha512`.
    Sha512,
}

impl Hash {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Sha1, Self::Sha224, Self::Sha256, Self::Sha384, Self::Sha512];

    /// Its name in headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha224 => "sha224",
            Self::Sha256 => "sha256",
            Self::Sha384 => "sha384",
            Self::Sha512 => "sha512",
        }
    }

    /// The hash of this name.
    ///
    /// # Errors
    /// [`LuksError::Unsupported`] for another.
    pub fn by_name(name: &str) -> Result<Self, LuksError> {
        let known = Self::ALL.into_iter().find(|hash| hash.name() == name);
        known.ok_or_else(|| LuksError::Unsupported(format!("the hash {name}")))
    }

    /// The length of a digest in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a digest is never empty")]
    pub fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha224 => 28,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of these pieces.
    pub(super) fn digest(self, pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        fn run<D: Digest>(pieces: &[&[u8]]) -> Zeroizing<Vec<u8>> {
            let mut hash = D::new();
            pieces.iter().for_each(|piece| hash.update(piece));
            Zeroizing::new(hash.finalize().to_vec())
        }
        match self {
            Self::Sha1 => run::<Sha1>(pieces),
            Self::Sha224 => run::<Sha224>(pieces),
            Self::Sha256 => run::<Sha256>(pieces),
            Self::Sha384 => run::<Sha384>(pieces),
            Self::Sha512 => run::<Sha512>(pieces),
        }
    }

    /// PBKDF2 with this hash's HMAC: `len` bytes of key.
    pub(super) fn pbkdf2(self, passphrase: &[u8], salt: &[u8], iterations: u32, len: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(vec![0; len]);
        // HMAC takes keys of any length, so none of these can be refused.
        let _ = match self {
            Self::Sha1 => pbkdf2::pbkdf2::<Hmac<Sha1>>(passphrase, salt, iterations, &mut key),
            Self::Sha224 => pbkdf2::pbkdf2::<Hmac<Sha224>>(passphrase, salt, iterations, &mut key),
            Self::Sha256 => pbkdf2::pbkdf2::<Hmac<Sha256>>(passphrase, salt, iterations, &mut key),
            Self::Sha384 => pbkdf2::pbkdf2::<Hmac<Sha384>>(passphrase, salt, iterations, &mut key),
            Self::Sha512 => pbkdf2::pbkdf2::<Hmac<Sha512>>(passphrase, salt, iterations, &mut key),
        };
        key
    }

    /// The hash H2 of the splitter: `block` is replaced by the hash of its pieces, each with its number in front.
    fn diffuse(self, block: &mut [u8]) {
        for (number, piece) in (0u32..).zip(block.chunks_mut(self.len())) {
            let digest = self.digest(&[&number.to_be_bytes(), piece]);
            let len = piece.len();
            piece.copy_from_slice(&digest[..len]);
        }
    }

    /// AFmerge: the key out of `stripes` stripes, of which each is as long as the key. `None` if they do not divide.
    pub(super) fn merge(self, split: &[u8], stripes: usize) -> Option<Zeroizing<Vec<u8>>> {
        let len = split.len().checked_div(stripes).filter(|len| *len > 0 && len * stripes == split.len())?;
        let mut sum = Zeroizing::new(vec![0u8; len]);
        for (number, stripe) in split.chunks(len).enumerate() {
            sum.iter_mut().zip(stripe).for_each(|(sum, byte)| *sum ^= byte);
            if number + 1 < stripes {
                self.diffuse(&mut sum);
            }
        }
        Some(sum)
    }

    /// AFsplit: stripes out of which [`Self::merge`] gets the key; `filler` is random and as long as all stripes together.
    pub(super) fn split(self, key: &[u8], mut filler: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
        let mut sum = Zeroizing::new(vec![0u8; key.len()]);
        let last = filler.len() - key.len();
        for stripe in filler[..last].chunks(key.len()) {
            sum.iter_mut().zip(stripe).for_each(|(sum, byte)| *sum ^= byte);
            self.diffuse(&mut sum);
        }
        for (place, (sum, byte)) in filler[last..].iter_mut().zip(sum.iter().zip(key)) {
            *place = sum ^ byte;
        }
        sum.zeroize();
        filler
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_split_merges() {
        for hash in Hash::ALL {
            for len in [16, 32, 64] {
                let key: Vec<u8> = (0..len).map(|n| n as u8).collect();
                let filler = (0..len * 40).map(|n| (n * 7 + n / 251) as u8).collect::<Vec<_>>();
                let split = hash.split(&key, Zeroizing::new(filler));
                assert_eq!(**hash.merge(&split, 40).as_ref().unwrap(), key);
                let mut broken = split.clone();
                broken[0] ^= 1;
                assert_ne!(**hash.merge(&broken, 40).as_ref().unwrap(), key);
            }
        }
        assert!(Hash::Sha256.merge(&[0; 10], 3).is_none() && Hash::Sha256.merge(&[], 0).is_none());
    }

    #[test]
    fn pbkdf2_is_that_of_rfc_6070() {
        let key = Hash::Sha1.pbkdf2(b"password", b"salt", 4096, 20);
        let known = "4b007901b765489abead49d926f721d065a429c1";
        assert_eq!(key.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), known);
    }
}

//! The password of VNC Authentication (RFC 6143, section 7.2.2).

use std::fmt;

use des::Des;
use des::cipher::{BlockCipherEncrypt, KeyInit};
use zeroize::Zeroizing;

/// The bytes of a password that count.
const LENGTH: usize = 8;

/// The password that clients have to know. Only its first eight bytes count: the protocol has no room for more.
#[derive(Clone)]
pub struct Password(Zeroizing<[u8; LENGTH]>);

impl Password {
    /// The password in the first line of `bytes`; `None` when that line is empty.
    #[must_use]
    pub fn first_line(bytes: &[u8]) -> Option<Self> {
        let line = bytes.split(|byte| matches!(byte, b'\n' | b'\r' | 0)).next()?;
        let mut password = Zeroizing::new([0; LENGTH]);
        for (place, byte) in password.iter_mut().zip(line) {
            *place = *byte;
        }
        if line.is_empty() { None } else { Some(Self(password)) }
    }

    /// What who knows the password makes of the challenge.
    pub(super) fn answer(&self, challenge: &[u8; 16]) -> [u8; 16] {
        // The key has the bits of each byte in the opposite order, as the first implementation had.
        let key = Zeroizing::new(self.0.map(u8::reverse_bits));
        let cipher = Des::new((&*key).into());
        let mut answer = *challenge;
        let (blocks, _) = answer.as_chunks_mut::<8>();
        for block in blocks {
            cipher.encrypt_block(block.into());
        }
        answer
    }

    /// Whether the answer is the right one; takes the same time for all.
    pub(super) fn is_answer(&self, challenge: &[u8; 16], answer: &[u8; 16]) -> bool {
        let right = self.answer(challenge);
        right.iter().zip(answer).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_challenge_is_answered() {
        // The DES example of FIPS 46's validation list, with each byte of the key turned around: 0101010101010180h
        // encrypts 0 to 95F8A5E5DD31D900h under the key 8001010101010101h.
        let password = Password::first_line(&[0x01, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]).unwrap();
        let answer = password.answer(&[0; 16]);
        assert_eq!(answer[..8], [0x95, 0xa8, 0xd7, 0x28, 0x13, 0xda, 0xa9, 0x4d]);
        assert_eq!(answer[8..], answer[..8]);
        assert!(password.is_answer(&[0; 16], &answer));
        assert!(!password.is_answer(&[1; 16], &answer));
    }

    #[test]
    fn eight_bytes_of_the_first_line_count() {
        let answer = |text: &[u8]| Password::first_line(text).unwrap().answer(b"0123456789abcdef");
        assert_eq!(answer(b"secret\n"), answer(b"secret"));
        assert_eq!(answer(b"secret78"), answer(b"secret789"));
        assert_ne!(answer(b"secret78"), answer(b"secret79"));
        assert!(Password::first_line(b"").is_none() && Password::first_line(b"\nsecret").is_none());
    }
}

//! The joint between formats and encryption.

/// Bytes of a sector, the unit of encryption.
pub const SECTOR: u64 = 512;

/// Encrypts and decrypts sectors in place.
///
/// A length is a multiple of [`SECTOR`]; `sector` is the number of the first, of which each has its own initial vector.
pub trait Cipher: Send + Sync {
    /// Decrypts the sectors from `sector` on.
    fn decrypt(&self, sector: u64, data: &mut [u8]);
    /// Encrypts the sectors from `sector` on.
    fn encrypt(&self, sector: u64, data: &mut [u8]);
}

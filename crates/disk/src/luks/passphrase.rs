//! The passphrase as the key that images are opened with.

use std::io;
use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{LuksImage, legacy, unlock};
use crate::error::Result;
use crate::image::Image;
use crate::open::Unlock;
use crate::qcow2::Encryption;

/// A passphrase, zeroed when it is dropped.
#[derive(Clone)]
pub struct Passphrase(Zeroizing<Vec<u8>>);

impl Passphrase {
    /// The passphrase of these bytes.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Passphrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Passphrase(...)")
    }
}

impl Unlock for Passphrase {
    fn qcow2(&self, path: &Path, header: &[u8]) -> Result<Encryption> {
        if header.is_empty() {
            // The encryption from before LUKS has no header.
            let cipher = Arc::new(legacy(&self.0).map_err(|error| error.of(path))?);
            return Ok(Encryption { cipher, by_host: false });
        }
        let mut read = |at: u64, data: &mut [u8]| {
            let from = usize::try_from(at).ok().and_then(|at| header.get(at..)?.get(..data.len()));
            data.copy_from_slice(from.ok_or_else(|| io::Error::other("it is truncated"))?);
            Ok(())
        };
        let unlocked = unlock(&mut read, &self.0).map_err(|error| error.of(path))?;
        Ok(Encryption { cipher: Arc::new(unlocked.sectors), by_host: true })
    }

    fn luks(&self, _path: &Path, file: Arc<dyn Image>) -> Result<Arc<dyn Image>> {
        Ok(Arc::new(LuksImage::open(file, &self.0)?))
    }
}

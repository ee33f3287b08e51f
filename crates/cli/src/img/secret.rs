//! Passphrases: from a file or a descriptor, never from the command line, which all the host can read.

use std::io::Read;
use std::path::Path;

use zeroize::Zeroizing;

use crate::failure::{Failure, cause};

/// More than any passphrase.
const MOST: u64 = 64 << 10;

/// Reads a passphrase; a line end at its end is no part of it. It is zeroed when it is dropped.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let shown = path.display();
    let refused = |error: std::io::Error| {
        Failure::input(format!("passphrase file {shown}"), cause(&error), "check the path and its permissions")
    };
    // With room for all of it at once, no copies stay behind in memory.
    let mut text = Zeroizing::new(Vec::with_capacity(MOST as usize + 1));
    if path == Path::new("-") {
        std::io::stdin().take(MOST + 1).read_to_end(&mut text).map_err(refused)?;
    } else {
        let file = std::fs::File::open(path).map_err(refused)?;
        file.take(MOST + 1).read_to_end(&mut text).map_err(refused)?;
    }
    if text.len() as u64 > MOST {
        return Err(Failure::input(format!("passphrase file {shown}"), "it is too long", "give it one line"));
    }
    if text.last() == Some(&b'\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err(Failure::input(format!("passphrase file {shown}"), "it is empty", "write a passphrase into it"));
    }
    Ok(text)
}

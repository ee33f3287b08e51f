//! LUKS headers of both versions: whatever bytes they are, reading them neither panics nor takes unbounded memory or time. The
//! key derivation is left out, as it is slow on purpose.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut read = |at: u64, buffer: &mut [u8]| {
        let from = usize::try_from(at).ok().and_then(|at| data.get(at..)?.get(..buffer.len()));
        buffer.copy_from_slice(from.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    };
    let _ = disk::luks::summary(&mut read);
});

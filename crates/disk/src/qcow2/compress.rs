//! Compressed clusters.

use std::io::Read;

use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

use crate::qcow2::header::Compression;

/// The window of the deflate streams, as every reader expects it: 2^12 bytes.
const WINDOW: u8 = 12;

/// Compresses a cluster; `None` when that does not make it smaller.
pub(super) fn pack(kind: Compression, data: &[u8]) -> Option<Vec<u8>> {
    let out = match kind {
        Compression::Zlib => {
            let mut out = Vec::with_capacity(data.len());
            let mut stream = Compress::new_with_window_bits(flate2::Compression::default(), false, WINDOW);
            match stream.compress_vec(data, &mut out, FlushCompress::Finish) {
                Ok(Status::StreamEnd) => out,
                _ => return None,
            }
        }
        Compression::Zstd => ruzstd::encoding::compress_to_vec(data, ruzstd::encoding::CompressionLevel::Fastest),
    };
    (out.len() < data.len()).then_some(out)
}

/// Decompresses a cluster of `size` bytes; what follows in `data` is not looked at. `None` when it is damaged.
pub(super) fn unpack(kind: Compression, data: &[u8], size: usize) -> Option<Vec<u8>> {
    match kind {
        Compression::Zlib => {
            let mut out = Vec::with_capacity(size);
            // Any window of other writers is understood.
            let mut stream = Decompress::new(false);
            stream.decompress_vec(data, &mut out, FlushDecompress::Finish).ok();
            (out.len() == size).then_some(out)
        }
        Compression::Zstd => {
            let mut out = vec![0; size];
            let mut stream = ruzstd::decoding::StreamingDecoder::new(data).ok()?;
            stream.read_exact(&mut out).ok()?;
            Some(out)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_come_back_and_garbage_is_refused() {
        let mut data: Vec<u8> = (0..65536u32).map(|i| (i / 7 % 251) as u8).collect();
        for kind in [Compression::Zlib, Compression::Zstd] {
            let mut packed = pack(kind, &data).unwrap();
            assert!(packed.len() < data.len() / 2);
            packed.extend([0xaa; 300]);
            assert_eq!(unpack(kind, &packed, data.len()).unwrap(), data);
            assert_eq!(unpack(kind, &packed[..100], data.len()), None);
            assert_eq!(unpack(kind, &[0xff; 200], data.len()), None);
        }
        let mut x = 1u32;
        data.iter_mut().for_each(|b| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            *b = (x >> 24) as u8;
        });
        assert_eq!(pack(Compression::Zlib, &data), None);
    }
}

//! Hostile qcow2 images: whatever header, tables and refcounts say, opening, reading, writing, checking and repairing end
//! in a result, and never panic, hang or take memory without bound.
#![no_main]

use std::io::{IoSlice, IoSliceMut};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use disk::image::Work;
use disk::qcow2::{Parts, Qcow2};
use disk::{Erase, Error, Extent, Image, Info, Kind, block_on, read_at, write_at};

/// Most bytes of the file: writes behind it find the host full.
const MOST: u64 = 4 << 20;

/// A file in memory.
struct Memory(Mutex<Vec<u8>>);

impl Memory {
    fn full() -> Error {
        Error::host(&PathBuf::from("memory"), "write", std::io::ErrorKind::StorageFull.into())
    }
}

impl Image for Memory {
    fn info(&self) -> Info {
        Info::new(PathBuf::from("memory"), "file", self.0.lock().expect("no panic").len() as u64)
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        Box::pin(async move {
            let data = self.0.lock().expect("no panic");
            let mut at = offset;
            for buffer in buffers {
                for byte in buffer.iter_mut() {
                    *byte = usize::try_from(at).ok().and_then(|at| data.get(at)).copied().unwrap_or(0);
                    at = at.saturating_add(1);
                }
            }
            Ok(())
        })
    }

    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], _: bool) -> Work<'a, ()> {
        Box::pin(async move {
            let bytes = disk::buffers::gather(buffers);
            let end = offset.saturating_add(bytes.len() as u64);
            if end > MOST {
                return Err(Self::full());
            }
            let mut data = self.0.lock().expect("no panic");
            let len = data.len().max(end as usize);
            data.resize(len, 0);
            data[offset as usize..end as usize].copy_from_slice(&bytes);
            Ok(())
        })
    }

    fn erase(&self, offset: u64, len: u64, _: Erase) -> Work<'_, ()> {
        Box::pin(async move {
            let mut data = self.0.lock().expect("no panic");
            let end = offset.saturating_add(len).min(data.len() as u64);
            if offset < end {
                data[offset as usize..end as usize].fill(0);
            }
            Ok(())
        })
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn extent(&self, _: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move { Ok(Extent { len, kind: Kind::Data, depth: 0, at: None }) })
    }

    fn resize(&self, size: u64) -> Work<'_, ()> {
        Box::pin(async move {
            if size > MOST {
                return Err(Self::full());
            }
            self.0.lock().expect("no panic").resize(size as usize, 0);
            Ok(())
        })
    }
}

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| {
    let (at, bytes) = input;
    let mut bytes = bytes.to_vec();
    if at & 1 == 0 && bytes.len() > 24 {
        // Past the first checks: the magic, a version, small clusters.
        bytes[..8].copy_from_slice(&[b'Q', b'F', b'I', 0xfb, 0, 0, 0, 2 + (at >> 1 & 1) as u8]);
        bytes[20..24].copy_from_slice(&[0, 0, 0, 9 + (at >> 2 & 7) as u8]);
    }
    let file: Arc<dyn Image> = Arc::new(Memory(Mutex::new(bytes)));
    let parts = Parts { as_it_is: at & 8 != 0, ..Parts::default() };
    let Ok(image) = block_on(Qcow2::open(file, parts)) else { return };
    let size = image.info().size;
    let at = at % size.max(1);
    let mut buffer = vec![0x55; 3000.min((size - at) as usize)];
    let _ = block_on(read_at(&image, at, &mut buffer));
    let _ = block_on(write_at(&image, at, &buffer));
    let _ = block_on(image.extent(at, 1));
    let _ = block_on(image.erase(at, buffer.len() as u64, Erase::Zero));
    let _ = block_on(image.flush());
    let _ = block_on(image.create_snapshot("s", (0, 0)));
    let _ = block_on(image.check(false));
    let _ = block_on(image.check(true));
    let _ = block_on(image.apply_snapshot("s"));
    let _ = block_on(image.delete_snapshot("s"));
});

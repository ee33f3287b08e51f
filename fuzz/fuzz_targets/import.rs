//! Images of other programs: whatever a file holds, opening and reading it neither panics nor takes unbounded memory or time.
#![no_main]

use std::io::{IoSlice, IoSliceMut};
use std::path::Path;
use std::sync::Arc;

use disk::image::Work;
use disk::import::Foreign;
use disk::{Erase, Error, Extent, Image, Info, Kind, block_on, read_at};
use libfuzzer_sys::fuzz_target;

/// A file in memory; it is only read.
struct Bytes(Vec<u8>);

fn read_only<T>() -> Work<'static, T> {
    Box::pin(async { Err(Error::ReadOnly { path: "fuzz".into() }) })
}

impl Image for Bytes {
    fn info(&self) -> Info {
        Info::new("fuzz".into(), "file", self.0.len() as u64)
    }

    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        let from = self.0.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        disk::buffers::clear(buffers);
        disk::buffers::scatter(buffers, from);
        Box::pin(async { Ok(()) })
    }

    fn write<'a>(&'a self, _: u64, _: &'a [IoSlice<'_>], _: bool) -> Work<'a, ()> {
        read_only()
    }

    fn erase(&self, _: u64, _: u64, _: Erase) -> Work<'_, ()> {
        read_only()
    }

    fn flush(&self) -> Work<'_, ()> {
        Box::pin(async { Ok(()) })
    }

    fn extent(&self, _: u64, len: u64) -> Work<'_, Extent> {
        Box::pin(async move { Ok(Extent { len, kind: Kind::Data, depth: 0, at: None }) })
    }

    fn resize(&self, _: u64) -> Work<'_, ()> {
        read_only()
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let file: Arc<dyn Image> = Arc::new(Bytes(data.to_vec()));
    let beside = |_: &Path| Ok(Arc::clone(&file));
    let format = Foreign::ALL[usize::from(*first) % Foreign::ALL.len()];
    let Ok(image) = format.open(Arc::clone(&file), &beside) else { return };
    let size = image.info().size;
    for at in [0, size / 3, size.saturating_sub(5000)] {
        let mut bytes = vec![0; 5000.min(size - at) as usize];
        let _ = block_on(read_at(&image, at, &mut bytes));
        if at < size {
            let _ = block_on(image.extent(at, size - at));
        }
    }
});

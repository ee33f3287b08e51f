//! The block device (virtio 1.2, 5.2).

use std::sync::Arc;

use devices::virtio::Blk;
use disk::{Image, Info};
use machine::{Device, Snapshot};
use testkit::folder::Folder;
use testkit::rig::Access;

use super::driver::{CONFIG, Driver, EVENT_IDX, INDIRECT, PACKED, image};

const FLUSH: u64 = 1 << 9;
const WCE: u64 = 1 << 11;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;
const ALL: u64 = FLUSH | WCE | DISCARD | WRITE_ZEROES;

const LEN: usize = 2 << 20;

pub(crate) fn disk(name: &str, queues: u16) -> Driver {
    let folder = Folder::new(&format!("virtio-blk-{name}"));
    let image = image(&folder, "disk", LEN);
    Driver::new(move |memory| Box::new(Blk::new(image, memory, "SERIAL-1".into(), queues)), Some(folder))
}

fn header(kind: u32, sector: u64) -> [u8; 16] {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
    let mut range = [0; 16];
    range[..8].copy_from_slice(&sector.to_le_bytes());
    range[8..12].copy_from_slice(&sectors.to_le_bytes());
    range[12..].copy_from_slice(&flags.to_le_bytes());
    range
}

fn read(driver: &mut Driver, sector: u64, len: u32) -> Result<Vec<u8>, u8> {
    let (written, mut parts) = driver.request(0, &[&header(0, sector)], &[len, 1]);
    let status = parts[1][0];
    assert_eq!(written, if status == 0 { len + 1 } else { 0 });
    if status == 0 { Ok(parts.swap_remove(0)) } else { Err(status) }
}

fn change(driver: &mut Driver, kind: u32, sector: u64, data: &[u8]) -> u8 {
    let (_, parts) = driver.request(0, &[&header(kind, sector), data], &[1]);
    parts[0][0]
}

fn in_both_layouts(name: &str, test: impl Fn(&mut Driver)) {
    for features in [0, EVENT_IDX, INDIRECT, PACKED, PACKED | EVENT_IDX | INDIRECT] {
        let mut driver = disk(&format!("{name}-{features:x}"), 1);
        driver.start(features | ALL);
        test(&mut driver);
        assert_eq!(driver.status(), 15);
    }
}

#[test]
fn what_is_written_is_read() {
    in_both_layouts("io", |driver| {
        let content: Vec<u8> = (0..5 * 512u32).map(|n| (n % 251) as u8).collect();
        // More often than the ring has places.
        for n in 0..20 {
            assert_eq!(change(driver, 1, 100 + n, &content), 0);
            assert_eq!(read(driver, 100 + n, 5 * 512).unwrap(), content);
        }
        assert_eq!(read(driver, 7, 1024).unwrap()[..4], [7, 0, 0, 0]);
        assert_eq!(driver.request(0, &[&header(4, 0)], &[1]).1, [[0]], "a flush");
        // Header and data may be cut anywhere.
        let head = header(1, 3);
        let (_, parts) = driver.request(0, &[&head[..5], &head[5..], &[9; 100], &[8; 412]], &[1]);
        assert_eq!(parts, [[0]]);
        let whole = [&head[..], &[7; 512]].concat();
        assert_eq!(driver.request(0, &[&whole], &[1]).1, [[0]]);
        let (_, parts) = driver.request(0, &[&header(0, 3)], &[500, 13]);
        assert_eq!((parts[0][0], parts[1][11], parts[1][12]), (7, 7, 0));
    });
}

#[test]
fn the_serial_number_and_the_configuration_are_told() {
    let mut driver = disk("id", 3);
    driver.start(ALL);
    let (written, parts) = driver.request(0, &[&header(8, 0)], &[20, 1]);
    assert_eq!((written, &parts[0][..10], parts[1][0]), (21, &b"SERIAL-1\0\0"[..], 0));
    let config = |at| driver.function.in32(0, CONFIG + at);
    assert_eq!((config(0), config(4)), (LEN as u32 / 512, 0));
    assert_eq!((config(12), config(20)), (254, 512));
    assert_eq!(driver.in16(CONFIG + 34), 3);
    assert_eq!(driver.in16(18), 3, "queues");
    assert_eq!(driver.function.in32(0, CONFIG + 0x100), u32::MAX);
}

#[test]
fn what_is_erased_reads_as_zeros() {
    in_both_layouts("erase", |driver| {
        assert_eq!(change(driver, 13, 0, &range(8, 8, 1)), 0);
        let zeros = read(driver, 7, 10 * 512).unwrap();
        assert_eq!((zeros[0], zeros[512..9 * 512].iter().max(), zeros[9 * 512]), (7, Some(&0), 16));
        assert_eq!(change(driver, 11, 0, &range(64, 64, 0)), 0);
        assert_eq!(change(driver, 11, 0, &range(64, 64, 1)), 2, "a discard has no flags");
        assert_eq!(change(driver, 13, 0, &range(64, 64, 2)), 2, "nobody knows this flag");
        assert_eq!(change(driver, 13, 0, &range(LEN as u64 / 512, 1, 0)), 1, "beyond");
        assert_eq!(change(driver, 13, 0, &range(0, u32::MAX, 0)), 1, "too much");
        assert_eq!(change(driver, 13, 0, &[0; 32]), 1, "too many ranges");
        assert_eq!(change(driver, 13, 0, &[0; 5]), 1, "no range");
    });
}

#[test]
fn what_cannot_be_done_is_refused() {
    in_both_layouts("errors", |driver| {
        let last = LEN as u64 / 512;
        assert_eq!(read(driver, last, 512), Err(1));
        assert_eq!(read(driver, last - 1, 1024), Err(1));
        assert_eq!(read(driver, u64::MAX, 512), Err(1));
        assert_eq!(read(driver, 0, 100), Err(1), "not whole sectors");
        assert_eq!(change(driver, 1, last, &[0; 512]), 1);
        assert_eq!(change(driver, 99, 0, &[0; 512]), 2, "no such request");
        // Data outside of memory: the request fails, the device does not.
        let (head, end) = (driver.place(16), driver.place(1));
        driver.memory.write(memory::Gpa(head), &header(0, 0)).unwrap();
        for (at, len) in [(1 << 40, 512), (u64::MAX - 100, 512), (4 << 20, 512), ((4 << 20) - 512, 1024)] {
            driver.memory.write(memory::Gpa(end), &[0xee]).unwrap();
            let places = driver.available(0, &[(head, 16, 0), (at, len, 2), (end, 1, 2)]);
            driver.notify(0);
            driver.settle();
            assert_eq!(driver.memory.read_array(memory::Gpa(end)).unwrap(), [1]);
            driver.skip(0, places);
        }
    });
}

#[test]
fn the_cache_can_be_turned_off() {
    let mut driver = disk("cache", 1);
    driver.start(FLUSH | WCE);
    assert_eq!(driver.function.in8(0, CONFIG + 32), 1);
    let _ = driver.function.out8(0, CONFIG + 32, 0);
    assert_eq!(driver.function.in8(0, CONFIG + 32), 0);
    assert_eq!(change(&mut driver, 1, 0, &[1; 512]), 0);
    let state = driver.function.lock().unwrap().save().unwrap();
    driver.function.lock().unwrap().reset();
    assert_eq!(driver.function.in8(0, CONFIG + 32), 1);
    driver.function.lock().unwrap().load(1, state).unwrap();
    assert_eq!(driver.function.in8(0, CONFIG + 32), 0);
}

/// An image that cannot be written.
struct ReadOnly(Arc<dyn Image>);

impl Image for ReadOnly {
    fn info(&self) -> Info {
        Info { read_only: true, ..self.0.info() }
    }
    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [std::io::IoSliceMut<'_>]) -> disk::image::Work<'a, ()> {
        self.0.read(offset, buffers)
    }
    fn write<'a>(&'a self, _: u64, _: &'a [std::io::IoSlice<'_>], _: bool) -> disk::image::Work<'a, ()> {
        panic!("written")
    }
    fn erase(&self, _: u64, _: u64, _: disk::Erase) -> disk::image::Work<'_, ()> {
        panic!("erased")
    }
    fn flush(&self) -> disk::image::Work<'_, ()> {
        self.0.flush()
    }
    fn extent(&self, offset: u64, len: u64) -> disk::image::Work<'_, disk::Extent> {
        self.0.extent(offset, len)
    }
    fn resize(&self, size: u64) -> disk::image::Work<'_, ()> {
        self.0.resize(size)
    }
}

#[test]
fn a_disk_that_cannot_be_written_says_so() {
    let folder = Folder::new("virtio-blk-ro");
    let image = Arc::new(ReadOnly(image(&folder, "disk", LEN)));
    let mut driver = Driver::new(move |memory| Box::new(Blk::new(image, memory, String::new(), 1)), Some(folder));
    assert_eq!(driver.offered() & (1 << 5 | DISCARD | WRITE_ZEROES), 1 << 5);
    driver.start(1 << 5);
    assert_eq!(change(&mut driver, 1, 0, &[1; 512]), 1);
    assert_eq!(change(&mut driver, 13, 0, &range(0, 1, 0)), 1);
    assert!(read(&mut driver, 0, 512).is_ok());
}

#[test]
fn many_requests_are_under_way_at_once() {
    for features in [EVENT_IDX | INDIRECT, PACKED | EVENT_IDX | INDIRECT] {
        let mut driver = disk(&format!("many-{features:x}"), 4);
        driver.start(features | ALL);
        for round in 0..50u64 {
            // The split driver here uses one descriptor for all chains of a queue: one in each queue at a time.
            let submitted: Vec<_> =
                (0..4).map(|queue| driver.submit(queue, &[&header(0, round * 4 + queue as u64)], &[512, 1])).collect();
            (0..4).for_each(|queue| driver.notify(queue));
            driver.settle();
            for (queue, submitted) in submitted.iter().enumerate() {
                let (_, parts) = driver.take(submitted).unwrap();
                assert_eq!((parts[0][0], parts[1][0]), ((round * 4) as u8 + queue as u8, 0));
            }
        }
    }
}

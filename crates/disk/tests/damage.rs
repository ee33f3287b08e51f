//! Images that are damaged, hostile, in use, or not what they are said to be.

mod kit;

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use disk::cipher::Cipher;
use disk::file::{Access, HostFile};
use disk::image::{Extent, Info, Work};
use disk::qcow2::{Encryption, Layout, Parts, Qcow2};
use disk::raw::Raw;
use disk::{CreateOptions, Erase, Error, Format, Image, Kind, OpenOptions, block_on, create, open, read_at, write_at};
use kit::{Chance, Folder, attempt, qemu_is_here, read_by_qemu, run, text};

fn qcow2(path: &Path, size: u64, layout: Layout) {
    block_on(create(&CreateOptions { layout, ..CreateOptions::new(path, Format::Qcow2, size) })).unwrap();
}

fn opened(path: &Path) -> disk::Result<Arc<dyn Image>> {
    block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(path) }))
}

fn refusal(result: disk::Result<Arc<dyn Image>>) -> String {
    match result {
        Ok(_) => panic!("it opened"),
        Err(error) => error.to_string(),
    }
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    File::options().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

#[test]
fn an_image_in_use_is_refused_and_the_holder_named() {
    let folder = Folder::new("lock");
    let path = folder.file("disk.qcow2");
    qcow2(&path, 1 << 20, Layout::default());
    let first = opened(&path).unwrap();
    let told = refusal(opened(&path));
    assert!(told.contains("in use by") && told.contains(&format!("PID {}", std::process::id())), "{told}");
    let read_only = OpenOptions { read_only: true, ..OpenOptions::new(&path) };
    assert!(matches!(block_on(open(read_only.clone())), Err(Error::InUse { .. })));
    assert!(block_on(open(OpenOptions { unlocked: true, ..read_only.clone() })).is_ok());
    if qemu_is_here() {
        let (code, told) = attempt("qemu-img", &["info", text(&path)]);
        assert!(code == Some(1) && told.contains("lock"), "{told}");
    }
    drop(first);
    let reader = block_on(open(read_only.clone())).unwrap();
    assert!(block_on(open(read_only.clone())).is_ok(), "readers share");
    assert!(matches!(opened(&path), Err(Error::InUse { .. })));
    assert!(matches!(block_on(write_at(&*reader, 0, &[1])), Err(Error::ReadOnly { .. })));
    drop(reader);
    if qemu_is_here() {
        use std::io::{BufRead, BufReader, Write};
        use std::process::{Command, Stdio};
        let mut other = Command::new("qemu-io");
        let mut other = other.arg(&path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It answers once it has the image.
        let mut input = other.stdin.take().unwrap();
        input.write_all(b"length\n").unwrap();
        input.flush().unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(other.stdout.take().unwrap());
        while !line.contains("MiB") {
            line.clear();
            assert_ne!(output.read_line(&mut line).unwrap(), 0);
        }
        let told = refusal(opened(&path));
        assert!(told.contains(&format!("PID {} (qemu-io)", other.id())), "{told}");
        drop(input);
        other.wait().unwrap();
    }
    assert!(opened(&path).is_ok());
}

#[test]
fn chains_that_loop_miss_or_do_not_tell_are_refused() {
    let folder = Folder::new("chain");
    let name = |n: &str| folder.file(n);
    let over = |base: &str, format: Option<&str>| Layout {
        backing: Some((base.to_owned(), format.map(str::to_owned))),
        ..Layout::default()
    };
    qcow2(&name("a"), 1 << 20, over("b", Some("qcow2")));
    qcow2(&name("b"), 1 << 20, over("a", Some("qcow2")));
    let told = refusal(opened(&name("a")));
    assert!(told.contains("loops"), "{told}");
    qcow2(&name("c"), 1 << 20, over("nowhere", Some("raw")));
    let told = refusal(opened(&name("c")));
    assert!(told.contains("backing file") && told.contains("nowhere"), "{told}");
    assert_eq!(told.lines().count(), 1);
    qcow2(&name("d"), 1 << 20, over("nbd://host/disk", Some("raw")));
    assert!(refusal(opened(&name("d"))).contains("no file of the host"));
    // A raw disk into which its guest wrote a header that names a file of the host.
    qcow2(&name("raw"), 1 << 20, over("/etc/hostname", Some("raw")));
    qcow2(&name("e"), 1 << 20, over("raw", None));
    let told = refusal(opened(&name("e")));
    assert!(told.contains("does not tell the format"), "{told}");
    qcow2(&name("f"), 1 << 20, over("raw", Some("raw")));
    let image = opened(&name("f")).unwrap();
    let mut first = [0; 4];
    block_on(read_at(&*image, 0, &mut first)).unwrap();
    assert_eq!(&first, b"QFI\xfb", "the raw disk's bytes, not what the header in it says");
    // A long chain works, and tells the depth of what it holds.
    std::fs::write(name("0.raw"), vec![9; 1 << 20]).unwrap();
    let mut behind = ("0.raw".to_owned(), "raw");
    for n in 1..30 {
        qcow2(&name(&n.to_string()), 1 << 20, over(&behind.0, Some(behind.1)));
        behind = (n.to_string(), "qcow2");
    }
    let image = opened(&name("29")).unwrap();
    let extent = block_on(image.extent(0, 1 << 20)).unwrap();
    assert_eq!((extent.kind, extent.depth, extent.len), (Kind::Data, 29, 1 << 20));
}

#[test]
fn unknown_features_are_named() {
    let folder = Folder::new("features");
    let path = folder.file("disk.qcow2");
    qcow2(&path, 1 << 20, Layout::default());
    let mut incompatible = 1u64 << 40 | 1 << 7;
    patch(&path, 72, &incompatible.to_be_bytes());
    let told = refusal(opened(&path));
    assert!(told.contains("bit 7, bit 40"), "{told}");
    // Our first entry of the table of names becomes that of bit 7.
    let mut entry = [0; 48];
    entry[1] = 7;
    entry[2..12].copy_from_slice(b"time trave");
    patch(&path, 112 + 8, &entry);
    incompatible = 1 << 7;
    patch(&path, 72, &incompatible.to_be_bytes());
    let told = refusal(opened(&path));
    assert!(told.ends_with("does not know: time trave"), "{told}");
}

#[test]
fn a_corrupt_image_is_read_and_not_written() {
    let folder = Folder::new("corrupt");
    let path = folder.file("disk.qcow2");
    qcow2(&path, 1 << 20, Layout::default());
    patch(&path, 72, &2u64.to_be_bytes());
    let image = opened(&path).unwrap();
    assert!(image.info().corrupt);
    block_on(read_at(&*image, 0, &mut [0; 100])).unwrap();
    let told = block_on(write_at(&*image, 0, &[1])).unwrap_err().to_string();
    assert!(told.contains("marked corrupt"), "{told}");
    block_on(image.as_qcow2().unwrap().check(true)).unwrap();
    block_on(write_at(&*image, 0, &[1])).unwrap();
}

#[test]
fn writing_over_metadata_is_refused_and_marked() {
    let folder = Folder::new("overlap");
    let path = folder.file("disk.qcow2");
    qcow2(&path, 1 << 20, Layout::default());
    let image = opened(&path).unwrap();
    block_on(write_at(&*image, 0, &[5; 65536])).unwrap();
    let at = block_on(image.extent(0, 100)).unwrap().at.unwrap();
    drop(image);
    // The disk's first cluster is said to be where the refcount table is.
    let bytes = std::fs::read(&path).unwrap();
    let entry = (1u64 << 63 | at).to_be_bytes();
    let place = bytes.windows(8).position(|w| w == entry).unwrap();
    patch(&path, place as u64, &(1u64 << 63 | 65536).to_be_bytes());
    let before = std::fs::read(&path).unwrap();
    let image = opened(&path).unwrap();
    let told = block_on(write_at(&*image, 10, &[7; 10])).unwrap_err().to_string();
    assert!(told.contains("holds metadata") && told.contains("marked corrupt"), "{told}");
    assert!(image.info().corrupt);
    drop(image);
    assert_eq!(std::fs::read(&path).unwrap()[65536..], before[65536..]);
}

/// Damages refcounts by chance; both repairs, and QEMU's word on them.
#[test]
fn leaks_and_missing_references_are_found_as_qemu_finds_them_and_repaired() {
    for (number, (cluster, refcount_bits)) in [(65536, 16), (4096, 1), (512, 64), (4096, 4)].into_iter().enumerate() {
        let folder = Folder::new(&format!("repair-{number}"));
        let path = folder.file("disk.qcow2");
        qcow2(&path, 4 << 20, Layout { cluster, refcount_bits, ..Layout::default() });
        let image = opened(&path).unwrap();
        let mut chance = Chance::new(number as u64 + 3);
        for _ in 0..60 {
            let len = 1 + chance.below(30_000);
            let at = chance.below((4 << 20) - len);
            let data = chance.bytes(len as usize);
            block_on(write_at(&*image, at, &data)).unwrap();
        }
        let mut model = vec![0; 4 << 20];
        block_on(read_at(&*image, 0, &mut model)).unwrap();
        drop(image);
        // The first refcount block is the third cluster of an image that we have made.
        for _ in 0..20 {
            let at = u64::from(cluster) * 2 + chance.below(40);
            patch(&path, at, &[chance.next() as u8]);
        }
        let image = block_on(open(OpenOptions { read_only: true, ..OpenOptions::new(&path) })).unwrap();
        let ours = block_on(image.as_qcow2().unwrap().check(false)).unwrap();
        assert!(ours.corruptions + ours.leaks > 0);
        drop(image);
        if qemu_is_here() {
            let (_, told) = attempt("qemu-img", &["check", "--output=json", text(&path)]);
            let has = |name: &str, value: u64| value == 0 || told.contains(&format!("\"{name}\": {value}"));
            assert!(has("leaks", ours.leaks) && has("corruptions", ours.corruptions), "{told}\n{ours:#?}");
        }
        let image = opened(&path).unwrap();
        let repaired = block_on(image.as_qcow2().unwrap().check(true)).unwrap();
        assert!(repaired.is_clean(), "{repaired:#?}");
        let mut got = vec![0; 4 << 20];
        block_on(read_at(&*image, 0, &mut got)).unwrap();
        assert!(got == model);
        block_on(write_at(&*image, 1 << 20, &[3; 200_000])).unwrap();
        model[1 << 20..(1 << 20) + 200_000].fill(3);
        drop(image);
        if qemu_is_here() {
            run("qemu-img", &["check", text(&path)]);
            assert!(read_by_qemu(&folder, &path) == model);
        }
    }
}

/// Bytes of the metadata by chance: everything ends in a result, none in a panic or a memory that grows without end.
#[test]
fn garbage_in_metadata_is_survived() {
    let folder = Folder::new("garbage");
    let rounds: u64 = std::env::var("HUSK_DISK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    for round in 0..60 * rounds {
        let mut chance = Chance::new(round + 11);
        let path = folder.file("disk.qcow2");
        let _ = std::fs::remove_file(&path);
        let cluster = [512, 4096, 16384][chance.below(3) as usize];
        let extended_l2 = cluster == 16384 && round % 2 == 0;
        qcow2(&path, 1 << 20, Layout { cluster, extended_l2, ..Layout::default() });
        let image = opened(&path).unwrap();
        for _ in 0..12 {
            let at = chance.below((1 << 20) - 9000);
            let data = chance.bytes(9000);
            block_on(write_at(&*image, at, &data)).unwrap();
        }
        let at = chance.below(20) * u64::from(cluster);
        block_on(image.as_qcow2().unwrap().write_compressed(at, &vec![7; cluster as usize])).unwrap();
        block_on(image.as_qcow2().unwrap().create_snapshot("s", (0, 0))).unwrap();
        drop(image);
        let len = std::fs::metadata(&path).unwrap().len();
        for _ in 0..1 + chance.below(6) {
            let place = match chance.below(3) {
                0 => chance.below(200),
                1 => chance.below(len.min(6 * u64::from(cluster))),
                _ => chance.below(len),
            };
            let value = [0, 1, 0x7f, 0x80, 0xff, chance.next() as u8][chance.below(6) as usize];
            patch(&path, place, &[value]);
        }
        if chance.below(8) == 0 {
            File::options().write(true).open(&path).unwrap().set_len(chance.below(len)).unwrap();
        }
        let Ok(image) = block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(&path) })) else {
            continue;
        };
        let size = image.info().size;
        let mut buffer = vec![0; 20_000];
        for _ in 0..20 {
            let at = chance.below(size.min(2 << 20));
            let len = chance.below(buffer.len() as u64) as usize;
            let _ = block_on(read_at(&*image, at, &mut buffer[..len]));
            let _ = block_on(write_at(&*image, at, &buffer[..len]));
            let _ = block_on(image.extent(at, 1));
            let _ =
                block_on(image.erase(at, len as u64, if len.is_multiple_of(2) { Erase::Zero } else { Erase::Discard }));
        }
        let qcow2 = image.as_qcow2().unwrap();
        let _ = block_on(image.flush());
        if size < 1 << 30 {
            let _ = block_on(qcow2.check(false));
            let _ = block_on(qcow2.apply_snapshot("s"));
            let _ = block_on(qcow2.delete_snapshot("s"));
            let _ = block_on(qcow2.check(true));
        }
    }
}

#[test]
fn requests_side_by_side_keep_to_their_places() {
    let folder = Folder::new("side");
    let path = folder.file("disk.qcow2");
    let size = 8 << 20;
    qcow2(&path, size, Layout { cluster: 4096, ..Layout::default() });
    let image = opened(&path).unwrap();
    // Interleaved stripes of 700 bytes: neighbours share clusters.
    let threads: Vec<_> = (0..4u64)
        .map(|own| {
            let image = Arc::clone(&image);
            std::thread::spawn(move || {
                let mut chance = Chance::new(own + 1);
                let mut model = std::collections::HashMap::new();
                for _ in 0..1500 {
                    let stripe = chance.below(size / 700 / 4) * 4 + own;
                    if chance.below(3) == 0 {
                        let wanted = model.get(&stripe).copied().unwrap_or(0);
                        let mut got = [0xee; 700];
                        block_on(read_at(&*image, stripe * 700, &mut got)).unwrap();
                        assert!(got.iter().all(|b| *b == wanted), "stripe {stripe}");
                    } else {
                        let byte = chance.next() as u8;
                        block_on(write_at(&*image, stripe * 700, &[byte; 700])).unwrap();
                        model.insert(stripe, byte);
                    }
                    if chance.below(100) == 0 {
                        block_on(image.flush()).unwrap();
                    }
                }
                model
            })
        })
        .collect();
    let mut wanted = vec![0; size as usize];
    for thread in threads {
        for (stripe, byte) in thread.join().unwrap() {
            wanted[stripe as usize * 700..][..700].fill(byte);
        }
    }
    let mut got = vec![0; size as usize];
    block_on(read_at(&*image, 0, &mut got)).unwrap();
    assert!(got == wanted);
    drop(image);
    if qemu_is_here() {
        run("qemu-img", &["check", text(&path)]);
        assert!(read_by_qemu(&folder, &path) == wanted);
    }
}

/// A cipher that is none, and yet differs by sector.
struct Xor;

impl Cipher for Xor {
    fn decrypt(&self, sector: u64, data: &mut [u8]) {
        for (number, sector) in (sector..).zip(data.chunks_mut(512)) {
            sector
                .iter_mut()
                .zip((0u8..=255).cycle())
                .for_each(|(b, i)| *b ^= (number as u8).wrapping_mul(31) ^ i ^ 0x5a);
        }
    }
    fn encrypt(&self, sector: u64, data: &mut [u8]) {
        self.decrypt(sector, data);
    }
}

#[test]
fn encrypted_content_goes_through_its_cipher() {
    for by_host in [false, true] {
        let folder = Folder::new(&format!("cipher-{by_host}"));
        let path = folder.file("disk.qcow2");
        let crypt_header = Some(vec![0x11; 70_000]);
        qcow2(&path, 1 << 20, Layout { crypt_header, cluster: 4096, ..Layout::default() });
        let locked = opened(&path).unwrap();
        assert!(locked.info().encrypted);
        assert!(matches!(block_on(read_at(&*locked, 0, &mut [0; 10])), Err(Error::Locked { .. })));
        drop(locked);
        let with_key = || {
            let file: Arc<dyn Image> = Arc::new(HostFile::open(&path, Access::Write).unwrap());
            let encryption = Some(Encryption { cipher: Arc::new(Xor), by_host });
            block_on(Qcow2::open(file, Parts { encryption, ..Parts::default() })).unwrap()
        };
        let image = with_key();
        let mut chance = Chance::new(4);
        let mut model = vec![0; 1 << 20];
        for _ in 0..200 {
            let len = 1 + chance.below(10_000);
            let at = chance.below((1 << 20) - len);
            let data = chance.bytes(len as usize);
            block_on(write_at(&image, at, &data)).unwrap();
            model[at as usize..(at + len) as usize].copy_from_slice(&data);
        }
        drop(image);
        let image = with_key();
        let mut got = vec![0; 1 << 20];
        block_on(read_at(&image, 0, &mut got)).unwrap();
        assert!(got == model);
        block_on(write_at(&image, 0, &[0x77; 4096])).unwrap();
        drop(image);
        let stored = std::fs::read(&path).unwrap();
        assert!(!stored.windows(64).any(|w| w == [0x77; 64]), "nothing of it is there in the clear");
    }
}

#[test]
fn bitmaps_stay_and_those_that_must_follow_are_marked() {
    if !qemu_is_here() {
        return;
    }
    let folder = Folder::new("bitmaps");
    let path = folder.file("disk.qcow2");
    run("qemu-img", &["create", "-q", "-f", "qcow2", text(&path), "4M"]);
    run("qemu-img", &["bitmap", "--add", text(&path), "follows"]);
    run("qemu-io", &["-c", "write 1M 64k", text(&path)]);
    run("qemu-img", &["bitmap", "--add", "--disable", text(&path), "stays"]);
    let image = opened(&path).unwrap();
    let names = |image: &dyn Image| {
        let list = block_on(image.as_qcow2().unwrap().bitmaps()).unwrap();
        list.into_iter().map(|b| (b.name, b.auto, b.in_use)).collect::<Vec<_>>()
    };
    assert_eq!(names(&*image), [("follows".into(), true, false), ("stays".into(), false, false)]);
    block_on(read_at(&*image, 0, &mut [0; 10])).unwrap();
    drop(image);
    let image = opened(&path).unwrap();
    assert!(names(&*image).iter().all(|b| !b.2), "reading marks nothing");
    block_on(write_at(&*image, 0, &[1; 100_000])).unwrap();
    let report = block_on(image.as_qcow2().unwrap().check(false)).unwrap();
    assert!(report.is_clean(), "{report:#?}");
    drop(image);
    run("qemu-img", &["check", text(&path)]);
    let told = run("qemu-img", &["info", text(&path)]);
    assert!(told.contains("in-use") && told.contains("stays"), "{told}");
    let image = opened(&path).unwrap();
    assert_eq!(names(&*image), [("follows".into(), true, true), ("stays".into(), false, false)]);
    assert!(block_on(image.resize(8 << 20)).unwrap_err().to_string().contains("bitmaps"));
}

#[test]
fn a_dirty_image_is_repaired_when_it_is_opened() {
    let folder = Folder::new("dirty");
    let path = folder.file("disk.qcow2");
    qcow2(&path, 4 << 20, Layout { lazy_refcounts: true, ..Layout::default() });
    let image = opened(&path).unwrap();
    block_on(image.write(0, &[std::io::IoSlice::new(&[9; 300_000])], true)).unwrap();
    assert!(image.info().dirty);
    // As a kill leaves it.
    let copy = folder.file("copy.qcow2");
    std::fs::copy(&path, &copy).unwrap();
    drop(image);
    let alone = OpenOptions { read_only: true, alone: true, ..OpenOptions::new(&copy) };
    let seen = block_on(open(alone)).unwrap();
    assert!(seen.info().dirty);
    assert!(block_on(seen.as_qcow2().unwrap().check(false)).unwrap().corruptions > 0, "refcounts are late");
    drop(seen);
    let image = opened(&copy).unwrap();
    assert!(!image.info().dirty);
    let mut got = vec![0; 300_000];
    block_on(read_at(&*image, 0, &mut got)).unwrap();
    assert!(got.iter().all(|b| *b == 9));
    drop(image);
    for path in [&path, &copy] {
        if qemu_is_here() {
            run("qemu-img", &["check", text(path)]);
        }
    }
}

#[test]
fn raw_disks_keep_to_their_length_and_have_holes() {
    let folder = Folder::new("raw");
    let path = folder.file("disk.raw");
    block_on(create(&CreateOptions::new(&path, Format::Raw, 1 << 20))).unwrap();
    let again = block_on(create(&CreateOptions::new(&path, Format::Raw, 1 << 20))).unwrap_err();
    assert!(again.to_string().contains("exists"), "{again}");
    let image = block_on(open(OpenOptions { format: Some(Format::Raw), ..OpenOptions::new(&path) })).unwrap();
    assert!(matches!(block_on(write_at(&*image, (1 << 20) - 1, &[1, 2])), Err(Error::Beyond { .. })));
    assert!(matches!(block_on(read_at(&*image, u64::MAX, &mut [0; 2])), Err(Error::Beyond { .. })));
    assert_eq!(block_on(image.extent(0, 1 << 20)).unwrap().kind, Kind::Hole);
    block_on(write_at(&*image, 65536, &[1; 65536])).unwrap();
    let extent = block_on(image.extent(65536, 1000)).unwrap();
    assert_eq!((extent.kind, extent.len), (Kind::Data, 1000));
    block_on(image.erase(65536, 65536, Erase::Zero)).unwrap();
    let mut got = [7; 65536];
    block_on(read_at(&*image, 65536, &mut got)).unwrap();
    assert!(got.iter().all(|b| *b == 0));
    block_on(image.resize(2 << 20)).unwrap();
    assert_eq!(image.info().size, 2 << 20);
    drop(image);
    let file: Arc<dyn Image> = Arc::new(HostFile::open(&path, Access::Read).unwrap());
    let part = Raw::part(file, 512, 1024).unwrap();
    assert_eq!(part.info().size, 1024);
}

/// A file on a host whose file system becomes full: writes behind `most` fail.
struct Full {
    file: HostFile,
    most: AtomicU64,
}

impl Image for Full {
    fn info(&self) -> Info {
        self.file.info()
    }
    fn read<'a>(&'a self, offset: u64, buffers: &'a mut [IoSliceMut<'_>]) -> Work<'a, ()> {
        self.file.read(offset, buffers)
    }
    fn write<'a>(&'a self, offset: u64, buffers: &'a [IoSlice<'_>], durable: bool) -> Work<'a, ()> {
        let end = offset + disk::buffers::total(buffers);
        if end > self.most.load(Ordering::Relaxed) {
            let error = Error::host(self.file.path(), "write the image", std::io::ErrorKind::StorageFull.into());
            return Box::pin(async move { Err(error) });
        }
        self.file.write(offset, buffers, durable)
    }
    fn erase(&self, offset: u64, len: u64, how: Erase) -> Work<'_, ()> {
        self.file.erase(offset, len, how)
    }
    fn flush(&self) -> Work<'_, ()> {
        self.file.flush()
    }
    fn extent(&self, offset: u64, len: u64) -> Work<'_, Extent> {
        self.file.extent(offset, len)
    }
    fn resize(&self, size: u64) -> Work<'_, ()> {
        self.file.resize(size)
    }
}

#[test]
fn a_full_host_loses_nothing_that_was_written() {
    for cluster in [512, 4096, 65536] {
        let folder = Folder::new(&format!("full-{cluster}"));
        let path = folder.file("disk.qcow2");
        qcow2(&path, 8 << 20, Layout { cluster, ..Layout::default() });
        let most = AtomicU64::new(2 << 20);
        let file = Arc::new(Full { file: HostFile::open(&path, Access::Write).unwrap(), most });
        let image = block_on(Qcow2::open(Arc::clone(&file) as Arc<dyn Image>, Parts::default())).unwrap();
        let mut chance = Chance::new(8);
        let mut model = vec![0; 8 << 20];
        let (mut refused, mut loose) = (0, vec![false; 8 << 20]);
        for step in 0..300 {
            if step % 100 == 99 {
                file.most.fetch_add(1 << 20, Ordering::Relaxed);
            }
            let len = 1 + chance.below(60_000);
            let at = chance.below((8 << 20) - len);
            let data = chance.bytes(len as usize);
            let range = at as usize..(at + len) as usize;
            match block_on(write_at(&image, at, &data)) {
                Ok(()) => {
                    model[range.clone()].copy_from_slice(&data);
                    loose[range].fill(false);
                }
                Err(error) => {
                    assert!(error.to_string().contains("make room"), "{error}");
                    refused += 1;
                    loose[range].fill(true);
                }
            }
            let _ = block_on(image.flush());
        }
        assert!(refused > 10);
        file.most.store(u64::MAX, Ordering::Relaxed);
        block_on(image.close()).unwrap();
        let report = block_on(image.check(false)).unwrap();
        assert_eq!(report.corruptions, 0, "{report:#?}");
        drop((image, file));
        let image = opened(&path).unwrap();
        let mut got = vec![0; 8 << 20];
        block_on(read_at(&*image, 0, &mut got)).unwrap();
        assert_eq!((0..got.len()).find(|i| !loose[*i] && got[*i] != model[*i]), None, "cluster {cluster}");
        drop(image);
        if qemu_is_here() {
            let (code, told) = attempt("qemu-img", &["check", text(&path)]);
            assert!(code == Some(0) || code == Some(3), "{told}");
        }
    }
}

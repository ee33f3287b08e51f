//! qcow2 against a model in memory and against QEMU's own tools.

mod kit;

use std::io::{IoSlice, IoSliceMut};
use std::sync::Arc;

use disk::qcow2::{Compression, Layout};
use disk::{CreateOptions, Erase, Format, Image, Kind, OpenOptions, Preallocation, block_on, create, open, read_at};
use kit::{Chance, Folder, attempt, qemu_is_here, read_by_qemu, run, text};

/// One image of the matrix.
#[derive(Clone, Debug)]
struct Case {
    version: u32,
    cluster: u32,
    refcount_bits: u32,
    compression: Compression,
    extended: bool,
    lazy: bool,
    /// Bytes of a backing file.
    backing: Option<u64>,
    external: Option<bool>,
}

const PLAIN: Case = Case {
    version: 3,
    cluster: 65536,
    refcount_bits: 16,
    compression: Compression::Zlib,
    extended: false,
    lazy: false,
    backing: None,
    external: None,
};

fn opened(path: &std::path::Path) -> Arc<dyn Image> {
    block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(path) })).unwrap()
}

fn content(image: &dyn Image) -> Vec<u8> {
    let mut data = vec![0xee; image.info().size as usize];
    block_on(read_at(image, 0, &mut data)).unwrap();
    data
}

#[track_caller]
fn same(case: &Case, what: &str, got: &[u8], wanted: &[u8]) {
    assert_eq!(got.len(), wanted.len(), "{what}, {case:?}");
    if let Some(at) = got.iter().zip(wanted).position(|(a, b)| a != b) {
        panic!("{what}: byte {at:#x} is {:#x}, not {:#x}; {case:?}", got[at], wanted[at]);
    }
}

/// Writes, zeros, discards, compresses, takes snapshots and goes back to them, closes and opens again: by chance.
fn battery(name: &str, case: &Case, seed: u64, steps: u32) {
    let folder = Folder::new(&format!("{name}-{seed}"));
    let mut chance = Chance::new(seed);
    let cluster = u64::from(case.cluster);
    // Not a whole number of clusters, over more than one L2 table where that is small.
    let size = (cluster * 40).clamp(1 << 20, 24 << 20) + 512 * chance.below(5);
    // QEMU goes back to a snapshot only when its size is whole sectors.
    let snapshots_can_be = case.external.is_none() && case.refcount_bits > 1;
    let size = if snapshots_can_be { size } else { size + 100 };
    let path = folder.file("disk.qcow2");
    let mut layout = Layout {
        version: case.version,
        cluster: case.cluster,
        refcount_bits: case.refcount_bits,
        compression: case.compression,
        extended_l2: case.extended,
        lazy_refcounts: case.lazy,
        ..Layout::default()
    };
    let mut model = vec![0; size as usize];
    if let Some(len) = case.backing {
        let base = chance.bytes(len as usize);
        std::fs::write(folder.file("base.raw"), &base).unwrap();
        let shared = base.len().min(model.len());
        model[..shared].copy_from_slice(&base[..shared]);
        layout.backing = Some(("base.raw".into(), Some("raw".into())));
    }
    if let Some(raw) = case.external {
        // QEMU takes relative names as relative to where it runs, so the name is absolute.
        layout.data_file = Some((text(&folder.file("data.raw")).into(), raw));
    }
    block_on(create(&CreateOptions { layout, ..CreateOptions::new(&path, Format::Qcow2, size) })).unwrap();
    let mut image = opened(&path);
    same(case, "fresh", &content(&*image), &model);
    // Narrow refcounts may refuse, and nothing has changed then.
    let may_refuse = case.refcount_bits < 8;
    let mut snapshots: Vec<(String, Vec<u8>)> = Vec::new();
    for step in 0..steps {
        let at = chance.below(size);
        let most = [700, cluster, 5 * cluster][chance.below(3) as usize];
        let len = (1 + chance.below(most)).min(size - at);
        let range = at as usize..(at + len) as usize;
        match chance.below(24) {
            0..=8 => {
                let data = chance.bytes(len as usize);
                let (a, b) = data.split_at(chance.below(len) as usize);
                block_on(image.write(at, &[IoSlice::new(a), IoSlice::new(b)], chance.below(8) == 0)).unwrap();
                model[range].copy_from_slice(&data);
            }
            9..=11 => {
                block_on(image.erase(at, len, Erase::Zero)).unwrap();
                model[range].fill(0);
            }
            12..=13 => {
                block_on(image.erase(at, len, Erase::Discard)).unwrap();
                let mut now = vec![0; len as usize];
                block_on(read_at(&*image, at, &mut now)).unwrap();
                for (i, (new, old)) in now.iter().zip(&mut model[range]).enumerate() {
                    assert!(*new == *old || *new == 0, "discard of {at}+{len} made {new} of {old} at {i}; {case:?}");
                    *old = *new;
                }
            }
            14..=16 => {
                let at = at / cluster * cluster;
                let len = cluster.min(size - at);
                let data = chance.bytes(len as usize);
                block_on(image.as_qcow2().unwrap().write_compressed(at, &data)).unwrap();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
            17..=19 => {
                let mut got = vec![0xee; len as usize];
                let (a, b) = got.split_at_mut(chance.below(len) as usize);
                block_on(image.read(at, &mut [IoSliceMut::new(a), IoSliceMut::new(b)])).unwrap();
                same(case, &format!("step {step}: read of {at}+{len}"), &got, &model[range]);
            }
            20 if snapshots_can_be && snapshots.len() < 3 => {
                let name = format!("s{step}");
                let done = block_on(image.as_qcow2().unwrap().create_snapshot(&name, (7, 8)));
                if done.is_ok() || !may_refuse {
                    done.unwrap();
                    snapshots.push((name, model.clone()));
                }
            }
            21 if !snapshots.is_empty() => {
                let (name, then) = &snapshots[chance.below(snapshots.len() as u64) as usize];
                let done = block_on(image.as_qcow2().unwrap().apply_snapshot(name));
                if done.is_ok() || !may_refuse {
                    done.unwrap();
                    model.clone_from(then);
                }
            }
            22 if !snapshots.is_empty() => {
                let (name, _) = snapshots.remove(chance.below(snapshots.len() as u64) as usize);
                block_on(image.as_qcow2().unwrap().delete_snapshot(&name)).unwrap();
            }
            _ => {
                if chance.below(2) == 0 {
                    block_on(image.close()).unwrap();
                } else {
                    drop(image);
                    image = opened(&path);
                }
            }
        }
    }
    same(case, "at the end", &content(&*image), &model);
    block_on(image.close()).unwrap();
    let report = block_on(image.as_qcow2().unwrap().check(false)).unwrap();
    assert!(report.corruptions == 0 && report.leaks == 0, "{case:?}: {report:#?}");
    // Every extent that is said to be zeros is.
    let mut at = 0;
    while at < size {
        let extent = block_on(image.extent(at, size - at)).unwrap();
        assert!(extent.len >= 1 && at + extent.len <= size);
        let part = &model[at as usize..(at + extent.len) as usize];
        assert!(extent.kind == Kind::Data || part.iter().all(|b| *b == 0), "{extent:?} at {at}; {case:?}");
        at += extent.len;
    }
    drop(image);
    if !qemu_is_here() {
        return;
    }
    let (code, told) = attempt("qemu-img", &["check", "--output=json", text(&path)]);
    assert_eq!(code, Some(0), "{case:?}: {told}");
    let figure = |name: &str| -> u64 {
        let after = told.split(&format!("\"{name}\": ")).nth(1);
        after.map_or(0, |t| t.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap())
    };
    assert_eq!(
        [report.image_end, report.total_clusters, report.allocated_clusters, report.compressed_clusters],
        ["image-end-offset", "total-clusters", "allocated-clusters", "compressed-clusters"].map(figure),
        "{case:?}: {told}"
    );
    // QEMU takes whole sectors for the disk.
    let sectors = |data: &[u8]| data.len() / 512 * 512;
    same(case, "read by QEMU", &read_by_qemu(&folder, &path), &model[..sectors(&model)]);
    for (name, then) in &snapshots {
        let (code, told) = attempt("qemu-img", &["snapshot", "-a", name, text(&path)]);
        if code != Some(0) && may_refuse {
            break;
        }
        assert_eq!(code, Some(0), "{case:?}: {told}");
        same(case, "a snapshot read by QEMU", &read_by_qemu(&folder, &path), &then[..sectors(then)]);
    }
    if case.external == Some(true) {
        same(case, "the external file on its own", &std::fs::read(folder.file("data.raw")).unwrap(), &model);
    }
}

/// More rounds of chance by the environment.
fn rounds() -> u64 {
    std::env::var("HUSK_DISK_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1)
}

fn each(name: &str, steps: u32, cases: impl IntoIterator<Item = Case>) {
    for (number, case) in cases.into_iter().enumerate() {
        for round in 0..rounds() {
            battery(&format!("{name}-{number}"), &case, 1 + number as u64 + 1000 * round, steps);
        }
    }
}

#[test]
fn every_cluster_size() {
    each("cluster", 120, (9..=21).map(|bits| Case { cluster: 1 << bits, ..PLAIN }));
}

#[test]
fn every_refcount_width() {
    each("refcount", 150, (0..=6).map(|order| Case { refcount_bits: 1 << order, cluster: 512, ..PLAIN }));
    each("refcount-64k", 150, (0..=6).map(|order| Case { refcount_bits: 1 << order, ..PLAIN }));
}

#[test]
fn version_2() {
    each("v2", 150, [512, 4096, 65536].map(|cluster| Case { version: 2, cluster, ..PLAIN }));
    each("v2-backed", 150, [512, 65536].map(|cluster| Case { version: 2, cluster, backing: Some(700_000), ..PLAIN }));
}

#[test]
fn zstd() {
    each("zstd", 150, [4096, 65536].map(|cluster| Case { compression: Compression::Zstd, cluster, ..PLAIN }));
}

#[test]
fn extended_l2_entries() {
    for backing in [None, Some(900_100)] {
        let name = if backing.is_some() { "extended-backed" } else { "extended" };
        each(name, 300, [16384, 65536, 1 << 20].map(|cluster| Case { extended: true, cluster, backing, ..PLAIN }));
    }
}

#[test]
fn backing_files() {
    let lens = [100, 1_000_000, 40 << 20];
    each("backed", 150, lens.map(|len| Case { backing: Some(len), ..PLAIN }));
    each("backed-small", 150, lens.map(|len| Case { backing: Some(len), cluster: 1024, ..PLAIN }));
}

#[test]
fn lazy_refcounts() {
    each("lazy", 200, [512, 65536].map(|cluster| Case { lazy: true, cluster, ..PLAIN }));
}

#[test]
fn external_data_files() {
    each("external", 150, [false, true].map(|raw| Case { external: Some(raw), ..PLAIN }));
    each("external-extended", 150, [Case { external: Some(false), extended: true, ..PLAIN }]);
}

#[test]
fn images_of_qemu_are_read_and_written() {
    if !qemu_is_here() {
        return;
    }
    let folder = Folder::new("of-qemu");
    let kinds = [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "refcount_bits=64",
        "extended_l2=on",
        "lazy_refcounts=on",
        "compression_type=zstd",
        "preallocation=metadata",
    ];
    let mut chance = Chance::new(77);
    for (number, kind) in kinds.iter().enumerate() {
        for compress in [false, true] {
            let size = 3 << 20;
            let mut model = vec![0; size];
            for _ in 0..30 {
                let at = chance.below(size as u64 - 70_000) as usize;
                let len = 1 + chance.below(70_000) as usize;
                model[at..at + len].copy_from_slice(&chance.bytes(len));
            }
            let raw = folder.file("in.raw");
            std::fs::write(&raw, &model).unwrap();
            let path = folder.file(&format!("{number}-{compress}.qcow2"));
            let mut args = vec!["convert", "-f", "raw", "-O", "qcow2", "-o", kind];
            if compress && *kind != "preallocation=metadata" {
                args.push("-c");
            }
            args.extend([text(&raw), text(&path)]);
            run("qemu-img", &args);
            if *kind != "refcount_bits=1" {
                run("qemu-img", &["snapshot", "-c", "before", text(&path)]);
            }
            let image = opened(&path);
            assert_eq!(content(&*image), model, "{kind} {compress}");
            let before = model.clone();
            for _ in 0..40 {
                let at = chance.below(size as u64 - 70_000);
                let len = 1 + chance.below(70_000);
                let data = chance.bytes(len as usize);
                block_on(disk::write_at(&*image, at, &data)).unwrap();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
            assert_eq!(content(&*image), model, "{kind} {compress}");
            drop(image);
            run("qemu-img", &["check", text(&path)]);
            assert_eq!(read_by_qemu(&folder, &path), model, "{kind} {compress}");
            if *kind != "refcount_bits=1" {
                let image = opened(&path);
                let qcow2 = image.as_qcow2().unwrap();
                assert_eq!(block_on(qcow2.snapshots())[0].name, "before");
                block_on(qcow2.apply_snapshot("before")).unwrap();
                assert_eq!(content(&*image), before, "{kind} {compress}");
                block_on(qcow2.delete_snapshot("1")).unwrap();
                drop(image);
                run("qemu-img", &["check", text(&path)]);
                assert_eq!(read_by_qemu(&folder, &path), before, "{kind} {compress}");
            }
        }
    }
}

#[test]
fn disks_grow_and_shrink() {
    for (number, cluster) in [512u32, 4096, 65536].into_iter().enumerate() {
        let folder = Folder::new(&format!("resize-{number}"));
        let base = Chance::new(5).bytes(3 << 20);
        std::fs::write(folder.file("base.raw"), &base).unwrap();
        let path = folder.file("disk.qcow2");
        let backing = Some(("base.raw".to_owned(), Some("raw".to_owned())));
        let layout = Layout { cluster, backing, ..Layout::default() };
        block_on(create(&CreateOptions { layout, ..CreateOptions::new(&path, Format::Qcow2, 1 << 20) })).unwrap();
        let image = opened(&path);
        let mut model = base[..1 << 20].to_vec();
        let mut chance = Chance::new(9);
        for size in [1_500_000u64, 700_001, 5 << 20, 300, 4 << 20, 0, 1 << 20] {
            block_on(image.resize(size)).unwrap();
            model.resize(size as usize, 0);
            assert_eq!(content(&*image), model, "cluster {cluster}, size {size}");
            for _ in 0..6 {
                let at = chance.below(size);
                let len = chance.below(100_000).min(size - at);
                let data = chance.bytes(len as usize);
                block_on(disk::write_at(&*image, at, &data)).unwrap();
                model[at as usize..(at + len) as usize].copy_from_slice(&data);
            }
        }
        block_on(image.close()).unwrap();
        drop(image);
        if qemu_is_here() {
            run("qemu-img", &["check", text(&path)]);
            assert_eq!(read_by_qemu(&folder, &path), model);
        }
    }
}

#[test]
fn space_is_taken_at_once() {
    for (number, how) in [Preallocation::Metadata, Preallocation::Falloc].into_iter().enumerate() {
        for extended_l2 in [false, true] {
            let folder = Folder::new(&format!("reserve-{number}-{extended_l2}"));
            let path = folder.file("disk.qcow2");
            let layout = Layout { extended_l2, ..Layout::default() };
            let mut options = CreateOptions { layout, ..CreateOptions::new(&path, Format::Qcow2, 10 << 20) };
            options.preallocation = how;
            block_on(create(&options)).unwrap();
            let image = opened(&path);
            assert_eq!(block_on(image.extent(0, 10 << 20)).unwrap().kind, Kind::Data);
            assert!(content(&*image).iter().all(|b| *b == 0));
            assert!(how == Preallocation::Metadata || image.info().on_host.unwrap() >= 10 << 20);
            drop(image);
            if qemu_is_here() {
                run("qemu-img", &["check", text(&path)]);
            }
        }
    }
}

//! Images of other programs, as `qemu-img` makes them, read byte for byte; and damaged ones, which are refused.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use disk::{Error, Format, Image, Kind, OpenOptions, block_on, read_at, write_at};

const MIB: usize = 1 << 20;

fn qemu_img(args: &[&str]) {
    let output = Command::new("qemu-img").args(args).output().expect("qemu-img runs: install qemu-utils");
    assert!(output.status.success(), "qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn folder(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("import-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A disk with data that does and does not shrink, and holes of many sizes.
fn content(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut seed = 0x2545_f491_4f6c_dd1du64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    for _ in 0..60 {
        // The upper half is a hole, even for the largest blocks.
        let (at, span, kind) = (next() as usize % (len / 2), next() as usize % (200 << 10), next() % 3);
        let end = (at + span).min(len / 2);
        for byte in &mut bytes[at..end] {
            *byte = if kind == 0 { next() as u8 } else { kind as u8 };
        }
    }
    // The last sector must be there.
    bytes[len - 512..].fill(0xa5);
    bytes
}

fn open(path: &Path, format: Option<Format>) -> disk::Result<Arc<dyn Image>> {
    block_on(disk::open(OpenOptions { format, read_only: true, ..OpenOptions::new(path) }))
}

/// Reads all by pieces of odd sizes, and says how many bytes are in holes.
fn read_all(image: &dyn Image) -> (Vec<u8>, u64) {
    let size = image.info().size;
    let mut bytes = vec![0xee; size as usize];
    let mut at = 0;
    for piece in (0..).map(|n: usize| [100_000, 7, 3 * MIB, 512][n % 4]) {
        let end = (at + piece).min(bytes.len());
        block_on(read_at(image, at as u64, &mut bytes[at..end])).unwrap();
        at = end;
        if at == bytes.len() {
            break;
        }
    }
    let (mut at, mut holes) = (0, 0);
    while at < size {
        let extent = block_on(image.extent(at, size - at)).unwrap();
        if extent.kind != Kind::Data {
            assert!(bytes[at as usize..(at + extent.len) as usize].iter().all(|b| *b == 0), "a hole holds data");
            holes += extent.len;
        }
        at += extent.len;
    }
    (bytes, holes)
}

#[test]
fn what_qemu_img_writes_reads_back() {
    let folder = folder("matrix");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    for len in [16 * MIB, 9 * MIB + 512 * 3] {
        let content = content(len);
        std::fs::write(at("raw"), &content).unwrap();
        for (qemu, options) in [
            ("vmdk", "subformat=monolithicSparse"),
            ("vmdk", "subformat=monolithicFlat"),
            ("vmdk", "subformat=twoGbMaxExtentSparse"),
            ("vmdk", "subformat=twoGbMaxExtentFlat"),
            ("vmdk", "subformat=streamOptimized"),
            ("vmdk", "subformat=monolithicSparse,compat6=on,zeroed_grain=on"),
            ("vdi", "static=off"),
            ("vdi", "static=on"),
            ("vpc", "subformat=dynamic,force_size=on"),
            ("vpc", "subformat=fixed,force_size=on"),
            ("vpc", "subformat=dynamic"),
            ("vhdx", "subformat=dynamic"),
            ("vhdx", "subformat=fixed"),
            ("vhdx", "subformat=dynamic,block_size=1M"),
        ] {
            let image = at(&format!("image.{qemu}"));
            qemu_img(&["convert", "-f", "raw", "-O", qemu, "-o", options, &at("raw"), &image]);
            let opened = open(image.as_ref(), None).unwrap_or_else(|error| panic!("{qemu} {options}: {error}"));
            assert_eq!(opened.info().format, qemu);
            let (bytes, holes) = read_all(&*opened);
            assert!(bytes.len() >= len, "{qemu} {options}: {} bytes", bytes.len());
            assert!(bytes[..len] == content, "{qemu} {options}: the content differs");
            assert!(bytes[len..].iter().all(|byte| *byte == 0));
            if !options.contains("fixed") && !options.contains("static=on") && !options.contains("lat") {
                assert!(holes > 0, "{qemu} {options} has no holes");
            }
            let written = block_on(write_at(&*opened, 0, b"x")).unwrap_err();
            assert!(matches!(written, Error::Unsupported { .. }) && written.to_string().contains("read only"));
            std::fs::remove_file(image).unwrap();
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn parents_are_refused_by_name() {
    let folder = folder("parents");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    qemu_img(&["create", "-f", "vmdk", &at("base.vmdk"), "4M"]);
    qemu_img(&["create", "-f", "vmdk", "-b", &at("base.vmdk"), "-F", "vmdk", &at("over.vmdk")]);
    let refused = open(at("over.vmdk").as_ref(), None).err().unwrap().to_string();
    assert!(refused.contains("parent") && refused.contains("over.vmdk"), "{refused}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn truncated_images_are_refused_or_say_so_when_read() {
    let folder = folder("truncated");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(at("raw"), content(4 * MIB)).unwrap();
    for (format, qemu, options) in [
        (Format::Vmdk, "vmdk", "subformat=monolithicSparse"),
        (Format::Vmdk, "vmdk", "subformat=streamOptimized"),
        (Format::Vdi, "vdi", "static=off"),
        (Format::Vhd, "vpc", "subformat=dynamic"),
        (Format::Vhd, "vpc", "subformat=fixed"),
        (Format::Vhdx, "vhdx", "subformat=dynamic"),
    ] {
        let image = at("image");
        qemu_img(&["convert", "-f", "raw", "-O", qemu, "-o", options, &at("raw"), &image]);
        let whole = std::fs::read(&image).unwrap();
        for part in [0, 3, 511, 1024, 70_000, 600_000, whole.len() / 2] {
            std::fs::write(&image, &whole[..part.min(whole.len())]).unwrap();
            let Ok(opened) = open(image.as_ref(), Some(format)) else { continue };
            let mut bytes = vec![0; opened.info().size as usize];
            let error = block_on(read_at(&*opened, 0, &mut bytes));
            assert!(error.is_err_and(|e| e.to_string().contains("truncated")), "{qemu} {options} cut to {part}");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn flipped_bits_never_panic() {
    let folder = folder("flipped");
    let at = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    std::fs::write(at("raw"), &content(MIB)[..]).unwrap();
    for (format, qemu) in [(Format::Vmdk, "vmdk"), (Format::Vdi, "vdi"), (Format::Vhd, "vpc"), (Format::Vhdx, "vhdx")] {
        let image = at("image");
        qemu_img(&["convert", "-f", "raw", "-O", qemu, &at("raw"), &image]);
        let whole = std::fs::read(&image).unwrap();
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                // Mostly in the headers.
                let place = (seed >> 33) as usize % if seed & 1 == 0 { 1024 } else { bytes.len() };
                bytes[place] ^= 1 << (seed >> 8 & 7);
            }
            std::fs::write(&image, &bytes).unwrap();
            let Ok(opened) = open(image.as_ref(), Some(format)) else { continue };
            let size = opened.info().size;
            for place in [0, size / 2, size.saturating_sub(4096)] {
                let mut sector = vec![0; 4096.min((size - place) as usize)];
                let _ = block_on(read_at(&*opened, place, &mut sector));
            }
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

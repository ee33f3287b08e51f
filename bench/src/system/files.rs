//! Files in memory.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use super::place;
use crate::workload::{Unit, Workload, mix, mix_bytes, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("file-lives", "300 files created, written, read, renamed and removed", lives),
    Workload::new("file-blocks", "2 MiB written and read in blocks of 4 KiB", blocks),
    Workload::new("file-small-io", "8,000 reads and writes of 60 bytes", small),
    Workload::new("file-lines", "the lines of a file of 500 KiB through a buffer", lines),
    Workload::new("file-copy", "a file of 2 MiB copied by the kernel", copy),
    Workload::new("stat", "4,000 times stat of names in a deep folder", stat),
    Workload::new("walk", "a tree of 340 files and folders walked with their sizes", walk),
    Workload::new("proc", "status, stat, maps of the process read 60 times", proc),
];

fn lives() -> Unit {
    let folder = place::folder();
    Box::new(move || {
        (0..300).fold(0, |sum, n| {
            let (path, other) = (folder.join(format!("file{n}")), folder.join(format!("other{n}")));
            fs::write(&path, format!("this is file {n}")).expect("room for a file");
            fs::rename(&path, &other).expect("it is there");
            let content = fs::read(&other).expect("it is there");
            fs::remove_file(&other).expect("it is there");
            mix_bytes(sum, &content)
        })
    })
}

fn blocks() -> Unit {
    let path = place::folder().join("blocks");
    Box::new(move || {
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
        let mut block = [7u8; 4096];
        for n in 0..512u32 {
            block[9] = n as u8;
            file.write_all(&block).expect("room");
        }
        file.seek(SeekFrom::Start(0)).expect("a file");
        let mut sum = 0;
        for _ in 0..512 {
            file.read_exact(&mut block).expect("what was written");
            sum = mix(sum, u64::from(block[9]));
        }
        sum
    })
}

fn small() -> Unit {
    let path = place::folder().join("small");
    Box::new(move || {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).expect("room");
        let mut sum = 0;
        for n in 0..4_000u64 {
            let mut record = [n as u8; 60];
            file.write_all_at(&record, n * 60).expect("room");
            file.read_exact_at(&mut record, n / 2 * 60).expect("what was written");
            sum = mix(sum, u64::from(record[5]));
        }
        sum
    })
}

fn lines() -> Unit {
    let path = place::folder().join("lines");
    fs::write(&path, text(500 << 10)).expect("room for a file");
    Box::new(move || {
        let reader = BufReader::new(File::open(&path).expect("it was written"));
        reader.lines().map_while(Result::ok).fold(0, |sum, line| mix(sum, line.len() as u64))
    })
}

fn copy() -> Unit {
    let folder = place::folder();
    fs::write(folder.join("from"), vec![5; 2 << 20]).expect("room for a file");
    Box::new(move || fs::copy(folder.join("from"), folder.join("to")).expect("room for a file"))
}

fn stat() -> Unit {
    let deep = place::folder().join("a/b/c/d/e");
    fs::create_dir_all(&deep).expect("room for a folder");
    fs::write(deep.join("here"), b"1234").expect("room for a file");
    Box::new(move || {
        let (here, gone) = (deep.join("here"), deep.join("gone"));
        (0..2_000).map(|_| fs::metadata(&here).map_or(0, |m| m.size()) + u64::from(!gone.exists())).sum()
    })
}

fn walk() -> Unit {
    let top = place::folder().join("walk");
    for n in 0..16 {
        let folder = top.join(format!("{}/{n}", n % 4));
        fs::create_dir_all(&folder).expect("room for a folder");
        (0..20).for_each(|f| fs::write(folder.join(format!("f{f}")), vec![0; f * 10]).expect("room for a file"));
    }
    Box::new(move || {
        let mut sum = 0;
        for _ in 0..2 {
            let mut folders = vec![top.clone()];
            while let Some(folder) = folders.pop() {
                for entry in fs::read_dir(&folder).expect("a folder").flatten() {
                    let about = entry.metadata().expect("it is there");
                    if about.is_dir() {
                        folders.push(entry.path());
                    } else {
                        sum += about.size() + entry.file_name().len() as u64;
                    }
                }
            }
        }
        sum
    })
}

fn proc() -> Unit {
    Box::new(|| {
        let each = (0..60).map(|_| {
            let all = ["status", "stat", "maps"].map(|name| fs::read_to_string(format!("/proc/self/{name}")));
            all.iter().filter(|text| text.as_ref().is_ok_and(|text| text.len() > 50)).count() as u64
        });
        each.sum()
    })
}

//! What the tests of images share: a folder, chance, QEMU's tools.
#![allow(dead_code, unreachable_pub, reason = "each test takes what it needs")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// A folder that goes with its test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("husk-disk-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// Numbers that look like chance and are the same each time (xorshift64*).
#[derive(Clone)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end.max(1)
    }

    /// Bytes, half of the time of a kind that compresses.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let plain = self.below(2) == 0;
        let byte = self.next() as u8;
        (0..len).map(|i| if plain { byte.wrapping_add((i / 300) as u8) } else { self.next() as u8 }).collect()
    }
}

/// Whether QEMU's tools are here.
///
/// # Panics
/// When they are not and `$CI` is set: tests must not be skipped in CI.
pub fn qemu_is_here() -> bool {
    let here = ["qemu-img", "qemu-io"].iter().all(|p| Command::new(p).arg("--version").output().is_ok());
    if !here {
        let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
        assert!(!ci, "qemu-img and qemu-io are not there: install qemu-utils");
        eprintln!("SKIPPED: qemu-img and qemu-io are not there: install qemu-utils");
    }
    here
}

/// Runs a tool, which must do it; returns what it prints.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {args:?}: {}\n{text}", out.status);
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The same, whatever comes of it: how it ended, and what it printed.
pub fn attempt(program: &str, args: &[&str]) -> (Option<i32>, String) {
    let out = Command::new(program).args(args).output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    (out.status.code(), text)
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What QEMU reads from an image.
pub fn read_by_qemu(folder: &Folder, path: &Path) -> Vec<u8> {
    let raw = folder.file("read-by-qemu.raw");
    run("qemu-img", &["convert", "-f", "qcow2", "-O", "raw", text(path), text(&raw)]);
    let data = std::fs::read(&raw).unwrap();
    std::fs::remove_file(raw).unwrap();
    data
}

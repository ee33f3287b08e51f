//! The programs of `bench/`: built, listed, and packed into an initial RAM disk.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::{guest, shell};

/// The programs, ready to be run.
pub(super) struct Program {
    /// The one static binary.
    pub(super) path: PathBuf,
    /// The busybox that it runs on the host; the guests have the same one.
    pub(super) busybox: PathBuf,
    /// The initial RAM disk whose first process it is.
    pub(super) initrd: PathBuf,
    /// What it can do.
    pub(super) workloads: Vec<Workload>,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Workload {
    pub(super) group: String,
    pub(super) name: String,
    pub(super) what: String,
}

/// The cargo that works on the programs: in their folder, for the sake of its `.cargo/config.toml`.
pub(crate) fn cargo() -> Command {
    let mut cargo = shell::cargo();
    cargo.current_dir(shell::root().join("bench")).env("CARGO_TARGET_DIR", guest::folder("bench").join("build"));
    cargo
}

/// Builds the binary and what it needs.
pub(super) fn build() -> Result<Program> {
    shell::say("building the programs of bench/");
    let folder = guest::folder("bench");
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--release", "--locked"]);
    shell::run(&mut cargo).context("the programs need a C compiler with static libraries: gcc and libc6-dev")?;
    let path = folder.join("build/x86_64-unknown-linux-gnu/release/bench");
    let busybox = guest::folder("cloud").join("busybox");
    let initrd = folder.join("initrd");
    shell::write(&initrd, &archive(&guest::read(&path)?, &guest::read(&busybox)?))?;
    let workloads = list(&path)?;
    Ok(Program { path, busybox, initrd, workloads })
}

fn archive(program: &[u8], busybox: &[u8]) -> Vec<u8> {
    let mut archive = Archive::default();
    for name in ["bin", "dev", "proc", "sys", "tmp"] {
        archive.directory(name);
    }
    // The kernel opens it before anything is mounted.
    archive.character_device("dev/console", 5, 1).file("init", 0o755, program).file("bin/busybox", 0o755, busybox);
    archive.finish()
}

fn list(path: &Path) -> Result<Vec<Workload>> {
    let text = shell::output(shell::command(path).arg("list"))?;
    text.lines().map(|line| parse(line).with_context(|| format!("`bench list` prints {line:?}"))).collect()
}

/// A line of `bench list`: group, name, what it does, with tabs between.
fn parse(line: &str) -> Option<Workload> {
    let mut fields = line.split('\t').map(str::to_owned);
    Some(Workload { group: fields.next()?, name: fields.next()?, what: fields.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_read() {
        let workload = parse("integer\tsha256\tSHA-256 of 1 MiB").unwrap();
        assert_eq!((&*workload.group, &*workload.name, &*workload.what), ("integer", "sha256", "SHA-256 of 1 MiB"));
        assert_eq!(parse("integer\tsha256"), None);
    }
}

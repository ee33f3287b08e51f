//! The workout: a script and a static program that give the same output on the host and in a guest.
//!
//! `target/guest/workout/` holds both as the host runs them: `BB=<kind>/busybox <kind>/busybox sh workout.sh`, then
//! `workout`. A guest booted with `workout.initrd` prints the same between two lines that start with `===`.

use std::path::Path;

use anyhow::{Context, Result};

use crate::cpio::Archive;
use crate::{guest, shell};

const SCRIPT: &[u8] = include_bytes!("../../tests/guest/workout.sh");

/// Builds the program, if it is not there or old; returns it.
pub(crate) fn build() -> Result<Vec<u8>> {
    let source = shell::root().join("tests/guest/workout");
    let program = guest::folder("workout").join("workout");
    shell::write(&guest::folder("workout").join("workout.sh"), SCRIPT)?;
    if !newer(&program, &source)? {
        shell::say("building the workout program");
        let mut rustc = shell::command(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
        rustc.args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "strip=symbols", "-D", "warnings"]);
        // Static without musl's target: glibc's own archive comes with the C compiler that links Rust programs.
        rustc.args(["--target", "x86_64-unknown-linux-gnu", "-C", "relocation-model=static"]);
        rustc.args(["-C", "target-feature=+crt-static,+cmpxchg16b", "-o"]).arg(&program).arg(source.join("main.rs"));
        shell::run(&mut rustc).context(
            "the workout program needs a C compiler with static libraries: install the packages gcc and libc6-dev",
        )?;
    }
    guest::read(&program)
}

/// Whether `program` is newer than everything in `source`.
fn newer(program: &Path, source: &Path) -> Result<bool> {
    let Ok(built) = program.metadata().and_then(|m| m.modified()) else { return Ok(false) };
    let entries = std::fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))?;
    Ok(entries.flatten().all(|e| e.metadata().and_then(|m| m.modified()).is_ok_and(|changed| changed < built)))
}

/// The archive that makes a guest run the workout: without the program where the guest cannot run it.
pub(crate) fn archive(program: Option<&[u8]>) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.file("test.sh", 0o755, include_bytes!("../../tests/guest/workout-test.sh"));
    archive.file("workout.sh", 0o755, SCRIPT);
    if let Some(program) = program {
        archive.file("bin/workout", 0o755, program);
    }
    archive.finish()
}

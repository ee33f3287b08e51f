//! `cargo xtask test`: everything that must hold, in steps. A step that fails does not stop the others.

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{bench, guest, lab, man, shell};

/// The profile in which code is tested.
pub(crate) const PROFILE: &str = "checked";

/// How a step ended.
enum Ending {
    Passed,
    /// Not run, and why.
    Skipped(String),
}

/// How many tests passed and failed, as a test runner tells it.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
struct Counts {
    passed: u64,
    failed: u64,
}

/// The steps so far.
#[derive(Default)]
struct Report {
    lines: Vec<String>,
    counts: Counts,
    failed: bool,
}

impl Report {
    /// Runs a step that counts as one test.
    fn step(&mut self, name: &str, run: impl FnOnce() -> Result<Ending>) {
        self.note(name, |counts| {
            let ending = run();
            match &ending {
                Ok(Ending::Passed) => counts.passed += 1,
                Ok(Ending::Skipped(_)) => {}
                Err(_) => counts.failed += 1,
            }
            ending
        });
    }

    /// Runs a step that counts the tests of a runner.
    fn runner(&mut self, name: &str, command: &mut Command) {
        self.note(name, |counts| {
            let result = watched(command, counts);
            // A runner that did not come to its tests has failed nevertheless.
            if result.is_err() && counts.failed == 0 {
                counts.failed += 1;
            }
            result.map(|()| Ending::Passed)
        });
    }

    fn note(&mut self, name: &str, run: impl FnOnce(&mut Counts) -> Result<Ending>) {
        eprintln!("\n──── {name}");
        let start = Instant::now();
        let mut counts = Counts::default();
        let ending = run(&mut counts);
        let time = seconds(start.elapsed());
        let said = match &ending {
            Ok(Ending::Passed) => format!("passed   {time}  {name}"),
            Ok(Ending::Skipped(why)) => format!("SKIPPED  {time}  {name}: {why}"),
            Err(error) => format!("FAILED   {time}  {name}: {error:#}"),
        };
        eprintln!("{said}");
        self.lines.push(said);
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        self.failed |= ending.is_err();
    }
}

/// Runs everything.
pub(crate) fn run(quick: bool) -> ExitCode {
    let start = Instant::now();
    let mut report = Report::default();
    report.step("what the tests need", need);
    report.step("format", || {
        passed(shell::cargo().args(["fmt", "--all", "--check"]))?;
        // No packages of the workspace: they are built for the guest.
        let for_guests = ["tests/guest/workout/main.rs", "bench/src/main.rs"];
        passed(shell::command("rustfmt").args(["--check", "--edition", "2024"]).args(for_guests))
    });
    report.step("lints", || {
        passed(shell::cargo().args(["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
        passed(bench::cargo().args(["clippy", "--all-targets", "--", "-D", "warnings"]))
    });
    report.step("documentation", || {
        passed(shell::cargo().args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
    });
    report.step("dependencies", dependencies);
    report.step("build", || passed(shell::cargo().args(["build", "--workspace", "--profile", PROFILE])));
    report.step("man pages", || man::run(true).map(|()| Ending::Passed));
    report.step("guests", || {
        guest::assemble(if quick { guest::Choice::Cloud } else { guest::Choice::All }, false).map(|()| Ending::Passed)
    });
    let nextest = shell::installed("cargo-nextest");
    let mut tests = shell::cargo();
    if nextest {
        tests.args(["nextest", "run", "--workspace", "--cargo-profile", PROFILE, "--no-fail-fast"]);
    } else {
        tests.args(["test", "--workspace", "--all-targets", "--profile", PROFILE, "--no-fail-fast", "--"]);
        tests.arg("--show-output");
    }
    report.runner("tests", with_guests(&mut tests));
    report.note("tests on KVM, in the lab", on_kvm);
    let mut examples = shell::cargo();
    examples.args(["test", "--doc", "--workspace", "--profile", PROFILE, "--no-fail-fast"]);
    report.runner("tests in the documentation", &mut examples);

    eprintln!("\n──── all steps, {}", seconds(start.elapsed()));
    report.lines.iter().for_each(|line| eprintln!("{line}"));
    println!("{} passed, {} failed", report.counts.passed, report.counts.failed);
    if report.failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// The tests that run on another engine too, in an emulated machine that has a genuine `/dev/kvm`.
fn on_kvm(counts: &mut Counts) -> Result<Ending> {
    let mut counter = Counter::default();
    let result = lab::tests(PROFILE, None, &mut |bytes| counter.take(bytes));
    *counts = counter.counts;
    if result.is_err() && counts.failed == 0 {
        counts.failed += 1;
    }
    result.map(|unknown| match &*unknown {
        [] => Ending::Passed,
        unknown => Ending::Skipped(format!("in part, the lab's emulation is not sound: {}", unknown.join(", "))),
    })
}

/// Tells the tests where the guests and the command are.
fn with_guests(command: &mut Command) -> &mut Command {
    command.env("HUSK_GUESTS", guest::folders()).env("HUSK_BIN", shell::husk(PROFILE))
}

fn passed(command: &mut Command) -> Result<Ending> {
    shell::run(command).map(|()| Ending::Passed)
}

/// Installs the programs that tests call.
fn need() -> Result<Ending> {
    // Each program with its package: the C compiler links the workout statically, iasl reads our ACPI tables.
    // QEMU emulates the machine of the lab; its tools check our images and make some to read.
    let wanted = [
        ("cc", "gcc libc6-dev"),
        ("iasl", "acpica-tools"),
        ("dpkg-deb", "dpkg"),
        ("tar", "tar"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("qemu-img", "qemu-utils"),
    ];
    shell::install(&wanted)?;
    Ok(Ending::Passed)
}

/// Licences, advisories and sources of the dependencies: `deny.toml`.
fn dependencies() -> Result<Ending> {
    if !shell::installed("cargo-deny") {
        return Ok(Ending::Skipped("cargo-deny is not installed (cargo install --locked cargo-deny)".into()));
    }
    passed(shell::cargo().args(["deny", "--workspace", "check"]))
}

/// Runs a test runner, passes on what it prints and picks out its counts.
fn watched(command: &mut Command, counts: &mut Counts) -> Result<()> {
    let shown = shell::shown(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let (out, err) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        let out = scope.spawn(|| out.map(pass_on).unwrap_or_default());
        let err = err.map(pass_on).unwrap_or_default();
        let out = out.join().unwrap_or_default();
        counts.passed += out.passed + err.passed;
        counts.failed += out.failed + err.failed;
    });
    let status = child.wait().with_context(|| format!("cannot wait for `{shown}`"))?;
    if !status.success() {
        bail!("`{shown}` failed: {status}");
    }
    Ok(())
}

fn pass_on(mut pipe: impl Read) -> Counts {
    let mut counter = Counter::default();
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = pipe.read(&mut buffer) {
        counter.take(&buffer[..n]);
    }
    counter.counts
}

/// Passes on what a runner prints, and counts.
#[derive(Default)]
struct Counter {
    line: Vec<u8>,
    counts: Counts,
}

impl Counter {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.line.push(*byte);
            if *byte == b'\n' {
                // Tests may print bytes that are no text.
                let text = String::from_utf8_lossy(&self.line).into_owned();
                eprint!("{text}");
                let found = counted(&text);
                self.counts.passed += found.passed;
                self.counts.failed += found.failed;
                self.line.clear();
            }
        }
    }
}

/// The counts in a runner's closing line, zero for any other line.
fn counted(line: &str) -> Counts {
    let line = line.trim();
    let mut counts = Counts::default();
    let closing = line.starts_with("test result: ")
        || (line.starts_with("Summary [") && (line.contains("tests run:") || line.contains("test run:")));
    if !closing {
        return counts;
    }
    let words: Vec<&str> = line.split_whitespace().map(|w| w.trim_matches([',', ';', '.', ':', '('])).collect();
    for pair in words.windows(2) {
        let Ok(n) = pair[0].parse::<u64>() else { continue };
        match pair[1] {
            "passed" => counts.passed += n,
            "failed" | "timed" => counts.failed += n,
            _ => {}
        }
    }
    counts
}

fn seconds(time: Duration) -> String {
    format!("{:>6.1} s", time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_lines_of_runners_are_counted() {
        let counts = |passed, failed| Counts { passed, failed };
        let summary = "     Summary [   3.020s] 7 tests run: 4 passed (1 slow), 1 failed, 2 timed out, 3 skipped\n";
        assert_eq!(counted(summary), counts(4, 3));
        assert_eq!(counted("     Summary [   0.020s] 1 test run: 1 passed, 0 skipped"), counts(1, 0));
        let classic =
            "test result: FAILED. 12 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s";
        assert_eq!(counted(classic), counts(12, 2));
        assert_eq!(counted("a test prints: 5 passed, 1 failed"), counts(0, 0));
    }
}

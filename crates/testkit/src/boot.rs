//! The boot harness: runs the command `husk`, in a pseudo-terminal or in pipes, and talks to the guest on its console.
//!
//! It panics with the end of the console when something is not as expected: it is for tests only.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base::{Pty, WindowSize};

use crate::choice::{chosen, slowness};

/// The folder of the prepared guest `kind` (`cloud`, `generic`, `i386`): in `$HUSK_GUESTS`, else in `target/guest`.
///
/// `None`, after a loud line, when it is not there.
///
/// # Panics
/// When it is not there and `$CI` is set: tests must not be skipped in CI.
#[must_use]
pub fn guest(kind: &str) -> Option<PathBuf> {
    let told = std::env::var_os("HUSK_GUESTS").map(PathBuf::from);
    let guests = told.unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/guest")));
    let folder = guests.join(kind);
    if folder.is_dir() {
        return Some(folder);
    }
    let ci = std::env::var("CI").is_ok_and(|ci| !ci.is_empty() && ci != "false");
    assert!(!ci, "the guest {} is not there; run `cargo xtask guest`", folder.display());
    eprintln!("SKIPPED: the guest {} is not there; run `cargo xtask guest`", folder.display());
    None
}

/// While it lives, no other test boots a guest, in this process or another: guests share the host's few CPUs badly.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code, reason = "held for its lock")] File);

impl Turn {
    /// Waits for the turn.
    ///
    /// # Panics
    /// When the host has no place for the lock.
    #[must_use]
    pub fn wait() -> Self {
        let path = std::env::temp_dir().join("husk-boot-tests.lock");
        let file = File::options().create(true).append(true).open(&path).expect("the lock's file opens");
        file.lock().expect("the lock can be taken");
        Self(file)
    }
}

/// A running `husk`.
pub struct Husk {
    child: Child,
    /// Where its standard input comes from; `None` when that has ended.
    input: Option<File>,
    pty: Option<Pty>,
    shown: Arc<Shown>,
    readers: Vec<JoinHandle<()>>,
    /// So much of what was shown has been waited for.
    seen: usize,
    /// When the test gives up.
    end: Instant,
}

#[derive(Default)]
struct Shown {
    /// Standard output and standard error.
    text: Mutex<[Vec<u8>; 2]>,
    changed: Condvar,
}

impl Shown {
    fn lock(&self) -> MutexGuard<'_, [Vec<u8>; 2]> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(self: &Arc<Self>, mut from: impl Read + Send + 'static, stream: usize) -> JoinHandle<()> {
        let shown = Arc::clone(self);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A pseudo-terminal that nobody holds any more reads as an error.
            while let Ok(n @ 1..) = from.read(&mut buffer) {
                shown.lock()[stream].extend_from_slice(&buffer[..n]);
                shown.changed.notify_all();
            }
        })
    }
}

/// The arguments with the engine that the tests are to run on, where they start a machine and name none themselves.
fn with_engine<S: AsRef<str>>(args: &[S]) -> Vec<&str> {
    let mut args: Vec<&str> = args.iter().map(AsRef::as_ref).collect();
    if args.first() == Some(&"run") && !args.contains(&"--engine") {
        args.splice(1..1, ["--engine", chosen().name()]);
    }
    args
}

impl Husk {
    /// Starts `program` with `args`, its standard input and output a pseudo-terminal; it is killed after `limit`, or
    /// later on a slow machine (see [`slowness`]). `run` is given the [`chosen`] engine if it names none.
    ///
    /// # Panics
    /// When the host refuses.
    #[must_use]
    pub fn in_terminal<S: AsRef<str>>(program: &str, args: &[S], limit: Duration) -> Self {
        let pty = Pty::open(WindowSize { rows: 24, columns: 80 }).expect("a pseudo-terminal opens");
        let end = || pty.terminal.try_clone().expect("a descriptor can be had");
        let mut husk = Self::start(program, args, limit, end().into(), end().into());
        husk.input = Some(pty.program.try_clone().expect("a descriptor can be had"));
        let output = pty.program.try_clone().expect("a descriptor can be had");
        husk.readers.push(husk.shown.read(output, 0));
        husk.pty = Some(pty);
        husk
    }

    /// Starts `program` with `args`, its standard input and output pipes; it is killed after `limit`.
    ///
    /// # Panics
    /// When the host refuses.
    #[must_use]
    pub fn in_pipes<S: AsRef<str>>(program: &str, args: &[S], limit: Duration) -> Self {
        let mut husk = Self::start(program, args, limit, Stdio::piped(), Stdio::piped());
        husk.input = husk.child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
        if let Some(stdout) = husk.child.stdout.take() {
            husk.readers.push(husk.shown.read(stdout, 0));
        }
        husk
    }

    fn start<S: AsRef<str>>(program: &str, args: &[S], limit: Duration, stdin: Stdio, stdout: Stdio) -> Self {
        let limit = limit * slowness();
        let mut command = Command::new(program);
        command.args(with_engine(args)).env_remove("RUST_LOG").env("TERM", "vt100");
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{program} does not start: {e}"));
        let shown = Arc::<Shown>::default();
        let readers = child.stderr.take().map(|stderr| shown.read(stderr, 1)).into_iter().collect();
        Self { child, input: None, pty: None, shown, readers, seen: 0, end: Instant::now() + limit }
    }

    /// Waits until `text` is shown, after all that was waited for before; returns what was shown up to its end.
    ///
    /// # Panics
    /// When the time is up, or `husk` ends before.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            let ended = self.child.try_wait().ok().flatten();
            if ended.is_some() {
                self.join_readers();
            }
            let shown = self.shown.lock();
            let new = shown[0].get(self.seen..).unwrap_or_default();
            if let Some(at) = new.windows(text.len()).position(|part| part == text.as_bytes()) {
                let found = String::from_utf8_lossy(&new[..at + text.len()]).into_owned();
                drop(shown);
                self.seen += at + text.len();
                return found;
            }
            let late = Instant::now() >= self.end;
            if ended.is_some() || late {
                drop(shown);
                self.fail(&format!("'{text}' was not shown {}", if late { "in time" } else { "before the end" }));
            }
            // A bound, because the end of the process wakes nobody.
            drop(self.shown.changed.wait_timeout(shown, Duration::from_millis(100)));
        }
    }

    /// Types `text`.
    ///
    /// # Panics
    /// When nobody takes it.
    pub fn send(&mut self, text: &str) {
        let result = self.input.as_mut().map(|input| input.write_all(text.as_bytes()));
        if !matches!(result, Some(Ok(()))) {
            self.fail(&format!("nobody takes what is typed: {result:?}"));
        }
    }

    /// Ends standard input.
    pub fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends a signal by its name, as in `TERM`.
    ///
    /// # Panics
    /// When there is no command `kill`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "kill failed");
    }

    /// Waits for the end and returns the exit code, -1 when a signal has ended it.
    ///
    /// # Panics
    /// When the time is up.
    pub fn exit_code(&mut self) -> i32 {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.join_readers();
                    return ExitStatus::code(&status).unwrap_or(-1);
                }
                _ if Instant::now() >= self.end => self.fail("it has not ended in time"),
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// All that standard output has shown.
    #[must_use]
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock()[0]).into_owned()
    }

    /// All that standard error has shown.
    #[must_use]
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.shown.lock()[1]).into_owned()
    }

    /// The pseudo-terminal.
    #[must_use]
    pub fn pty(&self) -> Option<&Pty> {
        self.pty.as_ref()
    }

    /// Fails the test, with the end of the console.
    ///
    /// # Panics
    /// Always.
    pub fn fail(&mut self, why: &str) -> ! {
        let _ = self.child.kill();
        let console = self.console();
        let from = console.char_indices().rev().nth(4000).map_or(0, |(at, _)| at);
        panic!("{why}\n--- end of the console:\n{}\n--- standard error:\n{}", &console[from..], self.errors());
    }

    fn join_readers(&mut self) {
        // The reader of a pseudo-terminal ends only when our own copy of its end is closed.
        if self.pty.is_some() {
            std::thread::sleep(Duration::from_millis(200));
            self.readers.truncate(1);
        }
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Husk {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

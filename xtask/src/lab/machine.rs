//! One run of the lab's machine.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kit::Kit;
use super::{Ending, Job, Outcome, log, payload};
use crate::shell;

/// The emulated CPU. Its virtualization is what the lab is for.
const CPU: &str = "EPYC,+svm,+npt";

/// What the kernel is told: where its messages go, to trust the emulated clock, and not to guard against itself.
const APPEND: &str = "console=ttyS1 rdinit=/init quiet panic=-1 tsc=reliable no_timer_check mitigations=off nokaslr \
                      random.trust_cpu=on audit=0 transparent_hugepage=never";

/// How long the machine may give no sign of life, of which it gives one a second.
const SILENCE: Duration = Duration::from_secs(60);

/// The files of one run; they go with it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let path = super::folder().join(format!("run.{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    fn text(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.0.join(name)).unwrap_or_default()).replace('\r', "")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Boots the machine, runs the job, passes on what it prints.
pub(super) fn run(kit: &Kit, job: &Job, output: &mut dyn FnMut(&[u8])) -> Result<Outcome> {
    let folder = Folder::new()?;
    let initrd = folder.0.join("initrd");
    let environment: String = job
        .environment
        .iter()
        .map(|(name, value)| format!("export {name}='{}'\n", value.replace('\'', "'\\''")))
        .collect();
    let own = [("etc/command", job.command.clone().into_bytes()), ("etc/environment", environment.into_bytes())];
    let mut bytes = fs::read(&kit.base).with_context(|| format!("cannot read {}", kit.base.display()))?;
    bytes.extend(payload::archive(&job.items, &own)?);
    fs::write(&initrd, bytes).with_context(|| format!("cannot write {}", initrd.display()))?;

    let mut command = kit.emulator();
    machine(&mut command, kit, job, &folder.0, &initrd);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::shown(&command)))?;
    let said = child.stderr.take();
    let said = std::thread::spawn(move || {
        let lines = BufReader::new(said?).lines().map_while(Result::ok);
        // It cannot emulate all that the CPU's model has.
        Some(lines.filter(|line| !line.contains("TCG doesn't support requested feature")).collect::<Vec<_>>())
    });
    let why = watch(&mut child, job.timeout, &folder.0.join("status"), output);
    let said = said.join().ok().flatten().unwrap_or_default().join("\n");
    let status = folder.text("status").lines().find_map(|line| line.strip_prefix("status=")?.parse().ok());
    let log = folder.text("log");
    keep(&log)?;
    let ending = match status {
        Some(status) => Ending::Status(status),
        None => why?,
    };
    Ok(Outcome { ending, complaints: log::complaints(&log), log, said })
}

fn machine(command: &mut Command, kit: &Kit, job: &Job, folder: &Path, initrd: &Path) {
    command.args(["-M", "pc,usb=off", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", CPU]);
    command.args(["-smp", &job.cpus.to_string(), "-m", &job.memory.to_string()]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(&kit.kernel).arg("-initrd").arg(initrd).args(["-append", APPEND]);
    command.args(["-chardev", "stdio,id=output,signal=on", "-serial", "chardev:output"]);
    for name in ["log", "status"] {
        command.arg("-serial").arg(format!("file:{}", folder.join(name).display()));
    }
    if let Some(out) = &job.out {
        let share = format!("local,path={},mount_tag=out,security_model=none,id=out", out.display());
        command.args(["-virtfs", &share]);
    }
}

/// Passes on what comes until the machine ends, or ends it when the time is up or it gives no sign of life any more.
/// Returns what it is if there is no status.
fn watch(child: &mut Child, limit: Duration, signs: &Path, output: &mut dyn FnMut(&[u8])) -> Result<Ending> {
    let start = Instant::now();
    let mut out = child.stdout.take().context("no pipe to QEMU")?;
    let (sender, receiver) = channel::<Vec<u8>>();
    let reader = std::thread::spawn(move || {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            if sender.send(buffer[..n].to_vec()).is_err() {
                break;
            }
        }
    });
    let (mut sign, mut seen) = (start, 0);
    let ending = loop {
        match receiver.recv_timeout(Duration::from_secs(1)) {
            Ok(bytes) => output(&bytes),
            Err(RecvTimeoutError::Disconnected) => break Ending::Died,
            Err(RecvTimeoutError::Timeout) => {}
        }
        let signs = signs.metadata().map_or(0, |about| about.len());
        if signs > seen {
            (sign, seen) = (Instant::now(), signs);
        }
        if start.elapsed() >= limit {
            break Ending::TimeLimit;
        }
        if sign.elapsed() >= SILENCE {
            shell::say(&format!("the lab has given no sign of life for {} s", SILENCE.as_secs()));
            break Ending::Died;
        }
    };
    // It may have ended by itself.
    let _ = child.kill();
    child.wait().context("cannot wait for QEMU")?;
    let _ = reader.join();
    receiver.try_iter().for_each(|bytes| output(&bytes));
    Ok(ending)
}

/// Keeps the log of the last run for people.
fn keep(log: &str) -> Result<()> {
    let path = super::folder().join("log");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(log.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

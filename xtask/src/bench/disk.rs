//! `cargo xtask bench-disk`: Debian's fio inside of a guest, on raw and qcow2 images through virtio-blk, on Husk's own
//! engine and on QEMU's TCG, in one run with the same images.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{disk, guest, shell};

/// How it is measured.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Seconds for each figure
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u32,
    /// The size of the disks in MiB
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    size: u32,
    /// A `husk` that is built already
    #[arg(long, value_name = "PATH")]
    husk: Option<PathBuf>,
    /// Where the figures go
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What fio does: a name, its pattern, the size of a request and how many are under way.
const JOBS: [(&str, &str, &str, u32); 4] = [
    ("sequential read", "read", "1M", 4),
    ("sequential write", "write", "1M", 4),
    ("random read", "randread", "4k", 16),
    ("random write", "randwrite", "4k", 16),
];

/// Longer than any boot or job.
const LIMIT: Duration = Duration::from_secs(300);

/// One figure of a guest.
struct Figure {
    side: &'static str,
    format: &'static str,
    job: &'static str,
    bytes_per_second: f64,
    requests_per_second: f64,
}

/// Measures, prints a table and keeps the figures.
pub(crate) fn run(options: &Options) -> Result<()> {
    disk::assemble(&disk::WITH_FIO, false)?;
    shell::install(&[("qemu-system-x86_64", "qemu-system-x86"), ("qemu-img", "qemu-utils")])?;
    let husk = match &options.husk {
        Some(path) => std::path::absolute(path)?,
        None => shell::build_husk("release")?,
    };
    let folder = guest::folder(disk::WITH_FIO.name);
    let system = folder.join(disk::IMAGE);
    let mut figures = Vec::new();
    for format in ["raw", "qcow2"] {
        let data = folder.join(format!("data.{format}"));
        // All clusters are there, as in a disk that has been used; each side starts with the same.
        let size = format!("{}M", options.size);
        for side in ["husk", "tcg"] {
            let make = ["create", "-q", "-f", format, "-o", "preallocation=full"];
            shell::run(shell::command("qemu-img").args(make).arg(&data).arg(&size))?;
            shell::say(&format!("{side}, {format}"));
            let command = match side {
                "husk" => in_husk(&husk, &system, &data, format),
                _ => in_qemu(&system, &data, format),
            };
            let measured = measure(command, options.seconds).with_context(|| format!("{side}, {format}"))?;
            figures.extend(measured.into_iter().map(|(job, bytes_per_second, requests_per_second)| Figure {
                side,
                format,
                job,
                bytes_per_second,
                requests_per_second,
            }));
        }
        std::fs::remove_file(&data).with_context(|| format!("cannot remove {}", data.display()))?;
    }
    table(&figures);
    let path = options.json.clone().unwrap_or_else(|| shell::root().join("docs/disk.json"));
    shell::write(&path, written(&figures, options).as_bytes())?;
    shell::say(&format!("figures in {}", path.display()));
    Ok(())
}

fn in_husk(husk: &Path, system: &Path, data: &Path, format: &str) -> Command {
    let mut command = shell::command(husk);
    command.args(["run", "--engine", "soft", "--machine", "q35", "--memory", "1G", "--control", "none"]);
    command.arg("--disk").arg(format!("{},format=qcow2,bus=virtio,snapshot", system.display()));
    command.arg("--disk").arg(format!("{},format={format},bus=virtio", data.display()));
    command
}

fn in_qemu(system: &Path, data: &Path, format: &str) -> Command {
    let mut command = shell::command("qemu-system-x86_64");
    command.args(["-machine", "q35,accel=tcg", "-cpu", "max", "-m", "1G", "-display", "none", "-serial", "stdio"]);
    command.args(["-monitor", "none", "-nic", "none"]);
    command.arg("-drive").arg(format!("file={},format=qcow2,if=virtio,snapshot=on", system.display()));
    command.arg("-drive").arg(format!("file={},format={format},if=virtio", data.display()));
    command
}

/// A guest at its serial console.
struct Guest {
    child: Child,
    shown: std::sync::mpsc::Receiver<Vec<u8>>,
    text: Vec<u8>,
}

impl Guest {
    fn start(mut command: Command) -> Result<Self> {
        let shown = shell::shown(&command);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut child = child.with_context(|| format!("cannot start `{shown}`"))?;
        let mut output = child.stdout.take().context("no pipe from the guest")?;
        let (sender, shown) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                if sender.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, shown, text: Vec::new() })
    }

    /// Waits for a text; returns what came before it.
    fn wait_for(&mut self, text: &str) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(at) = self.text.windows(text.len()).position(|part| part == text.as_bytes()) {
                let rest = self.text.split_off(at + text.len());
                let found = std::mem::replace(&mut self.text, rest);
                return Ok(String::from_utf8_lossy(&found[..at]).into_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            match self.shown.recv_timeout(left) {
                Ok(bytes) => self.text.extend(bytes),
                Err(_) => bail!("the guest does not say {text:?}; it says: {}", String::from_utf8_lossy(&self.text)),
            }
        }
    }

    fn send(&mut self, text: &str) -> Result<()> {
        let input = self.child.stdin.as_mut().context("no pipe to the guest")?;
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).context("the guest takes no input")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Boots a guest and has it run all jobs: their names, bytes and requests per second.
fn measure(command: Command, seconds: u32) -> Result<Vec<(&'static str, f64, f64)>> {
    let mut guest = Guest::start(command)?;
    for (wait, send) in [("husk-disk login:", "root\r"), ("Password:", "husk\r"), ("root@husk-disk", "\r")] {
        guest.wait_for(wait)?;
        guest.send(send)?;
    }
    let mut figures = Vec::new();
    for (name, pattern, block, depth) in JOBS {
        // The line as it is typed does not hold the words that are waited for.
        guest.send(&format!(
            "echo be''gin; fio --name=x --filename=/dev/vdb --direct=1 --ioengine=libaio --rw={pattern} --bs={block} \
             --iodepth={depth} --runtime={seconds} --time_based --output-format=json; echo fi''nish\r"
        ))?;
        guest.wait_for("begin")?;
        let said = guest.wait_for("finish")?;
        let start = said.find('{').with_context(|| format!("fio says: {said}"))?;
        let end = said.rfind('}').unwrap_or(start);
        let report: Value = serde_json::from_str(&said[start..=end]).with_context(|| format!("fio says: {said}"))?;
        let side = if pattern.ends_with("read") { "read" } else { "write" };
        let number = |key: &str| report["jobs"][0][side][key].as_f64();
        let (bytes, requests) = number("bw_bytes").zip(number("iops")).context("fio's report has no figures")?;
        figures.push((name, bytes, requests));
    }
    guest.send("poweroff\r")?;
    let end = Instant::now() + LIMIT;
    while guest.child.try_wait()?.is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(figures)
}

fn find<'a>(figures: &'a [Figure], side: &str, format: &str, job: &str) -> Option<&'a Figure> {
    figures.iter().find(|figure| (figure.side, figure.format, figure.job) == (side, format, job))
}

fn table(figures: &[Figure]) {
    println!("{:<8}{:<18}{:>14}{:>14}{:>8}", "image", "", "Husk", "TCG", "ratio");
    for format in ["raw", "qcow2"] {
        for (job, pattern, ..) in JOBS {
            let sides = find(figures, "husk", format, job).zip(find(figures, "tcg", format, job));
            let Some((husk, tcg)) = sides else { continue };
            let shown = |figure: &Figure| match pattern.starts_with("rand") {
                true => format!("{:.0} IOPS", figure.requests_per_second),
                false => format!("{:.0} MB/s", figure.bytes_per_second / 1e6),
            };
            let ratio = husk.bytes_per_second / tcg.bytes_per_second;
            println!("{format:<8}{job:<18}{:>14}{:>14}{ratio:>8.2}", shown(husk), shown(tcg));
        }
    }
}

fn written(figures: &[Figure], options: &Options) -> String {
    let figures: Vec<Value> = figures
        .iter()
        .map(|figure| {
            json!({
                "side": figure.side,
                "image": figure.format,
                "job": figure.job,
                "bytes_per_second": figure.bytes_per_second.round(),
                "requests_per_second": figure.requests_per_second.round(),
            })
        })
        .collect();
    let mut cpu = String::new();
    // Only to say where it was measured.
    let _ = File::open("/proc/cpuinfo").and_then(|mut file| file.read_to_string(&mut cpu));
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let about = json!({
        "cpu": model.trim_start_matches([' ', '\t', ':']),
        "seconds": options.seconds,
        "disk_mib": options.size,
        "figures": figures,
    });
    format!("{about:#}\n")
}

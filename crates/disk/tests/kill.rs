//! A kill at any moment: what was flushed is there, and the image passes QEMU's check, leaks allowed.
//!
//! A child process writes by chance and flushes, and says so after each flush; it is killed after a while. It is this
//! program again, told so by its environment. `HUSK_DISK_KILLS` is the number of rounds.

mod kit;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use disk::qcow2::Layout;
use disk::{CreateOptions, Erase, Format, OpenOptions, block_on, create, open, read_at, write_at};
use kit::{Chance, Folder, attempt, qemu_is_here, text};

const SIZE: u64 = 6 << 20;
const CHILD: &str = "HUSK_DISK_KILL_CHILD";

/// A step of the child.
enum Step {
    Write(u64, Vec<u8>),
    Compressed(u64, Vec<u8>),
    Zero(u64, u64),
    /// Takes a snapshot, and deletes the one before.
    Snapshot,
    Flush,
}

fn step(chance: &mut Chance, cluster: u64, snapshots: bool) -> Step {
    let kind = chance.below(12);
    if snapshots && chance.below(10) == 0 {
        return Step::Snapshot;
    }
    let at = chance.below(SIZE);
    let len = (1 + chance.below(150_000)).min(SIZE - at);
    match kind {
        0 => Step::Flush,
        1..=8 => Step::Write(at, chance.bytes(len as usize)),
        9 => Step::Compressed(at / cluster * cluster, chance.bytes(cluster as usize)),
        _ => Step::Zero(at, len),
    }
}

/// What the child does until it is killed.
fn child(path: &Path, seed: u64) -> disk::Result<()> {
    let snapshots = takes_snapshots(seed - 1);
    let image = block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(path) }))?;
    let cluster = u64::from(image.info().cluster.unwrap());
    let mut chance = Chance::new(seed);
    for number in 0u64.. {
        match step(&mut chance, cluster, snapshots) {
            Step::Write(at, data) => block_on(write_at(&*image, at, &data))?,
            Step::Compressed(at, data) => block_on(image.as_qcow2().unwrap().write_compressed(at, &data))?,
            Step::Zero(at, len) => block_on(image.erase(at, len, Erase::Zero))?,
            Step::Snapshot => {
                let qcow2 = image.as_qcow2().unwrap();
                let old = block_on(qcow2.snapshots());
                block_on(qcow2.create_snapshot(&format!("n{number}"), (0, 0)))?;
                for snapshot in old {
                    block_on(qcow2.delete_snapshot(&snapshot.id))?;
                }
            }
            Step::Flush => {
                block_on(image.flush())?;
                let mut out = std::io::stdout().lock();
                let _ = writeln!(out, "flushed {number}").and_then(|()| out.flush());
            }
        }
    }
    Ok(())
}

/// Whether the child of a round takes snapshots: their changes are marked by the dirty bit, and repaired at the opening.
fn takes_snapshots(round: u64) -> bool {
    round % 4 == 3
}

fn start(path: &Path, seed: u64) -> Child {
    let own = std::env::current_exe().unwrap();
    let mut command = Command::new(own);
    command.args(["--exact", "what_was_flushed_survives_a_kill", "--nocapture"]);
    command.env(CHILD, format!("{seed}:{}", text(path)));
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn what_was_flushed_survives_a_kill() {
    if let Ok(told) = std::env::var(CHILD) {
        let (seed, path) = told.split_once(':').unwrap();
        child(Path::new(path), seed.parse().unwrap()).unwrap();
        return;
    }
    let rounds: u64 = std::env::var("HUSK_DISK_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let qemu = qemu_is_here();
    let folder = Folder::new("kill");
    let mut chance = Chance::new(2024);
    let (mut certain, mut leaks) = (0, 0);
    for round in 0..rounds {
        let path = folder.file("disk.qcow2");
        let _ = std::fs::remove_file(&path);
        let kinds = [
            (65536, false, false),
            (4096, false, false),
            (512, false, false),
            (65536, true, false),
            (65536, false, true),
        ];
        let (cluster, extended_l2, lazy_refcounts) = kinds[(round % kinds.len() as u64) as usize];
        let layout = Layout { cluster, extended_l2, lazy_refcounts, ..Layout::default() };
        block_on(create(&CreateOptions { layout, ..CreateOptions::new(&path, Format::Qcow2, SIZE) })).unwrap();
        // Half of them have a snapshot, so that writes copy.
        if round % 2 == 1 {
            let image = block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(&path) })).unwrap();
            block_on(write_at(&*image, 0, &vec![0; SIZE as usize / 2])).unwrap();
            block_on(image.as_qcow2().unwrap().create_snapshot("s", (0, 0))).unwrap();
        }
        let mut process = start(&path, round + 1);
        let lines = BufReader::new(process.stdout.take().unwrap());
        let wait = Duration::from_micros(chance.below(60_000));
        let (tell, told) = std::sync::mpsc::channel();
        let reader = std::thread::spawn(move || {
            let mut last = None;
            for line in lines.lines().map_while(Result::ok) {
                if let Some(step) = line.split("flushed ").nth(1).and_then(|n| n.trim().parse::<u64>().ok()) {
                    last = Some(step);
                    let _ = tell.send(());
                }
            }
            last
        });
        // From its first flush on, any moment.
        told.recv_timeout(Duration::from_secs(60)).expect("the child flushes");
        std::thread::sleep(wait);
        process.kill().unwrap();
        process.wait().unwrap();
        let last = reader.join().unwrap().expect("a flush was told");
        if qemu && !lazy_refcounts && !takes_snapshots(round) {
            let (code, told) = attempt("qemu-img", &["check", text(&path)]);
            assert!(code == Some(0) || code == Some(3), "round {round}: {told}");
            leaks += u64::from(code == Some(3));
        }
        let image = block_on(open(OpenOptions { format: Some(Format::Qcow2), ..OpenOptions::new(&path) })).unwrap();
        let mut got = vec![0; SIZE as usize];
        block_on(read_at(&*image, 0, &mut got)).unwrap();
        // Up to the last flush that was told every byte is fixed. What came after it, up to the next flush, may be there
        // or not; there is nothing after that one, as it would have been told.
        let mut model = vec![0; SIZE as usize];
        let mut loose = vec![false; SIZE as usize];
        let mut again = Chance::new(round + 1);
        for number in 0u64.. {
            let (at, data) = match step(&mut again, u64::from(cluster), takes_snapshots(round)) {
                Step::Write(at, data) | Step::Compressed(at, data) => (at as usize, data),
                Step::Zero(at, len) => (at as usize, vec![0; len as usize]),
                Step::Flush if number > last => break,
                Step::Flush | Step::Snapshot => continue,
            };
            if number < last {
                model[at..at + data.len()].copy_from_slice(&data);
            } else {
                loose[at..at + data.len()].fill(true);
            }
        }
        certain += loose.iter().filter(|l| !**l).count() as u64;
        let wrong = (0..got.len()).find(|i| !loose[*i] && got[*i] != model[*i]);
        assert_eq!(wrong, None, "round {round}, {cluster} {extended_l2} {lazy_refcounts}, last flush {last}");
        let report = block_on(image.as_qcow2().unwrap().check(true)).unwrap();
        assert_eq!(report.corruptions, 0, "round {round}: {report:#?}");
        drop(image);
        if qemu {
            let (code, told) = attempt("qemu-img", &["check", text(&path)]);
            assert_eq!(code, Some(0), "round {round}, after the repair: {told}");
        }
    }
    let share = certain * 100 / (rounds * SIZE).max(1);
    assert!(share > 50, "too little was certain: {share} %");
    println!("{rounds} kills, {leaks} left leaks, nothing flushed was lost ({share} % of the bytes compared)");
}

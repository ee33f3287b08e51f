//! Shell scripts, run by busybox.

use std::fs;
use std::process::{Command, Stdio};

use super::place;
use crate::workload::{Unit, Workload, mix_bytes, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("shell-arithmetic", "a loop of arithmetic and tests in one shell", || {
        script("i=0; h=5381; while [ $i -lt 3000 ]; do h=$(((h * 33 + i) & 0xffffffff)); i=$((i + 1)); done; echo $h")
    }),
    Workload::new("shell-forks", "25 subshells and command substitutions", || {
        script("i=0; s=0; while [ $i -lt 25 ]; do s=$((s + $(echo $i))); i=$((i + 1)); done; echo $s")
    }),
    Workload::new("shell-programs", "a loop that starts 12 programs", || {
        script("for i in 1 2 3 4; do $BB basename /a/b$i; $BB expr $i '*' 7; $BB cut -c 1-3 text | $BB head -n 1; done")
    }),
    Workload::new("shell-pipeline", "a pipeline of five programs over 40 KiB", || {
        script("$BB cat text | $BB tr a-m n-z | $BB grep -v zz | $BB sort | $BB uniq -c | $BB wc")
    }),
    Workload::new("shell-files", "makes, fills, lists and removes a tree of files", || {
        script(
            "for d in 1 2 3; do $BB mkdir -p tree/$d; for f in 1 2 3 4; do echo $d$f >tree/$d/$f; done; done; \
             $BB find tree -type f | $BB sort; $BB cat tree/*/*; $BB rm -r tree",
        )
    }),
];

fn script(script: &'static str) -> Unit {
    let (busybox, folder) = (place::busybox(), place::folder());
    fs::write(folder.join("text"), text(40 << 10)).expect("room for a file");
    Box::new(move || {
        let mut command = Command::new(&busybox);
        command.args(["sh", "-c", script]).current_dir(folder).env_clear().env("BB", &busybox).env("LC_ALL", "C");
        let out = command.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("busybox starts");
        assert!(out.status.success(), "{script}: {}", out.status);
        mix_bytes(0, &out.stdout)
    })
}

//! Programs as they are packaged: busybox on files in memory.

use std::fs;
use std::process::{Command, Stdio};

use crate::system::place;
use crate::workload::{Unit, Workload, mix_bytes, text};

pub(super) const ALL: &[Workload] = &[
    Workload::new("busybox-gzip", "gzip of 300 KiB", || busybox(300, "gzip -c text")),
    Workload::new("busybox-gunzip", "gunzip to 1.5 MiB", || {
        let unit = busybox(1536, "gunzip -c text.gz");
        shell("gzip -c text >text.gz");
        unit
    }),
    Workload::new("busybox-bzip2", "bzip2 of 100 KiB", || busybox(100, "bzip2 -c text")),
    Workload::new("busybox-sort", "sort of 100 KiB of lines by their second word", || busybox(100, "sort -k2 text")),
    Workload::new("busybox-awk", "awk counts the words of 60 KiB", || {
        busybox(
            60,
            "awk '{ for (i = 1; i <= NF; i++) n[$i]++ } END { for (w in n) s += n[w] * length(w); print s }' text",
        )
    }),
    Workload::new("busybox-sed", "sed exchanges words in 100 KiB", || {
        busybox(100, "sed -e 's/\\([a-z]*\\) \\([a-z]*\\)/\\2 \\1/' -e '/zz/d' text")
    }),
    Workload::new("busybox-grep", "grep -E with a pattern over 150 KiB", || {
        busybox(150, "grep -E -c '(ee|[a-d]+t).*[xyz]' text")
    }),
    Workload::new("busybox-sha1", "sha1sum and md5sum of 1.5 MiB", || busybox(1536, "sha1sum text; md5sum text")),
    Workload::new("busybox-bc", "200 digits of pi and e by bc", || {
        busybox(1, "echo 'scale=200; 4*a(1); e(1)' | bc -l")
    }),
];

fn shell(script: &str) -> Vec<u8> {
    let busybox = place::busybox();
    // Each command is a function, so that the host's own programs are never what is measured.
    let names = ["gzip", "gunzip", "bzip2", "sort", "awk", "sed", "grep", "sha1sum", "md5sum", "bc"];
    let functions: String = names.iter().map(|name| format!("{name}() {{ {busybox} {name} \"$@\"; }}\n")).collect();
    let mut command = Command::new(&busybox);
    command.args(["sh", "-c", &format!("{functions}{script}")]).current_dir(place::folder()).env("LC_ALL", "C");
    let out = command.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("busybox starts");
    assert!(out.status.success(), "{script}: {}", out.status);
    out.stdout
}

fn busybox(kib: usize, script: &'static str) -> Unit {
    fs::write(place::folder().join("text"), text(kib << 10)).expect("room for a file");
    Box::new(move || mix_bytes(0, &shell(script)))
}

//! Processes: started, replaced, waited for.

use std::process::{Command, Stdio};

use super::call;
use crate::workload::{Unit, Workload};

pub(super) const ALL: &[Workload] = &[
    Workload::new("fork-wait", "60 processes forked and waited for", fork),
    Workload::new("fork-touch", "10 processes that each write to 200 shared pages", touch),
    Workload::new("fork-exec", "15 times fork and exec of a static program", exec),
    Workload::new("spawn-output", "10 programs whose output is read through a pipe", output),
    Workload::new("fork-tree", "a tree of 31 processes", tree),
];

fn fork() -> Unit {
    Box::new(|| (0..60).map(|n| libc::WEXITSTATUS(call::in_child(|| n)) as u64).sum())
}

fn touch() -> Unit {
    let mut data = vec![1u8; 200 * 4096];
    Box::new(move || {
        let mut sum = 0;
        for n in 0..10u8 {
            let status = call::in_child(|| {
                for page in data.chunks_mut(4096) {
                    page[7] += n;
                }
                data.chunks(4096).map(|page| i32::from(page[7])).sum::<i32>() & 0x7f
            });
            sum += libc::WEXITSTATUS(status) as u64 * u64::from(data[7]);
        }
        sum
    })
}

fn exec() -> Unit {
    let arguments = [c"bench", c"nothing"];
    let list = [arguments[0].as_ptr(), arguments[1].as_ptr(), std::ptr::null()];
    Box::new(move || {
        let codes = (0..15).map(|_| {
            call::in_child(|| {
                // SAFETY: both lists end in a null pointer.
                unsafe { libc::execve(c"/proc/self/exe".as_ptr(), list.as_ptr(), [std::ptr::null()].as_ptr()) }
            })
        });
        codes.map(|code| u64::from(code == 0)).sum()
    })
}

fn output() -> Unit {
    Box::new(|| {
        let lengths = (0..10).map(|_| {
            let mut command = Command::new("/proc/self/exe");
            command.arg("list").env_clear().stdin(Stdio::null());
            command.output().expect("this program").stdout.len() as u64
        });
        lengths.sum()
    })
}

fn grow(depth: u32) -> i32 {
    if depth == 0 {
        return 1;
    }
    let children = [call::child(|| grow(depth - 1)), call::child(|| grow(depth - 1))];
    1 + children.map(|pid| libc::WEXITSTATUS(call::wait(pid))).iter().sum::<i32>()
}

fn tree() -> Unit {
    Box::new(|| u64::from(grow(4) as u32))
}

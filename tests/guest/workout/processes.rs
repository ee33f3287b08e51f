//! Processes: fork, exec, pipes in both directions, exit codes, a chain of programs, memory that is not shared.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use crate::{Digest, Numbers, sys};

pub fn run() {
    for code in [0, 1, 42, 255] {
        println!("exit {code}: {:#x}", sys::in_child(|| code));
    }
    let mut shared = vec![1u64; 4_096];
    let status = sys::in_child(|| {
        shared.iter_mut().for_each(|x| *x += 1);
        i32::from(shared.iter().sum::<u64>() == 8_192)
    });
    println!("copy on write {:#x} {}", status, shared.iter().sum::<u64>());

    for i in 0..8 {
        let out = me(&["exit", &i.to_string()]).output().expect("the program itself");
        println!("exec {i}: {:?} {:?}", out.status.code(), String::from_utf8_lossy(&out.stdout));
    }
    echo();
    chain();
}

fn me(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("/proc is mounted"));
    command.arg("child").args(args).env_clear();
    command
}

/// A dialogue through two pipes, a line at a time.
fn echo() {
    let mut child = me(&["upper"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("spawn");
    let mut to = child.stdin.take().expect("piped");
    let mut from = BufReader::new(child.stdout.take().expect("piped"));
    let mut digest = Digest::new();
    let mut line = String::new();
    for i in 0..200 {
        writeln!(to, "line {i:x} of the dialogue").expect("pipe");
        line.clear();
        from.read_line(&mut line).expect("pipe");
        digest.add(line.as_bytes());
    }
    drop(to);
    println!("dialogue {:?} {:016x} {:?}", line, digest.value(), child.wait().expect("wait").code());
}

/// Three programs in a row, a megabyte through each pipe.
fn chain() {
    let mut first = me(&["make"]).stdout(Stdio::piped()).spawn().expect("spawn");
    let mut second =
        me(&["upper"]).stdin(first.stdout.take().expect("piped")).stdout(Stdio::piped()).spawn().expect("spawn");
    let third = me(&["digest"]).stdin(second.stdout.take().expect("piped")).output().expect("spawn");
    let codes = (first.wait().expect("wait").code(), second.wait().expect("wait").code(), third.status.code());
    println!("chain {:?} {codes:?}", String::from_utf8_lossy(&third.stdout));
}

/// What this program is as a child.
pub fn child(args: &[String]) {
    let mut input = std::io::stdin().lock();
    let mut output = std::io::stdout().lock();
    match args.first().map(String::as_str) {
        Some("exit") => {
            let code: i32 = args[1].parse().expect("a number");
            writeln!(output, "child {code}").expect("stdout");
            drop(output);
            std::process::exit(code * 3);
        }
        Some("upper") => {
            let mut line = String::new();
            while input.read_line(&mut line).expect("stdin") > 0 {
                output.write_all(line.to_uppercase().as_bytes()).expect("stdout");
                output.flush().expect("stdout");
                line.clear();
            }
        }
        Some("make") => {
            let mut numbers = Numbers(3);
            for _ in 0..256 {
                let line: Vec<String> = (0..32).map(|_| format!("{:x}", numbers.next())).collect();
                writeln!(output, "{}", line.join(" ")).expect("stdout");
            }
        }
        Some("digest") => {
            let mut all = Vec::new();
            input.read_to_end(&mut all).expect("stdin");
            let mut digest = Digest::new();
            digest.add(&all);
            write!(output, "{} bytes {:016x}", all.len(), digest.value()).expect("stdout");
        }
        _ => std::process::exit(2),
    }
}

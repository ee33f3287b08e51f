//! The first process of a guest: says that it runs, makes the machine usable, serves (or checks), and powers off.

use std::ffi::CStr;
use std::process::Command;

use crate::server;

/// Where busybox is in a guest.
const BUSYBOX: &str = "/bin/busybox";

/// Never returns.
pub(crate) fn run() -> ! {
    // The end of the boot that is measured.
    server::say("init");
    mount(c"proc", c"/proc");
    mount(c"sysfs", c"/sys");
    mount(c"devtmpfs", c"/dev");
    mount(c"tmpfs", c"/tmp");
    raw_terminal();
    for arguments in [&["ip", "link", "set", "lo", "up"][..], &["--install", "-s", "/bin"]] {
        // What fails without this is the workload that needs it, and says so.
        let _ = Command::new(BUSYBOX).args(arguments).status();
    }
    // SAFETY: there is one thread.
    unsafe {
        std::env::set_var("PATH", "/bin");
        std::env::set_var("BENCH_BUSYBOX", BUSYBOX);
        std::env::set_var("BENCH_FOLDER", "/tmp/bench");
    }
    // A word of the kernel's command line that the kernel does not know: texts with commas between, or `all`.
    match std::env::var("BENCH_CHECK") {
        Ok(texts) => {
            let texts: Vec<&str> = texts.split(',').filter(|text| *text != "all").collect();
            server::check(&texts);
            server::say("checked all");
        }
        Err(_) => server::serve(),
    }
    // SAFETY: no preconditions; there is nothing to save.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(1);
}

fn mount(kind: &CStr, at: &CStr) {
    // SAFETY: the strings end in zeros; no data.
    let failed = unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) } != 0;
    // The kernel may have mounted /dev already.
    if failed && kind != c"devtmpfs" {
        eprintln!("bench: cannot mount {}: {}", at.to_string_lossy(), std::io::Error::last_os_error());
    }
}

/// No echo, no signals from characters, lines as they are.
fn raw_terminal() {
    // SAFETY: the structure is plain data that tcgetattr fills; descriptor 0 is the console.
    unsafe {
        let mut terminal: libc::termios = std::mem::zeroed();
        if libc::tcgetattr(0, &raw mut terminal) == 0 {
            libc::cfmakeraw(&raw mut terminal);
            libc::tcsetattr(0, libc::TCSANOW, &raw const terminal);
        }
    }
}

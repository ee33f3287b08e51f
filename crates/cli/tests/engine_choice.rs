//! Which engine is taken, what is said about it, and what the doctor says.

use std::process::{Command, Output};

use testkit::folder::Folder;

const HUSK: &str = env!("CARGO_BIN_EXE_husk");

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_remove("RUST_LOG").env("XDG_RUNTIME_DIR", "/nowhere").env("HUSK_GUEST", "/nowhere");
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What is no kernel, but opens.
fn no_kernel(folder: &std::path::Path) -> String {
    let path = folder.join("kernel");
    std::fs::write(&path, "no kernel").unwrap();
    path.to_str().unwrap().to_owned()
}

/// `husk run --engine kvm` with this in the place of /dev/kvm ends with one line.
fn refused(device: &str, parts: &[&str]) {
    let folder = Folder::new(&format!("engine-refused-{}", device.replace('/', "-")));
    let kernel = no_kernel(&folder);
    let output = command(HUSK).args(["run", "--engine", "kvm", "--kernel", &kernel, "--kvm-device", device]).output();
    is_refusal(&output.unwrap(), parts);
}

fn is_refusal(output: &Output, parts: &[&str]) {
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{error}");
    assert!(output.stdout.is_empty() && error.lines().count() == 1, "{error}");
    assert!(error.starts_with("husk: engine kvm: ") && error.ends_with("or run with --engine soft\n"), "{error}");
    for part in parts {
        assert!(error.contains(part), "it does not name {part:?}: {error}");
    }
}

#[test]
fn what_is_not_kvm_is_refused_by_name() {
    let folder = Folder::new("engine-devices");
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    refused(&path("nothing"), &["nothing is not there; "]);
    refused(folder.to_str().unwrap(), &["is a folder, not KVM; "]);
    std::fs::write(path("file"), "").unwrap();
    refused(&path("file"), &["is a file, not KVM; "]);
    refused("/dev/null", &["/dev/null is another device, not KVM; "]);
    let made = Command::new("mkfifo").arg(path("pipe")).status();
    if made.is_ok_and(|status| status.success()) {
        refused(&path("pipe"), &["is a pipe, not KVM; "]);
    }
}

#[test]
fn who_may_not_open_it_is_told_how() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new("engine-permission");
    std::fs::set_permissions(&*folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let device = folder.join("kvm");
    std::fs::write(&device, "").unwrap();
    std::fs::set_permissions(&device, std::fs::Permissions::from_mode(0o000)).unwrap();
    let kernel = no_kernel(&folder);
    let args = ["run", "--engine", "kvm", "--kernel", &kernel, "--kvm-device", device.to_str().unwrap()];
    let all_is_readable = std::fs::File::open(&device).is_ok();
    let output = if all_is_readable {
        // Root: as nobody, then.
        command("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups", HUSK]).args(args).output()
    } else {
        command(HUSK).args(args).output()
    };
    match output {
        Ok(output) if !matches!(output.status.code(), Some(126 | 127)) => {
            is_refusal(&output, &["no permission to open", "let a group in: sudo chgrp kvm"]);
        }
        _ => eprintln!("SKIPPED: the test cannot run as another user"),
    }
}

#[test]
fn a_choice_passes_over_what_is_not_there() {
    let folder = Folder::new("engine-passes");
    let kernel = no_kernel(&folder);
    // The kernel is what fails: an engine was found before. Its line would come with the start of the VM.
    for engine in ["auto", "kvm,soft", "auto,jit=off"] {
        let args = ["run", "--engine", engine, "--kernel", &kernel, "--kvm-device", "/nowhere/kvm"];
        let output = command(HUSK).args(args).output().unwrap();
        let error = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains("not a Linux kernel") && error.lines().count() == 1, "{error}");
    }
}

#[test]
fn the_doctor_tells_all_and_ends_well() {
    let output = command(HUSK).args(["doctor", "--kvm-device", "/nowhere/kvm"]).output().unwrap();
    let page = text(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{page}");
    let parts = ["/nowhere/kvm is not there", "=> ", "Memory and limits", "open files", "soft: /nowhere/kvm is not"];
    for part in parts {
        assert!(page.contains(part), "it does not name {part:?}:\n{page}");
    }
    assert!(page.lines().all(|line| line.len() <= 120) && !page.contains('\u{1b}'), "{page}");
}

#[test]
fn the_doctor_speaks_json() {
    let output = command(HUSK).args(["doctor", "--json", "--kvm-device", "/nowhere/kvm"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success());
    assert_eq!(report["engine"], "soft");
    assert_eq!(report["problem"]["cause"], "/nowhere/kvm is not there");
    assert_eq!(report["device"]["access"]["state"], "missing");
    assert!(report["limits"]["total"].as_u64() > Some(1 << 20), "{report}");
    assert_eq!(report["engines"][1]["name"], "soft");
}

/// On this host, whatever it is: a run takes the engine that the doctor says, for the reason that it says, and remembers.
#[test]
fn auto_does_what_the_doctor_says() {
    let Some(guest) = testkit::boot::guest("cloud") else { return };
    let _turn = testkit::boot::Turn::wait();
    let cache = Folder::new("engine-auto");
    let with_cache = || {
        let mut command = command(HUSK);
        command.env("XDG_RUNTIME_DIR", &*cache);
        command
    };
    let output = with_cache().args(["doctor", "--json"]).output().unwrap();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let engine = report["engine"].as_str().unwrap();
    let line = match report["problem"]["cause"].as_str() {
        None => format!("engine: {engine}\n"),
        Some(cause) => format!("engine: {engine} ({cause})\n"),
    };
    assert_eq!(cache.join("husk/kvm-probe.json").is_file(), !report["ring0"].is_null(), "what was found is kept");

    let path = |name: &str| guest.join(name).to_str().unwrap().to_owned();
    let append = "console=ttyS0 quiet HUSK_RUN=\"echo he''llo\"";
    let (kernel, initrd) = (path("vmlinuz"), path("initrd"));
    let run = |more: &[&str]| {
        let mut command = with_cache();
        command.args(["run", "--kernel", &kernel, "--initrd", &initrd, "--append", append]).args(more);
        command.stdin(std::process::Stdio::null()).output().unwrap()
    };
    let output = run(&[]);
    assert_eq!(text(&output.stderr), line);
    assert!(output.status.success() && text(&output.stdout).contains("hello"));
    let quiet = run(&["--log", "error"]);
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{}", text(&quiet.stderr));
    let told = run(&["--engine", "soft"]);
    assert!(told.status.success() && told.stderr.is_empty(), "{}", text(&told.stderr));
}

//! A running VM from outside: its screen, its keyboard, and the commands that talk to it.

mod common;

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::program;
use testkit::boot::{Husk, Turn, guest};

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);

/// The exit code of a command and what it says, on standard output and standard error.
fn husk(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(program()).args(args).env_remove("RUST_LOG").output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn done(args: &[&str]) -> String {
    let (code, output, errors) = husk(args);
    assert_eq!((code, errors.as_str()), (0, ""), "{args:?}");
    output
}

fn refused(args: &[&str], parts: &[&str]) {
    let (code, output, errors) = husk(args);
    assert_eq!((code, output.as_str(), errors.lines().count()), (2, "", 1), "{args:?}: {errors}");
    for part in parts {
        assert!(errors.contains(part), "{args:?} does not name {part:?}: {errors}");
    }
}

/// A name that no other test run has.
fn name(what: &str) -> String {
    format!("test-{what}-{}", std::process::id())
}

fn file(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("screen-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

/// The characters of the screen, once `text` is among them.
fn wait_for_screen(vm: &str, text: &str) -> String {
    let (path, end) = (file(&format!("{vm}.txt")), Instant::now() + LIMIT);
    loop {
        let (code, ..) = husk(&["screenshot", vm, path.to_str().unwrap()]);
        let screen = if code == 0 { std::fs::read_to_string(&path).unwrap() } else { String::new() };
        if screen.contains(text) {
            return screen;
        }
        assert!(Instant::now() < end, "'{text}' is not on the screen:\n{screen}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn what_is_typed_from_outside_is_on_the_screen() {
    let (Some(folder), Some(firmware)) = (guest("generic"), guest("firmware")) else { return };
    let path = |folder: &PathBuf, name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (kernel, initrd) = (path(&folder, "vmlinuz"), path(&folder, "initrd"));
    let (bios, vnc) = (path(&firmware, "bios-256k.bin"), file("vnc"));
    let (vm, vnc_option) = (name("screen"), format!("unix:{}", vnc.display()));
    let _turn = Turn::wait();
    let args = ["run", "--name", &vm, "--firmware", &bios, "--vga", "std", "--vnc", &vnc_option];
    let with = ["--kernel", &kernel, "--initrd", &initrd, "--append", "console=ttyS0 console=tty0 quiet"];
    let mut run = Husk::in_pipes(&program(), &[&args[..], &with[..]].concat(), LIMIT);
    wait_for_screen(&vm, "/root #");

    // A text with all that needs Shift, faster than a guest reads, and not a key is lost.
    let text = "The (quick) \"Brown\" fox_jumps <over> {the} [lazy] dog! 0123456789 ~@#$%^&*-+=|;:,.?/".repeat(3);
    done(&["type", &vm, "--delay", "0", "--enter", &format!("echo '{text}' >/dev/ttyS0")]);
    run.wait_for(&text);
    done(&["send-key", &vm, "caps_lock"]);
    done(&["type", &vm, "-e", "echo Caps Or Not >/dev/ttyS0"]);
    run.wait_for("Caps Or Not");
    done(&["send-key", &vm, "Caps_Lock", "e", "c", "h", "o", "space", "!", "ret"]);
    wait_for_screen(&vm, "\n!");

    // The picture is one, and a client of the screen is greeted.
    let png = file("screen.png");
    done(&["screenshot", &vm, png.to_str().unwrap()]);
    assert!(std::fs::read(&png).unwrap().starts_with(b"\x89PNG\r\n\x1a\n"));
    let mut client = UnixStream::connect(&vnc).unwrap();
    let mut greeting = [0; 12];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"RFB 003.008\n");

    let line = |list: &str| list.lines().find(|line| line.starts_with(&vm)).map(str::to_owned);
    assert!(line(&done(&["list"])).is_some_and(|line| line.ends_with("running")));
    done(&["pause", &vm]);
    assert!(line(&done(&["list"])).is_some_and(|line| line.ends_with("paused")));
    refused(&["type", &vm, "x"], &[&vm, "after 0 of 1 characters", "resume it"]);
    done(&["resume", &vm]);
    assert!(done(&["list", "--json"]).contains(&format!("\"name\": \"{vm}\"")));

    refused(&["send-key", &vm, "ctrl-alt-delet"], &["there is no key \"delet\"", "is it delete?"]);
    refused(&["type", &vm, "dür"], &["'ü'", "US keyboard"]);
    refused(&["screenshot", &vm, "x.gif"], &["x.gif", "NAME.png"]);
    refused(&["screenshot", &vm, "/proc/no/x.png"], &["/proc/no/x.png", "folder"]);
    refused(&["stop", "nobody"], &["VM nobody: there is no running VM of this name", &vm]);
    refused(&["stop", "../nobody"], &["there is no running VM"]);
    let (code, _, errors) = husk(&["run", "--name", &vm, "--firmware", &bios, "--serial", "none"]);
    assert!(code == 2 && errors.contains("a VM of this name runs already"), "{errors}");

    // The reset button leads back through the firmware.
    done(&["reset", &vm]);
    wait_for_screen(&vm, "SeaBIOS");
    done(&["stop", &vm, "--force"]);
    assert_eq!(run.exit_code(), 0);
    assert!(line(&done(&["list"])).is_none() && !vnc.exists());
}

#[test]
fn a_vm_without_a_screen_and_one_that_nobody_can_talk_to() {
    let Some(firmware) = guest("firmware") else { return };
    let bios = firmware.join("bios-256k.bin").to_str().unwrap().to_owned();
    let _turn = Turn::wait();
    let vm = name("dark");
    let args =
        ["run", "--name", &vm, "--firmware", &bios, "--serial", "none", "--debug-port", "stdio", "--vga", "none"];
    let mut run = Husk::in_pipes(&program(), &args, LIMIT);
    run.wait_for("SeaBIOS");
    refused(&["screenshot", &vm, "x.png"], &[&vm, "it has no screen", "--vga std"]);
    // One that was killed leaves nothing behind that is in the way.
    run.signal("KILL");
    let _ = run.exit_code();
    assert!(!done(&["list"]).contains(&vm));
    let mut run = Husk::in_pipes(&program(), &[&args[..], &["--control", "none"]].concat(), LIMIT);
    run.wait_for("SeaBIOS");
    refused(&["stop", &vm], &["there is no running VM"]);
    run.signal("TERM");
    assert_eq!(run.exit_code(), 143);
    refused(&["run", "--vnc", "no", "--firmware", &bios], &["--vnc no", "127.0.0.1:5900"]);
    let again = ["run", "--vnc", ":0", "--vga", "none", "--firmware", &bios];
    refused_at_last(&again, &["--vnc", "no screen", "--vga std"]);
}

/// As [`refused`], where the engine may have been told before.
fn refused_at_last(args: &[&str], parts: &[&str]) {
    let (code, _, errors) = husk(args);
    let last = errors.lines().last().unwrap_or_default();
    assert!(code == 2 && parts.iter().all(|part| last.contains(part)), "{args:?}: {errors}");
}

/// The socket of a VM that runs, wherever this user's sockets are.
fn control_socket(vm: &str) -> PathBuf {
    let from = |name: &str, rest: &str| std::env::var_os(name).map(|folder| PathBuf::from(folder).join(rest));
    let folders = [
        from("XDG_RUNTIME_DIR", "husk"),
        Some(PathBuf::from(format!("/run/user/{}/husk", std::fs::metadata("/proc/self").unwrap().uid()))),
        from("XDG_STATE_HOME", "husk/run"),
        from("HOME", ".local/state/husk/run"),
    ];
    let sockets = folders.into_iter().flatten().map(|folder| folder.join(vm).join("control.sock"));
    sockets.into_iter().find(|path| path.exists()).expect("the VM has a control socket")
}

#[test]
fn what_comes_in_at_the_control_socket_is_checked() {
    let Some(firmware) = guest("firmware") else { return };
    let bios = firmware.join("bios-256k.bin").to_str().unwrap().to_owned();
    let _turn = Turn::wait();
    let vm = name("checked");
    let args = ["run", "--name", &vm, "--firmware", &bios, "--serial", "none", "--debug-port", "stdio"];
    let mut run = Husk::in_pipes(&program(), &args, LIMIT);
    run.wait_for("SeaBIOS");
    let path = control_socket(&vm);
    for (said, answer) in [
        ("{\"version\":1,\"verb\":\"pause\"}\n{\"version\":1,\"verb\":\"resume\"}\n".to_owned(), "done"),
        ("{\"version\":9,\"verb\":\"pause\"}\n".to_owned(), "version 9"),
        ("{\"version\":1,\"verb\":\"dance\"}\n".to_owned(), "dance"),
        ("[".repeat(1 << 20), "not a request"),
        ("\n".to_owned(), "not a request"),
    ] {
        let mut stream = UnixStream::connect(&path).unwrap();
        // It may have had enough before all is written.
        let _ = stream.write_all(said.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains(answer) || said.len() > 1 << 19, "{text}");
    }
    assert!(done(&["list"]).contains(&vm));
    done(&["stop", &vm, "--force"]);
    assert_eq!(run.exit_code(), 0);
}

//! Debian's kernels boot to a shell on the engine that is tested, and what a person does there works.

mod common;

use std::process::Command;
use std::time::{Duration, Instant};

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::choice::{Choice, chosen};

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);
const PROMPT: &str = "# ";
/// What the default guest says last before its shell.
const BANNER: &str = "ends the machine";

/// The arguments that boot the guest in `folder` with `cpus`, and more.
fn args(folder: &std::path::Path, initrd: &str, cpus: u32, more: &[&str]) -> Vec<String> {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut args: Vec<String> =
        ["run", "--kernel", &path("vmlinuz"), "--initrd", &path(initrd)].map(String::from).into();
    args.extend(["--cpus".to_owned(), cpus.to_string()]);
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    args
}

/// Boots to the shell.
fn shell(kind: &str, cpus: u32, more: &[&str]) -> Option<(Turn, Husk)> {
    let folder = guest(kind)?;
    let turn = Turn::wait();
    let mut husk = Husk::in_terminal(&program(), &args(&folder, "initrd", cpus, more), LIMIT);
    let banner = husk.wait_for(BANNER);
    if !banner.contains(&format!("on {cpus} CPU(s)")) {
        husk.fail("not all CPUs have come up");
    }
    husk.wait_for(PROMPT);
    Some((turn, husk))
}

/// No kernel complains.
fn check_log(husk: &mut Husk) {
    let console = husk.console();
    let bad = |line: &&str| {
        let complaints = ["WARNING", "BUG", "soft lockup", "Call Trace", "Oops", "rcu: INFO", "hung_task"];
        complaints.iter().any(|word| line.contains(word)) || line.contains("clocksource") && line.contains("unstable")
    };
    if let Some(line) = console.lines().find(bad).map(str::to_owned) {
        husk.fail(&format!("the guest complains: {line}"));
    }
}

fn power_off(husk: &mut Husk) {
    husk.send("poweroff -f\r");
    let code = husk.exit_code();
    if code != 0 {
        husk.fail(&format!("power-off ends with exit code {code}"));
    }
    check_log(husk);
}

fn boots(kind: &str, cpus: u32) {
    let Some((_turn, mut husk)) = shell(kind, cpus, &[]) else { return };
    husk.send("echo he''llo-$((6*7)) from $(nproc)\r");
    husk.wait_for(&format!("hello-42 from {cpus}"));
    husk.wait_for(PROMPT);
    power_off(&mut husk);
    assert!(husk.pty().is_some_and(|pty| base::is_cooked(&pty.terminal).unwrap()), "the terminal is not restored");
}

#[test]
fn the_cloud_kernel_boots_with_1_cpu() {
    boots("cloud", 1);
}

#[test]
fn the_cloud_kernel_boots_with_2_cpus() {
    boots("cloud", 2);
}

#[test]
fn the_cloud_kernel_boots_with_4_cpus() {
    boots("cloud", 4);
}

#[test]
fn the_cloud_kernel_boots_on_lesser_cpus() {
    for model in ["x86-64-v1", "x86-64-v2"] {
        let Some((_turn, mut husk)) = shell("cloud", 1, &["--cpu", model, "--cpu-relaxed"]) else { return };
        husk.send("grep 'model name' /proc/cpuinfo\r");
        husk.wait_for(&format!("Husk {model} CPU"));
        power_off(&mut husk);
    }
}

#[test]
fn the_generic_kernel_boots() {
    boots("generic", 1);
}

#[test]
fn the_generic_kernel_boots_with_2_cpus() {
    boots("generic", 2);
}

#[test]
fn the_generic_kernel_boots_with_4_cpus() {
    boots("generic", 4);
}

#[test]
fn the_i386_kernel_boots() {
    boots("i386", 1);
}

/// The clock that the guest takes for the best tells which interfaces it has found.
#[test]
fn the_guest_takes_the_best_clock_of_the_engine() {
    let Some((_turn, mut husk)) = shell("cloud", 2, &[]) else { return };
    let wanted = match chosen() {
        Choice::Soft => "tsc",
        Choice::Kvm => "kvm-clock",
    };
    husk.send("sed 's/^/it''is:/' /sys/devices/system/clocksource/clocksource0/current_clocksource\r");
    husk.wait_for(&format!("itis:{wanted}\r\n"));
    power_off(&mut husk);
}

#[test]
fn kvm_is_chosen_where_it_is_sound_and_that_is_told() {
    if chosen() != Choice::Kvm {
        eprintln!("SKIPPED: what is chosen on a host with a sound KVM is tested where the tests run on KVM");
        return;
    }
    let Some(folder) = guest("cloud") else { return };
    let _turn = Turn::wait();
    let more = ["--engine", "auto", "--append", "console=ttyS0 quiet HUSK_RUN=true"];
    let mut husk = Husk::in_pipes(&program(), &args(&folder, "initrd", 1, &more), LIMIT);
    assert_eq!(husk.exit_code(), 0, "{}", husk.errors());
    let errors = husk.errors();
    assert!(errors.lines().count() == 1 && errors.starts_with("engine: kvm"), "{errors}");
    check_log(&mut husk);
}

/// The way that kernels have into themselves, by the code that is in front of them.
#[test]
fn the_cloud_kernel_decompresses_itself_if_asked() {
    for entry in ["boot64", "boot32"] {
        let Some((_turn, mut husk)) = shell("cloud", 1, &["--entry", entry]) else { return };
        power_off(&mut husk);
    }
}

#[test]
fn the_i386_kernel_decompresses_itself_if_asked() {
    let Some((_turn, mut husk)) = shell("i386", 1, &["--entry", "boot32"]) else { return };
    power_off(&mut husk);
}

/// What stands between the two lines that the workout guest prints around its output.
fn between_marks(console: &str) -> &str {
    let rest = console.split_once("=== begin ===\n").map_or("", |(_, rest)| rest);
    rest.split_once("=== end ").map_or("", |(output, _)| output)
}

#[test]
fn the_workout_gives_what_it_gives_on_the_host() {
    let (Some(folder), Some(workout)) = (guest("cloud"), guest("workout")) else { return };
    let busybox = folder.join("busybox");
    let on_host = |command: &mut Command| String::from_utf8(command.output().unwrap().stdout).unwrap();
    let script = on_host(Command::new(&busybox).arg("sh").arg(workout.join("workout.sh")).env("BB", &busybox));
    let wanted = script + &on_host(&mut Command::new(workout.join("workout")));
    let _turn = Turn::wait();
    let mut husk = Husk::in_pipes(&program(), &args(&folder, "workout.initrd", 2, &[]), 3 * LIMIT);
    husk.wait_for("=== end 0 ===");
    let code = husk.exit_code();
    assert_eq!(code, 0, "{}", husk.errors());
    let console = husk.console();
    let given = between_marks(&console);
    let difference = given.lines().zip(wanted.lines()).find(|(given, wanted)| given != wanted);
    assert!(given == wanted, "the first different line, guest and host: {difference:?}");
    check_log(&mut husk);
}

#[test]
fn pasted_text_arrives_whole() {
    let Some((_turn, mut husk)) = shell("cloud", 1, &[]) else { return };
    // About 2, 8 and 80 KiB: more than the guest's line, its terminal's buffer, and the port's queue hold.
    for lines in [64, 200, 2048] {
        let words = "the quick brown fox jumps over the lazy dog 0123456789 and so on";
        let text: String = (0..lines).map(|i| format!("{i:05} {}\n", &words[i % words.len()..])).collect();
        husk.send("stty -echo; cat >/tmp/pasted; echo cat''-done\r");
        husk.wait_for("cat''-done");
        husk.send(&text);
        husk.send("\x04");
        husk.wait_for("cat-done");
        husk.send("echo be''gin; cat /tmp/pasted; echo e''nd; stty echo\r");
        husk.wait_for("begin\r\n");
        let back = husk.wait_for("end\r\n");
        let back = back.trim_end_matches("end\r\n").replace('\r', "");
        assert!(back == text, "{} bytes were pasted, {} have arrived, or others", text.len(), back.len());
        husk.wait_for(PROMPT);
    }
    power_off(&mut husk);
}

#[test]
fn the_guests_clock_agrees_with_the_hosts() {
    let Some((_turn, mut husk)) = shell("cloud", 1, &[]) else { return };
    let mut uptime = || -> (f64, Instant) {
        husk.send("cat /proc/uptime | sed 's/^/up''time=/'\r");
        husk.wait_for("uptime=");
        let at = Instant::now();
        let text = husk.wait_for(" ");
        husk.wait_for(PROMPT);
        (text.trim().parse().unwrap(), at)
    };
    let (guest_before, host_before) = uptime();
    std::thread::sleep(Duration::from_secs(20));
    let (guest_after, host_after) = uptime();
    let guest = guest_after - guest_before;
    let host = host_after.duration_since(host_before).as_secs_f64();
    assert!((guest / host - 1.0).abs() < 0.01, "{guest} s have passed in the guest, {host} s on the host");
    power_off(&mut husk);
}

#[test]
fn a_reboot_starts_again_and_the_keys_stop_the_vm() {
    let Some((_turn, mut husk)) = shell("cloud", 1, &[]) else { return };
    husk.send("reboot -f\r");
    husk.wait_for(BANNER);
    husk.wait_for(PROMPT);
    husk.send("\x01h");
    husk.wait_for("Ctrl-A x       stop the VM");
    husk.send("\x01x");
    assert_eq!(husk.exit_code(), 0);
    assert!(husk.pty().is_some_and(|pty| base::is_cooked(&pty.terminal).unwrap()), "the terminal is not restored");
    check_log(&mut husk);
}

#[test]
fn a_reboot_can_end_the_vm() {
    let Some((_turn, mut husk)) = shell("cloud", 1, &["--reboot", "exit"]) else { return };
    husk.send("reboot -f\r");
    assert_eq!(husk.exit_code(), 0);
}

#[test]
fn a_signal_stops_the_vm_and_restores_the_terminal() {
    let Some((_turn, mut husk)) = shell("cloud", 2, &[]) else { return };
    husk.signal("TERM");
    assert_eq!(husk.exit_code(), 128 + 15);
    assert!(husk.pty().is_some_and(|pty| base::is_cooked(&pty.terminal).unwrap()), "the terminal is not restored");
}

#[test]
fn the_terminal_is_restored_even_when_husk_dies() {
    let Some(folder) = guest("cloud") else { return };
    let _turn = Turn::wait();
    let mut husk = Husk::in_terminal(&program(), &args(&folder, "initrd", 1, &[]), LIMIT);
    husk.wait_for("Linux version");
    husk.signal("ABRT");
    assert_eq!(husk.exit_code(), -1);
    assert!(husk.pty().is_some_and(|pty| base::is_cooked(&pty.terminal).unwrap()), "the terminal is not restored");
}

#[test]
fn a_guest_panic_is_told() {
    let Some(folder) = guest("cloud") else { return };
    let _turn = Turn::wait();
    let append = ["--append", "console=ttyS0 rdinit=/nothing init=/nothing"];
    let mut husk = Husk::in_pipes(&program(), &args(&folder, "initrd", 1, &append), LIMIT);
    husk.wait_for("---[ end Kernel panic");
    assert_eq!(husk.exit_code(), 1);
    let errors = husk.errors();
    let lines: Vec<_> = errors.lines().filter(|line| !line.starts_with("engine: ")).collect();
    assert!(matches!(lines[..], [line] if line.contains("guest panic: Kernel panic - not syncing")), "{errors}");
}

#[test]
fn what_comes_from_a_pipe_is_typed_and_its_end_ends_nothing() {
    let Some(folder) = guest("cloud") else { return };
    let _turn = Turn::wait();
    let mut husk = Husk::in_pipes(&program(), &args(&folder, "initrd", 1, &[]), LIMIT);
    husk.send("echo pi''ped; poweroff -f\n");
    husk.end_input();
    husk.wait_for("piped\r\n");
    assert_eq!(husk.exit_code(), 0);
}

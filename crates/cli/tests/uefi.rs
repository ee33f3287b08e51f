//! Debian's OVMF comes up to its shell, keeps its variables, and boots kernels; what cannot work is refused.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::folder::Folder;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(240);

/// The vendor of the test's own variable.
const VENDOR: &str = "5d3a1f0e-9c7b-4c6e-8a11-0123456789ab";

/// A file of the firmware's package.
fn firmware(name: &str) -> Option<PathBuf> {
    let file = guest("firmware")?.join(name);
    assert!(file.is_file(), "{} is not there; run `cargo xtask guest`", file.display());
    Some(file)
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A machine with this firmware, which has come up to the shell.
fn shell(machine: &str, code: &Path, variables: Option<&Path>) -> Husk {
    let mut args = vec!["run", "--machine", machine, "--memory", "256M", "--firmware", text(code)];
    if let Some(variables) = variables {
        args.extend(["--firmware-vars", text(variables)]);
    }
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    to_shell(&mut husk);
    husk
}

fn to_shell(husk: &mut Husk) {
    husk.wait_for("UEFI Interactive Shell");
    husk.wait_for("any other key to continue");
    husk.send("\r");
    husk.wait_for("Shell>");
}

/// Asks for the test's variable, and waits for what the shell says of it.
fn ask(husk: &mut Husk, answer: &str) {
    husk.send(&format!("setvar husktest -guid {VENDOR}\r"));
    husk.wait_for(answer);
    husk.wait_for("Shell>");
}

fn keeps_variables(machine: &str, code: &str) {
    let Some(code) = firmware(code) else { return };
    let _turn = Turn::wait();
    let folder = Folder::new(&format!("uefi-{machine}"));
    let variables = folder.join("variables.fd");
    let mut husk = shell(machine, &code, Some(&variables));
    husk.send("ver\r");
    husk.wait_for("UEFI v2.");
    husk.wait_for("Shell>");
    ask(&mut husk, "Unable to get");
    husk.send(&format!("setvar husktest -guid {VENDOR} -bs -rt -nv =cafe\r"));
    husk.wait_for("Shell>");
    // It is there after a reset, and in another machine with the same file.
    husk.send("reset\r");
    to_shell(&mut husk);
    ask(&mut husk, "CA FE");
    husk.send("reset -s\r");
    assert_eq!(husk.exit_code(), 0, "the shell powers the machine off");
    let mut husk = shell(machine, &code, Some(&variables));
    ask(&mut husk, "CA FE");
    // Nobody else takes the file meanwhile.
    let args = ["run", "--machine", machine, "--firmware", text(&code), "--firmware-vars", text(&variables)];
    let mut other = Husk::in_pipes(&program(), &args, LIMIT);
    assert_eq!(other.exit_code(), 2, "{}", other.errors());
    assert!(other.errors().contains("variables.fd"), "{}", other.errors());
    husk.signal("TERM");
    assert_eq!(husk.exit_code(), 143);
}

#[test]
fn the_shell_comes_up_and_variables_are_kept_on_the_q35() {
    keeps_variables("q35", "OVMF_CODE_4M.fd");
}

#[test]
fn the_shell_comes_up_and_variables_are_kept_on_the_pc() {
    keeps_variables("pc", "OVMF_CODE.fd");
}

#[test]
fn variables_without_a_file_are_forgotten() {
    let Some(code) = firmware("OVMF_CODE_4M.fd") else { return };
    let _turn = Turn::wait();
    let template = std::fs::read(firmware("OVMF_VARS_4M.fd").unwrap()).unwrap();
    for set in [true, false] {
        let mut husk = shell("q35", &code, None);
        ask(&mut husk, "Unable to get");
        if set {
            husk.send(&format!("setvar husktest -guid {VENDOR} -bs -rt -nv =cafe\r"));
            husk.wait_for("Shell>");
            ask(&mut husk, "CA FE");
        }
        husk.send("reset -s\r");
        assert_eq!(husk.exit_code(), 0);
    }
    assert_eq!(std::fs::read(firmware("OVMF_VARS_4M.fd").unwrap()).unwrap(), template);
}

fn boots(machine: &str, cpus: &str, memory: &str) {
    let (Some(code), Some(folder)) = (firmware("OVMF_CODE_4M.fd"), guest("cloud")) else { return };
    let _turn = Turn::wait();
    let (kernel, initrd) = (folder.join("vmlinuz"), folder.join("initrd"));
    let append =
        "console=ttyS0 quiet HUSK_RUN=\"dmesg | grep -o '] efi: EFI v2.*'; ls /sys/firmware/efi; echo cpus $(nproc)\"";
    let args = [
        ["run", "--machine", machine, "--cpus", cpus, "--memory", memory, "--firmware", text(&code)].as_slice(),
        &["--kernel", text(&kernel), "--initrd", text(&initrd), "--append", append],
    ]
    .concat();
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    husk.wait_for("=== begin ===");
    husk.wait_for("] efi: EFI v2");
    husk.wait_for("runtime-map");
    husk.wait_for(&format!("cpus {cpus}"));
    assert_eq!(husk.exit_code(), 0, "the guest powers off by the tables that the firmware has placed");
}

#[test]
fn a_kernel_boots_on_the_q35() {
    boots("q35", "1", "256M");
}

#[test]
fn a_kernel_boots_on_the_q35_with_two_cpus_and_memory_above_4_gib() {
    boots("q35", "2", "4G");
}

#[test]
fn a_kernel_boots_on_the_pc() {
    boots("pc", "2", "256M");
}

#[test]
fn what_cannot_work_is_refused() {
    let Some(code) = firmware("OVMF_CODE_4M.fd") else { return };
    let _turn = Turn::wait();
    let folder = Folder::new("uefi-refused");
    let run = |args: &[&str]| {
        let mut husk = Husk::in_pipes(&program(), &[&["run"], args].concat(), LIMIT);
        let (code, errors) = (husk.exit_code(), husk.errors());
        assert_eq!((code, errors.lines().count()), (2, 1), "{args:?}: {errors}");
        errors
    };
    let refused = |args: &[&str], words: &[&str]| {
        let line = run(args);
        assert!(words.iter().all(|word| line.contains(word)), "{args:?}: {line}");
    };
    refused(&["--firmware", "uefi-secure"], &["system-management mode", "uefi"]);
    let secure = folder.join("OVMF_CODE_4M.secboot.fd");
    std::fs::copy(&code, &secure).unwrap();
    refused(&["--firmware", text(&secure)], &["Secure Boot", "system-management mode"]);
    let uefi = |variables: &Path| run(&["--firmware", text(&code), "--firmware-vars", text(variables)]);
    let none = folder.join("none.fd");
    std::fs::write(&none, vec![0; 540_672]).unwrap();
    assert!(uefi(&none).contains("not a variable store"));
    let small = folder.join("small.fd");
    std::fs::copy(firmware("OVMF_VARS.fd").unwrap(), &small).unwrap();
    assert!(uefi(&small).contains("do not go with"));
    assert!(uefi(&folder.join("nowhere/variables.fd")).contains("nowhere"));
    assert!(uefi(&folder.join("")).contains("uefi-refused"));
    refused(&["--kernel", "/dev/null", "--firmware-vars", text(&small)], &["--firmware-vars", "--firmware uefi"]);
    refused(&["--firmware", "bios", "--firmware-vars", text(&small)], &["--firmware-vars"]);
}

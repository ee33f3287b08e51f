//! Debian's SeaBIOS starts, says what it finds, boots a kernel, and comes back after a reset.

mod common;

use std::time::Duration;

use common::program;
use testkit::boot::{Husk, Turn, guest};

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(200);

/// Starts a machine with the firmware and more arguments.
fn start(more: &[&str]) -> Option<(Turn, Husk)> {
    let bios = guest("firmware")?.join("bios-256k.bin");
    let mut args = vec!["run", "--firmware", bios.to_str().unwrap()];
    args.extend(more);
    Some((Turn::wait(), Husk::in_pipes(&program(), &args, LIMIT)))
}

/// The arguments that have the firmware boot the default guest with this command line.
fn with_kernel<'a>(append: &'a str, more: &[&'a str]) -> Option<Vec<String>> {
    let folder = guest("cloud")?;
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut args =
        ["--kernel", &path("vmlinuz"), "--initrd", &path("initrd"), "--append", append].map(String::from).to_vec();
    args.extend(more.iter().map(|arg| (*arg).to_owned()));
    Some(args)
}

fn boots(machine: &str, cpus: &str, memory: &str) {
    let append = "console=ttyS0 quiet HUSK_RUN=\"dmesg | grep -c SMBIOS; echo cpus $(nproc)\"";
    let Some(args) = with_kernel(append, &["--machine", machine, "--cpus", cpus, "--memory", memory]) else { return };
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let Some((_turn, mut husk)) = start(&args) else { return };
    husk.wait_for("SeaBIOS (version");
    husk.wait_for("Booting from ROM");
    husk.wait_for(&format!("cpus {cpus}"));
    assert_eq!(husk.exit_code(), 0, "the guest powers off by the tables that the firmware has placed");
}

#[test]
fn a_kernel_boots_on_the_pc() {
    boots("pc", "1", "128M");
}

#[test]
fn a_kernel_boots_on_the_pc_with_more_memory_than_fits_below_4_gib() {
    boots("pc", "3", "4G");
}

#[test]
fn a_kernel_boots_on_the_q35() {
    boots("q35", "2", "256M");
}

#[test]
fn the_firmware_says_what_it_finds_and_that_nothing_boots() {
    for machine in ["pc", "q35"] {
        let more = ["--machine", machine, "--serial", "none", "--debug-port", "stdio", "--cpus", "2"];
        let Some((_turn, mut husk)) = start(&more) else { return };
        for said in [
            "Running on QEMU",
            "DMA interface supported",
            "Found 2 cpu(s)",
            "SMBIOS",
            "parse DSDT",
            "No bootable device",
        ] {
            husk.wait_for(said);
        }
        husk.signal("TERM");
        assert_eq!(husk.exit_code(), 143);
    }
}

#[test]
fn a_reset_by_the_firmware_comes_back_through_it() {
    // A file of two bytes is a number: a moment to wait before it starts again.
    let more = ["--machine", "pc", "--fw-cfg", "etc/boot-fail-wait,string=\u{1}\u{1}"];
    let Some((_turn, mut husk)) = start(&more) else { return };
    for _ in 0..3 {
        husk.wait_for("SeaBIOS (version");
        husk.wait_for("Rebooting");
    }
    husk.signal("TERM");
    assert_eq!(husk.exit_code(), 143);
}

#[test]
fn a_reboot_of_the_kernel_comes_back_through_the_firmware() {
    let Some(args) = with_kernel("console=ttyS0 quiet HUSK_RUN=\"reboot -f\"", &["--machine", "pc"]) else { return };
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let Some((_turn, mut husk)) = start(&args) else { return };
    for _ in 0..2 {
        husk.wait_for("Booting from ROM");
    }
    husk.signal("TERM");
    assert_eq!(husk.exit_code(), 143);
}

#[test]
fn a_disk_boots() {
    let Some(bios) = guest("firmware") else { return };
    let folder = testkit::folder::Folder::new("boot-sector");
    let image = folder.join("disk.raw");
    std::fs::write(&image, testkit::payload::boot_sector()).unwrap();
    let disk = format!("{},format=raw", image.display());
    let (bios, _turn) = (bios.join("bios-256k.bin"), Turn::wait());
    let args = ["run", "--machine", "pc", "--disk", &disk, "--debug-exit", "--firmware", bios.to_str().unwrap()];
    let mut husk = Husk::in_pipes(&program(), &args, LIMIT);
    husk.wait_for("Booting from Hard Disk");
    husk.wait_for("OK");
    assert_eq!(husk.exit_code(), 7);
}

#[test]
fn what_is_no_firmware_is_refused() {
    let _turn = Turn::wait();
    let run = |args: &[&str]| {
        let mut husk = Husk::in_pipes(&program(), &[&["run"], args].concat(), LIMIT);
        (husk.exit_code(), husk.errors())
    };
    let (code, line) = run(&["--firmware", "/etc/passwd"]);
    assert!(
        code == 2 && line.contains("/etc/passwd") && line.contains("not the image of a firmware"),
        "{code}: {line}"
    );
    let (code, line) = run(&["--firmware", "/nowhere"]);
    assert!(code == 2 && line.contains("/nowhere"), "{code}: {line}");
    let (code, line) = run(&["--fw-cfg", "opt/x,string=y", "--kernel", "/dev/null"]);
    assert!(code == 2 && line.contains("--firmware bios"), "{code}: {line}");
    let (code, line) = run(&["--firmware", "bios", "--fw-cfg", "bootorder,string=y"]);
    assert!(code == 2 && line.contains("opt/"), "{code}: {line}");
}

//! What Debian packages as files to boot comes up: memtest86+, GRUB's rescue disc, iPXE and the Debian installer. What
//! they show is read from the screen.

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use common::program;
use testkit::boot::{Husk, Turn, guest};
use testkit::choice::slowness;
use testkit::folder::Folder;

/// Far beyond what any of these takes: only a guest that hangs gets there.
const LIMIT: Duration = Duration::from_secs(300);

/// The file of a system.
fn system(file: &str) -> Option<String> {
    Some(guest("systems")?.join(file).to_str()?.to_owned())
}

/// A machine whose screen is looked at.
struct Screen {
    husk: Husk,
    name: String,
    folder: Folder,
    _turn: Turn,
}

impl Screen {
    fn start(name: &str, args: &[&str]) -> Self {
        let turn = Turn::wait();
        let name = format!("{name}-{}", std::process::id());
        let husk = Husk::in_pipes(&program(), &[&["run", "--name", &name, "--serial", "none"], args].concat(), LIMIT);
        Self { husk, folder: Folder::new(&name), name, _turn: turn }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn take(&self, file: &str) -> bool {
        let path = self.file(file);
        let taken = Command::new(program()).args(["screenshot", &self.name]).arg(path).output().unwrap();
        taken.status.success()
    }

    /// Waits until the text screen shows this.
    fn shows(&mut self, text: &str) {
        let end = Instant::now() + LIMIT * slowness();
        let mut last = String::new();
        while Instant::now() < end {
            if self.take("screen.txt") {
                last = std::fs::read_to_string(self.file("screen.txt")).unwrap_or_default();
                if last.contains(text) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.husk.fail(&format!("the screen does not show {text:?}:\n{last}"));
    }

    fn keys(&self, keys: &[&str]) {
        let sent = Command::new(program()).args(["send-key", &self.name]).args(keys).output().unwrap();
        assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    }

    fn ends(mut self) {
        self.husk.signal("TERM");
        assert_eq!(self.husk.exit_code(), 143);
    }
}

#[test]
fn memtest_tests_memory() {
    let Some(kernel) = system("memtest86+.bin") else { return };
    let mut screen = Screen::start("memtest", &["--firmware", "bios", "--memory", "32M", "--kernel", &kernel]);
    screen.shows("Memtest86+ v");
    // Half of the pass: the last test of it waits for minutes on purpose.
    screen.shows("Test #6");
    screen.shows("Errors: 0");
    screen.ends();
}

/// GRUB's menu from a disc, where keys choose.
fn a_disc_boots(machine: &str) {
    let Some(disc) = system("grub-rescue.iso") else { return };
    let mut screen = Screen::start(&format!("rescue-{machine}"), &["--machine", machine, "--cdrom", &disc]);
    screen.shows("GNU GRUB  version");
    screen.shows("Memtest86+");
    screen.keys(&["c"]);
    screen.shows("grub>");
    screen.ends();
}

#[test]
fn a_rescue_disc_boots_through_ide() {
    a_disc_boots("pc");
}

#[test]
fn a_rescue_disc_boots_through_sata() {
    a_disc_boots("q35");
}

#[test]
fn ipxe_looks_for_a_network() {
    let Some(kernel) = system("ipxe.lkrn") else { return };
    let mut screen = Screen::start("ipxe", &["--firmware", "bios", "--memory", "128M", "--kernel", &kernel]);
    screen.shows("iPXE initialising devices...");
    screen.shows("Open Source Network Boot Firmware");
    screen.ends();
}

#[test]
fn the_installer_shows_its_first_screen() {
    let (Some(kernel), Some(initrd)) = (system("installer.vmlinuz"), system("installer.initrd")) else { return };
    let _turn = Turn::wait();
    let files = ["--kernel", &kernel, "--initrd", &initrd, "--memory", "1G"];
    // In low priority it asks for the language at once, and plainly so without the tool that paints frames.
    let append = ["--append", "console=ttyS0 DEBIAN_FRONTEND=text TERM=dumb quiet"];
    let mut husk = Husk::in_pipes(&program(), &[&["run"], &files[..], &append].concat(), LIMIT);
    husk.wait_for("Select a language");
    husk.wait_for("English");
    husk.signal("TERM");
    assert_eq!(husk.exit_code(), 143);
}

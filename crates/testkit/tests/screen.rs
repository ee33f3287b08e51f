//! What whole machines show on their screens: the firmware, a kernel's text console, and its frame buffers.
//! `HUSK_WATCH=1` shows the text screen at the end of each wait; `HUSK_SCREENS=FOLDER` keeps a picture of it there.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use disk::{Format, OpenOptions, block_on};
use testkit::boot::{Turn, guest};
use vm::{Config, Cpus, Disk, DiskBus, Drive, Frame, OnGuestPanic, Outcome, Payload, Picture, Supplies, Video, Vm};

/// Far beyond what any of these takes.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running machine with a screen.
struct Machine {
    vm: Vm,
    picture: Arc<dyn Picture>,
    serial: Arc<Mutex<Vec<u8>>>,
    _turn: Turn,
}

/// What to start.
#[derive(Default)]
struct Start<'a> {
    board: &'a str,
    firmware: bool,
    /// The guest, its command line, and its disk.
    kernel: Option<(&'a str, &'a str)>,
    disk: bool,
}

fn file(path: &Path) -> Payload {
    Payload::file(path.display().to_string(), std::fs::File::open(path).unwrap())
}

/// A disk whose changes are forgotten.
fn disk(path: &Path, board: &str) -> Disk {
    let options = OpenOptions { format: Some(Format::Qcow2), read_only: true, ..OpenOptions::new(path) };
    let image = block_on(disk::open(options)).unwrap();
    let image = block_on(disk::temporary(image, &std::env::temp_dir())).unwrap();
    Disk { image, serial: "SCREEN".into(), bus: DiskBus::usual(board), drive: Drive::Disk, boot: Some(0) }
}

impl Machine {
    fn start(start: &Start<'_>) -> Option<Self> {
        let firmware = if start.firmware { Some(guest("firmware")?) } else { None };
        let kernel = match start.kernel {
            Some((kind, append)) => Some((guest(kind)?, append)),
            None => None,
        };
        let disks = if start.disk { vec![disk(&guest("disk")?.join("disk.qcow2"), start.board)] } else { Vec::new() };
        let turn = Turn::wait();
        let serial = Arc::<Mutex<Vec<u8>>>::default();
        let to = Arc::clone(&serial);
        let config = Config {
            board: start.board.into(),
            memory: 512 << 20,
            cpus: Cpus { count: 2, relaxed: true, ..Cpus::default() },
            append: kernel.as_ref().map_or_else(String::new, |(_, append)| (*append).to_owned()),
            video: Video::Std,
            firmware_console: false,
            on_guest_panic: OnGuestPanic::Ignore,
            ..Config::default()
        };
        let supplies = Supplies {
            engine: testkit::choice::chosen().open(),
            firmware: firmware.as_ref().map(|folder| file(&folder.join("bios-256k.bin"))),
            variables: None,
            kernel: kernel.as_ref().map(|(folder, _)| file(&folder.join("vmlinuz"))),
            initrd: kernel.as_ref().map(|(folder, _)| file(&folder.join("initrd"))),
            disks,
            video_rom: firmware.as_ref().map(|folder| file(&folder.join("vgabios-stdvga.bin"))),
            files: Vec::new(),
            serial: vec![Box::new(move |bytes: &[u8]| to.lock().unwrap().extend_from_slice(bytes))],
            debug: None,
        };
        let vm = Vm::build(config, supplies).unwrap();
        let picture = vm.picture().unwrap();
        vm.start().unwrap();
        Some(Self { vm, picture, serial, _turn: turn })
    }

    fn text(&self) -> String {
        self.picture.text().unwrap_or_else(|| "(no text)".into())
    }

    fn wait_until(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let end = Instant::now() + PATIENCE * testkit::choice::slowness();
        while !done(self) {
            let serial = || String::from_utf8_lossy(&self.serial.lock().unwrap()).into_owned();
            assert!(Instant::now() < end, "no {what} on the screen:\n{}\nserial: {}", self.text(), serial());
            std::thread::sleep(Duration::from_millis(20));
        }
        if std::env::var_os("HUSK_WATCH").is_some() {
            eprintln!("{what}:\n{}", self.text());
        }
        if let Some(folder) = std::env::var_os("HUSK_SCREENS") {
            let name = what.replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let file = std::fs::File::create(Path::new(&folder).join(name).with_extension("png")).unwrap();
            display::write_png(&self.frame(), file).unwrap();
        }
    }

    fn wait_for(&self, text: &str) {
        self.wait_until(text, |machine| machine.text().contains(text));
    }

    /// Whether the guest has written this to its serial port.
    fn said(&self, text: &str) -> bool {
        String::from_utf8_lossy(&self.serial.lock().unwrap()).contains(text)
    }

    fn frame(&self) -> Frame {
        let mut frame = Frame::new();
        self.picture.draw(&mut frame);
        frame
    }
}

#[test]
fn the_firmware_shows_its_banner() {
    for board in ["pc-1", "q35-1"] {
        let Some(machine) = Machine::start(&Start { board, firmware: true, ..Start::default() }) else { return };
        machine.wait_for("SeaBIOS (version");
        machine.wait_for("No bootable device");
        let frame = machine.frame();
        assert_eq!((frame.width(), frame.height()), (720, 400));
        // Light grey on black, as a BIOS writes.
        assert!(frame.pixels().iter().all(|pixel| [0, 0xaa_aaaa].contains(pixel)));
        assert!(frame.pixels().iter().filter(|pixel| **pixel != 0).count() > 1000);
        machine.vm.power_off();
        assert_eq!(machine.vm.wait(), Outcome::Stopped);
    }
}

#[test]
fn a_kernel_has_its_console_on_the_text_screen() {
    let append = "HUSK_RUN=\"seq 1 40; echo on the screen; sleep 1000\"";
    let start = Start { board: "q35-1", firmware: true, kernel: Some(("generic", append)), ..Start::default() };
    let Some(machine) = Machine::start(&start) else { return };
    machine.wait_for("on the screen");
    // It has scrolled.
    let text = machine.text();
    assert!(text.contains(" 40\n") && text.lines().count() == 25, "{text}");
    assert!(machine.serial.lock().unwrap().is_empty());
    machine.vm.power_off();
    assert_eq!(machine.vm.wait(), Outcome::Stopped);
}

#[test]
fn a_kernel_has_the_frame_buffer_that_the_bios_has_set() {
    let run =
        "exec > /dev/ttyS0; cat /proc/fb; head -c 2048 /dev/zero | tr '\\0' '\\377' > /dev/fb0; echo drawn; sleep 1000";
    let append = format!("console=ttyS0 quiet vga=0x317 vt.global_cursor_default=0 HUSK_RUN=\"{run}\"");
    let start = Start { board: "pc-1", firmware: true, kernel: Some(("generic", &append)), ..Start::default() };
    let Some(machine) = Machine::start(&start) else { return };
    machine.wait_until("frame buffer", |machine| machine.said("drawn"));
    assert!(machine.said("VESA VGA"));
    let frame = machine.frame();
    assert_eq!((frame.width(), frame.height()), (1024, 768));
    assert!(frame.row(0).iter().all(|pixel| *pixel == 0xff_ffff));
    assert!(frame.row(1).iter().any(|pixel| *pixel != 0xff_ffff));
    machine.vm.power_off();
    assert_eq!(machine.vm.wait(), Outcome::Stopped);
}

#[test]
fn an_installed_system_shows_its_loader_and_then_its_own_mode() {
    let start = Start { board: "q35-1", firmware: true, disk: true, ..Start::default() };
    let Some(machine) = Machine::start(&start) else { return };
    machine.wait_for("GRUB");
    machine.wait_until("mode of the driver", |machine| machine.frame().width() == 1280);
    machine.wait_until("console in the frame buffer", |machine| {
        let frame = machine.frame();
        (0..frame.height()).filter(|y| frame.row(*y).iter().any(|pixel| *pixel != 0)).count() > 15
    });
    machine.vm.power_off();
    assert_eq!(machine.vm.wait(), Outcome::Stopped);
}

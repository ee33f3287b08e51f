//! The life of a VM around an engine that does what a script says instead of running code.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Amount, Stat, Stop, Vcpu};
use engine::{
    Breakpoints, Clock, CpuIo, DirtyLog, Engine, EngineConfig, Kicker, Limits, MsiMessage, Partition, Signal,
};
use memory::GuestMemory;
use vm::{Config, Cpus, Disk, DiskBus, Drive, Error, OnReset, Outcome, Payload, Supplies, Vm};
use x86::{CpuModel, CpuState};

type Script = dyn Fn(u32, &dyn CpuIo) -> Option<Stop> + Send + Sync;

/// Runs `script` over and over on each CPU until it gives a reason to stop, or somebody kicks.
struct Scripted {
    limits: Limits,
    script: Arc<Script>,
}

impl Scripted {
    fn new(script: impl Fn(u32, &dyn CpuIo) -> Option<Stop> + Send + Sync + 'static) -> Arc<Self> {
        let ceiling = CpuModel::named("x86-64-v3").unwrap();
        Arc::new(Self { limits: Limits { max_vcpus: 8, ceiling, dirty_log: false }, script: Arc::new(script) })
    }
}

impl Engine for Scripted {
    fn name(&self) -> &'static str {
        "scripted"
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn create(&self, _: &EngineConfig, _: &GuestMemory) -> engine::Result<Arc<dyn Partition>> {
        Ok(Arc::new(Room { clock: Clock::start().unwrap(), script: Arc::clone(&self.script) }))
    }
}

struct Room {
    clock: Clock,
    script: Arc<Script>,
}

impl Partition for Room {
    fn vcpu(&self, id: u32, model: &CpuModel) -> engine::Result<Box<dyn Vcpu>> {
        assert_eq!(std::thread::current().name(), Some(format!("cpu{id}").as_str()));
        let state = CpuState::power_on(id, model.signature());
        Ok(Box::new(Actor { id, script: Arc::clone(&self.script), kicked: Arc::default(), state }))
    }
    fn send_msi(&self, _: MsiMessage) {}
    fn signal(&self, _: u32, _: Signal) {}
    fn layout_changed(&self, _: &GuestMemory) -> engine::Result<()> {
        Ok(())
    }
    fn clock(&self) -> &Clock {
        &self.clock
    }
    fn dirty(&self) -> &dyn DirtyLog {
        &Nothing
    }
}

struct Nothing;

impl DirtyLog for Nothing {
    fn start(&self) {}
    fn stop(&self) {}
    fn collect(&self, _: &mut dyn FnMut(u64)) {}
}

struct Actor {
    id: u32,
    script: Arc<Script>,
    kicked: Arc<AtomicBool>,
    state: CpuState,
}

impl Vcpu for Actor {
    fn run(&mut self, io: &dyn CpuIo) -> engine::Result<Stop> {
        loop {
            if self.kicked.swap(false, Ordering::SeqCst) {
                return Ok(Stop::Kicked);
            }
            if let Some(stop) = (self.script)(self.id, io) {
                return Ok(stop);
            }
            std::thread::yield_now();
        }
    }
    fn kicker(&self) -> Kicker {
        let kicked = Arc::clone(&self.kicked);
        Kicker::new(move || kicked.store(true, Ordering::SeqCst))
    }
    fn state(&mut self) -> engine::Result<CpuState> {
        Ok(self.state.clone())
    }
    fn set_state(&mut self, state: &CpuState) -> engine::Result<()> {
        self.state = state.clone();
        Ok(())
    }
    fn set_breakpoints(&mut self, _: &Breakpoints) -> engine::Result<()> {
        Ok(())
    }
    fn stats(&self) -> Vec<Stat> {
        vec![RUNS]
    }
}

/// What the engine of these tests counts.
const RUNS: Stat = Stat { group: "guest", name: "runs", amount: Amount::Count(1), headline: true };

/// The least bzImage that the loader takes: a header of boot protocol 2.15 and a page of code (Linux, Documentation/arch/x86/boot.rst).
fn kernel() -> Payload {
    let mut image = vec![0u8; 0x400 + 0x1000];
    image[0x1f1] = 1;
    image[0x1f4..0x1f8].copy_from_slice(&0x100u32.to_le_bytes());
    image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    image[0x200..0x202].copy_from_slice(&[0xeb, 0x6a]);
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20fu16.to_le_bytes());
    image[0x211] = 1;
    image[0x214..0x218].copy_from_slice(&0x10_0000u32.to_le_bytes());
    image[0x22c..0x230].copy_from_slice(&0x7fff_ffffu32.to_le_bytes());
    image[0x230..0x234].copy_from_slice(&0x20_0000u32.to_le_bytes());
    image[0x234] = 1;
    image[0x236..0x238].copy_from_slice(&3u16.to_le_bytes());
    image[0x238..0x23c].copy_from_slice(&2047u32.to_le_bytes());
    image[0x258..0x260].copy_from_slice(&0x100_0000u64.to_le_bytes());
    image[0x260..0x264].copy_from_slice(&0x10_0000u32.to_le_bytes());
    Payload::bytes("kernel", image)
}

fn supplies(engine: Arc<Scripted>) -> Supplies {
    let serial: Vec<Box<dyn vm::CharOut>> = vec![Box::new(|_: &[u8]| {})];
    Supplies {
        engine,
        firmware: None,
        kernel: Some(kernel()),
        initrd: None,
        variables: None,
        disks: Vec::new(),
        video_rom: None,
        files: Vec::new(),
        serial,
        debug: None,
    }
}

fn config(cpus: u32) -> Config {
    let cpus = Cpus { count: cpus, ..Cpus::default() };
    Config { memory: 64 << 20, cpus, debug_exit: true, ..Config::default() }
}

fn run(config: Config, engine: Arc<Scripted>) -> Outcome {
    let vm = Vm::build(config, supplies(engine)).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.start(), Err(Error::Started)));
    vm.wait()
}

const RESET_CONTROL: u16 = 0xcf9;
const DEBUG_EXIT: u16 = 0x501;

fn reset(io: &dyn CpuIo) {
    io.port_write(RESET_CONTROL, &[2]);
    io.port_write(RESET_CONTROL, &[6]);
}

#[test]
fn a_guest_ends_with_its_exit_code() {
    let engine = Scripted::new(|cpu, io| {
        if cpu == 2 {
            io.port_write(DEBUG_EXIT, &[7, 0, 0, 0]);
        }
        None
    });
    assert_eq!(run(config(3), engine), Outcome::Exit(7));
}

#[test]
fn a_reset_starts_the_machine_again_or_ends_it() {
    let resets = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&resets);
    let engine = Scripted::new(move |cpu, io| {
        if cpu == 0 && seen.fetch_add(1, Ordering::SeqCst) < 2 {
            reset(io);
        } else if cpu == 0 {
            return Some(Stop::PowerOff);
        }
        None
    });
    assert_eq!(run(config(2), engine), Outcome::PowerOff);
    assert!(resets.load(Ordering::SeqCst) >= 3);
    let engine = Scripted::new(|_, io| {
        reset(io);
        None
    });
    assert_eq!(run(Config { on_reset: OnReset::Exit, ..config(1) }, engine), Outcome::Reset);
}

#[test]
fn a_triple_fault_tells_the_registers() {
    let engine = Scripted::new(|_, _| Some(Stop::TripleFault));
    let Outcome::TripleFault(line) = run(config(1), engine) else { panic!("no triple fault") };
    assert!(line.starts_with("cpu0 rip=") && !line.contains('\n'), "{line}");
}

#[test]
fn a_panic_on_a_cpu_ends_the_vm() {
    let engine = Scripted::new(|cpu, _| {
        assert!(cpu != 1, "the script is over");
        None
    });
    let Outcome::Failed(text) = run(config(2), engine) else { panic!("no failure") };
    assert!(text.contains("cpu1") && text.contains("the script is over"), "{text}");
}

#[test]
fn a_paused_vm_stands_still() {
    let turns = Arc::new(AtomicU32::new(0));
    let seen = Arc::clone(&turns);
    let engine = Scripted::new(move |_, _| {
        seen.fetch_add(1, Ordering::SeqCst);
        None
    });
    let vm = Vm::build(config(4), supplies(engine)).unwrap();
    vm.start().unwrap();
    let running = || {
        let before = turns.load(Ordering::SeqCst);
        while turns.load(Ordering::SeqCst) == before {
            std::thread::yield_now();
        }
    };
    running();
    let stats = vm.stats();
    assert_eq!(stats.len(), 4);
    for cpu in stats {
        assert_eq!(cpu[0], RUNS);
        // The thread's own time, which it has used some of.
        assert!(cpu.len() == 2 && cpu[1].name == "host CPU" && !cpu[1].amount.is_zero());
    }
    for _ in 0..20 {
        vm.pause();
        let before = turns.load(Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(turns.load(Ordering::SeqCst), before);
        vm.resume();
        running();
    }
    vm.pause();
    vm.power_off();
    assert_eq!(vm.wait(), Outcome::Stopped);
}

#[test]
fn a_kernel_panic_on_the_console_ends_the_vm() {
    const COM1: u16 = 0x3f8;
    let text: Vec<u8> =
        b"boot\r\nKernel panic - not syncing: no init\r\n---[ end Kernel panic - not syncing ]---\r\n".into();
    let at = AtomicU32::new(0);
    let shown = Arc::new(Mutex::new(Vec::new()));
    let engine = Scripted::new(move |_, io| {
        if let Some(byte) = text.get(at.fetch_add(1, Ordering::SeqCst) as usize) {
            io.port_write(COM1, &[*byte]);
        }
        None
    });
    let to = Arc::clone(&shown);
    let serial = Box::new(move |bytes: &[u8]| to.lock().unwrap().extend_from_slice(bytes));
    let vm = Vm::build(config(1), Supplies { serial: vec![serial], ..supplies(engine) }).unwrap();
    vm.start().unwrap();
    assert_eq!(vm.wait(), Outcome::GuestPanic("Kernel panic - not syncing: no init".into()));
    assert!(shown.lock().unwrap().ends_with(b"]---\r\n"));
}

#[test]
fn impossible_machines_are_refused() {
    let refused = |config: Config| {
        let error = Vm::build(config, supplies(Scripted::new(|_, _| None))).err().unwrap();
        assert!(error.is_input() && !error.to_string().contains('\n'), "{error}");
        error.to_string()
    };
    assert!(refused(config(0)).contains("1 to 8"));
    assert!(refused(config(9)).contains("1 to 8"));
    assert!(refused(Config { memory: 1 << 20, ..config(1) }).contains("MiB"));
    assert!(refused(Config { board: "pdp-11".into(), ..config(1) }).contains("q35-1"));
    let model = Cpus { model: "486".into(), ..Cpus::default() };
    assert!(refused(Config { cpus: model, ..config(1) }).contains("x86-64-v3"));
}

/// What a guest does that writes sector 5 of the first IDE disk and has never heard of flushing (ATA-7, volume 1, WRITE
/// SECTORS).
fn write_a_sector(io: &dyn CpuIo) {
    let status = |wanted: u8| {
        let mut status = [0x80];
        while status[0] & 0x80 != 0 || status[0] & wanted != wanted {
            io.port_read(0x1f7, &mut status);
        }
        assert_eq!(status[0] & 1, 0, "no error");
    };
    for (port, value) in [(0x1f2, 1), (0x1f3, 5), (0x1f4, 0), (0x1f5, 0), (0x1f6, 0xe0), (0x1f7, 0x30)] {
        io.port_write(port, &[value]);
    }
    status(8);
    (0..256).for_each(|_| io.port_write(0x1f0, b"Hi"));
    status(0x40);
}

#[test]
fn what_the_guest_has_written_is_in_the_file_when_the_vm_has_ended() {
    let path = std::env::temp_dir().join(format!("husk-test-{}-ended.qcow2", std::process::id()));
    let _ = std::fs::remove_file(&path);
    disk::block_on(disk::create(&disk::CreateOptions::new(&path, disk::Format::Qcow2, 1 << 20))).unwrap();
    let image = disk::block_on(disk::open(disk::OpenOptions::new(&path))).unwrap();
    let engine = Scripted::new(|_, io| {
        write_a_sector(io);
        Some(Stop::PowerOff)
    });
    let disk = Disk { image, serial: "1".into(), bus: DiskBus::Ide, drive: Drive::Disk, boot: None };
    let config = Config { board: "pc-1".into(), ..config(1) };
    let vm = Vm::build(config, Supplies { disks: vec![disk], ..supplies(engine) }).unwrap();
    vm.start().unwrap();
    assert!(matches!(vm.wait(), Outcome::PowerOff));
    // As another process sees it, and as it is after this one has been killed: the VM is still there.
    let options = disk::OpenOptions { read_only: true, unlocked: true, ..disk::OpenOptions::new(&path) };
    let seen = disk::block_on(disk::open(options)).unwrap();
    let mut sector = [0; 512];
    disk::block_on(disk::read_at(&*seen, 5 * 512, &mut sector)).unwrap();
    assert_eq!(sector[..4], *b"HiHi");
    let _ = std::fs::remove_file(&path);
}

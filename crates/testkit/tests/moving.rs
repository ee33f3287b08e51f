//! A guest that is moved from engine to engine in the middle of its work: its timer goes on, its interrupts come, and its
//! clocks never go back. `HUSK_WATCH=1` shows the console of the Linux that is moved.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use engine::{Engine, EngineConfig, Limits, Partition};
use engine_kvm::KvmEngine;
use engine_soft::{SoftEngine, SoftOptions};
use iced_x86::code_asm::*;
use memory::GuestMemory;
use vm::{Config, Cpus, EntryMode, Error, Outcome, Payload, Supplies, Vm};

/// Where the guest keeps things.
const IDT: u64 = 0x40_0000;
const DATA: u64 = 0x40_1000;
const IDTR: u64 = 0x40_2000;
const STACK: u64 = 0x50_0000;
/// In [`DATA`]: timer interrupts, the latest time-stamp and time of the paravirtual clock, its structure.
const TICKS: u64 = DATA;
const TSC: u64 = DATA + 8;
const TIME: u64 = DATA + 16;
const CLOCK: u64 = DATA + 0x40;
const VECTOR: u64 = 0x40;
const COM1: u32 = 0x3f8;
/// How long a guest may take to show life on a slow host.
const PATIENCE: Duration = Duration::from_secs(60);

fn wrmsr(a: &mut CodeAssembler, number: u32, value: u64) -> Result<(), IcedError> {
    testkit::bare::write_msr(a, number, value)
}

/// A kernel that writes a dot for every 8 interrupts of its local APIC's timer, `T` when its time-stamp counter has gone
/// back and `K` when its paravirtual clock has. Integer instructions only.
fn program() -> Result<Vec<u8>, IcedError> {
    let mut a = CodeAssembler::new(64)?;
    let (mut handler, mut quiet) = (a.create_label(), a.create_label());
    let (mut work, mut read, mut right) = (a.create_label(), a.create_label(), a.create_label());
    let (mut scaled, mut tsc_back, mut time_back) = (a.create_label(), a.create_label(), a.create_label());
    a.cli()?;
    a.mov(rsp, STACK)?;
    a.lea(rax, ptr(handler))?;
    a.mov(rdi, IDT + VECTOR * 16)?;
    a.mov(word_ptr(rdi), ax)?;
    a.mov(word_ptr(rdi + 2), 0x10)?;
    a.mov(word_ptr(rdi + 4), 0x8e00)?;
    a.shr(rax, 16)?;
    a.mov(word_ptr(rdi + 6), ax)?;
    a.shr(rax, 16)?;
    a.mov(dword_ptr(rdi + 8), eax)?;
    a.mov(dword_ptr(rdi + 12), 0)?;
    a.mov(rdi, IDTR)?;
    a.mov(word_ptr(rdi), 0xfff)?;
    a.mov(rax, IDT)?;
    a.mov(qword_ptr(rdi + 2), rax)?;
    a.lidt(ptr(rdi))?;
    // The local APIC: x2APIC mode, enabled, its timer every 2 ms.
    wrmsr(&mut a, 0x1b, 0xfee0_0d00)?;
    wrmsr(&mut a, 0x80f, 0x1ff)?;
    wrmsr(&mut a, 0x83e, 0xb)?;
    wrmsr(&mut a, 0x832, 1 << 17 | VECTOR)?;
    wrmsr(&mut a, 0x838, 2_000_000)?;
    wrmsr(&mut a, 0x4b56_4d01, CLOCK | 1)?;
    a.sti()?;
    a.set_label(&mut work)?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.mov(rdi, TSC)?;
    a.mov(rbx, qword_ptr(rdi))?;
    a.mov(qword_ptr(rdi), rax)?;
    a.cmp(rax, rbx)?;
    a.jb(tsc_back)?;
    a.set_label(&mut read)?;
    a.mov(rsi, CLOCK)?;
    a.mov(r8d, dword_ptr(rsi))?;
    a.test(r8d, 1)?;
    a.jnz(read)?;
    a.rdtsc()?;
    a.shl(rdx, 32)?;
    a.or(rax, rdx)?;
    a.sub(rax, qword_ptr(rsi + 8))?;
    a.mov(cl, byte_ptr(rsi + 28))?;
    a.test(cl, cl)?;
    a.js(right)?;
    a.shl(rax, cl)?;
    a.jmp(scaled)?;
    a.set_label(&mut right)?;
    a.neg(cl)?;
    a.shr(rax, cl)?;
    a.set_label(&mut scaled)?;
    a.mov(edx, dword_ptr(rsi + 24))?;
    a.mul(rdx)?;
    a.shrd(rax, rdx, 32)?;
    a.add(rax, qword_ptr(rsi + 16))?;
    a.cmp(r8d, dword_ptr(rsi))?;
    a.jne(read)?;
    a.mov(rdi, TIME)?;
    a.mov(rbx, qword_ptr(rdi))?;
    a.mov(qword_ptr(rdi), rax)?;
    a.cmp(rax, rbx)?;
    a.jb(time_back)?;
    a.jmp(work)?;
    a.set_label(&mut tsc_back)?;
    a.mov(al, u32::from(b'T'))?;
    a.mov(dx, COM1)?;
    a.out(dx, al)?;
    a.jmp(read)?;
    a.set_label(&mut time_back)?;
    a.mov(al, u32::from(b'K'))?;
    a.mov(dx, COM1)?;
    a.out(dx, al)?;
    a.jmp(work)?;
    a.set_label(&mut handler)?;
    a.push(rax)?;
    a.push(rcx)?;
    a.push(rdx)?;
    a.mov(rcx, TICKS)?;
    a.add(dword_ptr(rcx), 1)?;
    a.test(dword_ptr(rcx), 7)?;
    a.jnz(quiet)?;
    a.mov(al, u32::from(b'.'))?;
    a.mov(dx, COM1)?;
    a.out(dx, al)?;
    a.set_label(&mut quiet)?;
    wrmsr(&mut a, 0x80b, 0)?;
    a.pop(rdx)?;
    a.pop(rcx)?;
    a.pop(rax)?;
    a.iretq()?;
    a.assemble(0)
}

/// [`program`] as a bzImage (Linux, Documentation/arch/x86/boot.rst).
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
    let code = program().unwrap();
    image[0x600..0x600 + code.len()].copy_from_slice(&code);
    Payload::bytes("kernel", image)
}

/// What the guest has written, and a bell for it.
#[derive(Clone, Default)]
struct Console(Arc<(Mutex<String>, Condvar)>);

impl Console {
    fn take(&self, bytes: &[u8]) {
        self.0.0.lock().unwrap().push_str(&String::from_utf8_lossy(bytes));
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        self.0.0.lock().unwrap().clone()
    }

    /// Waits for `more` dots.
    fn wait(&self, more: usize) {
        let start = Instant::now();
        let mut text = self.0.0.lock().unwrap();
        let want = text.len() + more;
        while text.len() < want {
            assert!(start.elapsed() < PATIENCE, "the guest is silent after {text:?}");
            text = self.0.1.wait_timeout(text, Duration::from_secs(1)).unwrap().0;
        }
    }
}

/// Linux is moved from its first instructions to its end, between the engine that is tested and the software engine, and
/// notices nothing.
#[test]
fn linux_goes_on() {
    let Some(guest) = testkit::boot::guest("cloud") else { return };
    let _turn = testkit::boot::Turn::wait();
    let console = Console::default();
    let to = console.clone();
    let watch = std::env::var_os("HUSK_WATCH").is_some();
    let run = "n=0; while [ $n -lt 300 ]; do n=$((n+1)); echo tick-$n; done; sha256sum /bin/busybox | wc -c; dmesg";
    let config = Config {
        memory: 256 << 20,
        cpus: Cpus { count: 2, model: "x86-64-v2".into(), relaxed: true },
        append: format!("console=ttyS0 panic=-1 HUSK_RUN=\"{run}\""),
        ..Config::default()
    };
    let file = |name: &str| Payload::file(name, std::fs::File::open(guest.join(name)).unwrap());
    let home = testkit::choice::chosen().open();
    let supplies = Supplies {
        engine: Arc::clone(&home),
        firmware: None,
        kernel: Some(file("vmlinuz")),
        initrd: Some(file("initrd")),
        variables: None,
        disks: Vec::new(),
        video_rom: None,
        files: Vec::new(),
        serial: vec![Box::new(move |bytes: &[u8]| {
            if watch {
                eprint!("{}", String::from_utf8_lossy(bytes));
            }
            to.take(bytes);
        })],
        debug: None,
    };
    let vm = Vm::build(config, supplies).unwrap();
    vm.start().unwrap();
    let mut moves = 0;
    for turn in 0.. {
        let away = turn % 2 == 0;
        let moved = if away { vm.move_to(&soft()) } else { vm.move_to(&*home) };
        match moved {
            Ok(()) => moves += 1,
            Err(Error::NotRunning) => break,
            // It has ended on the way.
            Err(Error::Move { .. }) => {}
            Err(other) => panic!("{other}"),
        }
        // A move costs the translated code, and so the guest much of its speed for a while.
        std::thread::sleep(Duration::from_millis(20) * testkit::choice::slowness());
        assert!(turn < 2000, "the guest does not end: {}", console.text());
    }
    assert_eq!(vm.wait(), Outcome::PowerOff, "{}", console.text());
    let text = console.text();
    println!("{moves} moves");
    assert!(moves > 4 && text.contains("tick-300"), "{moves} moves: {text}");
    for bad in ["BUG", "Call Trace", "stall", "unstable", "lockup", "backwards"] {
        assert!(!text.contains(bad), "{bad} in {text}");
    }
}

fn start(engine: Arc<dyn Engine>) -> (Vm, Console) {
    let console = Console::default();
    let to = console.clone();
    let cpus = Cpus { count: 2, model: "x86-64-v2".into(), relaxed: true };
    let config = Config { memory: 64 << 20, cpus, entry: EntryMode::Boot64, ..Config::default() };
    let serial: Vec<Box<dyn vm::CharOut>> = vec![Box::new(move |bytes: &[u8]| to.take(bytes))];
    let vm = Vm::build(
        config,
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
        },
    )
    .unwrap();
    assert!(matches!(vm.move_to(&soft()), Err(Error::NotRunning)));
    vm.start().unwrap();
    (vm, console)
}

/// An engine that offers no more than another one.
struct Like {
    engine: SoftEngine,
    limits: Limits,
}

impl Like {
    fn new(engine: SoftEngine, other: &dyn Engine) -> Self {
        let ceiling = engine.limits().ceiling.clone().intersect(&other.limits().ceiling);
        Self { limits: Limits { ceiling, ..engine.limits().clone() }, engine }
    }
}

impl Engine for Like {
    fn name(&self) -> &'static str {
        self.engine.name()
    }
    fn limits(&self) -> &Limits {
        &self.limits
    }
    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> engine::Result<Arc<dyn Partition>> {
        self.engine.create(cfg, mem)
    }
}

/// The software engine, that takes its time to take a guest over and tells when it begins.
struct Slow(SoftEngine, Mutex<std::sync::mpsc::Sender<()>>);

impl Engine for Slow {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn limits(&self) -> &Limits {
        self.0.limits()
    }
    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> engine::Result<Arc<dyn Partition>> {
        self.0.create(cfg, mem)
    }
    fn take_over(
        &self,
        cfg: &EngineConfig,
        mem: &GuestMemory,
        clock: &engine::Clock,
    ) -> engine::Result<Arc<dyn Partition>> {
        self.1.lock().unwrap().send(()).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        self.0.take_over(cfg, mem, clock)
    }
}

/// The software engine, with a place less than the guest has CPUs: the last one is refused when the others are ready.
struct Short(SoftEngine);

impl Engine for Short {
    fn name(&self) -> &'static str {
        self.0.name()
    }
    fn limits(&self) -> &Limits {
        self.0.limits()
    }
    fn create(&self, cfg: &EngineConfig, mem: &GuestMemory) -> engine::Result<Arc<dyn Partition>> {
        self.0.create(cfg, mem)
    }
    fn take_over(
        &self,
        cfg: &EngineConfig,
        mem: &GuestMemory,
        clock: &engine::Clock,
    ) -> engine::Result<Arc<dyn Partition>> {
        self.0.take_over(&EngineConfig { vcpus: cfg.vcpus - 1, ..cfg.clone() }, mem, clock)
    }
}

fn soft() -> SoftEngine {
    SoftEngine::new(SoftOptions::default()).unwrap()
}

fn kvm() -> Option<KvmEngine> {
    KvmEngine::new().inspect_err(|error| eprintln!("SKIPPED, and so not tested: {error}")).ok()
}

fn end(vm: &Vm, console: &Console) {
    vm.power_off();
    assert_eq!(vm.wait(), Outcome::Stopped);
    let text = console.text();
    assert!(text.bytes().all(|byte| byte == b'.'), "a clock has gone back: {text}");
}

#[test]
fn between_two_software_cpus() {
    let (vm, console) = start(Arc::new(soft()));
    console.wait(3);
    for turn in 0..6 {
        vm.move_to(&soft()).unwrap();
        console.wait(2);
        if turn == 3 {
            // A VM that stands still stays so.
            vm.pause();
            vm.move_to(&soft()).unwrap();
            let before = console.text();
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(console.text(), before);
            vm.resume();
        }
    }
    vm.reset();
    console.wait(3);
    end(&vm, &console);
    assert!(matches!(vm.move_to(&soft()), Err(Error::NotRunning)));
}

#[test]
fn a_guest_goes_on_where_it_is_when_one_cpu_is_refused() {
    let engines = [Some(Arc::new(soft()) as Arc<dyn Engine>), kvm().map(|kvm| Arc::new(kvm) as _)];
    for engine in engines.into_iter().flatten() {
        let (vm, console) = start(engine);
        console.wait(3);
        for _ in 0..5 {
            assert!(matches!(vm.move_to(&Short(soft())), Err(Error::Move { .. })));
            console.wait(3);
        }
        vm.pause();
        assert!(matches!(vm.move_to(&Short(soft())), Err(Error::Move { .. })));
        vm.resume();
        console.wait(3);
        end(&vm, &console);
    }
}

#[test]
fn what_is_wanted_during_a_move_counts_after_it() {
    let (vm, console) = start(Arc::new(soft()));
    console.wait(3);
    let move_and = |meanwhile: &dyn Fn()| {
        let (begins, begun) = std::sync::mpsc::channel();
        let slow = Slow(soft(), Mutex::new(begins));
        std::thread::scope(|scope| {
            let moved = scope.spawn(|| vm.move_to(&slow));
            begun.recv().unwrap();
            meanwhile();
            moved.join().unwrap().unwrap();
        });
    };
    let stands_still = || {
        let before = console.text();
        std::thread::sleep(Duration::from_millis(50));
        console.text() == before
    };
    move_and(&|| vm.pause());
    assert!(stands_still());
    move_and(&|| vm.resume());
    console.wait(3);
    move_and(&|| vm.reset());
    console.wait(3);
    // A machine that has been reset and has not run yet.
    vm.pause();
    vm.reset();
    move_and(&|| {});
    assert!(stands_still());
    vm.resume();
    console.wait(3);
    // Many at once, each with another wish.
    std::thread::scope(|scope| {
        for turn in 0..4 {
            let vm = &vm;
            scope.spawn(move || {
                for _ in 0..5 {
                    match turn {
                        0 | 1 => vm.move_to(&soft()).unwrap(),
                        2 => {
                            vm.pause();
                            vm.resume();
                        }
                        _ => vm.reset(),
                    }
                }
            });
        }
    });
    vm.resume();
    console.wait(3);
    end(&vm, &console);
}

#[test]
fn from_kvm_to_software_and_back() {
    let Some(kvm) = kvm() else { return };
    let kvm = Arc::new(kvm);
    let (vm, console) = start(Arc::clone(&kvm) as _);
    console.wait(3);
    for _ in 0..5 {
        vm.move_to(&soft()).unwrap();
        console.wait(3);
        vm.move_to(&*kvm).unwrap();
        console.wait(3);
    }
    end(&vm, &console);
}

#[test]
fn from_software_to_kvm_or_not_at_all() {
    let Some(kvm) = kvm() else { return };
    let (vm, console) = start(Arc::new(Like::new(soft(), &kvm)));
    console.wait(3);
    // A host that cannot scale its time-stamp counter says so, and the guest goes on where it is.
    match vm.move_to(&kvm) {
        Ok(()) => console.wait(3),
        Err(Error::Move { engine: "kvm", reason }) => assert!(reason.contains("time-stamp counter"), "{reason}"),
        Err(other) => panic!("{other}"),
    }
    console.wait(3);
    vm.move_to(&soft()).unwrap();
    console.wait(3);
    end(&vm, &console);
}

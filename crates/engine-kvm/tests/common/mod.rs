//! What the tests of the KVM engine share: a machine of one recorder, and guests that talk to it.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{CpuIo, Engine, EngineConfig, Kicker, Partition, Stop, Vcpu};
use engine_kvm::KvmEngine;
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use memory::{Gpa, GuestMemory, Kind, Region};
use testkit::bare::{Bare, EXIT, IDT, RAM, gate32, selector};
use x86::CpuModel;

/// The local APIC's registers.
pub(crate) const LAPIC: u32 = 0xfee0_0000;
/// A guest that has not ended by then hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// The engine, or `None`, after a loud line, on a host without `/dev/kvm`.
pub(crate) fn engine() -> Option<KvmEngine> {
    match KvmEngine::new() {
        Ok(engine) => Some(engine),
        Err(error) => {
            eprintln!("SKIPPED, and so not tested: {error}");
            None
        }
    }
}

/// What a CPU has done at its pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pin {
    In(u16, usize),
    Out(u16, Vec<u8>),
    Read(u64, usize),
    Write(u64, Vec<u8>),
    Ack(Option<u8>),
    Eoi(u8),
}

/// All devices of the machine: it notes everything and tells it at once.
pub(crate) struct Recorder {
    log: Mutex<Vec<Pin>>,
    told: Mutex<Sender<Pin>>,
    kicker: Kicker,
    /// How often the guest has ended a run.
    pub(crate) exits: AtomicU32,
    /// The vectors that the PIC has waiting.
    pub(crate) pic: Mutex<VecDeque<u8>>,
    /// The run ends when the PIC is asked.
    pub(crate) kick_on_ack: AtomicBool,
    /// Drops INTR when the PIC is asked.
    partition: Arc<dyn Partition>,
}

impl Recorder {
    fn note(&self, pin: Pin) {
        self.log.lock().unwrap().push(pin.clone());
        let _ = self.told.lock().unwrap().send(pin);
    }

    /// What has been noted, the writes that end a run left out.
    pub(crate) fn log(&self) -> Vec<Pin> {
        self.log.lock().unwrap().clone()
    }

    /// What was written to `port`.
    pub(crate) fn port(&self, port: u16) -> Vec<u32> {
        let word = |data: &[u8]| data.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
        let pick = |pin| if let Pin::Out(at, data) = pin { (at == port).then(|| word(&data)) } else { None };
        self.log().into_iter().filter_map(pick).collect()
    }
}

impl CpuIo for Recorder {
    /// Each byte reads as the low byte of its address.
    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        self.note(Pin::Read(addr, data.len()));
        data.iter_mut().zip(addr..).for_each(|(byte, addr)| *byte = addr as u8);
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.note(Pin::Write(addr, data.to_vec()));
    }

    /// Each byte reads as its number plus the port's plus how often the port has been read.
    fn port_read(&self, port: u16, data: &mut [u8]) {
        let before = self.log().iter().filter(|pin| matches!(pin, Pin::In(at, _) if *at == port)).count();
        self.note(Pin::In(port, data.len()));
        data.iter_mut().enumerate().for_each(|(i, byte)| *byte = (usize::from(port) + i + 16 * before) as u8);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        if port == EXIT {
            self.exits.fetch_add(1, Ordering::SeqCst);
            self.kicker.kick();
            return;
        }
        self.note(Pin::Out(port, data.to_vec()));
    }

    fn pic_ack(&self) -> Option<u8> {
        let vector = self.pic.lock().unwrap().pop_front();
        if self.pic.lock().unwrap().is_empty() {
            self.partition.signal(0, engine::Signal::ExtInt(false));
        }
        self.note(Pin::Ack(vector));
        if self.kick_on_ack.load(Ordering::SeqCst) {
            self.kicker.kick();
        }
        vector
    }

    fn eoi(&self, vector: u8) {
        self.note(Pin::Eoi(vector));
    }
}

/// A machine of the recorder and one or more CPUs; the first starts with a bare guest's state.
pub(crate) struct Machine {
    pub(crate) memory: GuestMemory,
    pub(crate) partition: Arc<dyn Partition>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) cpus: Vec<Box<dyn Vcpu>>,
    told: Receiver<Pin>,
}

impl Machine {
    pub(crate) fn new(engine: &KvmEngine, bare: &Bare) -> Self {
        Self::with(engine, bare, 1, &[])
    }

    /// With more CPUs and regions.
    pub(crate) fn with(engine: &KvmEngine, bare: &Bare, cpus: u32, more: &[Region]) -> Self {
        let mut regions = vec![Region { start: Gpa(0), len: RAM, kind: Kind::Ram }];
        regions.extend_from_slice(more);
        let memory = GuestMemory::new(&regions).unwrap();
        let mut contents = vec![0; RAM as usize];
        bare.memory.read(Gpa(0), &mut contents).unwrap();
        memory.write(Gpa(0), &contents).unwrap();
        let config = EngineConfig { vcpus: cpus, name: "test".into() };
        let partition = engine.create(&config, &memory).unwrap();
        let model = CpuModel::named("x86-64-v3").unwrap().intersect(&engine.limits().ceiling);
        let mut cpus: Vec<_> = (0..cpus).map(|id| partition.vcpu(id, &model).unwrap()).collect();
        let mut state = bare.state.clone();
        state.msrs.tsc_hz = 0;
        cpus[0].set_state(&state).unwrap();
        let (sender, told) = channel();
        let recorder = Arc::new(Recorder {
            log: Mutex::default(),
            told: Mutex::new(sender),
            kicker: cpus[0].kicker(),
            exits: AtomicU32::new(0),
            pic: Mutex::default(),
            kick_on_ack: AtomicBool::new(false),
            partition: Arc::clone(&partition),
        });
        partition.clock().resume();
        Self { memory, partition, recorder, cpus, told }
    }

    /// Runs the first CPU on this thread until the guest ends the run. One that hangs is ended too, and its test will fail.
    pub(crate) fn run(&mut self) -> Stop {
        let (done, over) = channel::<()>();
        let kicker = self.cpus[0].kicker();
        let watch = std::thread::spawn(move || {
            if over.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                kicker.kick();
            }
        });
        let stop = self.cpus[0].run(&*self.recorder).unwrap();
        drop(done);
        watch.join().unwrap();
        stop
    }

    /// Runs the first CPU while `meanwhile` does something to it.
    pub(crate) fn run_while(&mut self, meanwhile: impl FnOnce(&Outside<'_>) + Send) -> Stop {
        let cpu = &mut self.cpus[0];
        let (told, recorder, partition) = (&mut self.told, &self.recorder, &self.partition);
        let kicker = cpu.kicker();
        let result = std::thread::scope(|scope| {
            let running = scope.spawn(|| cpu.run(&**recorder));
            let outside = Outside { told, partition, kicker: kicker.clone() };
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&outside)));
            if outcome.is_err() {
                kicker.kick();
            }
            let stop = running.join().unwrap();
            if let Err(panic) = outcome {
                eprintln!("the run: {stop:?}");
                std::panic::resume_unwind(panic);
            }
            stop
        });
        result.unwrap()
    }
}

/// What a test sees of a machine that runs.
pub(crate) struct Outside<'a> {
    told: &'a Receiver<Pin>,
    pub(crate) partition: &'a Arc<dyn Partition>,
    pub(crate) kicker: Kicker,
}

impl Outside<'_> {
    /// Waits for something at the pins; what comes before it is passed over.
    pub(crate) fn wait_for(&self, wanted: &Pin) {
        loop {
            let pin = self.told.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {wanted:?}"));
            if pin == *wanted {
                return;
            }
        }
    }

    /// Waits for `value`, a byte, at `port`.
    pub(crate) fn wait_for_out(&self, port: u16, value: u8) {
        self.wait_for(&Pin::Out(port, vec![value]));
    }
}

/// Writes `value` to the local APIC's register at `offset`, in protected mode.
pub(crate) fn lapic_write(a: &mut CodeAssembler, offset: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dword_ptr(LAPIC + offset), value)
}

/// Enables the local APIC.
pub(crate) fn lapic_enable(a: &mut CodeAssembler) -> Result<(), IcedError> {
    lapic_write(a, 0xf0, 0x1ff)
}

/// Writes a byte to a port.
pub(crate) fn out(a: &mut CodeAssembler, port: u16, value: u8) -> Result<(), IcedError> {
    a.mov(al, u32::from(value))?;
    a.out(i32::from(port), al)
}

/// Ends the run.
pub(crate) fn exit(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.out(i32::from(EXIT), al)
}

/// An interrupt gate of protected mode for `vector`, with its code at `at`. The code is entered with interrupts off; it does
/// not return, for not each host's KVM does IRET here.
pub(crate) fn handler(
    bare: &Bare,
    vector: u8,
    at: u32,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    bare.write64(IDT + 8 * u64::from(vector), gate32(selector::CODE32, at, 0x8e));
    bare.code(32, u64::from(at), code);
}

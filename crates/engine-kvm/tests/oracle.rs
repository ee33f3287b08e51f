//! Programs of random instructions, run by the software engine's interpreter and by KVM from the same state.
//!
//! The programs are those that compare the translator with the interpreter (`engine-soft`'s `tests/sequences.rs`): loops,
//! subroutines, self-modifying stores, faults of all kinds, in ring 3 as 64-bit or 32-bit code, and, with integer
//! instructions only, in ring 0. A fault goes through the IDT to a handler in ring 0, whose port write ends the run. In
//! the end both must have left the same registers, x87 and vector state, memory and exception frame.
//!
//! `HUSK_SEED` sets the seed, `HUSK_CASES` the number of programs.

mod common;
#[allow(dead_code, reason = "shared with the tests of the software engine")]
#[path = "../../engine-soft/tests/oracle/mod.rs"]
mod oracle;
#[allow(dead_code, reason = "shared with the tests of the software engine")]
#[path = "../../engine-soft/tests/twins/mod.rs"]
mod twins;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use engine::{CpuIo, Engine, EngineConfig, Error, Kicker, Partition, Vcpu};
use engine_soft::SoftOptions;
use iced_x86::{CpuidFeature, Decoder, DecoderOptions, Mnemonic};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::Feature;
use x86::bits::cr4;

use oracle::generate::Generator;
use oracle::random::Random;
use twins::machine::{EXIT, End, Machine};
use twins::program::{Mode, Program};
use twins::trace::{self, Open};

/// More blocks than any program needs that ends.
const BUDGET: usize = 20_000;
/// What a program may take on KVM before it is given up.
const LONGEST: Duration = Duration::from_secs(3);

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// The machine around a vCPU: one port, which ends the run.
struct Exit {
    kicker: Kicker,
    reached: AtomicBool,
}

impl CpuIo for Exit {
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, port: u16, _: &[u8]) {
        if port == u16::from(EXIT) {
            self.reached.store(true, Ordering::SeqCst);
            self.kicker.kick();
        }
    }
    fn pic_ack(&self) -> Option<u8> {
        None
    }
    fn eoi(&self, _: u8) {}
}

/// What has become of a program on KVM.
enum Fate {
    Ended(Box<End>),
    /// It is not where it should have come to.
    Lost(String),
    /// The host's KVM has given up.
    GivenUp(String),
}

/// A vCPU of KVM with its own memory.
struct Subject {
    _partition: Arc<dyn Partition>,
    vcpu: Box<dyn Vcpu>,
    memory: GuestMemory,
    exit: Exit,
    image: Vec<u8>,
    /// The bits of CR4 that the host's CPU does not have.
    absent: u64,
    /// Odd while a program runs.
    turn: Arc<AtomicU64>,
}

impl Subject {
    fn new(engine: &dyn Engine, like: &Machine) -> Self {
        let len = like.memory().end().0;
        let memory = GuestMemory::new(&[Region { start: Gpa(0), len, kind: Kind::Ram }]).unwrap();
        let partition = engine.create(&EngineConfig { vcpus: 1, name: "oracle".into() }, &memory).unwrap();
        let model = engine.limits().ceiling.clone().without(Feature::Rdrand).without(Feature::Rdseed);
        let vcpu = partition.vcpu(0, &model).unwrap();
        let absent = if model.has(Feature::Umip) { 0 } else { cr4::UMIP };
        let turn = Arc::new(AtomicU64::new(0));
        let (kicker, weak) = (vcpu.kicker(), Arc::downgrade(&turn));
        std::thread::spawn(move || {
            let mut seen = 0;
            while let Some(now) = weak.upgrade().map(|turn| turn.load(Ordering::Relaxed)) {
                if now == seen && now % 2 == 1 {
                    kicker.kick();
                }
                seen = now;
                std::thread::sleep(LONGEST);
            }
        });
        let exit = Exit { kicker: vcpu.kicker(), reached: AtomicBool::new(false) };
        Self { _partition: partition, vcpu, memory, exit, image: vec![0; len as usize], absent, turn }
    }

    /// Whether the host's KVM has its CPU run 32-bit code: its emulator does not know most vector instructions.
    fn runs_32_bit_code(&mut self, reference: &mut Machine, generator: &Generator) -> bool {
        let mut program = Program::random(&mut Random::new(1), generator);
        program.mode = Mode { user: true, long: false };
        // pmaxsw mm0, mm1; ud2
        program.code = vec![0x0f, 0xee, 0xc1, 0x0f, 0x0b];
        reference.start(&program);
        matches!(self.run(reference), Fate::Ended(end) if end.raised_at() == program.start + 3)
    }

    /// Runs the program that `reference` is at the beginning of.
    fn run(&mut self, reference: &Machine) -> Fate {
        reference.memory().read(Gpa(0), &mut self.image).unwrap();
        self.memory.write(Gpa(0), &self.image).unwrap();
        let mut state = reference.beginning().clone();
        state.msrs.tsc_hz = 0;
        state.cr4 &= !self.absent;
        self.vcpu.set_state(&state).unwrap();
        self.exit.reached.store(false, Ordering::SeqCst);
        self.turn.fetch_add(1, Ordering::Relaxed);
        let stop = self.vcpu.run(&self.exit);
        self.turn.fetch_add(1, Ordering::Relaxed);
        let mut state = self.vcpu.state().unwrap();
        state.cr4 |= self.absent;
        match stop {
            Err(Error::Internal(why)) => Fate::GivenUp(why),
            Err(error) => panic!("{error}"),
            Ok(stop) => {
                let at = format!("{stop:?} at {:#x}, rflags {:#x}, gpr {:x?}", state.rip, state.rflags, state.gpr);
                let end = End::new(&self.memory, state);
                let there = self.exit.reached.load(Ordering::SeqCst) && end.is_in_handler();
                if there { Fate::Ended(Box::new(end)) } else { Fate::Lost(at) }
            }
        }
    }
}

/// What has become of the programs.
#[derive(Debug, Default)]
struct Counts {
    programs: u64,
    compared: u64,
    endless: u64,
    /// Those that differ in what is undefined.
    open: u64,
    /// Those that differ after they have rewritten themselves.
    rewritten: u64,
    /// Those that the host's KVM cannot run.
    given_up: u64,
    different: u64,
    /// The host's KVM emulates privileged and 32-bit code, which its CPU could run.
    emulated: bool,
    vectors: [u64; 32],
}

/// Whether all that stands in the program is an integer instruction that an emulator knows.
fn is_plain(program: &Program) -> bool {
    let bits = if program.mode.long { 64 } else { 32 };
    Decoder::with_ip(bits, &program.code, program.start, DecoderOptions::NONE).iter().all(|instruction| {
        use CpuidFeature as F;
        let known = |f: &F| {
            matches!(f, F::INTEL8086 | F::INTEL186 | F::INTEL286 | F::INTEL386 | F::INTEL486 | F::X64 | F::CMOV)
        };
        let odd = matches!(
            instruction.mnemonic(),
            Mnemonic::Int | Mnemonic::Int1 | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Hlt | Mnemonic::INVALID
        );
        !odd && instruction.cpuid_features().iter().all(known)
    })
}

/// Whether one of its instructions depends on CR4.UMIP.
fn asks_for_umip(program: &Program) -> bool {
    use Mnemonic as M;
    let bits = if program.mode.long { 64 } else { 32 };
    let all = Decoder::with_ip(bits, &program.code, program.start, DecoderOptions::NONE);
    all.into_iter().any(|one| matches!(one.mnemonic(), M::Sgdt | M::Sidt | M::Sldt | M::Smsw | M::Str))
}

/// Runs programs that `wanted` has made fit on both and compares them, until `most` have been.
fn compare(most: u64, mut wanted: impl FnMut(&mut Program, bool) -> bool) -> Option<Counts> {
    let engine = common::engine()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let seed = variable("HUSK_SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()) << 24);
    let most = variable("HUSK_CASES").unwrap_or(most);
    println!("HUSK_SEED={seed:#x}");
    let generator = Generator::new(None);
    let mut reference = Machine::new(SoftOptions::interpreter());
    let mut subject = Subject::new(&engine, &reference);
    let native = subject.runs_32_bit_code(&mut reference, &generator);
    println!("32-bit programs run {}", if native { "on the host's CPU" } else { "in KVM's emulator: integers only" });
    let mut counts = Counts { emulated: !native, ..Counts::default() };
    let mut own_seed = seed.wrapping_sub(1);
    while counts.programs < most {
        own_seed = own_seed.wrapping_add(1);
        let mut program = Program::random(&mut Random::new(own_seed), &generator);
        if !wanted(&mut program, native) || subject.absent != 0 && asks_for_umip(&program) {
            continue;
        }
        counts.programs += 1;
        let Some(expected) = reference.run(&program, BUDGET) else {
            counts.endless += 1;
            continue;
        };
        if let Some(count) = expected.vector().and_then(|vector| counts.vectors.get_mut(usize::from(vector))) {
            *count += 1;
        }
        reference.start(&program);
        let found = match subject.run(&reference) {
            Fate::GivenUp(why) => {
                if counts.given_up == 0 {
                    println!("given up: {why}\n{}", program.describe());
                }
                counts.given_up += 1;
                continue;
            }
            Fate::Lost(why) => vec![why],
            Fate::Ended(mut given) => {
                given.forget_engine(&expected);
                // Where KVM emulates, it looks into many faults by itself, and finds instructions that it does not know.
                let elsewhere = expected.vector() != Some(6) || expected.raised_at() != given.raised_at();
                if !native && given.vector() == Some(6) && elsewhere {
                    counts.given_up += 1;
                    continue;
                }
                counts.compared += 1;
                if expected.differences(&given, 0).is_empty() {
                    continue;
                }
                let Open { flags, anything } = trace::open(&mut reference, &program, true);
                let doubtful = expected.is_same_access(&given) || expected.is_doubtful_store(&given);
                if anything || doubtful || expected.differences(&given, flags).is_empty() {
                    counts.open += 1;
                    continue;
                }
                if expected.has_rewritten(&program) || given.has_rewritten(&program) {
                    counts.rewritten += 1;
                    continue;
                }
                expected.differences(&given, flags)
            }
        };
        counts.different += 1;
        if counts.different <= 5 {
            println!("HUSK_SEED={own_seed:#x} HUSK_CASES=1 (\"translated\" is KVM)\n{}{found:#?}", program.describe());
            println!("{}", trace::tail(&mut reference, &program, 30));
        }
    }
    println!("{counts:?}");
    Some(counts)
}

#[test]
fn user_programs_end_the_same() {
    let counts = compare(25_000, |program, native| {
        program.mode.user = true;
        native || program.mode.long || is_plain(program)
    });
    let Some(counts) = counts else { return };
    assert_eq!(counts.different, 0, "programs with differences; see above");
    // A store to code through another linear address need not show without a serializing instruction (SDM vol. 3A, 9.1.3:
    // self- and cross-modifying code), and about one program in 5,000 rewrites itself so.
    assert!(counts.rewritten <= 1 + counts.programs / 1_000, "too many programs that rewrite themselves differ");
    let least = if counts.emulated { counts.programs / 2 } else { counts.programs * 8 / 10 };
    assert!(counts.programs < 1000 || counts.compared - counts.open > least, "too few are compared");
}

#[test]
fn integer_programs_in_ring_0_end_the_same() {
    let counts = compare(3_000, |program, _| {
        program.mode.user = false;
        is_plain(program)
    });
    let Some(counts) = counts else { return };
    // KVM's emulator clears the upper half of what CMPXCHG leaves alone, and goes astray in code that rewrites itself.
    let quirks = if counts.emulated { 1 + counts.programs / 500 } else { 0 };
    assert!(counts.different + counts.rewritten <= quirks, "programs with differences; see above");
    assert!(counts.programs < 1000 || counts.compared - counts.open > counts.programs / 2, "too few are compared");
}

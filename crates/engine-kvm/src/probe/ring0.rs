//! A throw-away VM that runs a few instructions in ring 0 of long mode, against the clock.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use base::Mapping;
use kvm_bindings::{kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use serde::{Deserialize, Serialize};

use super::{Host, Problem};

/// How the kernel of a guest would run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Ring0 {
    /// In hardware.
    Hardware {
        /// The speed in millions of instructions per second, of a loop of two.
        mips: u32,
    },
    /// In KVM's emulator: it runs, but no faster than this.
    Emulated {
        /// The speed, as above.
        mips: u32,
    },
    /// In KVM's emulator, which lacks what kernels use.
    Fails {
        /// The first instruction that has failed.
        instruction: Instruction,
        /// The speed of what does not fail; zero if nothing runs.
        mips: u32,
    },
    /// Not at all: KVM did not come back.
    Hangs,
    /// KVM refuses a VM.
    Refused {
        /// What it refuses.
        what: String,
        /// The operating system's answer.
        error: String,
        /// Another hypervisor holds the CPU (`EBUSY`).
        busy: bool,
    },
}

/// An instruction of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instruction {
    /// The breakpoint, delivered through a gate.
    Int3,
    /// The return from it.
    Iretq,
    /// An operation of SSE2 on registers.
    Pxor,
    /// A move from an SSE register.
    Movd,
    /// A write to a port.
    Out,
    /// The loop against the clock: `dec` and `jnz`.
    Loop,
}

impl Instruction {
    /// The mnemonic.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int3 => "int3",
            Self::Iretq => "iretq",
            Self::Pxor => "pxor",
            Self::Movd => "movd",
            Self::Out => "out",
            Self::Loop => "dec",
        }
    }
}

impl Ring0 {
    /// Whether this will be the same until the next boot.
    pub(super) const fn is_lasting(&self) -> bool {
        !matches!(self, Self::Refused { .. })
    }

    /// Why one does not want it.
    pub(super) fn problem(&self, device: &Path, host: &Host) -> Option<Problem> {
        let path = device.display();
        let cause = match self {
            Self::Hardware { .. } => return None,
            Self::Emulated { mips } | Self::Fails { mips: mips @ 1.., .. } => {
                format!("{path} emulates ring 0 here: {mips} MIPS")
            }
            Self::Fails { instruction, .. } => format!("{path} fails here: at {} in ring 0", instruction.name()),
            Self::Hangs => format!("{path} hangs here"),
            Self::Refused { busy: true, .. } => {
                let cause = format!("{path} is busy: another hypervisor has the CPU's virtualization");
                return Some(Problem { cause, fix: "stop the other one, as VirtualBox or VMware".into() });
            }
            Self::Refused { what, error, .. } => {
                let cause = format!("{path} refuses {what}: {error}");
                return Some(Problem {
                    cause,
                    fix: "see the limits of the process and the kernel's log (dmesg)".into(),
                });
            }
        };
        Some(Problem { cause, fix: host.missing_virtualization() })
    }
}

/// A KVM that takes longer for all of the test hangs. One that emulates at the lowest speed seen takes a tenth of it.
const LIMIT: Duration = Duration::from_secs(2);
/// How long and how often a hanging run is asked to end.
const ASK_PAUSE: Duration = Duration::from_millis(2);
const ASK_TIMES: u32 = 100;

/// Instructions of the loop.
const LOOP_LEN: u32 = 40_000;
/// Hardware needs less for the loop; the fastest emulator, more.
const LOOP_BOUND: Duration = Duration::from_millis(5);
/// The loop is tried this often, for caches to warm up.
const LOOP_TRIES: u32 = 5;
/// No more tries after this, however few they were.
const LOOP_ENOUGH: Duration = Duration::from_millis(60);

/// The guest's memory: tables, a handler, a stack and the programs.
const MEMORY: usize = 0x8000;
const GDT: usize = 0x500;
const IDT: usize = 0x1000;
const HANDLER: usize = 0x1800;
const PML4: usize = 0x2000;
const PDPT: usize = 0x3000;
const DIRECTORY: usize = 0x4000;
const STACK: usize = 0x5ff0;
const INSTRUCTIONS_AT: usize = 0x6000;
const LOOP_AT: usize = 0x6100;
/// The port that ends a program.
const END_PORT: u16 = 0x80;

/// Each is in every 64-bit kernel, in ring 0: `int3; pxor xmm0, xmm0; movd eax, xmm0; out 80h, al`.
const INSTRUCTIONS: &[u8] = &[0xcc, 0x66, 0x0f, 0xef, 0xc0, 0x66, 0x0f, 0x7e, 0xc0, 0xe6, 0x80];
/// `dec ecx; jnz` back to it; `out 80h, al`.
const LOOP: &[u8] = &[0xff, 0xc9, 0x75, 0xfc, 0xe6, 0x80];

/// Runs the test, in a time that is bounded however bad `kvm` is.
pub(super) fn measure(kvm: Kvm) -> Ring0 {
    capped(LIMIT, move |cancelled| {
        let mut guests = Vec::new();
        (test(&kvm, cancelled, &mut guests), guests)
    })
}

/// Runs `test` in a thread that is given up after `limit`. What else comes of it is dropped there, without anybody's waiting:
/// to end a VM takes longer than to run it.
fn capped<T>(limit: Duration, test: impl FnOnce(&AtomicBool) -> (Result<Ring0, Refusal>, T) + Send + 'static) -> Ring0 {
    let cancelled = Arc::<AtomicBool>::default();
    let (told, result) = mpsc::channel();
    let seen = Arc::clone(&cancelled);
    let run = move || {
        let (ring0, _rest) = test(&seen);
        // Nobody listens when the test has been given up.
        let _ = told.send(ring0.unwrap_or_else(Ring0::from));
    };
    take_signal();
    let thread = match thread::Builder::new().name("kvm-probe".into()).spawn(run) {
        Ok(thread) => thread,
        Err(error) => return Refusal::new("a thread", &error).into(),
    };
    match result.recv_timeout(limit) {
        Ok(ring0) => ring0,
        // The thread has panicked.
        Err(RecvTimeoutError::Disconnected) => Refusal::new("the probe", &io::ErrorKind::Other.into()).into(),
        Err(RecvTimeoutError::Timeout) => {
            cancelled.store(true, Ordering::Release);
            // Again and again, because a signal that comes just before the run is lost.
            for _ in 0..ASK_TIMES {
                signal(&thread);
                if !matches!(result.recv_timeout(ASK_PAUSE), Err(RecvTimeoutError::Timeout)) {
                    break;
                }
            }
            Ring0::Hangs
        }
    }
}

/// The signal that interrupts a run; it has no meaning of its own.
fn number() -> libc::c_int {
    libc::SIGRTMIN() + 5
}

/// Gives the signal a handler that does nothing: what counts is that it interrupts.
fn take_signal() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: a sigaction of zeroes is a valid value of that plain type: no flags, so that runs are not restarted.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
    // SAFETY: the handler touches nothing, so it may run at any time.
    unsafe { libc::sigaction(number(), &raw const action, std::ptr::null_mut()) };
}

fn signal(thread: &JoinHandle<()>) {
    // SAFETY: the thread has not been joined, so its name is still its own.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), number()) };
}

/// What KVM has refused.
struct Refusal {
    what: &'static str,
    error: io::Error,
}

impl Refusal {
    fn new(what: &'static str, error: &io::Error) -> Self {
        Self { what, error: error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error) }
    }

    /// For the errors of `kvm-ioctls`.
    fn of(what: &'static str) -> impl Fn(kvm_ioctls::Error) -> Self {
        move |error| Self { what, error: io::Error::from_raw_os_error(error.errno()) }
    }
}

impl From<Refusal> for Ring0 {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.error.to_string();
        let error = text.split(" (os error").next().unwrap_or_default().to_lowercase();
        Self::Refused { what: refusal.what.into(), error, busy: refusal.error.raw_os_error() == Some(libc::EBUSY) }
    }
}

/// Both parts of the test. The guests that it has run are left in `guests`.
fn test(kvm: &Kvm, cancelled: &AtomicBool, guests: &mut Vec<Guest>) -> Result<Ring0, Refusal> {
    let mut guest = Guest::new(kvm, INSTRUCTIONS)?;
    let failed = guest.instructions(cancelled);
    guests.push(guest);
    let failed = failed?;
    if failed.is_some() {
        // What has failed may have left a vCPU in no state to go on.
        guests.push(Guest::new(kvm, &[])?);
    }
    let mips = guests.last_mut().map_or(Ok(None), |guest| guest.speed(cancelled))?;
    Ok(match (failed, mips) {
        (Some(instruction), mips) => Ring0::Fails { instruction, mips: mips.unwrap_or(0) },
        (None, None) => Ring0::Fails { instruction: Instruction::Loop, mips: 0 },
        (None, Some(mips)) if mips < LEAST_MIPS => Ring0::Emulated { mips },
        (None, Some(mips)) => Ring0::Hardware { mips },
    })
}

/// The speed at which the loop takes as long as its bound.
const LEAST_MIPS: u32 = (LOOP_LEN as u128 * 1000 / LOOP_BOUND.as_nanos()) as u32;

/// A VM with one vCPU, about to run the programs.
struct Guest {
    vcpu: VcpuFd,
    start: kvm_regs,
    /// Lives as long as its memory is the guest's.
    _vm: VmFd,
    _memory: Mapping,
}

impl Guest {
    /// With `instructions` as the first program.
    fn new(kvm: &Kvm, instructions: &[u8]) -> Result<Self, Refusal> {
        let memory = Mapping::anonymous(MEMORY).map_err(|error| Refusal::new("memory", &error))?;
        fill(&memory, instructions);
        let vm = kvm.create_vm().map_err(Refusal::of("a VM"))?;
        // VMX wants it for real mode, which is not entered here.
        let _ = vm.set_tss_address(0xfffb_d000);
        let region = kvm_userspace_memory_region {
            memory_size: MEMORY as u64,
            userspace_addr: memory.as_ptr() as u64,
            ..Default::default()
        };
        // SAFETY: the mapping is as large as the region, and outlives the VM.
        unsafe { vm.set_user_memory_region(region) }.map_err(Refusal::of("memory for a VM"))?;
        let vcpu = vm.create_vcpu(0).map_err(Refusal::of("a CPU"))?;
        let cpuid = kvm.get_supported_cpuid(256).map_err(Refusal::of("its CPUID"))?;
        vcpu.set_cpuid2(&cpuid).map_err(Refusal::of("its own CPUID"))?;
        let mut sregs = vcpu.get_sregs().map_err(Refusal::of("registers"))?;
        long_mode(&mut sregs);
        vcpu.set_sregs(&sregs).map_err(Refusal::of("long mode"))?;
        // The counter of the loop, a mark for the instructions, and the flags' reserved bit.
        let start =
            kvm_regs { rsp: STACK as u64, rax: u64::MAX, rcx: (LOOP_LEN / 2).into(), rflags: 2, ..Default::default() };
        Ok(Self { vcpu, start, _vm: vm, _memory: memory })
    }

    /// Runs the program at `at`; whether it came to its end.
    fn run(&mut self, at: usize, cancelled: &AtomicBool) -> Result<bool, Refusal> {
        self.vcpu.set_regs(&kvm_regs { rip: at as u64, ..self.start }).map_err(Refusal::of("registers"))?;
        loop {
            match self.vcpu.run() {
                Ok(VcpuExit::IoOut(port, _)) => return Ok(port == END_PORT),
                // A timer of the host's, or any signal.
                Ok(VcpuExit::Intr) => {}
                Ok(_) => return Ok(false),
                Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {}
                Err(error) if matches!(error.errno(), libc::EBUSY | libc::ENOMEM) => {
                    return Err(Refusal::of("to run a CPU")(error));
                }
                Err(_) => return Ok(false),
            }
            if cancelled.load(Ordering::Acquire) {
                return Ok(false);
            }
        }
    }

    /// The first instruction of [`INSTRUCTIONS`] that does not do what it should.
    fn instructions(&mut self, cancelled: &AtomicBool) -> Result<Option<Instruction>, Refusal> {
        let at_end = self.run(INSTRUCTIONS_AT, cancelled)?;
        let regs = self.vcpu.get_regs().map_err(Refusal::of("registers"))?;
        if at_end {
            // It has moved zeroes, but for the upper half, which every write of the lower one clears.
            return Ok((regs.rax != 0).then_some(Instruction::Movd));
        }
        let offset = regs.rip.wrapping_sub(INSTRUCTIONS_AT as u64);
        Ok(Some(match offset {
            1..5 => Instruction::Pxor,
            5..9 => Instruction::Movd,
            9..=11 => Instruction::Out,
            _ if regs.rip.wrapping_sub(HANDLER as u64) < 2 => Instruction::Iretq,
            _ => Instruction::Int3,
        }))
    }

    /// The speed of [`LOOP`]; `None` if it fails.
    fn speed(&mut self, cancelled: &AtomicBool) -> Result<Option<u32>, Refusal> {
        // CPU time and not time: a busy host is not a slow KVM.
        let begin = base::thread_cpu_time();
        let mut best = Duration::MAX;
        for _ in 0..LOOP_TRIES {
            let start = base::thread_cpu_time();
            if !self.run(LOOP_AT, cancelled)? {
                return Ok(None);
            }
            let end = base::thread_cpu_time();
            best = best.min(end.saturating_sub(start));
            if best <= LOOP_BOUND || end.saturating_sub(begin) > LOOP_ENOUGH {
                break;
            }
        }
        // Rounded up: what runs at all does not run at zero.
        let mips = (u128::from(LOOP_LEN) * 1000).div_ceil(best.as_nanos().max(1));
        Ok(Some(u32::try_from(mips).unwrap_or(u32::MAX)))
    }
}

/// Puts the programs and what long mode needs into the guest's memory, which is zeroed.
fn fill(memory: &Mapping, instructions: &[u8]) {
    // SAFETY: the mapping is that long, and nobody else knows of it yet.
    let bytes = unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.len()) };
    let mut put = |at: usize, what: &[u8]| bytes[at..at + what.len()].copy_from_slice(what);
    // Segments 8, code of 64 bits, and 10h, data (SDM vol. 3A, 3.4.5).
    put(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
    put(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
    // An interrupt gate of ring 0 for vector 3 (SDM vol. 3A, 6.14.1).
    put(IDT + 3 * 16, &(HANDLER as u64 | 8 << 16 | 0x8e00 << 32).to_le_bytes());
    put(HANDLER, &[0x48, 0xcf]);
    // Identity-mapped, in one page of 2 MiB, accessed and written already (SDM vol. 3A, 4.5.4).
    put(PML4, &(PDPT as u64 | 7).to_le_bytes());
    put(PDPT, &(DIRECTORY as u64 | 7).to_le_bytes());
    put(DIRECTORY, &0xe7_u64.to_le_bytes());
    put(INSTRUCTIONS_AT, instructions);
    put(LOOP_AT, LOOP);
}

/// Ring 0 of long mode, with SSE switched on (SDM vol. 3A, 2.5 and 9.8.5).
fn long_mode(sregs: &mut kvm_sregs) {
    sregs.gdt.base = GDT as u64;
    sregs.gdt.limit = 23;
    sregs.idt.base = IDT as u64;
    sregs.idt.limit = 511;
    // PG, NE, ET, MP and PE; PAE, OSFXSR and OSXMMEXCPT; LMA and LME.
    sregs.cr0 = 0x8000_0033;
    sregs.cr4 = 0x620;
    sregs.cr3 = PML4 as u64;
    sregs.efer = 0x500;
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 11, l: 1, ..flat };
    let data = kvm_segment { selector: 16, type_: 3, db: 1, ..flat };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    /// This host's KVM, where there is one.
    fn kvm() -> Option<Kvm> {
        Kvm::new().inspect_err(|error| eprintln!("SKIPPED: no /dev/kvm: {error}")).ok()
    }

    #[test]
    fn the_test_comes_to_a_verdict() {
        let Some(kvm) = kvm() else { return };
        let verdict = measure(kvm);
        eprintln!("{verdict:?}");
        match verdict {
            Ring0::Hardware { mips } => assert!(mips >= LEAST_MIPS),
            Ring0::Emulated { mips } => assert!(mips < LEAST_MIPS),
            Ring0::Fails { mips, .. } => assert!(mips < 1_000_000),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_program_that_does_not_end_is_given_up() {
        let Some(kvm) = kvm() else { return };
        let start = Instant::now();
        let endless = |cancelled: &AtomicBool, kvm: &Kvm| {
            // `jmp` to itself.
            let came_to_end = Guest::new(kvm, &[0xeb, 0xfe])?.run(INSTRUCTIONS_AT, cancelled)?;
            assert!(!came_to_end && cancelled.load(Ordering::Acquire));
            Ok(Ring0::Hangs)
        };
        let (told, ended) = mpsc::channel();
        let verdict = capped(Duration::from_millis(50), move |cancelled| {
            let verdict = endless(cancelled, &kvm);
            let _ = told.send(());
            (verdict, ())
        });
        assert_eq!(verdict, Ring0::Hangs);
        assert!(start.elapsed() < Duration::from_secs(30));
        ended.recv_timeout(Duration::from_secs(30)).expect("the signal has not ended the run");
    }

    #[test]
    fn the_first_failure_is_named() {
        let Some(kvm) = kvm() else { return };
        let cancelled = AtomicBool::new(false);
        // HLT needs a local APIC that is not there: an exit that is not the end, at the place of `pxor`.
        let mut program = INSTRUCTIONS.to_vec();
        program[0] = 0x90;
        program[1] = 0xf4;
        let failed = Guest::new(&kvm, &program).ok().unwrap().instructions(&cancelled).ok().unwrap();
        assert_eq!(failed, Some(Instruction::Pxor));
        // An instruction that leaves EAX alone where MOVD is.
        let mut program = vec![0x90; INSTRUCTIONS.len() - 2];
        program.extend([0xe6, 0x80]);
        let failed = Guest::new(&kvm, &program).ok().unwrap().instructions(&cancelled).ok().unwrap();
        assert_eq!(failed, Some(Instruction::Movd));
    }

    #[test]
    fn what_stands_in_the_way_is_told() {
        assert_eq!(
            capped(Duration::from_secs(30), |_| (Ok(Ring0::Hardware { mips: 7 }), ())),
            Ring0::Hardware { mips: 7 }
        );
        let busy = Refusal { what: "a VM", error: io::Error::from_raw_os_error(libc::EBUSY) };
        let verdict = capped(Duration::from_secs(30), |_| (Err(busy), ()));
        assert_eq!(
            verdict,
            Ring0::Refused { what: "a VM".into(), error: "device or resource busy".into(), busy: true }
        );
        assert!(!verdict.is_lasting());
        let problem = verdict.problem(Path::new("/dev/kvm"), &Host::read(Path::new("/"))).unwrap();
        assert!(problem.cause.contains("another hypervisor") && problem.fix.contains("VirtualBox"));
    }

    #[test]
    fn each_verdict_says_what_it_means() {
        let host = Host::read(Path::new("/"));
        let cause = |ring0: Ring0| ring0.problem(Path::new("/dev/kvm"), &host).map(|problem| problem.cause);
        assert_eq!(cause(Ring0::Hardware { mips: 3000 }), None);
        assert_eq!(cause(Ring0::Emulated { mips: 3 }).unwrap(), "/dev/kvm emulates ring 0 here: 3 MIPS");
        let fails = |mips| Ring0::Fails { instruction: Instruction::Int3, mips };
        assert_eq!(cause(fails(3)).unwrap(), "/dev/kvm emulates ring 0 here: 3 MIPS");
        assert_eq!(cause(fails(0)).unwrap(), "/dev/kvm fails here: at int3 in ring 0");
        assert_eq!(cause(Ring0::Hangs).unwrap(), "/dev/kvm hangs here");
    }
}

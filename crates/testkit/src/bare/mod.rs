//! Tiny guests without devices: code assembled in place, run on the engine under test, that tells what it sees through
//! ports.
//!
//! A guest starts in the mode that its test asks for, with descriptor tables, page tables and handlers already in memory. Each
//! unexpected exception ends in a handler that reports the frame it finds and stops the machine.

mod layout;
mod ports;

use std::sync::Arc;

use engine::{Engine, EngineConfig, Stop};
use iced_x86::code_asm::{CodeAssembler, al, dx, eax, ecx, esp, rax, rsp};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::{CpuModel, CpuState};

use crate::choice::chosen;

pub use layout::{
    CODE, GDT, IDT, KERNEL_STACK, RAM, STUBS, TSS, TSS_STACK, USER_CODE, USER_STACK, call_gate, gate32, gate64,
    segment, selector, system,
};
pub use ports::{EXIT, FIRST_REPORT, Ports};

/// What can be told of an exception by the handler that every vector has at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exception {
    /// The vector.
    pub vector: u32,
    /// The error code, zero for exceptions without one.
    pub error: u32,
    /// The instruction pointer pushed.
    pub ip: u32,
    /// The code segment pushed.
    pub cs: u32,
    /// The flags pushed.
    pub flags: u32,
}

/// A guest that has not run yet.
pub struct Bare {
    /// Its memory: [`RAM`] bytes from zero.
    pub memory: GuestMemory,
    /// What its CPU starts with.
    pub state: CpuState,
}

/// What is left of a guest.
pub struct Outcome {
    /// Why the run has ended.
    pub stop: Stop,
    /// The port writes but for the last, which ended the run.
    pub writes: Vec<(u16, u32)>,
    /// The state of the CPU.
    pub state: CpuState,
    /// The memory.
    pub memory: GuestMemory,
    /// Whether the guest ended the run itself.
    pub exited: bool,
}

impl Bare {
    fn empty() -> Self {
        let region = Region { start: Gpa(0), len: RAM, kind: Kind::Ram };
        let memory = GuestMemory::new(&[region]).expect("memory for the guest");
        let model = CpuModel::named("x86-64-v3").expect("a known model");
        let mut state = CpuState::power_on(0, model.signature());
        state.gpr = [0; 16];
        Self { memory, state }
    }

    /// Real mode with all segments at zero; code starts at 0x6000.
    #[must_use]
    pub fn real() -> Self {
        let mut bare = Self::empty();
        bare.state.seg[1].base = 0;
        bare.state.seg[1].selector = 0;
        bare.state.idt.limit = 0x3ff;
        bare.state.rip = 0x6000;
        bare.state.gpr[4] = 0x5000;
        bare
    }

    /// Protected mode without paging, privilege 0, flat segments.
    #[must_use]
    pub fn protected() -> Self {
        let mut bare = Self::empty();
        layout::write_tables(&bare.memory, false);
        layout::enter_protected(&mut bare.state);
        bare.write_stubs(32);
        bare
    }

    /// Protected mode with two-level paging: the first 4 MiB map to themselves, open to user code.
    #[must_use]
    pub fn paged() -> Self {
        let mut bare = Self::protected();
        layout::write_page_tables32(&bare.memory);
        bare.state.cr3 = layout::PAGE_TABLES;
        bare.state.cr0 |= x86::bits::cr0::PG;
        bare
    }

    /// 64-bit mode, privilege 0; the first 2 MiB map to themselves in small pages, open to user code.
    #[must_use]
    pub fn long() -> Self {
        let mut bare = Self::empty();
        layout::write_tables(&bare.memory, true);
        layout::write_page_tables64(&bare.memory);
        layout::enter_long(&mut bare.state);
        bare.write_stubs(64);
        bare
    }

    /// Writes bytes.
    pub fn write(&self, at: u64, bytes: &[u8]) {
        self.memory.write(Gpa(at), bytes).expect("within memory");
    }

    /// Writes a quad word.
    pub fn write64(&self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Writes a double word.
    pub fn write32(&self, at: u64, value: u32) {
        self.write(at, &value.to_le_bytes());
    }

    /// Puts a descriptor into the GDT.
    pub fn descriptor(&self, selector: u16, value: u64) {
        self.write64(GDT + u64::from(selector & !7), value);
    }

    /// Assembles code of `bits` at `at`.
    pub fn code(&self, bits: u32, at: u64, build: impl FnOnce(&mut CodeAssembler) -> Result<(), iced_x86::IcedError>) {
        let mut assembler = CodeAssembler::new(bits).expect("16, 32 or 64 bits");
        build(&mut assembler).expect("valid operands");
        let bytes = assembler.assemble(at).expect("code that can be encoded");
        self.write(at, &bytes);
    }

    /// A handler for each vector that reports the frame and exits.
    fn write_stubs(&self, bits: u32) {
        for vector in 0..32u32 {
            self.code(bits, STUBS + u64::from(vector) * 64, |a| {
                if !matches!(vector, 8 | 10..=14 | 17) {
                    a.push(0)?;
                }
                for i in 0..4u32 {
                    a.mov(dx, u32::from(FIRST_REPORT) + 1 + i)?;
                    if bits == 64 {
                        a.mov(rax, iced_x86::code_asm::qword_ptr(rsp + 8 * i))?;
                    } else {
                        a.mov(eax, iced_x86::code_asm::dword_ptr(esp + 4 * i))?;
                    }
                    a.out(dx, eax)?;
                }
                a.mov(dx, u32::from(FIRST_REPORT))?;
                a.mov(eax, vector)?;
                a.out(dx, eax)?;
                a.out(i32::from(EXIT), al)
            });
        }
    }

    /// Runs it to the end, on the engine that is tested (see [`crate::choice`]).
    ///
    /// # Panics
    /// When the engine refuses to start.
    #[must_use]
    pub fn run(self) -> Outcome {
        self.run_on(&*chosen().open())
    }

    /// Runs it to the end on `engine`.
    ///
    /// # Panics
    /// When the engine refuses to start.
    #[must_use]
    pub fn run_on(self, engine: &dyn Engine) -> Outcome {
        let model = CpuModel::named("x86-64-v3").expect("a known model").intersect(&engine.limits().ceiling);
        let config = EngineConfig { vcpus: 1, name: "bare".into() };
        let partition = engine.create(&config, &self.memory).expect("a partition");
        let mut vcpu = partition.vcpu(0, &model).expect("a vCPU");
        vcpu.set_state(&self.state).expect("a state that a CPU can be in");
        let ports = Arc::new(Ports::new(vcpu.kicker()));
        ports.limit();
        partition.clock().resume();
        let stop = vcpu.run(&*ports).expect("a run");
        ports.finish();
        let state = vcpu.state().expect("its state");
        Outcome { stop, writes: ports.writes(), state, memory: self.memory, exited: ports.exited() }
    }
}

impl Outcome {
    /// What was written to `port`, in order.
    #[must_use]
    pub fn port(&self, port: u16) -> Vec<u32> {
        self.writes.iter().filter(|(p, _)| *p == port).map(|(_, value)| *value).collect()
    }

    /// The exception that ended the guest.
    ///
    /// # Panics
    /// When there was none.
    #[must_use]
    pub fn exception(&self) -> Exception {
        let one = |i: u16| {
            let all = self.port(FIRST_REPORT + i);
            assert_eq!(
                all.len(),
                1,
                "no exception; stop {:?}, writes {:x?}, rip {:#x}",
                self.stop,
                self.writes,
                self.state.rip
            );
            all[0]
        };
        Exception { vector: one(0), error: one(1), ip: one(2), cs: one(3), flags: one(4) }
    }

    /// Vector and error code of the exception that ended the guest.
    #[must_use]
    pub fn fault(&self) -> (u32, u32) {
        let e = self.exception();
        (e.vector, e.error)
    }

    /// A quad word of its memory.
    #[must_use]
    pub fn read64(&self, at: u64) -> u64 {
        self.memory.read_array::<8>(Gpa(at)).map_or(0, u64::from_le_bytes)
    }

    /// A double word of its memory.
    #[must_use]
    pub fn read32(&self, at: u64) -> u32 {
        self.memory.read_array::<4>(Gpa(at)).map_or(0, u32::from_le_bytes)
    }

    /// Asserts that it ended by itself, without an exception.
    ///
    /// # Panics
    /// When it did not.
    pub fn assert_clean(&self) {
        let reported = self.port(FIRST_REPORT);
        assert!(
            self.exited && reported.is_empty(),
            "stop {:?}, writes {:x?}, rip {:#x}",
            self.stop,
            self.writes,
            self.state.rip
        );
    }
}

/// Ends the guest.
///
/// # Errors
/// None in practice.
pub fn exit(a: &mut CodeAssembler) -> Result<(), iced_x86::IcedError> {
    a.out(i32::from(EXIT), al)
}

/// Writes EAX to `port`, below 0x100.
///
/// # Errors
/// None in practice.
pub fn report(a: &mut CodeAssembler, port: u16) -> Result<(), iced_x86::IcedError> {
    a.out(i32::from(port), eax)
}

/// Writes `value` to MSR `number`.
///
/// # Errors
/// None in practice.
pub fn write_msr(a: &mut CodeAssembler, number: u32, value: u64) -> Result<(), iced_x86::IcedError> {
    a.mov(ecx, number)?;
    a.mov(eax, value as u32)?;
    a.mov(iced_x86::code_asm::edx, (value >> 32) as u32)?;
    a.wrmsr()
}

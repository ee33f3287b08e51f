//! A CPU with descriptor tables, page tables and handlers of its own, and the arena in which programs run.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use engine::{Engine, Kicker, Stop};
use engine_soft::{Bench, SoftEngine, SoftOptions, UserExit};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, efer, pte, rflags};
use x86::{CpuState, DescriptorTable, Feature, Segment, XsaveArea};

use super::program::{Mode, Program, place};
use crate::oracle::case::arena;
use crate::oracle::random::Random;

/// Guest-physical addresses.
mod physical {
    pub(super) const PML4: u64 = 0x1000;
    pub(super) const PDPT: u64 = 0x2000;
    pub(super) const DIRECTORY: u64 = 0x3000;
    /// Page tables, one after the other, in the order of [`super::AREAS`].
    pub(super) const TABLES: u64 = 0x4000;
    pub(super) const DATA: u64 = 0x1_0000;
    pub(super) const CODE: u64 = 0x2_0000;
    pub(super) const CONTROL: u64 = 0x3_0000;
    /// The stack of the handlers, descriptor tables, handlers: a page each.
    pub(super) const STACK: u64 = 0x3_1000;
    pub(super) const DESCRIPTORS: u64 = 0x3_2000;
    pub(super) const INTERRUPTS: u64 = 0x3_3000;
    pub(super) const HANDLERS: u64 = 0x3_4000;
    pub(super) const END: u64 = 0x3_5000;
}

const PAGE: u64 = 0x1000;
/// The first linear address of each area of 2 MiB that is in use.
const AREAS: [u64; 5] = [arena::CODE, arena::DATA, place::ALIAS, place::CODE_ALIAS, place::CONTROL];
/// Linear addresses of what is behind the control page.
const STACK: u64 = place::CONTROL + PAGE;
const DESCRIPTORS: u64 = place::CONTROL + 2 * PAGE;
const INTERRUPTS: u64 = place::CONTROL + 3 * PAGE;
const HANDLERS: u64 = place::CONTROL + 4 * PAGE;
/// The TSS, behind the GDT.
const TSS: u64 = 0x100;
/// The port that handlers write to.
pub(crate) const EXIT: u8 = 0xf4;
/// Far more time than a program needs: translated code that goes round in circles is called back after that.
const LONGEST: Duration = Duration::from_secs(20);
/// What an exception pushes, with an error code.
const FRAME: usize = 48;

/// The CPU and its memory.
pub(crate) struct Machine {
    memory: GuestMemory,
    bench: Bench,
    /// Odd while a program runs.
    turn: Arc<AtomicU64>,
    state: CpuState,
    /// What has ended the last run but a handler.
    stop: Option<Stop>,
    failure: Option<String>,
    entries: Vec<(u64, u64)>,
    /// What the data pages may hold at the start.
    templates: Vec<Vec<u8>>,
}

/// The code of a program at some moment.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Code(Vec<u8>);

impl Code {
    /// The bytes at `rip`.
    pub(crate) fn at(&self, rip: u64) -> [u8; 15] {
        let byte = |at: u64| self.0.get(at.wrapping_sub(arena::CODE) as usize).copied().unwrap_or(arena::TRAP);
        std::array::from_fn(|distance| byte(rip.wrapping_add(distance as u64)))
    }
}

/// How a program has ended.
pub(crate) struct End {
    state: CpuState,
    /// Data, code and control pages.
    memory: Vec<u8>,
    /// What the exception has pushed: error code, RIP, CS, RFLAGS, RSP, SS.
    frame: [u64; FRAME / 8],
    /// The page-table entries, with their accessed and dirty bits.
    entries: Vec<u64>,
}

impl Machine {
    /// A machine whose CPU runs as `options` say.
    pub(crate) fn new(options: SoftOptions) -> Self {
        let ram = Region { start: Gpa(0), len: physical::END, kind: Kind::Ram };
        let memory = GuestMemory::new(&[ram]).unwrap();
        let model = SoftEngine::new(options).unwrap().limits().ceiling.clone();
        // Chance is not to be compared.
        let model = model.without(Feature::Rdrand).without(Feature::Rdseed);
        let mut bench = Bench::new(&memory, &model, options).unwrap();
        write_tables(&memory);
        let turn = Arc::new(AtomicU64::new(0));
        watch(bench.vcpu().kicker(), Arc::downgrade(&turn));
        let templates = (0..16).map(|seed| crate::oracle::generate::Generator::template(&mut Random::new(seed)));
        let state = CpuState::power_on(0, model.signature());
        Self {
            memory,
            bench,
            turn,
            state,
            stop: None,
            failure: None,
            entries: entries(),
            templates: templates.collect(),
        }
    }

    /// Brings memory and CPU to the start of `program`.
    pub(crate) fn start(&mut self, program: &Program) {
        let put = |at: u64, bytes: &[u8]| self.memory.write(Gpa(at), bytes).unwrap();
        self.entries.iter().for_each(|(at, entry)| put(*at, &entry.to_le_bytes()));
        put(physical::DATA, &self.templates[program.data_seed as usize]);
        let mut code = vec![arena::TRAP; arena::CODE_LEN];
        let at = (program.start - arena::CODE) as usize;
        code[at..at + program.code.len()].copy_from_slice(&program.code);
        put(physical::CODE, &code);
        let mut control = [0; PAGE as usize];
        for (to, word) in control.chunks_exact_mut(8).zip(&program.control) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        put(physical::CONTROL, &control);
        put(physical::STACK + PAGE - FRAME as u64, &[0; FRAME]);
        let state = &mut self.state;
        state.gpr = program.gpr;
        state.rip = program.start;
        // User code sees IF, which is set for it everywhere.
        state.rflags = program.rflags & 0xcd5 | 2 | if program.mode.user { rflags::IF } else { 0 };
        state.xsave = XsaveArea(program.xsave);
        set_mode(state, program.mode);
        self.bench.set_state(state).unwrap();
    }

    /// Runs `program` until it is in a handler; `None` if it has not got there after so many blocks.
    pub(crate) fn run(&mut self, program: &Program, blocks: usize) -> Option<End> {
        self.start(program);
        // The interpreter counts each block, translated code only those that it has to come back for.
        let start = Instant::now();
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.stop = self.bench.run_blocks(blocks);
        while matches!(self.stop, Some(Stop::Kicked)) && start.elapsed() < LONGEST {
            self.stop = self.bench.run_blocks(blocks);
        }
        self.turn.fetch_add(1, Ordering::Relaxed);
        self.failure = self.bench.take_failure();
        (self.stop.is_none() && self.bench.is_halted()).then(|| self.end())
    }

    /// Where it stands, and why, for a program that has not ended.
    pub(crate) fn describe(&mut self) -> String {
        let state = self.bench.state().unwrap();
        format!("rip {:#x} rflags {:#x} gpr {:x?} {:?}", state.rip, state.rflags, state.gpr, self.stop)
    }

    /// Its memory.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The state in which the last program has begun.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn beginning(&self) -> &CpuState {
        &self.state
    }

    /// Why the engine has failed, if it has.
    pub(crate) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// RIP and RCX.
    pub(crate) fn position(&mut self) -> (u64, u64) {
        let state = self.bench.state().unwrap();
        (state.rip, state.gpr[1])
    }

    /// The code as it is now.
    pub(crate) fn code(&self) -> Code {
        let mut code = vec![0; arena::CODE_LEN];
        self.memory.read(Gpa(physical::CODE), &mut code).unwrap();
        Code(code)
    }

    /// Runs one instruction; whether it has raised no exception.
    pub(crate) fn step(&mut self) -> bool {
        self.bench.run_user(!self.bench.rip(), 1) == UserExit::Ran && !self.bench.is_halted()
    }

    fn end(&mut self) -> End {
        End::new(&self.memory, self.bench.state().unwrap())
    }
}

impl End {
    /// Whether the code of `program` is no longer what it was.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn has_rewritten(&self, program: &Program) -> bool {
        let at = arena::DATA_LEN + program.start.wrapping_sub(arena::CODE) as usize;
        !self.memory.get(at..).is_some_and(|code| code.starts_with(&program.code))
    }

    /// Of a program that has ended with this memory and state.
    pub(crate) fn new(ram: &GuestMemory, state: CpuState) -> Self {
        let mut memory = vec![0; arena::DATA_LEN + arena::CODE_LEN + PAGE as usize];
        let (data, rest) = memory.split_at_mut(arena::DATA_LEN);
        let (code, control) = rest.split_at_mut(arena::CODE_LEN);
        for (at, to) in [(physical::DATA, data), (physical::CODE, code), (physical::CONTROL, control)] {
            ram.read(Gpa(at), to).unwrap();
        }
        let word = |at: u64| u64::from_le_bytes(ram.read_array(Gpa(at)).unwrap());
        let mut frame = [0; FRAME / 8];
        for (at, to) in (physical::STACK + PAGE - FRAME as u64..).step_by(8).zip(&mut frame) {
            *to = word(at);
        }
        let entries = entries().iter().map(|(at, _)| word(*at)).collect();
        Self { state, memory, frame, entries }
    }

    /// Whether one access has raised both, of which CPUs choose this or that: the one that they come to first, if it
    /// reaches across a page or the end of the canonical addresses, is masked, or goes on element by element (SDM vol.
    /// 3A, 6.9). The rest is the same but for what the handler finds of the fault itself.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn is_same_access(&self, other: &Self) -> bool {
        let memory = |end: &Self| matches!(end.vector(), Some(12..=14 | 17));
        memory(self) && memory(other) && self.raised_at() == other.raised_at()
    }

    /// Whether an x87 store has had both an unmasked exception, which comes with the next x87 instruction, and nowhere to
    /// store to. CPUs look at the operand first; here the memory comes first.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn is_doubtful_store(&self, other: &Self) -> bool {
        const ES: u8 = 1 << 7;
        let waits = |end: &Self| end.state.xsave.0[2] & ES != 0;
        matches!(self.vector(), Some(12..=14 | 17)) && !waits(self) && waits(other)
    }

    /// Forgets what another engine need not have the same: how page-table entries have been used, MSRs, and the state of
    /// the CPU behind the exit.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn forget_engine(&mut self, like: &Self) {
        self.entries.clone_from(&like.entries);
        self.state.msrs = like.state.msrs;
        // FOP and FDP are kept by some CPUs for unmasked exceptions only, by others always (SDM vol. 1, 8.1.8 and 8.1.9).
        for at in (6..8).chain(16..24) {
            self.state.xsave.0[at] = like.state.xsave.0[at];
        }
        // The exit is one instruction of one byte short of the halt.
        self.state.rip += 1;
        self.state.activity = like.state.activity;
    }

    /// Whether the CPU is in a handler.
    #[allow(dead_code, reason = "for the comparison with another engine")]
    pub(crate) fn is_in_handler(&self) -> bool {
        self.vector().is_some_and(|vector| vector < 32)
    }

    /// The vector of the exception.
    pub(crate) fn vector(&self) -> Option<u8> {
        u8::try_from(self.state.rip.wrapping_sub(HANDLERS) / 16).ok()
    }

    /// Where the exception has been raised.
    pub(crate) fn raised_at(&self) -> u64 {
        self.frame[1]
    }

    /// Where `other` is different but for the bits of `open` in RFLAGS.
    pub(crate) fn differences(&self, other: &Self, open: u64) -> Vec<String> {
        const FRAME_NAMES: [&str; 6] = ["error code", "rip", "cs", "rflags", "rsp", "ss"];
        let mut list = Vec::new();
        let (a, b) = (&self.state, &other.state);
        let mut word = |name: String, a: u64, b: u64| {
            if a != b {
                list.push(format!("{name}: {a:#x} interpreted, {b:#x} translated"));
            }
        };
        word("vector".into(), self.vector().map_or(u64::MAX, u64::from), other.vector().map_or(u64::MAX, u64::from));
        for (i, name) in FRAME_NAMES.iter().enumerate() {
            let open = if *name == "rflags" { open } else { 0 };
            word(format!("{name} of the exception"), self.frame[i] & !open, other.frame[i] & !open);
        }
        (0..16).for_each(|i| word(format!("gpr {i}"), a.gpr[i], b.gpr[i]));
        word("rflags".into(), a.rflags & !open, b.rflags & !open);
        word("cr2".into(), a.cr2, b.cr2);
        let whole = [
            ("rip", a.rip == b.rip),
            ("control registers", (a.cr0, a.cr3, a.cr4, a.xcr0) == (b.cr0, b.cr3, b.cr4, b.xcr0)),
            ("debug registers", a.dr == b.dr),
            ("msrs", a.msrs == b.msrs),
            ("activity", a.activity == b.activity),
        ];
        let mut pieces = |name: &str, size: usize, a: &[u8], b: &[u8]| {
            for (i, (a, b)) in a.chunks(size).zip(b.chunks(size)).enumerate().filter(|(_, (a, b))| a != b).take(4) {
                list.push(format!("{name} at {:#x}: {a:02x?} interpreted, {b:02x?} translated", i * size));
            }
        };
        pieces("the x87 and vector state", 16, &a.xsave.0, &b.xsave.0);
        let (data, rest) = self.memory.split_at(arena::DATA_LEN);
        let (other_data, other_rest) = other.memory.split_at(arena::DATA_LEN);
        pieces("data", 16, data, other_data);
        pieces("code and control", 16, rest, other_rest);
        // CPUs may set A ahead of time (SDM vol. 3A, 4.8), D they may not.
        let differ = |(_, (a, b)): &(usize, (&u64, &u64))| a != b && **a | pte::A != **b;
        for (i, (a, b)) in self.entries.iter().zip(&other.entries).enumerate().filter(differ) {
            list.push(format!("page-table entry {i}: {a:#x} interpreted, {b:#x} translated"));
        }
        let pairs = a.seg.iter().chain([&a.ldt, &a.tr]).zip(b.seg.iter().chain([&b.ldt, &b.tr]));
        for (i, (a, b)) in pairs.enumerate().filter(|(_, (a, b))| a != b) {
            list.push(format!("segment {i}: {a:x?} interpreted, {b:x?} translated"));
        }
        list.extend(whole.iter().filter(|(_, same)| !same).map(|(name, _)| (*name).to_owned()));
        list
    }
}

/// Kicks the CPU whose program runs for too long, as long as there is somebody who counts its turns.
fn watch(kicker: Kicker, turn: Weak<AtomicU64>) {
    std::thread::spawn(move || {
        let mut seen = 0;
        while let Some(now) = turn.upgrade().map(|turn| turn.load(Ordering::Relaxed)) {
            if now == seen && now % 2 == 1 {
                kicker.kick();
            }
            seen = now;
            std::thread::sleep(LONGEST);
        }
    });
}

/// The page-table entries: where, and what.
fn entries() -> Vec<(u64, u64)> {
    let user = pte::P | pte::RW | pte::US;
    let mut list = vec![(physical::PML4, physical::PDPT | user), (physical::PDPT, physical::DIRECTORY | user)];
    for (table, area) in (physical::TABLES..).step_by(PAGE as usize).zip(AREAS) {
        list.push((physical::DIRECTORY + (area >> 21) * 8, table | user));
    }
    let mut page = |area: usize, index: u64, phys: u64, rights: u64| {
        list.push((physical::TABLES + area as u64 * PAGE + index * 8, phys | pte::P | rights));
    };
    for index in 0..arena::CODE_PAGES as u64 {
        page(0, index, physical::CODE + index * PAGE, pte::US);
        page(3, index, physical::CODE + index * PAGE, pte::US | pte::RW | pte::XD);
    }
    for index in 0..arena::DATA_PAGES {
        let at = physical::DATA + index as u64 * PAGE;
        if arena::is_present(index) {
            let write = if arena::is_writable(index) { pte::RW } else { 0 };
            page(1, index as u64, at, pte::US | pte::XD | write);
            page(2, index as u64, at, pte::US | pte::XD | pte::RW);
        } else {
            page(2, index as u64, at + PAGE, pte::US | pte::XD | pte::RW);
        }
    }
    page(4, 0, physical::CONTROL, pte::US | pte::RW | pte::XD);
    page(4, 1, physical::STACK, pte::RW | pte::XD);
    page(4, 2, physical::DESCRIPTORS, pte::RW | pte::XD);
    page(4, 3, physical::INTERRUPTS, pte::XD);
    page(4, 4, physical::HANDLERS, 0);
    list
}

/// GDT, TSS, IDT and the handlers, which halt.
fn write_tables(memory: &GuestMemory) {
    let put = |at: u64, entry: u64| memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
    // Present, flat, accessed; 64-bit code, data and 32-bit code for ring 0 and ring 3.
    let gdt = [
        0,
        0x00af_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        0x00cf_9b00_0000_ffff,
        0x00af_fb00_0000_ffff,
        0x00cf_f300_0000_ffff,
        0x00cf_fb00_0000_ffff,
    ];
    gdt.into_iter().zip((physical::DESCRIPTORS..).step_by(8)).for_each(|(entry, at)| put(at, entry));
    // RSP0 and IST1 (SDM vol. 3A, 8.7).
    for at in [4, 36] {
        put(physical::DESCRIPTORS + TSS + at, STACK + PAGE);
    }
    for vector in 0..32 {
        let handler = HANDLERS + vector * 16;
        // An interrupt gate for ring 3, on the stack IST1 (SDM vol. 3A, 6.14.1).
        let low = handler & 0xffff | 8 << 16 | 1 << 32 | 0xee00 << 32 | (handler >> 16 & 0xffff) << 48;
        put(physical::INTERRUPTS + vector * 16, low);
        put(physical::INTERRUPTS + vector * 16 + 8, handler >> 32);
        // out EXIT, al; hlt: the one ends the run of an engine with a machine around it, the other without.
        memory.write(Gpa(physical::HANDLERS + vector * 16), &[0xe6, EXIT, 0xf4]).unwrap();
    }
}

/// The registers that make the mode, set up as an operating system has them.
fn set_mode(state: &mut CpuState, mode: Mode) {
    let ring = if mode.user { 3u16 } else { 0 };
    let base = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED | Segment::GRANULARITY;
    let base = base | ring << 5;
    let above = if mode.user { 0x18 } else { 0 };
    let data = Segment { base: 0, limit: u32::MAX, selector: 0x10 + above + ring, attr: base | Segment::DB };
    let (selector, size) = if mode.long { (0x08, Segment::LONG) } else { (0x18, Segment::DB) };
    let cs = Segment { selector: selector + above + ring, attr: base | Segment::CODE | size, ..data };
    state.seg = [data, cs, data, data, data, data];
    // A 64-bit TSS, busy.
    state.tr = Segment { base: DESCRIPTORS + TSS, limit: 0x67, selector: 0x38, attr: Segment::PRESENT | 0xb };
    state.gdt = DescriptorTable { base: DESCRIPTORS, limit: 7 * 8 - 1 };
    state.idt = DescriptorTable { base: INTERRUPTS, limit: 32 * 16 - 1 };
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = physical::PML4;
    let simd = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    state.cr4 = cr4::PAE | cr4::PGE | simd | cr4::UMIP | cr4::DE | cr4::TSD;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.xcr0 = 7;
}

//! The engine's CPU with the arena: what is tested against the host.

use engine::Engine;
use engine_soft::{Bench, SoftEngine, SoftOptions, Translator, UserExit};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, efer, pte};
use x86::{CpuState, Segment, XsaveArea};

use super::case::{Case, Outcome, arena, fold_page};

/// Guest-physical addresses: the tables that map the arena, the data pages and the code pages.
mod physical {
    pub(super) const PML4: u64 = 0x1000;
    pub(super) const PDPT: u64 = 0x2000;
    pub(super) const DIRECTORY: u64 = 0x3000;
    pub(super) const CODE_TABLE: u64 = 0x4000;
    pub(super) const DATA_TABLE: u64 = 0x5000;
    pub(super) const DATA: u64 = 0x1_0000;
    pub(super) const CODE: u64 = 0x2_0000;
    pub(super) const END: u64 = 0x3_0000;
}

/// More instructions than any case runs, with the turns of its loops.
const MOST_STEPS: usize = 1000;

/// The engine's CPU in ring 3 of 64-bit mode, with the arena mapped as on the host.
pub(crate) struct Subject {
    memory: GuestMemory,
    bench: Bench,
    state: CpuState,
    template: Vec<u8>,
    /// The data pages as the last case has left them.
    last: Vec<u8>,
    translated: bool,
    /// The bits of RFLAGS that the last case has left open: nobody would have read them.
    dead: u64,
}

impl Subject {
    /// A CPU with everything that the engine offers on this host.
    pub(crate) fn new(options: SoftOptions) -> Self {
        let ram = Region { start: Gpa(0), len: physical::END, kind: Kind::Ram };
        let memory = GuestMemory::new(&[ram]).unwrap();
        let put = |at: u64, entry: u64| memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
        let table = pte::P | pte::RW | pte::US;
        put(physical::PML4, physical::PDPT | table);
        put(physical::PDPT, physical::DIRECTORY | table);
        put(physical::DIRECTORY + (arena::CODE >> 21) * 8, physical::CODE_TABLE | table);
        put(physical::DIRECTORY + (arena::DATA >> 21) * 8, physical::DATA_TABLE | table);
        let page = arena::PAGE as u64;
        for index in 0..arena::CODE_PAGES as u64 {
            put(physical::CODE_TABLE + index * 8, (physical::CODE + index * page) | pte::P | pte::US);
        }
        for index in (0..arena::DATA_PAGES).filter(|index| arena::is_present(*index)) {
            let write = if arena::is_writable(index) { pte::RW } else { 0 };
            let at = physical::DATA + index as u64 * page;
            put(physical::DATA_TABLE + index as u64 * 8, at | pte::P | pte::US | pte::XD | write);
        }
        memory.write(Gpa(physical::CODE), &[arena::TRAP; arena::CODE_LEN]).unwrap();
        let engine = SoftEngine::new(options).unwrap();
        let model = engine.limits().ceiling.clone();
        let bench = Bench::new(&memory, &model, options).unwrap();
        Self {
            memory,
            bench,
            state: user_state(model.signature()),
            template: vec![0; arena::DATA_LEN],
            last: vec![0; arena::DATA_LEN],
            translated: options.translator == Translator::On,
            dead: 0,
        }
    }

    /// The bits of RFLAGS that may hold anything after the last case.
    pub(crate) fn dead_flags(&self) -> u64 {
        self.dead
    }

    /// Fills the data pages.
    pub(crate) fn load(&mut self, template: &[u8]) {
        self.template.copy_from_slice(template);
        self.memory.write(Gpa(physical::DATA), template).unwrap();
    }

    /// Runs a case, which starts with the data pages as loaded and leaves them so.
    pub(crate) fn run(&mut self, case: &Case) -> Outcome {
        for (at, bytes) in case.patches() {
            self.memory.write(Gpa(physical::DATA + at as u64), bytes).unwrap();
        }
        let code = Gpa(physical::CODE + (case.rip - arena::CODE));
        self.memory.write(code, case.code()).unwrap();
        self.state.gpr = case.gpr;
        self.state.rip = case.rip;
        self.state.rflags = (case.rflags & Outcome::FLAGS) | 0x202;
        self.state.xsave = XsaveArea(case.xsave);
        self.bench.set_state(&self.state).unwrap();
        let end = self.run_to_end(case);
        let mut outcome = self.outcome(end);
        for (at, len) in case.blank.iter().filter(|blank| blank.1 != 0) {
            self.memory.write(Gpa(physical::DATA + u64::from(*at)), &vec![0; *len as usize]).unwrap();
        }
        self.fold_memory(&mut outcome);
        let traps = [arena::TRAP; super::case::CODE_MAX];
        self.memory.write(code, &traps[..case.code_len as usize]).unwrap();
        outcome
    }

    /// The data pages as the last case has left them.
    pub(crate) fn final_memory(&self) -> &[u8] {
        &self.last
    }

    /// Runs until RIP stands on a trap of the arena, or an exception.
    fn run_to_end(&mut self, case: &Case) -> UserExit {
        self.dead = 0;
        let own = case.rip..case.rip + u64::from(case.code_len);
        let code = arena::CODE..arena::CODE + arena::CODE_LEN as u64;
        for _ in 0..MOST_STEPS {
            let rip = self.bench.rip();
            if code.contains(&rip) && !own.contains(&rip) {
                return UserExit::Ran;
            }
            // What is outside of the arena faults at the first step.
            let exit = if own.contains(&rip) && self.translated {
                let (exit, dead) = self.bench.run_translated(own.clone(), MOST_STEPS);
                self.dead = dead;
                exit
            } else if own.contains(&rip) {
                self.bench.run_inside(own.clone(), MOST_STEPS)
            } else {
                self.bench.run_user(!rip, 1)
            };
            if exit != UserExit::Ran {
                return exit;
            }
        }
        UserExit::Exception { vector: u8::MAX, error_code: None, cr2: 0 }
    }

    fn outcome(&mut self, end: UserExit) -> Outcome {
        let mut outcome = Outcome::zero();
        let state = self.bench.state().unwrap();
        outcome.gpr = state.gpr;
        outcome.rip = state.rip;
        outcome.rflags = state.rflags;
        outcome.xsave = state.xsave.0;
        match end {
            // The trap is left out: its handler is none of the arena.
            UserExit::Ran => {
                outcome.vector = 3;
                outcome.rip += 1;
            }
            UserExit::Exception { vector: u8::MAX, .. } => outcome.vector = Outcome::HANG,
            UserExit::Exception { vector, error_code, cr2 } => {
                outcome.vector = vector.into();
                outcome.error_code = error_code.unwrap_or(0);
                outcome.cr2 = cr2;
            }
        }
        outcome.normalise();
        outcome
    }

    fn fold_memory(&mut self, outcome: &mut Outcome) {
        self.memory.read(Gpa(physical::DATA), &mut self.last).unwrap();
        for index in (0..arena::DATA_PAGES).filter(|index| arena::is_present(*index)) {
            let range = index * arena::PAGE..(index + 1) * arena::PAGE;
            let mut changed = fold_page(outcome, index, &self.last[range.clone()], &self.template[range.clone()]);
            while changed != 0 {
                let at = range.start + changed.trailing_zeros() as usize * 64;
                self.memory.write(Gpa(physical::DATA + at as u64), &self.template[at..at + 64]).unwrap();
                changed &= changed - 1;
            }
        }
    }
}

/// A CPU in ring 3 of 64-bit mode, set up as Linux has it.
fn user_state(signature: u32) -> CpuState {
    let mut state = CpuState::power_on(0, signature);
    let data = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED | 3 << 5;
    let flat = Segment { base: 0, limit: u32::MAX, selector: 0x2b, attr: data | Segment::GRANULARITY | Segment::DB };
    let code = data | Segment::CODE | Segment::LONG | Segment::GRANULARITY;
    let cs = Segment { selector: 0x33, attr: code, ..flat };
    state.seg = [flat, cs, flat, flat, flat, flat];
    state.cr0 = cr0::PE | cr0::MP | cr0::ET | cr0::NE | cr0::WP | cr0::AM | cr0::PG;
    state.cr3 = physical::PML4;
    state.cr4 = cr4::PAE | cr4::PGE | cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE | cr4::UMIP | cr4::DE;
    state.msrs.efer = efer::SCE | efer::LME | efer::LMA | efer::NXE;
    state.xcr0 = 7;
    state
}

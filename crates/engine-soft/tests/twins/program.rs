//! A program of random instructions and the state that it starts from.

use std::fmt::Write as _;

use iced_x86::{Decoder, DecoderOptions, Formatter, IntelFormatter};

use crate::oracle::case::{Case, XSAVE_LEN, arena};
use crate::oracle::generate::Generator;
use crate::oracle::operands::BASES;
use crate::oracle::random::Random;

/// Linear addresses beside those of the arena.
pub(crate) mod place {
    /// The data pages once more, all of them writable; where they have a hole, the page behind it.
    pub(crate) const ALIAS: u64 = 0x2100_0000;
    /// The code pages once more, writable.
    pub(crate) const CODE_ALIAS: u64 = 0x2200_0000;
    /// The page of loop counters and jump targets.
    pub(crate) const CONTROL: u64 = 0x2300_0000;
}

/// In what mode it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    /// Ring 3, or ring 0.
    pub(crate) user: bool,
    /// 64-bit code, or flat 32-bit code.
    pub(crate) long: bool,
}

/// A program.
pub(crate) struct Program {
    pub(crate) mode: Mode,
    pub(crate) start: u64,
    pub(crate) code: Vec<u8>,
    pub(crate) gpr: [u64; 16],
    pub(crate) rflags: u64,
    pub(crate) xsave: [u8; XSAVE_LEN],
    /// The words of the page of loop counters and jump targets.
    pub(crate) control: Vec<u64>,
    /// What fills the data pages.
    pub(crate) data_seed: u64,
}

/// Code under construction.
pub(super) struct Builder<'a> {
    pub(super) random: &'a mut Random,
    pub(super) generator: &'a Generator,
    pub(super) program: Program,
    /// Where calls are that still need a subroutine: the offset of their distance.
    calls: Vec<usize>,
}

/// `ud2`.
const END: [u8; 2] = [0x0f, 0x0b];

impl Program {
    /// A program from `random`.
    pub(crate) fn random(random: &mut Random, generator: &Generator) -> Self {
        let mut first = Case::empty();
        // It gives up sometimes; then there are no instructions, but a state.
        let _ = generator.sequence(random, &mut first);
        let start = arena::CODE + if random.chance(40) { 0x1000 - random.below(300) } else { random.below(0x400) };
        let program = Self {
            mode: Mode { user: random.chance(60), long: random.chance(75) },
            start,
            code: first.code().to_vec(),
            gpr: first.gpr,
            rflags: first.rflags,
            xsave: first.xsave,
            control: Vec::new(),
            data_seed: random.below(16),
        };
        let mut builder = Builder { random, generator, program, calls: Vec::new() };
        builder.aim();
        for _ in 0..builder.random.below(5) {
            builder.part();
        }
        builder.emit(&END);
        builder.subroutines();
        builder.program
    }

    /// Changes it in a way that shows.
    pub(crate) fn disturb(&mut self) {
        // FLD1's exponent would do, but not all programs have one: a register that no program sets up.
        self.xsave[160 + 7] ^= 1;
        self.control[0] ^= 1 << 40;
    }

    /// Its code and its registers.
    pub(crate) fn describe(&self) -> String {
        let bits = if self.mode.long { 64 } else { 32 };
        let mut text = format!("{:?}\n", self.mode);
        let mut formatter = IntelFormatter::new();
        for instruction in &mut Decoder::with_ip(bits, &self.code, self.start, DecoderOptions::NONE) {
            let mut line = String::new();
            formatter.format(&instruction, &mut line);
            let at = (instruction.ip() - self.start) as usize;
            let bytes = &self.code[at..(at + instruction.len()).min(self.code.len())];
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "{:x}: {hex:<24} {line}", instruction.ip());
        }
        let _ = writeln!(text, "gpr {:x?} rflags {:#x} control {:x?}", self.gpr, self.rflags, self.control);
        text
    }
}

impl Builder<'_> {
    pub(super) fn emit(&mut self, bytes: &[u8]) {
        self.program.code.extend_from_slice(bytes);
    }

    pub(super) fn here(&self) -> usize {
        self.program.code.len()
    }

    /// A new word of the control page; gives its address.
    pub(super) fn word(&mut self, value: u64) -> u32 {
        self.program.control.push(value);
        place::CONTROL as u32 + (self.program.control.len() as u32 - 1) * 8
    }

    /// Has some of the pointers lead to where accesses are not plain.
    fn aim(&mut self) {
        // The word that nobody uses.
        self.word(0);
        for base in BASES {
            if !self.random.chance(if base == 4 { 10 } else { 30 }) {
                continue;
            }
            let page = 0x1000;
            let near = |random: &mut Random, at: u64| at.wrapping_sub(random.below(64)).wrapping_add(random.below(32));
            let at = match self.random.below(12) {
                0..4 => place::ALIAS + 0x800 + self.random.below(0x1800),
                4 => near(self.random, place::ALIAS + page),
                5 => near(self.random, arena::DATA + page),
                6 => near(self.random, arena::DATA + arena::READ_ONLY as u64 * page),
                7 => near(self.random, arena::DATA + arena::HOLE as u64 * page),
                8 => arena::DATA + arena::READ_ONLY as u64 * page + self.random.below(page),
                9 => arena::DATA + arena::HOLE as u64 * page + self.random.below(page),
                // Into its own code.
                10 => place::CODE_ALIAS + (self.program.start - arena::CODE) + self.random.below(0x200),
                _ => self.random.integer(),
            };
            self.program.gpr[base] = at;
        }
    }

    /// Random instructions.
    fn piece(&mut self) {
        let mut case = Case::empty();
        if self.generator.sequence(self.random, &mut case).is_some() {
            self.emit(case.code());
        }
    }

    /// One of the pieces that are made for what is seldom.
    fn special(&mut self) {
        match self.random.below(10) {
            0..3 => self.on_edge(),
            3..5 => self.exchanges(),
            5 => self.shifts(),
            6 => self.strings(),
            7 | 8 => self.stacks(),
            _ => self.leaps(),
        }
    }

    fn part(&mut self) {
        match self.random.below(18) {
            10..13 => self.special(),
            13..16 => self.repeated(Self::special),
            16 | 17 => self.repeated(|builder| {
                builder.special();
                builder.piece();
            }),
            0..2 => self.piece(),
            2..5 => self.repeated(Self::piece),
            5 => self.rewritten(),
            6 => self.repeated(Self::rewritten),
            7 => {
                // call rel32
                self.emit(&[0xe8, 0, 0, 0, 0]);
                let at = self.here() - 4;
                self.calls.push(at);
            }
            8 => {
                // jmp [slot], over some bytes that do not matter
                let slot = self.word(0);
                self.emit(&[0xff, 0x24, 0x25]);
                self.emit(&slot.to_le_bytes());
                let skipped = self.random.below(20) as usize;
                self.emit(&vec![arena::TRAP; skipped]);
                let target = self.program.start + self.here() as u64;
                if let Some(word) = self.program.control.last_mut() {
                    *word = target;
                }
            }
            _ => self.repeated(|builder| {
                builder.emit(&[0xe8, 0, 0, 0, 0]);
                let at = builder.here() - 4;
                builder.calls.push(at);
            }),
        }
    }

    /// A loop; its counter lies in memory, where nothing else comes.
    fn repeated(&mut self, body: impl FnOnce(&mut Self)) {
        let turns = 1 + self.random.below(60);
        let counter = self.word(turns);
        let top = self.here();
        body(self);
        // dec dword [counter]; jnz top
        self.emit(&[0xff, 0x0c, 0x25]);
        self.emit(&counter.to_le_bytes());
        let distance = top as i64 - (self.here() as i64 + 6);
        self.emit(&[0x0f, 0x85]);
        self.emit(&(distance as i32).to_le_bytes());
    }

    /// Stores into an instruction, which runs then.
    fn rewritten(&mut self) {
        // add byte [target], n; xor byte [target], n; mov byte [target], n
        let (opcode, modrm) = self.random.pick(&[(0x80, 0x04), (0x80, 0x34), (0xc6, 0x04)]);
        let store = self.here();
        self.emit(&[opcode, modrm, 0x25, 0, 0, 0, 0, 0]);
        if self.random.chance(40) {
            self.piece();
        }
        let target = self.here();
        // An instruction, which of its bytes changes, and by what.
        let (instruction, byte, by): (&[u8], usize, u8) = match self.random.below(4) {
            // mov r8d, imm32; in 32-bit code inc ecx; mov eax, imm32
            0 => (&[0x41, 0xb8, 1, 2, 3, 4], 2 + self.random.below(4) as usize, self.random.u32() as u8),
            // inc eax becomes dec eax with XOR
            1 => (&[0xff, 0xc0], 1, 8),
            // add ecx, imm8
            2 => (&[0x83, 0xc1, 0x05], 2, self.random.u32() as u8),
            // Anything may come of it.
            _ => (&[0x01, 0xc1, 0x90], self.random.below(3) as usize, self.random.u32() as u8),
        };
        self.emit(instruction);
        let at = place::CODE_ALIAS + (self.program.start - arena::CODE) + (target + byte) as u64;
        self.program.code[store + 3..store + 7].copy_from_slice(&(at as u32).to_le_bytes());
        self.program.code[store + 7] = by;
    }

    /// What the calls lead to.
    fn subroutines(&mut self) {
        for call in std::mem::take(&mut self.calls) {
            let distance = self.here() as i32 - (call as i32 + 4);
            self.program.code[call..call + 4].copy_from_slice(&distance.to_le_bytes());
            if self.random.chance(70) {
                self.piece();
            }
            self.emit(&[0xc3]);
        }
        let room = arena::CODE_LEN - (self.program.start - arena::CODE) as usize;
        self.program.code.truncate(room);
    }
}

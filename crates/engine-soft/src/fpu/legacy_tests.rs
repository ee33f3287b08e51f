//! What the host cannot be asked: real and 32-bit protected mode, and units that are switched off.

use engine::Engine;
use iced_x86::code_asm::{CodeAssembler, ax, dword_ptr, eax, st0, st1, xmm0, xmm1, xmm7, xmmword_ptr, ymm0};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, vector};
use x86::{CpuState, Segment};

use crate::{Bench, SoftEngine, SoftOptions, UserExit};

const CODE: u64 = 0x1000;
const DATA: i32 = 0x2000;

struct Run {
    state: CpuState,
    memory: GuestMemory,
    exit: UserExit,
}

impl Run {
    fn bytes<const N: usize>(&self, at: u64) -> [u8; N] {
        let mut bytes = [0; N];
        self.memory.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    fn word(&self, at: u64) -> u16 {
        u16::from_le_bytes(self.bytes(at))
    }

    fn vector(&self) -> Option<u8> {
        match self.exit {
            UserExit::Ran => None,
            UserExit::Exception { vector, .. } => Some(vector),
        }
    }
}

/// Runs what `write` assembles in `bits` bits, from a flat state that `change` has changed.
fn run(bits: u32, change: impl FnOnce(&mut CpuState), write: impl FnOnce(&mut CodeAssembler)) -> Run {
    let memory = GuestMemory::new(&[Region { start: Gpa(0), len: 0x4000, kind: Kind::Ram }]).unwrap();
    let mut code = CodeAssembler::new(bits).unwrap();
    write(&mut code);
    let code = code.assemble(CODE).unwrap();
    memory.write(Gpa(CODE), &code).unwrap();
    memory.write(Gpa(DATA as u64), &[0xcc; 0x400]).unwrap();
    let model = SoftEngine::new(SoftOptions::default()).unwrap().limits().ceiling.clone();
    let mut state = CpuState::power_on(0, model.signature());
    let flat = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED;
    let wide = Segment::GRANULARITY | Segment::DB;
    let data = if bits == 32 {
        Segment { base: 0, limit: u32::MAX, selector: 8, attr: flat | wide }
    } else {
        Segment::real(0)
    };
    state.seg = [data; 6];
    state.seg[1].attr |= Segment::CODE;
    state.cr0 = if bits == 32 { cr0::PE | cr0::NE | cr0::ET } else { cr0::NE | cr0::ET };
    state.cr4 = cr4::OSFXSR | cr4::OSXMMEXCPT | cr4::OSXSAVE;
    state.xcr0 = 7;
    state.rip = CODE;
    // All sixteen registers hold something.
    state.xsave.0[160..416].fill(0x5a);
    state.xsave.0[576..832].fill(0xa5);
    change(&mut state);
    let mut bench = Bench::new(&memory, &model, SoftOptions::default()).unwrap();
    bench.set_state(&state).unwrap();
    let exit = bench.run_user(CODE + code.len() as u64, 100);
    Run { state: bench.state().unwrap(), memory, exit }
}

#[test]
fn outside_of_64_bit_mode_eight_registers_exist() {
    let run = run(
        32,
        |_| {},
        |a| {
            a.fxsave(dword_ptr(DATA)).unwrap();
            a.vzeroupper().unwrap();
        },
    );
    assert_eq!(run.vector(), None);
    assert_eq!(run.bytes::<16>(DATA as u64 + 160 + 7 * 16), [0x5a; 16]);
    assert_eq!(run.bytes::<16>(DATA as u64 + 160 + 8 * 16), [0xcc; 16]);
    let upper = |i: usize| run.state.xsave.0[576 + 16 * i];
    assert_eq!((upper(7), upper(8)), (0, 0xa5));
}

#[test]
fn an_environment_has_the_format_of_its_mode() {
    let program = |a: &mut CodeAssembler| {
        a.fninit().unwrap();
        a.fld1().unwrap();
        a.fldz().unwrap();
        a.fnstenv(dword_ptr(DATA)).unwrap();
    };
    let protected = run(32, |_| {}, program);
    let at = DATA as u64;
    assert_eq!((protected.word(at), protected.word(at + 4)), (0x37f, 6 << 11));
    // Register 7 is valid, 6 is zero, the others are empty.
    assert_eq!(protected.word(at + 8), 0x1fff);
    assert_eq!(protected.word(at + 12), CODE as u16 + 4);
    assert_eq!(protected.word(at + 28), 0xcccc);
    let real = run(
        16,
        |_| {},
        |a| {
            a.fninit().unwrap();
            a.fld1().unwrap();
            a.fldz().unwrap();
            // The assembler's form for 16 bits.
            a.db(&[0xd9, 0x36, 0x00, 0x20]).unwrap();
        },
    );
    assert_eq!((real.word(at), real.word(at + 2), real.word(at + 4)), (0x37f, 6 << 11, 0x1fff));
    assert_eq!((real.word(at + 6), real.word(at + 14)), (CODE as u16 + 4, 0xcccc));
}

#[test]
fn a_state_survives_being_saved_and_restored() {
    let run = run(
        32,
        |_| {},
        |a| {
            a.fninit().unwrap();
            a.fld1().unwrap();
            a.fldpi().unwrap();
            a.fnsave(dword_ptr(DATA)).unwrap();
            a.frstor(dword_ptr(DATA)).unwrap();
            a.fcomip(st0, st1).unwrap();
            a.fnstsw(ax).unwrap();
        },
    );
    assert_eq!(run.vector(), None);
    // One register is left; pi is more than one: CF and ZF are clear.
    assert_eq!(run.state.gpr[0] >> 11 & 7, 7);
    assert_eq!(run.state.rflags & 0x41, 0);
}

#[test]
fn switched_off_units_raise_their_exceptions() {
    let sse = |a: &mut CodeAssembler| a.addps(xmm0, xmm1).unwrap();
    assert_eq!(run(32, |s| s.cr0 |= cr0::TS, sse).vector(), Some(vector::NM));
    assert_eq!(run(32, |s| s.cr0 |= cr0::EM, sse).vector(), Some(vector::UD));
    assert_eq!(run(32, |s| s.cr4 &= !cr4::OSFXSR, sse).vector(), Some(vector::UD));
    let x87 = |a: &mut CodeAssembler| a.fld1().unwrap();
    assert_eq!(run(32, |s| s.cr0 |= cr0::EM, x87).vector(), Some(vector::NM));
    let avx = |a: &mut CodeAssembler| a.vaddps(ymm0, ymm0, ymm0).unwrap();
    assert_eq!(run(32, |s| s.cr0 |= cr0::EM, avx).vector(), None);
    assert_eq!(run(32, |s| s.cr0 |= cr0::TS, avx).vector(), Some(vector::NM));
    assert_eq!(run(32, |s| s.xcr0 = 3, avx).vector(), Some(vector::UD));
    let xsave = |a: &mut CodeAssembler| a.xsave(dword_ptr(DATA)).unwrap();
    assert_eq!(run(32, |s| s.cr4 &= !cr4::OSXSAVE, xsave).vector(), Some(vector::UD));
    assert_eq!(run(16, |_| {}, |a| a.db(&[0x9b]).unwrap()).vector(), None);
    let wait = run(32, |s| s.cr0 |= cr0::TS | cr0::MP, |a| a.wait().unwrap());
    assert_eq!(wait.vector(), Some(vector::NM));
}

#[test]
fn unmasked_exceptions_are_raised_where_they_belong() {
    // Division by zero is unmasked; it is told by the next instruction that waits, and FNSTSW does not.
    let pending = run(
        32,
        |_| {},
        |a| {
            a.mov(dword_ptr(DATA), 0x37b).unwrap();
            a.fninit().unwrap();
            a.fldcw(iced_x86::code_asm::word_ptr(DATA)).unwrap();
            a.fld1().unwrap();
            a.fldz().unwrap();
            a.fdivp(st1, st0).unwrap();
            a.fnstsw(ax).unwrap();
            a.fld1().unwrap();
        },
    );
    assert_eq!(pending.vector(), Some(vector::MF));
    assert_eq!(pending.state.gpr[0] & 0x84, 0x84);
    let simd = |change: fn(&mut CpuState)| {
        run(32, change, |a| {
            a.xorps(xmm7, xmm7).unwrap();
            a.mov(dword_ptr(DATA), 0x1d00).unwrap();
            a.ldmxcsr(dword_ptr(DATA)).unwrap();
            a.mov(eax, 1).unwrap();
            a.cvtsi2ss(xmm0, eax).unwrap();
            a.divss(xmm0, xmm7).unwrap();
        })
    };
    let raised = simd(|_| {});
    assert_eq!(raised.vector(), Some(vector::XM));
    // The flag is set, the destination is not.
    assert_eq!(raised.state.xsave.mxcsr(), 0x1d04);
    assert_eq!(raised.state.xsave.0[160..164], 1.0f32.to_le_bytes());
    assert_eq!(simd(|s| s.cr4 &= !cr4::OSXMMEXCPT).vector(), Some(vector::UD));
}

#[test]
fn an_unaligned_operand_is_refused_where_it_has_to_be_aligned() {
    let refused = run(32, |_| {}, |a| a.addps(xmm0, xmmword_ptr(DATA + 4)).unwrap());
    assert_eq!(refused.exit, UserExit::Exception { vector: vector::GP, error_code: Some(0), cr2: 0 });
    assert_eq!(run(32, |_| {}, |a| a.movups(xmm0, xmmword_ptr(DATA + 4)).unwrap()).vector(), None);
}

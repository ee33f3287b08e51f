//! Guests of random bytes: whatever they execute, the engine neither panics nor hangs.

use std::time::Duration;

use engine::Stop;
use engine_soft::{Bench, SoftOptions};
use memory::{Gpa, GuestMemory, Kind, Region};
use x86::bits::{cr0, cr4, efer, pte, rflags};
use x86::{CpuModel, CpuState, Segment};

use crate::rig::Random;

/// The RAM of such a guest: small, so that random page-table entries often lead somewhere.
const RAM: u64 = 1 << 20;
const CODE: u64 = 0x8_0000;
const TABLES: u64 = 0x1_0000;
/// How long a guest may go round in circles.
const LIMIT: Duration = Duration::from_millis(10);

/// How a garbage guest has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was still running when its budget was used up.
    Budget,
    /// It has halted.
    Halted,
    /// It shut down.
    TripleFault,
    /// It asked for something else of the machine.
    Other,
}

/// Runs a guest whose mode, registers and tables come from `seed` and whose code is `code`, for at most `blocks`
/// blocks and not for long.
///
/// # Errors
/// Those of the engine in setting the guest up.
pub fn run(seed: u64, code: &[u8], blocks: usize) -> engine::Result<End> {
    let mut random = Random::new(seed);
    let failed = |e: memory::Error| engine::Error::Internal(e.to_string());
    let mem = GuestMemory::new(&[Region { start: Gpa(0), len: RAM, kind: Kind::Ram }]).map_err(failed)?;
    // Descriptors, vectors and a stack of random contents, code on top of it.
    let mut low = vec![0; TABLES as usize];
    low.chunks_mut(8).for_each(|c| c.copy_from_slice(&random.draw().to_le_bytes()[..c.len()]));
    mem.write(Gpa(0), &low).map_err(failed)?;
    mem.write(Gpa(CODE), &code[..code.len().min(0x1_0000)]).map_err(failed)?;
    let model = CpuModel::named("x86-64-v3").map_err(|e| engine::Error::Internal(e.to_string()))?;
    let mut bench = Bench::new(&mem, &model, SoftOptions::default())?;
    bench.set_state(&state(&mut random, &model, &mem).map_err(failed)?)?;
    Ok(match bench.run_for(blocks, LIMIT) {
        None if bench.is_halted() => End::Halted,
        None | Some(Stop::Kicked) => End::Budget,
        Some(Stop::TripleFault) => End::TripleFault,
        Some(_) => End::Other,
    })
}

/// A CPU in one of the modes, ready to run at [`CODE`].
fn state(random: &mut Random, model: &CpuModel, mem: &GuestMemory) -> memory::Result<CpuState> {
    let mut s = CpuState::power_on(0, model.signature());
    s.gpr.iter_mut().for_each(|r| *r = if random.below(2) == 0 { random.draw() } else { random.below(RAM) });
    s.rip = CODE;
    s.rflags = 2 | random.draw() & (rflags::STATUS | rflags::DF | rflags::IOPL | rflags::AC | rflags::NT);
    if random.below(16) == 0 {
        s.rflags |= rflags::TF;
    }
    s.idt.base = random.below(0x8000) & !7;
    s.gdt.base = random.below(0x8000) & !7;
    s.cr0 = cr0::ET | cr0::NE | random.draw() & (cr0::MP | cr0::WP | cr0::AM);
    s.cr4 = cr4::OSFXSR
        | cr4::OSXMMEXCPT
        | cr4::OSXSAVE
        | random.draw() & (cr4::PSE | cr4::PGE | cr4::DE | cr4::TSD | cr4::VME | cr4::FSGSBASE);
    s.xcr0 = 7;
    let mode = random.below(6);
    let ring = if random.below(2) == 0 { 0 } else { 3u16 };
    let attr = Segment::PRESENT | Segment::S | Segment::WRITABLE_OR_READABLE | Segment::ACCESSED | ring << 5;
    if mode == 0 {
        // Real mode: the code is at 8000:0000.
        s.seg = [Segment::real(0x8000); 6];
        s.rip = 0;
        return Ok(s);
    }
    s.cr0 |= cr0::PE;
    let wide = if mode == 1 { 0 } else { Segment::DB | Segment::GRANULARITY };
    let flat = Segment { base: 0, limit: u32::MAX, selector: 16 | ring, attr: attr | wide };
    s.seg = [flat; 6];
    s.seg[1] = Segment { selector: 8 | ring, attr: flat.attr | Segment::CODE, ..flat };
    if mode == 5 && ring == 3 {
        // Virtual-8086 mode.
        s.rflags |= rflags::VM;
        s.seg = [Segment { attr: attr | 3 << 5, ..Segment::real(0x8000) }; 6];
        s.rip = 0;
        return Ok(s);
    }
    if mode >= 3 {
        s.cr3 = tables(random, mem, mode == 4)?;
        s.cr0 |= cr0::PG;
        if mode == 4 {
            s.cr4 |= cr4::PAE | random.draw() & (cr4::SMEP | cr4::SMAP | cr4::PCIDE);
            s.msrs.efer = efer::LME | efer::LMA | efer::NXE | efer::SCE;
            s.seg[1].attr = s.seg[1].attr & !Segment::DB | Segment::LONG;
        }
    }
    Ok(s)
}

/// Page tables that map the first megabyte to itself, with random entries among them. Gives CR3.
fn tables(random: &mut Random, mem: &GuestMemory, long: bool) -> memory::Result<u64> {
    let all = pte::P | pte::RW | pte::US;
    let entry = |random: &mut Random, good: u64| match random.below(24) {
        0 => random.draw(),
        1 => random.below(RAM) & !0xfff | random.draw() & 0xfff,
        2 => good & !pte::US,
        3 => good & !pte::RW,
        4 => good | pte::XD,
        _ => good,
    };
    if long {
        for (level, next) in
            [(TABLES, TABLES + 0x1000), (TABLES + 0x1000, TABLES + 0x2000), (TABLES + 0x2000, TABLES + 0x3000)]
        {
            mem.write(Gpa(level), &(next | all).to_le_bytes())?;
            for i in 1..512 {
                let wild = if random.below(8) == 0 { random.draw() } else { 0 };
                mem.write(Gpa(level + 8 * i), &wild.to_le_bytes())?;
            }
        }
        for i in 0..512 {
            let wild = entry(random, i << 12 | all);
            mem.write(Gpa(TABLES + 0x3000 + 8 * i), &wild.to_le_bytes())?;
        }
    } else {
        mem.write(Gpa(TABLES), &((TABLES + 0x1000) as u32 | all as u32).to_le_bytes())?;
        for i in 0..1024 {
            let wild = entry(random, i << 12 | all) as u32;
            mem.write(Gpa(TABLES + 0x1000 + 4 * i), &wild.to_le_bytes())?;
        }
    }
    Ok(TABLES)
}

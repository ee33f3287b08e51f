//! FXSAVE, XSAVE and their like, MXCSR, VZEROUPPER (SDM vol. 1, 10.5 and chapter 13).

use iced_x86::{Instruction, Mnemonic};
use x86::Feature;
use x86::bits::{cr0, cr4, mxcsr, vector, xcr0};

use super::state::Fpu;
use super::{Gate, bytes};
use crate::cpu::{Cpu, Exec, reg};
use crate::op::Op;

/// The legacy area and, behind it, the header.
const LEGACY: usize = 512;
const HEADER: usize = 64;
/// Where the upper halves of the YMM registers are, in the compacted format too.
const AVX: usize = LEGACY + HEADER;
const AVX_SIZE: usize = 256;
const AREA: usize = AVX + AVX_SIZE;
/// XCOMP_BV: the area is compacted.
const COMPACTED: u64 = 1 << 63;

pub(super) fn lower(instruction: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    op.run = match mnemonic {
        M::Fxsave | M::Fxsave64 => fxsave,
        M::Fxrstor | M::Fxrstor64 => fxrstor,
        M::Xsave | M::Xsave64 => xsave,
        M::Xsaveopt | M::Xsaveopt64 => xsaveopt,
        M::Xsavec | M::Xsavec64 => xsavec,
        M::Xrstor | M::Xrstor64 => xrstor,
        M::Ldmxcsr => ldmxcsr::<false>,
        M::Vldmxcsr => ldmxcsr::<true>,
        M::Stmxcsr => stmxcsr::<false>,
        M::Vstmxcsr => stmxcsr::<true>,
        M::Vzeroupper => vzeroupper,
        M::Vzeroall => vzeroall,
        _ => return false,
    };
    // The forms with REX.W have 64-bit pointers.
    op.imm = u64::from(matches!(
        mnemonic,
        M::Fxsave64 | M::Fxrstor64 | M::Xsave64 | M::Xsaveopt64 | M::Xsavec64 | M::Xrstor64
    ));
    true
}

/// An image in the standard format, and which pieces of it go to memory.
struct Pieces {
    area: [u8; AREA],
    ranges: [(usize, usize); 6],
    count: usize,
}

impl Pieces {
    fn of(cpu: &mut Cpu, wide: bool) -> Self {
        let mut area = [0; AREA];
        area[..160].copy_from_slice(&cpu.fpu.x87_image());
        if !wide {
            // 32-bit offsets; the selectors behind them are no longer kept and read as zero.
            area[12..16].fill(0);
            area[20..24].fill(0);
        }
        area[24..28].copy_from_slice(&cpu.fpu.mxcsr.to_le_bytes());
        area[28..32].copy_from_slice(&mxcsr::WRITABLE.to_le_bytes());
        for (i, ymm) in cpu.fpu.ymm.iter().enumerate() {
            area[160 + 16 * i..][..16].copy_from_slice(&ymm[..16]);
            area[AVX + 16 * i..][..16].copy_from_slice(&ymm[16..]);
        }
        Self { area, ranges: [(0, 0); 6], count: 0 }
    }

    /// Adds `len` bytes at `start`.
    fn take(&mut self, start: usize, len: usize) {
        if let Some(range) = self.ranges.get_mut(self.count) {
            *range = (start, len);
            self.count += 1;
        }
    }

    /// Adds the components of `set`; MXCSR goes separately.
    fn take_components(&mut self, set: u64, registers: usize) {
        if set & xcr0::X87 != 0 {
            self.take(0, 24);
            self.take(32, 128);
        }
        if set & xcr0::SSE != 0 {
            self.take(160, 16 * registers);
        }
        if set & xcr0::AVX != 0 {
            self.take(AVX, 16 * registers);
        }
    }

    fn write(&self, cpu: &mut Cpu, lin: u64) -> Exec {
        for &(start, len) in &self.ranges[..self.count] {
            cpu.write_bytes(lin.wrapping_add(start as u64), &self.area[start..start + len])?;
        }
        Ok(())
    }
}

impl Fpu {
    /// The components that are not in their initial configuration (SDM vol. 1, 13.6), of XMM0 and so on only the first
    /// `registers`.
    fn in_use(&mut self, registers: usize) -> u64 {
        let image = self.x87_image();
        let initial = image[..2] == 0x37fu16.to_le_bytes() && image[2..24].iter().chain(&image[32..]).all(|b| *b == 0);
        let used = |low: usize| self.ymm[..registers].iter().any(|ymm| ymm[low..low + 16] != [0; 16]);
        let mut set = if initial { 0 } else { xcr0::X87 };
        if used(0) {
            set |= xcr0::SSE;
        }
        if used(16) {
            set |= xcr0::AVX;
        }
        set
    }

    /// Takes the x87 part of `area`, with 32-bit pointers unless `wide`.
    fn load_x87(&mut self, area: &[u8], wide: bool) {
        let mut image = [0; 160];
        image.copy_from_slice(&area[..160]);
        if !wide {
            image[12..16].fill(0);
            image[20..24].fill(0);
        }
        self.set_x87_image(&image);
    }

    /// The initial configuration of the x87 state.
    fn clear_x87(&mut self) {
        let mut image = [0; 160];
        image[..2].copy_from_slice(&0x37fu16.to_le_bytes());
        self.set_x87_image(&image);
    }

    /// Sets one half of the first `registers` YMM registers from `source`, or clears it.
    fn load_halves(&mut self, low: usize, registers: usize, source: Option<&[u8]>) {
        for (i, ymm) in self.ymm.iter_mut().take(registers).enumerate() {
            match source.and_then(|s| s.get(16 * i..16 * i + 16)) {
                Some(bytes) => ymm[low..low + 16].copy_from_slice(bytes),
                None => ymm[low..low + 16].fill(0),
            }
        }
    }
}

impl Cpu {
    /// How many vector registers the mode has.
    fn vector_registers(&self) -> usize {
        if self.is64() { 16 } else { 8 }
    }

    /// What XGETBV with ECX 1 gives: XCR0 & XINUSE. MXCSR counts as SSE state there (SDM vol. 1, 13.2).
    pub(crate) fn xinuse(&mut self) -> u64 {
        let mxcsr_used = if self.fpu.mxcsr == mxcsr::POWER_ON { 0 } else { xcr0::SSE };
        (self.fpu.in_use(16) | mxcsr_used) & self.xcr0
    }

    /// The address of an area that must be `align`ed.
    fn area_address(&mut self, op: &Op, size: usize, align: u64, write: bool) -> Exec<u64> {
        let lin = self.address(op, size as u64, write)?;
        if lin & (align - 1) != 0 {
            return Err(self.gp(0));
        }
        self.check_operand(op, lin, size as u64)?;
        Ok(lin)
    }

    /// The checks before XSAVE and XRSTOR; gives the requested-feature bitmap.
    fn enter_xsave(&mut self) -> Exec<u64> {
        if self.cr4 & cr4::OSXSAVE == 0 {
            return Err(self.ud());
        }
        if self.cr0 & cr0::TS != 0 {
            return Err(self.raise(vector::NM));
        }
        let asked = self.regs[reg::RAX] & 0xffff_ffff | self.regs[reg::RDX] << 32;
        Ok(asked & self.xcr0 & (xcr0::X87 | xcr0::SSE | xcr0::AVX))
    }

    /// XSAVE, and XSAVEOPT where `optimized`: what is in its initial configuration is then not written.
    fn xsave_standard(&mut self, op: &Op, optimized: bool) -> Exec {
        let rfbm = self.enter_xsave()?;
        let size = if rfbm & xcr0::AVX != 0 { AREA } else { AVX };
        let lin = self.area_address(op, size, 64, true)?;
        self.probe(lin, size as u64, true)?;
        let registers = self.vector_registers();
        let in_use = self.fpu.in_use(registers);
        let header = lin.wrapping_add(LEGACY as u64);
        let old: u64 = self.read_lin(header)?;
        let mut pieces = Pieces::of(self, op.imm != 0);
        if rfbm & (xcr0::SSE | xcr0::AVX) != 0 {
            pieces.take(24, 8);
        }
        pieces.take_components(if optimized { rfbm & in_use } else { rfbm }, registers);
        pieces.write(self, lin)?;
        self.write_lin(header, old & !rfbm | in_use & rfbm)
    }

    fn fx_gate(&mut self) -> Exec {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(vector::NM));
        }
        Ok(())
    }
}

fn fxsave(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.fx_gate()?;
    let lin = cpu.area_address(op, LEGACY, 16, true)?;
    cpu.probe(lin, LEGACY as u64, true)?;
    let mut pieces = Pieces::of(cpu, op.imm != 0);
    pieces.take(0, 160 + 16 * cpu.vector_registers());
    pieces.write(cpu, lin)
}

fn fxrstor(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.fx_gate()?;
    let lin = cpu.area_address(op, LEGACY, 16, false)?;
    let mut area = [0; LEGACY];
    cpu.read_bytes(lin, &mut area)?;
    let value: u32 = bytes::u32_at(&area, 24);
    if value & !mxcsr::WRITABLE != 0 {
        return Err(cpu.gp(0));
    }
    let registers = cpu.vector_registers();
    cpu.fpu.load_x87(&area, op.imm != 0);
    cpu.fpu.mxcsr = value;
    cpu.fpu.load_halves(0, registers, Some(&area[160..]));
    Ok(())
}

fn xsave(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.xsave_standard(op, false)
}

fn xsaveopt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.xsave_standard(op, true)
}

/// SDM vol. 1, 13.10. With XCR0's three components the compacted format has each where the standard one has it.
fn xsavec(cpu: &mut Cpu, op: &Op) -> Exec {
    let rfbm = cpu.enter_xsave()?;
    let size = if rfbm & xcr0::AVX != 0 { AREA } else { AVX };
    let lin = cpu.area_address(op, size, 64, true)?;
    cpu.probe(lin, size as u64, true)?;
    let registers = cpu.vector_registers();
    let mut set = cpu.fpu.in_use(registers) & rfbm;
    if cpu.fpu.mxcsr != mxcsr::POWER_ON {
        set |= xcr0::SSE & rfbm;
    }
    let mut pieces = Pieces::of(cpu, op.imm != 0);
    pieces.area[LEGACY..LEGACY + 8].copy_from_slice(&set.to_le_bytes());
    pieces.area[LEGACY + 8..LEGACY + 16].copy_from_slice(&(rfbm | COMPACTED).to_le_bytes());
    if set & xcr0::SSE != 0 {
        pieces.take(24, 8);
    }
    pieces.take_components(set, registers);
    pieces.take(LEGACY, 16);
    pieces.write(cpu, lin)
}

/// SDM vol. 1, 13.8.
fn xrstor(cpu: &mut Cpu, op: &Op) -> Exec {
    let rfbm = cpu.enter_xsave()?;
    let lin = cpu.area_address(op, AVX, 64, false)?;
    let mut area = [0; AREA];
    cpu.read_bytes(lin, &mut area[..AVX])?;
    let present = bytes::u64_at(&area, LEGACY);
    let format = bytes::u64_at(&area, LEGACY + 8);
    let compacted = format & COMPACTED != 0;
    let bad = if compacted {
        !cpu.model.has(Feature::Xsavec)
            || format & !COMPACTED & !cpu.xcr0 != 0
            || present & !format != 0
            || area[LEGACY + 16..AVX].iter().any(|b| *b != 0)
    } else {
        present & !cpu.xcr0 != 0 || area[LEGACY + 8..LEGACY + 24].iter().any(|b| *b != 0)
    };
    if bad || present & COMPACTED != 0 {
        return Err(cpu.gp(0));
    }
    // The standard format has MXCSR whatever XSTATE_BV says, the compacted one only with the SSE component.
    let with_mxcsr = if compacted { rfbm & present & xcr0::SSE != 0 } else { rfbm & (xcr0::SSE | xcr0::AVX) != 0 };
    let value = bytes::u32_at(&area, 24);
    if with_mxcsr && value & !mxcsr::WRITABLE != 0 {
        return Err(cpu.gp(0));
    }
    // As on CPUs, all of the area that is asked for has to be there, though some of it may be in its initial
    // configuration.
    if rfbm & xcr0::AVX != 0 && (!compacted || format & xcr0::AVX != 0) {
        let lin = cpu.area_address(op, AREA, 64, false)?;
        cpu.read_bytes(lin.wrapping_add(AVX as u64), &mut area[AVX..])?;
    }
    let registers = cpu.vector_registers();
    let source = |component: u64, at: usize| (present & component != 0).then(|| &area[at..]);
    if rfbm & xcr0::X87 != 0 {
        match source(xcr0::X87, 0) {
            Some(image) => cpu.fpu.load_x87(image, op.imm != 0),
            None => cpu.fpu.clear_x87(),
        }
    }
    if with_mxcsr {
        cpu.fpu.mxcsr = value;
    } else if rfbm & xcr0::SSE != 0 {
        cpu.fpu.mxcsr = mxcsr::POWER_ON;
    }
    if rfbm & xcr0::SSE != 0 {
        cpu.fpu.load_halves(0, registers, source(xcr0::SSE, 160));
    }
    if rfbm & xcr0::AVX != 0 {
        cpu.fpu.load_halves(16, registers, source(xcr0::AVX, AVX));
    }
    Ok(())
}

fn ldmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(if VEX { Gate::Avx } else { Gate::Sse })?;
    let value: u32 = cpu.load(op)?;
    if value & !mxcsr::WRITABLE != 0 {
        return Err(cpu.gp(0));
    }
    cpu.fpu.mxcsr = value;
    Ok(())
}

fn stmxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(if VEX { Gate::Avx } else { Gate::Sse })?;
    cpu.store(op, cpu.fpu.mxcsr)
}

fn vzeroupper(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_gate(Gate::Avx)?;
    let registers = cpu.vector_registers();
    cpu.fpu.load_halves(16, registers, None);
    Ok(())
}

fn vzeroall(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.check_gate(Gate::Avx)?;
    let registers = cpu.vector_registers();
    cpu.fpu.load_halves(0, registers, None);
    cpu.fpu.load_halves(16, registers, None);
    Ok(())
}

//! The x87 unit's environment and state in the formats of the 8087 and its successors (SDM vol. 1, 8.1.10).

use iced_x86::{Instruction, Mnemonic};

use super::{Gate, bytes};
use crate::cpu::{Cpu, Exec, sreg};
use crate::decode::LowerCtx;
use crate::op::Op;

/// The most that is saved: 28 bytes of environment and eight registers of ten.
const LARGEST: usize = 108;
/// In `Op::imm`, beside the size of the operand: checks for a pending exception first.
const WAITS: u64 = 1 << 8;

pub(super) fn lower(instruction: &Instruction, _: &LowerCtx<'_>, op: &mut Op) -> bool {
    use Mnemonic as M;
    let mnemonic = instruction.mnemonic();
    op.run = match mnemonic {
        M::Fnstenv | M::Fstenv => store_environment,
        M::Fnsave | M::Fsave => save,
        M::Fldenv => load_environment,
        M::Frstor => restore,
        M::Fninit | M::Finit => initialize,
        _ => return false,
    };
    op.imm = instruction.memory_size().size() as u64;
    if !matches!(mnemonic, M::Fnstenv | M::Fnsave | M::Fninit) {
        op.imm |= WAITS;
    }
    true
}

/// How an environment is laid out.
#[derive(Clone, Copy)]
struct Format {
    /// 28 bytes of environment rather than 14.
    wide: bool,
    /// Pointers are linear addresses in pieces, with the opcode between them.
    real: bool,
}

impl Format {
    fn of(cpu: &Cpu, op: &Op) -> Self {
        Self { wide: matches!(op.imm & 0xff, 28 | 108), real: cpu.paragraph_segments() }
    }

    fn len(self) -> usize {
        if self.wide { 28 } else { 14 }
    }

    /// The environment in `image`, which is FXSAVE64's.
    fn write(self, cpu: &Cpu, image: &[u8; 160]) -> [u8; 28] {
        let (fip, fdp) = (bytes::u64_at(image, 8) as u32, bytes::u64_at(image, 16) as u32);
        let words = [bytes::u16_at(image, 0), bytes::u16_at(image, 2), full_tags(image)];
        let mut out = [0; 28];
        if self.wide {
            for (slot, word) in out.chunks_exact_mut(4).zip(words) {
                slot.copy_from_slice(&(0xffff_0000 | u32::from(word)).to_le_bytes());
            }
            let pointers = if self.real {
                let (ip, dp) = self.linear(cpu, fip, fdp);
                [0xffff_0000 | ip & 0xffff, ip >> 16 << 12, 0xffff_0000 | dp & 0xffff, dp >> 16 << 12]
            } else {
                // Selectors are no longer kept and read as zero.
                [fip, 0, fdp, 0xffff_0000]
            };
            for (slot, pointer) in out[12..].chunks_exact_mut(4).zip(pointers) {
                slot.copy_from_slice(&pointer.to_le_bytes());
            }
        } else {
            let pointers = if self.real {
                let (ip, dp) = self.linear(cpu, fip, fdp);
                [ip, ip >> 16 << 12, dp, dp >> 16 << 12]
            } else {
                [fip, 0, fdp, 0]
            };
            let pointers = pointers.map(|p| p as u16);
            for (slot, word) in out.chunks_exact_mut(2).zip(words.into_iter().chain(pointers)) {
                slot.copy_from_slice(&word.to_le_bytes());
            }
        }
        out
    }

    /// The pointers as linear addresses: offsets are kept, and code rarely changes its segment between an instruction
    /// and its handler.
    fn linear(self, cpu: &Cpu, fip: u32, fdp: u32) -> (u32, u32) {
        let add = |seg: usize, offset: u32| (cpu.seg[seg].base as u32).wrapping_add(offset) & 0xf_ffff;
        (if fip == 0 { 0 } else { add(sreg::CS, fip) }, if fdp == 0 { 0 } else { add(sreg::DS, fdp) })
    }

    /// Puts the environment `env` into `image`.
    fn read(self, env: &[u8], image: &mut [u8; 160]) {
        let step = if self.wide { 4 } else { 2 };
        image[0..2].copy_from_slice(&bytes::u16_at(env, 0).to_le_bytes());
        image[2..4].copy_from_slice(&bytes::u16_at(env, step).to_le_bytes());
        image[4] = abridged_tags(bytes::u16_at(env, 2 * step));
        let (fip, fdp) = match (self.wide, self.real) {
            (true, false) => (bytes::u32_at(env, 12), bytes::u32_at(env, 20)),
            (true, true) => {
                let pointer =
                    |at| u32::from(bytes::u16_at(env, at)) | (bytes::u32_at(env, at + 4) >> 12 & 0xffff) << 16;
                (pointer(12), pointer(20))
            }
            (false, false) => (u32::from(bytes::u16_at(env, 6)), u32::from(bytes::u16_at(env, 10))),
            (false, true) => {
                let pointer =
                    |at| u32::from(bytes::u16_at(env, at)) | u32::from(bytes::u16_at(env, at + 2) >> 12) << 16;
                (pointer(6), pointer(10))
            }
        };
        image[8..16].copy_from_slice(&u64::from(fip).to_le_bytes());
        image[16..24].copy_from_slice(&u64::from(fdp).to_le_bytes());
    }
}

/// The tag word of two bits for each physical register, from the registers' contents (SDM vol. 1, 8.1.7).
fn full_tags(image: &[u8; 160]) -> u16 {
    let top = usize::from(bytes::u16_at(image, 2) >> 11 & 7);
    let mut tags = 0;
    for physical in 0..8 {
        let stack = (physical + 8 - top) & 7;
        let mantissa = bytes::u64_at(image, 32 + 16 * stack);
        let exponent = bytes::u16_at(image, 40 + 16 * stack) & 0x7fff;
        let tag = match (image[4] >> physical & 1, exponent) {
            (0, _) => 3,
            (_, 0) if mantissa == 0 => 1,
            (_, 0 | 0x7fff) => 2,
            _ if mantissa >> 63 == 0 => 2,
            _ => 0,
        };
        tags |= tag << (2 * physical);
    }
    tags
}

/// FXSAVE's tags: which registers are not empty.
fn abridged_tags(full: u16) -> u8 {
    (0..8).fold(0, |tags, i| tags | u8::from(full >> (2 * i) & 3 != 3) << i)
}

impl Cpu {
    fn enter_environment(&mut self, op: &Op) -> Exec {
        self.check_gate(Gate::X87)?;
        if op.imm & WAITS != 0 {
            self.pending_x87()?;
        }
        Ok(())
    }

    fn environment_address(&mut self, op: &Op, size: u64, write: bool) -> Exec<u64> {
        let lin = self.address(op, size, write)?;
        self.check_operand(op, lin, size)?;
        Ok(lin)
    }
}

fn store_environment(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_environment(op)?;
    let format = Format::of(cpu, op);
    let lin = cpu.environment_address(op, format.len() as u64, true)?;
    let mut image = cpu.fpu.x87_image();
    let env = format.write(cpu, &image);
    cpu.write_bytes(lin, &env[..format.len()])?;
    // All exceptions are masked then.
    image[0] |= 0x3f;
    cpu.fpu.set_x87_image(&image);
    Ok(())
}

fn load_environment(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_environment(op)?;
    let format = Format::of(cpu, op);
    let lin = cpu.environment_address(op, format.len() as u64, false)?;
    let mut env = [0; 28];
    cpu.read_bytes(lin, &mut env[..format.len()])?;
    let old = cpu.fpu.x87_image();
    let mut image = old;
    format.read(&env, &mut image);
    // The registers stay where they are physically, while the image has them in the order of the stack.
    let top = |image: &[u8; 160]| usize::from(bytes::u16_at(image, 2) >> 11 & 7);
    for physical in 0..8 {
        let (from, to) = ((physical + 8 - top(&old)) & 7, (physical + 8 - top(&image)) & 7);
        image[32 + 16 * to..][..16].copy_from_slice(&old[32 + 16 * from..][..16]);
    }
    cpu.fpu.set_x87_image(&image);
    Ok(())
}

fn save(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_environment(op)?;
    let format = Format::of(cpu, op);
    let size = format.len() + 80;
    let lin = cpu.environment_address(op, size as u64, true)?;
    let image = cpu.fpu.x87_image();
    let mut out = [0; LARGEST];
    out[..28].copy_from_slice(&format.write(cpu, &image));
    for i in 0..8 {
        out[format.len() + 10 * i..][..10].copy_from_slice(&image[32 + 16 * i..][..10]);
    }
    cpu.write_bytes(lin, &out[..size])?;
    cpu.fpu.init_x87();
    Ok(())
}

fn restore(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_environment(op)?;
    let format = Format::of(cpu, op);
    let size = format.len() + 80;
    let lin = cpu.environment_address(op, size as u64, false)?;
    let mut saved = [0; LARGEST];
    cpu.read_bytes(lin, &mut saved[..size])?;
    let mut image = [0; 160];
    format.read(&saved, &mut image);
    for i in 0..8 {
        image[32 + 16 * i..][..10].copy_from_slice(&saved[format.len() + 10 * i..][..10]);
    }
    cpu.fpu.set_x87_image(&image);
    Ok(())
}

fn initialize(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.enter_environment(op)?;
    cpu.fpu.init_x87();
    Ok(())
}

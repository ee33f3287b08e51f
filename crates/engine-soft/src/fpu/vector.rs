//! SSE and AVX: calling the thunks.

use iced_x86::{Instruction, Register};
use x86::bits::{cr4, rflags, vector};

use super::thunk::{self, Mem, Shape, Thunk};
use crate::cpu::{Cpu, Exec, sreg};
use crate::decode::LowerCtx;
use crate::mmu::is_canonical;
use crate::op::Op;

/// In a register number: a general-purpose register, not a vector one.
const GENERAL: u8 = 0x40;

/// Finds or makes the thunk of `instruction` and notes it and the register operands in `op`.
pub(super) fn prepare(instruction: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op, shape: Shape) -> bool {
    let Some((key, plain)) = thunk::normalized(instruction) else { return false };
    let Some(thunk) = ctx.thunks.get(&key, || thunk::build(instruction, &plain, shape)) else { return false };
    let mut numbers = [0u8; 4];
    for (slot, (_, register)) in thunk::slots(instruction).enumerate().take(4) {
        numbers[slot] = number(register);
    }
    op.dst = numbers[0];
    op.src = numbers[1];
    // Addresses of thunks have 47 bits.
    op.imm = std::ptr::from_ref(thunk) as u64 | u64::from(numbers[2]) << 48 | u64::from(numbers[3]) << 56;
    true
}

fn number(register: Register) -> u8 {
    if register.is_gpr() { GENERAL | register.full_register().number() as u8 } else { register.number() as u8 & 15 }
}

pub(super) fn lower(instruction: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op, shape: Shape) -> bool {
    op.run = match shape.mem {
        Mem::None => run_registers,
        Mem::Load => run_load,
        Mem::Store => run_store,
    };
    prepare(instruction, ctx, op, shape)
}

impl Op {
    /// The thunk that `prepare` has noted.
    #[inline(always)]
    pub(super) fn thunk(&self) -> &'static Thunk {
        // SAFETY: `prepare` put a `&'static Thunk` into the low 48 bits.
        unsafe { &*((self.imm & 0xffff_ffff_ffff) as *const Thunk) }
    }
}

impl Cpu {
    #[inline(always)]
    fn slot_pointer(&mut self, number: u8) -> *mut u8 {
        if number & GENERAL != 0 {
            (&raw mut self.regs[(number & 15) as usize]).cast()
        } else {
            (&raw mut self.fpu.ymm[(number & 15) as usize]).cast()
        }
    }

    /// Runs the thunk of `op` on the memory operand at `mem`.
    #[inline(always)]
    pub(super) fn call_thunk(&mut self, op: &Op, mem: *mut u8) -> Exec {
        let thunk = op.thunk();
        let (p0, p1) = (self.slot_pointer(op.dst), self.slot_pointer(op.src));
        let p2 = self.slot_pointer((op.imm >> 48) as u8);
        self.fpu.fourth = self.slot_pointer((op.imm >> 56) as u8) as u64;
        if thunk.shape.reads_flags {
            // Only the status flags: the host's trap and direction flags are not the guest's.
            self.fpu.flags = self.flags.bits() | rflags::ONE | rflags::IF;
        }
        // SAFETY: the thunk keeps to the calling convention; `mem` points to as many bytes as the instruction
        // accesses, and the others to registers of this CPU.
        let faulted = unsafe { (thunk.entry)(&raw mut self.fpu, mem, self.regs.as_mut_ptr(), p0, p1, p2) };
        if faulted != 0 {
            // SDM vol. 3A, 6.15, interrupt 19.
            let vector = if self.cr4 & cr4::OSXMMEXCPT != 0 { vector::XM } else { vector::UD };
            return Err(self.raise(vector));
        }
        if thunk.shape.sets_flags {
            self.flags.set_bits(self.fpu.flags);
        }
        Ok(())
    }

    /// The address of the memory operand, its alignment checked.
    #[inline(always)]
    pub(super) fn operand_address(&mut self, op: &Op, shape: &Shape, write: bool) -> Exec<u64> {
        let size = u64::from(shape.mem_size);
        let lin = self.address(op, size, write)?;
        if shape.aligned && lin & (size - 1) != 0 {
            return Err(self.gp(0));
        }
        self.check_operand(op, lin, size)?;
        Ok(lin)
    }

    /// #SS or #GP where an operand of `size` bytes at `lin` is not all canonical.
    #[inline(always)]
    pub(super) fn check_operand(&mut self, op: &Op, lin: u64, size: u64) -> Exec {
        if self.is64() && !(is_canonical(lin) && is_canonical(lin.wrapping_add(size - 1))) {
            return Err(if op.seg as usize == sreg::SS { self.ss(0) } else { self.gp(0) });
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn call_with_load(&mut self, op: &Op) -> Exec {
        let shape = &op.thunk().shape;
        let size = shape.mem_size as usize;
        let lin = self.operand_address(op, shape, false)?;
        let mem = match self.host_range(lin, size as u64, false)? {
            Some(mem) => mem,
            None => {
                let mut bytes = [0; 64];
                self.read_bytes(lin, &mut bytes[..size])?;
                self.fpu.bounce = bytes;
                self.fpu.bounce.as_mut_ptr()
            }
        };
        self.call_thunk(op, mem)
    }

    #[inline(always)]
    pub(super) fn call_with_store(&mut self, op: &Op) -> Exec {
        let shape = &op.thunk().shape;
        let size = shape.mem_size as usize;
        if shape.converts {
            // What is wrong with the value comes before what is wrong with the address.
            let bounce = self.fpu.bounce.as_mut_ptr();
            self.call_thunk(op, bounce)?;
            let lin = self.operand_address(op, shape, true)?;
            let bytes = self.fpu.bounce;
            return self.write_bytes(lin, &bytes[..size]);
        }
        let lin = self.operand_address(op, shape, true)?;
        if let Some(mem) = self.host_range(lin, size as u64, true)? {
            return self.call_thunk(op, mem);
        }
        self.probe(lin, size as u64, true)?;
        if shape.x87 {
            // An unmasked exception keeps an x87 instruction from storing: what is there then goes back.
            let mut bytes = [0; 64];
            self.read_bytes(lin, &mut bytes[..size])?;
            self.fpu.bounce = bytes;
        }
        let bounce = self.fpu.bounce.as_mut_ptr();
        self.call_thunk(op, bounce)?;
        let bytes = self.fpu.bounce;
        self.write_bytes(lin, &bytes[..size])
    }
}

fn run_registers(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(op.thunk().shape.gate)?;
    cpu.call_thunk(op, std::ptr::null_mut())
}

fn run_load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(op.thunk().shape.gate)?;
    cpu.call_with_load(op)
}

fn run_store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(op.thunk().shape.gate)?;
    cpu.call_with_store(op)
}

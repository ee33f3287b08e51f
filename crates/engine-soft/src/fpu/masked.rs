//! Accesses by elements: VMASKMOV, MASKMOVQ and the gathers. What the mask leaves out is not touched and cannot fault.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::Gate;
use crate::cpu::{Cpu, Exec, reg};
use crate::decode::sreg;
use crate::op::{Op, has};

pub(super) fn lower(instruction: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    match instruction.mnemonic() {
        M::Vmaskmovps | M::Vpmaskmovd => lower_maskmov(instruction, op, 4),
        M::Vmaskmovpd | M::Vpmaskmovq => lower_maskmov(instruction, op, 8),
        M::Maskmovq => lower_bytes(instruction, op, maskmovq),
        M::Maskmovdqu => lower_bytes(instruction, op, maskmovdqu::<false>),
        M::Vmaskmovdqu => lower_bytes(instruction, op, maskmovdqu::<true>),
        M::Vgatherdps | M::Vpgatherdd => lower_gather(instruction, op, 4, 4),
        M::Vgatherqps | M::Vpgatherqd => lower_gather(instruction, op, 4, 8),
        M::Vgatherdpd | M::Vpgatherdq => lower_gather(instruction, op, 8, 4),
        M::Vgatherqpd | M::Vpgatherqq => lower_gather(instruction, op, 8, 8),
        _ => false,
    }
}

/// What `Op::imm` says of a form: bytes of an element, of an index, and how many elements there are.
struct Elements {
    size: usize,
    index_size: usize,
    count: usize,
}

impl Elements {
    fn pack(size: usize, index_size: usize, count: usize) -> u64 {
        (size | index_size << 8 | count << 16) as u64
    }

    fn of(op: &Op) -> Self {
        Self {
            size: (op.imm & 0xff) as usize,
            index_size: (op.imm >> 8 & 0xff) as usize,
            count: (op.imm >> 16 & 0xff) as usize,
        }
    }
}

fn number(register: Register) -> u8 {
    register.number() as u8 & 15
}

fn lower_maskmov(instruction: &Instruction, op: &mut Op, size: usize) -> bool {
    let store = instruction.op_kind(0) == OpKind::Memory;
    let mask = instruction.op_register(1);
    let data = instruction.op_register(if store { 2 } else { 0 });
    if !(mask.is_xmm() || mask.is_ymm()) {
        return false;
    }
    op.dst = number(data);
    op.src = number(mask);
    op.imm = Elements::pack(size, 0, mask.size() / size);
    op.run = if store { maskmov_store } else { maskmov_load };
    true
}

fn lower_bytes(instruction: &Instruction, op: &mut Op, run: crate::op::Handler) -> bool {
    op.base = reg::RDI as u8;
    op.index = reg::NONE as u8;
    op.disp = 0;
    op.seg = sreg(instruction.memory_segment());
    op.has |= match instruction.op_kind(0) {
        OpKind::MemorySegDI => has::ADDR16,
        OpKind::MemorySegEDI => has::ADDR32,
        _ => 0,
    };
    op.dst = instruction.op_register(1).number() as u8;
    op.src = instruction.op_register(2).number() as u8;
    op.run = run;
    true
}

fn lower_gather(instruction: &Instruction, op: &mut Op, size: usize, index_size: usize) -> bool {
    let (data, mask, index) = (instruction.op_register(0), instruction.op_register(2), instruction.memory_index());
    let vector = |r: Register| r.is_xmm() || r.is_ymm();
    let distinct = number(data) != number(mask) && number(data) != number(index) && number(mask) != number(index);
    if !vector(data) || !vector(mask) || !vector(index) || !distinct {
        return false;
    }
    op.dst = number(data);
    op.src = number(mask);
    op.index = number(index);
    let length = data.size().max(index.size());
    op.imm = Elements::pack(size, index_size, length / size.max(index_size));
    op.run = gather;
    true
}

impl Cpu {
    /// The linear address of `size` bytes, `by` behind the start of the operand at `offset`.
    fn element_address(&mut self, op: &Op, offset: u64, by: u64, size: usize, write: bool) -> Exec<u64> {
        let offset = offset.wrapping_add(by);
        let offset = if op.has(has::ADDR32) {
            offset & 0xffff_ffff
        } else if op.has(has::ADDR16) {
            offset & 0xffff
        } else {
            offset
        };
        self.seg_address(op.seg as usize, offset, size as u64, write)
    }

    /// Whether the mask has element `i` of `size` bytes: its sign bit is set.
    fn masked_in(&self, mask: u8, i: usize, size: usize) -> bool {
        self.fpu.ymm[(mask & 15) as usize].get(i * size + size - 1).is_some_and(|b| b & 0x80 != 0)
    }

    /// The linear address of each element that the mask has, checked but for the page tables.
    fn element_addresses(&mut self, op: &Op, write: bool) -> Exec<[Option<u64>; 8]> {
        let Elements { size, count, .. } = Elements::of(op);
        let offset = op.offset(self);
        let mut addresses = [None; 8];
        for (i, address) in addresses.iter_mut().enumerate().take(count) {
            if self.masked_in(op.src, i, size) {
                let lin = self.element_address(op, offset, (i * size) as u64, size, write)?;
                self.check_operand(op, lin, size as u64)?;
                *address = Some(lin);
            }
        }
        Ok(addresses)
    }

    /// Stores the bytes of `data` whose byte in `mask` has its sign bit set. Faults may come from the others too (SDM
    /// vol. 2, MASKMOVDQU): as on CPUs, all of the operand has to be writable.
    fn store_bytes(&mut self, op: &Op, data: &[u8], mask: &[u8]) -> Exec {
        let size = data.len() as u64;
        let lin = self.address(op, size, true)?;
        self.check_operand(op, lin, size)?;
        self.probe(lin, size, true)?;
        for (i, (byte, _)) in data.iter().zip(mask).enumerate().filter(|(_, (_, m))| **m & 0x80 != 0) {
            self.write_bytes(lin.wrapping_add(i as u64), std::slice::from_ref(byte))?;
        }
        Ok(())
    }
}

fn maskmov_load(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(Gate::Avx)?;
    let addresses = cpu.element_addresses(op, false)?;
    let mut value = [0; 32];
    for (element, lin) in value.chunks_exact_mut(Elements::of(op).size).zip(addresses) {
        if let Some(lin) = lin {
            cpu.read_element(lin, element)?;
        }
    }
    cpu.fpu.ymm[(op.dst & 15) as usize] = value;
    Ok(())
}

fn maskmov_store(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(Gate::Avx)?;
    let size = Elements::of(op).size;
    let addresses = cpu.element_addresses(op, true)?;
    for lin in addresses.into_iter().flatten() {
        cpu.probe(lin, size as u64, true)?;
    }
    let value = cpu.fpu.ymm[(op.dst & 15) as usize];
    for (element, lin) in value.chunks_exact(size).zip(addresses) {
        if let Some(lin) = lin {
            cpu.write_element(lin, element)?;
        }
    }
    Ok(())
}

impl Cpu {
    /// Reads an element of 4 or 8 bytes at once.
    fn read_element(&mut self, lin: u64, element: &mut [u8]) -> Exec {
        match element.len() {
            4 => element.copy_from_slice(&self.read_lin::<u32>(lin)?.to_le_bytes()),
            _ => element.copy_from_slice(&self.read_lin::<u64>(lin)?.to_le_bytes()),
        }
        Ok(())
    }

    /// Writes an element of 4 or 8 bytes at once.
    fn write_element(&mut self, lin: u64, element: &[u8]) -> Exec {
        match element.len() {
            4 => self.write_lin(lin, super::bytes::u32_at(element, 0)),
            _ => self.write_lin(lin, super::bytes::u64_at(element, 0)),
        }
    }
}

/// Elements are loaded in order; each that is done clears its mask, so that a fault can be resumed (SDM vol. 2,
/// VGATHERDPS).
fn gather(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(Gate::Avx)?;
    let Elements { size, index_size, count } = Elements::of(op);
    let indices = cpu.fpu.ymm[(op.index & 15) as usize];
    let base = cpu.regs[(op.base & 31) as usize].wrapping_add(op.disp);
    let (dst, mask) = ((op.dst & 15) as usize, (op.src & 15) as usize);
    for i in 0..count {
        if !cpu.masked_in(op.src, i, size) {
            continue;
        }
        let index = match index_size {
            4 => super::bytes::u32_at(&indices, 4 * i) as i32 as i64 as u64,
            _ => super::bytes::u64_at(&indices, 8 * i),
        };
        let lin = cpu.element_address(op, base, index << op.scale, size, false)?;
        cpu.check_operand(op, lin, size as u64)?;
        let mut element = [0; 8];
        cpu.read_element(lin, &mut element[..size])?;
        cpu.fpu.ymm[dst][i * size..][..size].copy_from_slice(&element[..size]);
        cpu.fpu.ymm[mask][i * size..][..size].fill(0);
    }
    cpu.fpu.ymm[dst][count * size..].fill(0);
    cpu.fpu.ymm[mask] = [0; 32];
    Ok(())
}

fn maskmovdqu<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(if VEX { Gate::Avx } else { Gate::Sse })?;
    let (data, mask) = (cpu.fpu.ymm[(op.dst & 15) as usize], cpu.fpu.ymm[(op.src & 15) as usize]);
    cpu.store_bytes(op, &data[..16], &mask[..16])
}

fn maskmovq(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.check_gate(Gate::Mmx)?;
    cpu.pending_x87()?;
    cpu.fpu.enter_mmx();
    let image = cpu.fpu.x87_image();
    let mm = |i: u8| super::bytes::u64_at(&image, 32 + 16 * usize::from(i & 7)).to_le_bytes();
    cpu.store_bytes(op, &mm(op.dst), &mm(op.src))
}

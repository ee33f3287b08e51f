//! IN, OUT, INS and OUTS (SDM vol. 1, chapter 19).

use iced_x86::{Code, Instruction, Mnemonic, OpKind, Register};
use x86::bits::rflags;

use super::descriptor::kind;
use crate::cpu::{Cpu, Exec, leave, reg, sreg};
use crate::mem::Word;
use crate::op::{Handler, Op, has};

/// How many elements go by before the run loop looks at what waits.
const BATCH: u32 = 64;

impl Cpu {
    /// Whether the program may use `size` ports from `port`: IOPL, or else the bitmap in the TSS (SDM vol. 1, 19.5).
    /// #GP(0).
    fn check_port(&mut self, port: u16, size: u64) -> Exec {
        if !self.protected() || self.cpl <= self.iopl() && !self.v86() {
            return Ok(());
        }
        let limit = u64::from(self.tr.limit);
        let wide = matches!(self.tr.kind(), kind::TSS | kind::TSS_BUSY);
        if !wide || !self.tr.is_usable() || limit < 0x67 {
            return Err(self.gp(0));
        }
        let map = u64::from(self.read_sys::<u16>(self.wrap(self.tr.base.wrapping_add(0x66)))?);
        let at = map + u64::from(port >> 3);
        // Two bytes are looked at, whichever bits count.
        if at + 1 > limit {
            return Err(self.gp(0));
        }
        let bits = self.read_sys::<u16>(self.wrap(self.tr.base.wrapping_add(at)))?;
        let mask = (1u16 << size) - 1;
        if bits >> (port & 7) & mask != 0 {
            return Err(self.gp(0));
        }
        Ok(())
    }

    fn port_in<T: Word>(&mut self, port: u16) -> T {
        self.stats.pio += 1;
        self.note_port(port, T::SIZE);
        let mut bytes = [0; 8];
        self.call_out(|io| io.port_read(port, &mut bytes[..T::SIZE as usize]));
        T::from_u64(u64::from_le_bytes(bytes))
    }

    fn port_out<T: Word>(&mut self, port: u16, value: T) {
        self.stats.pio += 1;
        self.note_port(port, T::SIZE);
        let bytes = value.to_u64().to_le_bytes();
        self.call_out(|io| io.port_write(port, &bytes[..T::SIZE as usize]));
        // The machine may want the CPU to stop, or have an interrupt.
        self.leave |= leave::BLOCK;
    }

    /// A string instruction's index or count: cut to the address size.
    fn string_register(&self, op: &Op, index: usize) -> u64 {
        self.regs[index] & address_mask(op)
    }

    /// Writes an index or count: 16 bits leave the rest, 32 bits clear it.
    fn set_string_register(&mut self, op: &Op, index: usize, value: u64) {
        let slot = &mut self.regs[index];
        *slot = if op.has(has::ADDR16) { *slot & !0xffff | value & 0xffff } else { value & address_mask(op) };
    }

    /// Runs `step` once or, with REP, while the count lasts; a batch at a time, so that interrupts are seen in between.
    fn repeat(&mut self, op: &Op, step: impl Fn(&mut Self) -> Exec) -> Exec {
        if !op.has(has::REP | has::REPNE) {
            return step(self);
        }
        let batch = if self.system_flags & rflags::TF != 0 { 1 } else { BATCH };
        for _ in 0..batch {
            let count = self.string_register(op, reg::RCX);
            if count == 0 {
                return Ok(());
            }
            step(self)?;
            self.set_string_register(op, reg::RCX, count - 1);
        }
        if self.string_register(op, reg::RCX) != 0 {
            self.rip = op.rip();
            self.leave |= leave::BLOCK;
        }
        Ok(())
    }

    fn advance<T: Word>(&mut self, op: &Op, index: usize) {
        let at = self.regs[index];
        let down = self.system_flags & rflags::DF != 0;
        let next = if down { at.wrapping_sub(T::SIZE) } else { at.wrapping_add(T::SIZE) };
        self.set_string_register(op, index, next);
    }
}

fn address_mask(op: &Op) -> u64 {
    if op.has(has::ADDR16) {
        0xffff
    } else if op.has(has::ADDR32) {
        0xffff_ffff
    } else {
        u64::MAX
    }
}

/// The port: an immediate, or DX.
fn port(cpu: &Cpu, op: &Op) -> u16 {
    if op.src == reg::RDX as u8 { cpu.regs[reg::RDX] as u16 } else { op.imm as u16 }
}

fn input<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    cpu.check_port(port, T::SIZE)?;
    let value = cpu.port_in::<T>(port);
    T::set(cpu, reg::RAX as u8, value);
    Ok(())
}

fn output<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = port(cpu, op);
    cpu.check_port(port, T::SIZE)?;
    let value = T::get(cpu, reg::RAX as u8);
    cpu.port_out(port, value);
    Ok(())
}

fn ins<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = cpu.regs[reg::RDX] as u16;
    cpu.check_port(port, T::SIZE)?;
    cpu.repeat(op, |cpu| {
        let offset = cpu.string_register(op, reg::RDI);
        let at = cpu.seg_address(sreg::ES, offset, T::SIZE, true)?;
        // The port must not be read in vain.
        cpu.probe(at, T::SIZE, true)?;
        let value = cpu.port_in::<T>(port);
        cpu.write_lin(at, value)?;
        cpu.advance::<T>(op, reg::RDI);
        Ok(())
    })
}

fn outs<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let port = cpu.regs[reg::RDX] as u16;
    cpu.check_port(port, T::SIZE)?;
    cpu.repeat(op, |cpu| {
        let offset = cpu.string_register(op, reg::RSI);
        let at = cpu.seg_address(op.seg.into(), offset, T::SIZE, false)?;
        let value = cpu.read_lin::<T>(at)?;
        cpu.port_out(port, value);
        cpu.advance::<T>(op, reg::RSI);
        Ok(())
    })
}

/// The handler of `size` bytes.
fn by_size(size: usize, handlers: [Handler; 3]) -> Handler {
    match size {
        1 => handlers[0],
        2 => handlers[1],
        _ => handlers[2],
    }
}

/// The address size of a string instruction's implied operand.
fn string_address(instr: &Instruction) -> u8 {
    let kind = if instr.op0_kind() == OpKind::Register { instr.op1_kind() } else { instr.op0_kind() };
    match kind {
        OpKind::MemoryESDI | OpKind::MemorySegSI => has::ADDR16,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => has::ADDR32,
        _ => 0,
    }
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    match instr.mnemonic() {
        Mnemonic::In => {
            let by_register = instr.op1_kind() == OpKind::Register;
            op.src = if by_register { reg::RDX as u8 } else { 0 };
            op.imm = if by_register { 0 } else { instr.immediate8().into() };
            op.run = by_size(instr.op0_register().size(), [input::<u8>, input::<u16>, input::<u32>]);
        }
        Mnemonic::Out => {
            let by_register = instr.op0_kind() == OpKind::Register;
            op.src = if by_register { reg::RDX as u8 } else { 0 };
            op.imm = if by_register { 0 } else { instr.immediate8().into() };
            op.run = by_size(instr.op1_register().size(), [output::<u8>, output::<u16>, output::<u32>]);
            op.has |= has::ENDS;
        }
        Mnemonic::Insb | Mnemonic::Insw | Mnemonic::Insd => {
            let size = match instr.code() {
                Code::Insb_m8_DX => 1,
                Code::Insw_m16_DX => 2,
                _ => 4,
            };
            op.has = op.has & !(has::ADDR16 | has::ADDR32) | string_address(instr);
            op.run = by_size(size, [ins::<u8>, ins::<u16>, ins::<u32>]);
        }
        Mnemonic::Outsb | Mnemonic::Outsw | Mnemonic::Outsd => {
            let size = match instr.code() {
                Code::Outsb_DX_m8 => 1,
                Code::Outsw_DX_m16 => 2,
                _ => 4,
            };
            op.has = op.has & !(has::ADDR16 | has::ADDR32) | string_address(instr) | has::ENDS;
            let segment = instr.memory_segment();
            op.seg = if segment == Register::None { sreg::DS as u8 } else { crate::decode::sreg(segment) };
            op.run = by_size(size, [outs::<u8>, outs::<u16>, outs::<u32>]);
        }
        _ => return false,
    }
    true
}

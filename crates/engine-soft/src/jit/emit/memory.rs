//! Memory operands: their addresses, and the look into the TLB.

use iced_x86::{Instruction, Mnemonic, Register};

use super::{Emitter, SCRATCH, in_memory_bit, number, resident_mask, stack_operand};
use crate::jit::asm::{Label, Stream, cc, r};
use crate::jit::cells;
use crate::jit::encoding::{Encoding, HostMemory};
use crate::jit::layout as l;
use crate::jit::scan::Ins;

impl<'a> Emitter<'a> {
    /// The linear address of the memory operand of `instr` in `to`; clobbers `other`, leaves the flags.
    pub(super) fn linear_address(&mut self, instr: &Instruction, to: u8, other: u8) {
        self.range_address(instr, to, other, instr.memory_displacement64());
    }

    /// The same with another `displacement`.
    pub(super) fn range_address(&mut self, instr: &Instruction, to: u8, other: u8, displacement: u64) {
        let short = !self.long
            || instr.memory_base().size() == 4
            || instr.memory_index().size() == 4
            || instr.memory_base() == Register::EIP;
        self.offset(instr, to, other, displacement, short);
        let base = match instr.memory_segment() {
            Register::FS => l::FS_BASE,
            Register::GS => l::GS_BASE,
            _ => return,
        };
        self.asm.gs_load(other, base);
        self.asm.lea(to, Some(to), Some((other, 0)), 0, !self.long);
    }

    pub(super) fn offset(&mut self, instr: &Instruction, to: u8, other: u8, displacement: u64, short: bool) {
        let absolute = instr.is_ip_rel_memory_operand();
        let base = (!absolute && instr.memory_base() != Register::None).then(|| instr.memory_base());
        let index = (instr.memory_index() != Register::None).then(|| instr.memory_index());
        if base.is_none() && index.is_none() {
            let at = if short { displacement & 0xffff_ffff } else { displacement };
            return self.asm.mov_imm(to, at);
        }
        let index = index.map(|register| {
            let scale = instr.memory_index_scale().trailing_zeros() as u8;
            if in_memory_bit(register) != 0 {
                self.asm.gs_load(other, l::reg(number(register)));
                (other, scale)
            } else {
                (number(register), scale)
            }
        });
        let base = base.map(|register| {
            if in_memory_bit(register) != 0 {
                self.asm.gs_load(to, l::reg(number(register)));
                to
            } else {
                number(register)
            }
        });
        let displacement = displacement as i32;
        match (base, index) {
            (Some(base), None) if displacement == 0 && !short => {
                if base != to {
                    self.asm.mov(to, base);
                }
            }
            (Some(base), None) if displacement == 0 => self.asm.mov32(to, base),
            _ => self.asm.lea(to, base, index, displacement, short),
        }
    }

    pub(super) fn lea(&mut self, ins: &Ins) {
        let instr = &ins.instr;
        let mask = resident_mask(instr);
        let size = instr.op0_register().size();
        let memory_operands = [instr.memory_base(), instr.memory_index()].iter().fold(0, |m, r| m | in_memory_bit(*r));
        let plain = self.long && !instr.is_ip_rel_memory_operand();
        if plain && (memory_operands | mask) == 0 {
            let bytes = self.own_bytes(ins);
            return self.asm.bytes(bytes);
        }
        let short = !self.long
            || instr.memory_base().size() == 4
            || instr.memory_index().size() == 4
            || instr.memory_base() == Register::EIP;
        self.offset(instr, r::R11, r::R10, instr.memory_displacement64(), short);
        let to = number(instr.op0_register());
        match size {
            _ if mask != 0 && size == 2 => {
                self.asm.gs_load(r::R10, l::reg(to));
                // mov r10w, r11w
                self.asm.bytes(&[0x66, 0x45, 0x89, 0xda]);
                self.asm.gs_store(l::reg(to), r::R10);
            }
            2 => self.asm.bytes(&[0x66, 0x44 | to >> 3, 0x89, 0xd8 | to & 7]),
            4 => {
                self.asm.mov32(if mask != 0 { r::R11 } else { to }, r::R11);
            }
            _ if mask == 0 => self.asm.mov(to, r::R11),
            _ => {}
        }
        if mask != 0 && size != 2 {
            self.asm.gs_store(l::reg(to), r::R11);
        }
    }

    /// Looks up the linear address in `at` for an access of `size` bytes: the host's address is in `at` afterwards.
    /// Clobbers `other` and the host's flags.
    pub(super) fn check(&mut self, at: u8, other: u8, size: usize, write: bool) {
        if let Some(index) = cells::size_index(size)
            && let Some(cell) = (self.cell)(self.now.current)
        {
            return self.check_cell(at, size, write, index, cell);
        }
        let (read_tag, write_tag, page) = l::tlb(self.table);
        let tag = if write { write_tag } else { read_tag };
        let retry = self.asm.here();
        let cold = self.asm.label();
        self.tlb_index(other, at);
        self.asm.gs_indexed(0x2b, at, other, tag);
        self.asm.alu_imm(7, at, 4096 - size as i32);
        self.asm.jcc(cc::A, cold);
        self.asm.gs_indexed(0x03, at, other, page);
        let behind = self.asm.here();

        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        self.asm.gs_indexed(0x03, at, other, tag);
        self.asm.gs_store_label(l::SITE, retry);
        self.note_access(at, size, write, behind);
        let which = SCRATCH.iter().position(|s| *s == at).unwrap_or(0);
        let slow = if self.now.units == 0 { &self.stubs.slow_last } else { &self.stubs.slow };
        self.asm.jmp_out(slow[which][usize::from(write)]);
        self.asm.stream(Stream::Hot);
        self.now.in_host = false;
    }

    /// Notes for a read where the code goes on with the operand's address in `at`.
    fn note_access(&mut self, at: u8, size: usize, write: bool, behind: Label) {
        if !write {
            let which = SCRATCH.iter().position(|s| *s == at).unwrap_or(0);
            self.asm.gs_store_imm32(l::ACCESS, (which << 8 | size) as u32);
            self.asm.gs_store_label(l::BEHIND, behind);
        }
    }

    /// The place of the TLB's entry for the linear address in `at`, as a distance, in `to`.
    pub(super) fn tlb_index(&mut self, to: u8, at: u8) {
        if self.bmi2 {
            self.asm.rorx(to, at, 7);
        } else {
            self.asm.mov(to, at);
            self.asm.shift(5, to, 7);
        }
        self.asm.and32_imm(to, (crate::mmu::SLOTS as u32 - 1) << 5);
    }

    /// The same, by the access's own cell.
    fn check_cell(&mut self, at: u8, size: usize, write: bool, index: usize, cell: u32) {
        let place = cells::place(cell);
        let start = self.asm.here();
        let cold = self.asm.label();
        self.asm.gs(0x2b, at, place);
        self.asm.alu_imm(7, at, 4096 - size as i32);
        self.asm.jcc(cc::A, cold);
        self.asm.gs(0x03, at, place + 8);
        let behind = self.asm.here();

        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        self.asm.gs(0x03, at, place);
        self.asm.gs_store_imm32(l::CELL, place as u32);
        self.asm.gs_store_label(l::SITE, start);
        self.note_access(at, size, write, behind);
        let which = SCRATCH.iter().position(|s| *s == at).unwrap_or(0);
        self.asm.jmp_out(self.stubs.fill[index][usize::from(write)][which]);
        self.asm.stream(Stream::Hot);
        self.now.in_host = false;
    }

    /// Whether LOCK means nothing here: with one CPU nobody else modifies a word at the same time. What locks its own
    /// stack uses that as a barrier, which devices may be on the other side of.
    pub(super) fn may_unlock(&self, ins: &Ins) -> bool {
        let locks = ins.instr.has_lock_prefix() || ins.instr.mnemonic() == Mnemonic::Xchg;
        self.alone && locks && ins.instr.memory_base().full_register() != Register::RSP
    }

    /// Writes the instruction with its memory operand at `place`.
    fn put(&mut self, encoding: &Encoding<'_>, ins: &Ins, place: HostMemory) -> bool {
        if ins.instr.mnemonic() == Mnemonic::Xchg && self.may_unlock(ins) {
            let mut taken = resident_mask(&ins.instr) | 1 << r::R11;
            match place {
                HostMemory::At(base) => taken |= 1 << base,
                HostMemory::Beside(_) => {}
                HostMemory::Stack(_) => taken |= 1 << r::R15,
            }
            let free = [r::R10, r::R15].into_iter().find(|free| taken >> free & 1 == 0);
            if let Some(free) = free
                && encoding.emit_exchange(self.asm, place, free)
            {
                self.restore_window(1 << free);
                return true;
            }
        }
        encoding.emit(self.asm, &ins.instr, place)
    }

    /// Whether the memory operand is on the stack within the window, and how far from RSP.
    pub(super) fn on_window(&self, ins: &Ins) -> Option<i32> {
        self.window?;
        stack_operand(ins)
    }

    pub(super) fn memory(&mut self, ins: &Ins, write: bool) -> bool {
        let Some(encoding) = Encoding::parse(self.own_bytes(ins), &ins.instr, &ins.offsets, self.long) else {
            return false;
        };
        let encoding = if self.may_unlock(ins) { encoding.without_lock() } else { encoding };
        let mask = resident_mask(&ins.instr);
        if let Some(displacement) = self.on_window(ins)
            && mask >> r::R15 & 1 == 0
        {
            self.prepare_flags(ins, r::R10);
            self.load_registers(Self::needed(&ins.instr, mask));
            self.may_fault(ins);
            if !self.put(&encoding, ins, HostMemory::Stack(displacement)) {
                return false;
            }
            self.flags_written(ins);
            self.store_registers(&ins.instr);
            self.note_pointers(ins);
            return true;
        }
        let number = self.now.starts.len() - 1;
        if self.beside(ins, write).is_some() || self.start_group(ins, number, write) {
            let Some(distance) = self.beside(ins, write) else { return false };
            self.prepare_flags(ins, r::R10);
            self.load_registers(Self::needed(&ins.instr, mask));
            self.may_fault(ins);
            if !self.put(&encoding, ins, HostMemory::Beside(distance)) {
                return false;
            }
            self.flags_written(ins);
            self.store_registers(&ins.instr);
            self.note_pointers(ins);
            self.restore_window(mask);
            return true;
        }
        // Of the scratch registers two are needed that no operand uses; R15 last, since it may be the window's.
        let order = if self.now.group.is_some() { [r::R10, r::R15, r::R11] } else { [r::R11, r::R10, r::R15] };
        let mut free = order.into_iter().filter(|reg| mask >> reg & 1 == 0);
        let (Some(at), other) = (free.next(), free.next()) else { return false };
        // The second one is needed before operands are loaded only.
        let other = other.unwrap_or(if at == r::R11 { r::R10 } else { r::R11 });
        if at == r::R11 || other == r::R11 {
            self.now.group = None;
        }
        let size = ins.instr.memory_size().size();
        self.linear_address(&ins.instr, at, other);
        let live = ins.live_before();
        if live != 0 && !self.now.in_memory {
            self.save_flags(other);
        }
        self.now.in_host = false;
        self.check(at, other, size, write);
        self.prepare_flags(ins, other);
        self.load_registers(Self::needed(&ins.instr, mask));
        self.may_fault(ins);
        if !self.put(&encoding, ins, HostMemory::At(at)) {
            // Nothing has been done yet that counts.
            self.now.in_host = false;
            self.restore_window(1 << r::R15);
            return false;
        }
        self.flags_written(ins);
        self.store_registers(&ins.instr);
        self.note_pointers(ins);
        self.restore_window(mask | 1 << at | 1 << other);
        true
    }
}

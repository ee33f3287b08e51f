//! Writing the code of a block.
//!
//! Each of the guest's instructions is copied, its memory operand replaced by the host's address that a look into the
//! TLB has given. The guest's status flags are the host's; where a check would overwrite flags that are still needed
//! they are put into memory first, and at the end of a block they are there, or dead.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::asm::{Asm, Label, Stream, cc, r};
use super::encoding::{Encoding, HostMemory};
use super::layout as l;
use super::scan::{Ins, Kind, Scan, STATUS};
use super::stubs::{self, Stubs};
use crate::op::Op;

/// A direct way out of a block.
pub(super) struct Way {
    /// Its number among all exits.
    pub(super) exit: u32,
    /// The guest's address that it leads to.
    pub(super) rip: u64,
    /// The jump to be led to the next block: the end of its distance.
    pub(super) jump: Label,
    /// Where it leads as long as it is not.
    pub(super) stub: Label,
    /// The space number that it is compared with, if it leaves the page: the end of the immediate.
    pub(super) space: Option<Label>,
    /// It leads to this block's form without a window.
    pub(super) variant: bool,
    /// How many instructions come before it, and the flags that are needed behind it.
    pub(super) after: u16,
    pub(super) live: u32,
}

/// What the writing of a block needs.
pub(super) struct Emitter<'a> {
    pub(super) asm: &'a mut Asm,
    pub(super) stubs: &'a Stubs,
    pub(super) scan: &'a Scan,
    pub(super) bytes: &'a [u8],
    pub(super) rip: u64,
    pub(super) long: bool,
    /// The table of the TLB.
    pub(super) table: u8,
    /// RORX is there.
    pub(super) bmi2: bool,
    /// The number that this block will have.
    pub(super) block: u32,
    /// The number of the first exit.
    pub(super) first_exit: u32,
    /// Stack accesses go through the window, which covers these distances from RSP at the block's start.
    pub(super) window: Option<(i32, i32, bool)>,
    /// Where the interpreter's form of a called-out instruction is kept.
    pub(super) lower: &'a mut dyn FnMut(&Instruction, bool) -> *const Op,
    pub(super) ways: Vec<Way>,
    /// The start of each instruction's code.
    pub(super) starts: Vec<Label>,
    /// The flags in the host's register are the guest's.
    in_host: bool,
    /// The flags in memory are the guest's.
    in_memory: bool,
}

/// The host's registers that are free for the translator, in the order of [`Stubs::slow`].
const SCRATCH: [u8; 3] = [r::R11, r::R10, r::R15];

/// General-purpose registers that are not in the host's, as a mask of those among the register operands.
fn resident_mask(instr: &Instruction) -> u16 {
    let mut mask = 0;
    for i in 0..instr.op_count() {
        if instr.op_kind(i) == OpKind::Register && instr.op_register(i).is_gpr() {
            mask |= in_memory_bit(instr.op_register(i));
        }
    }
    mask
}

fn in_memory_bit(register: Register) -> u16 {
    match register.full_register() {
        Register::R10 => 1 << 10,
        Register::R11 => 1 << 11,
        Register::R15 => 1 << 15,
        _ => 0,
    }
}

fn number(register: Register) -> u8 {
    register.full_register().number() as u8
}

impl<'a> Emitter<'a> {
    #[allow(clippy::too_many_arguments, reason = "a plain list of what is needed")]
    pub(super) fn new(
        asm: &'a mut Asm,
        stubs: &'a Stubs,
        scan: &'a Scan,
        bytes: &'a [u8],
        rip: u64,
        long: bool,
        table: u8,
        bmi2: bool,
        block: u32,
        first_exit: u32,
        window: Option<(i32, i32, bool)>,
        lower: &'a mut dyn FnMut(&Instruction, bool) -> *const Op,
    ) -> Self {
        Self {
            asm,
            stubs,
            scan,
            bytes,
            rip,
            long,
            table,
            bmi2,
            block,
            first_exit,
            window,
            lower,
            ways: Vec::new(),
            starts: Vec::new(),
            in_host: false,
            in_memory: true,
        }
    }

    /// Writes the block.
    pub(super) fn block(&mut self) {
        if let Some((low, high, write)) = self.window {
            self.check_window(low, high, write);
        }
        for ins in &self.scan.list {
            let start = self.asm.here();
            self.starts.push(start);
            self.instruction(ins);
        }
        let end = self.asm.here();
        self.starts.push(end);
        if !self.scan.ends {
            let next = self.scan.list.last().map_or(self.rip, |ins| ins.instr.next_ip());
            let live = self.scan.list.last().map_or(STATUS, |ins| ins.live_after);
            self.go(next, live, None);
        }
        self.write_stubs();
    }

    /// The code that ways out lead to as long as they are not linked.
    fn write_stubs(&mut self) {
        self.asm.stream(Stream::Cold);
        for way in &self.ways {
            self.asm.bind(way.stub);
            self.asm.gs_store_imm32(l::SITE, way.exit);
            if way.rip >> 12 == self.rip >> 12 && self.is_in_one_page() {
                self.asm.jmp_out(self.stubs.link);
            } else {
                self.asm.mov_imm(r::R11, way.rip);
                self.asm.jmp_out(self.stubs.dispatch);
            }
        }
        self.asm.stream(Stream::Hot);
    }

    /// The stack's page has to be in the window, from `low` to `high` around RSP.
    fn check_window(&mut self, low: i32, high: i32, write: bool) {
        let retry = self.asm.here();
        let cold = self.asm.label();
        self.asm.lea(r::R10, Some(r::RSP), None, low, false);
        let tag = if write { l::WINDOW_WRITE } else { l::WINDOW_READ };
        self.asm.gs(0x2b, r::R10, tag);
        self.asm.alu_imm(7, r::R10, 4096 - (high - low));
        self.asm.jcc(cc::A, cold);
        self.asm.gs_load(r::R15, l::WINDOW_DELTA);
        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        // What lies in two pages is for the other form of the block.
        self.asm.lea(r::R11, Some(r::RSP), None, low, false);
        self.asm.lea(r::R10, Some(r::RSP), None, high - 1, false);
        // xor r10, r11; shr r10, 12
        self.asm.bytes(&[0x4d, 0x31, 0xda]);
        self.asm.shift(5, r::R10, 12);
        let way = self.way(self.rip, STATUS);
        self.asm.stream(Stream::Cold);
        self.asm.bytes(&[0x0f, 0x80 | cc::NE]);
        self.link_here(way, None);
        if let Some(way) = self.ways.last_mut() {
            way.variant = true;
        }
        self.asm.gs_store_imm32(l::SITE, self.block);
        self.asm.gs_store_label(l::TARGET, retry);
        self.asm.jmp_out(self.stubs.window);
        self.asm.stream(Stream::Hot);
    }

    fn instruction(&mut self, ins: &Ins) {
        match ins.kind {
            Kind::Nothing => {}
            Kind::Verbatim => self.verbatim(ins),
            Kind::Memory { write } => {
                if !self.memory(ins, write) {
                    self.call_out(ins);
                }
            }
            Kind::Lea => self.lea(ins),
            Kind::Push => self.push(ins),
            Kind::Pop => self.pop(ins),
            Kind::Leave => self.leave(ins),
            Kind::Jump => self.go(ins.instr.near_branch_target(), ins.live_after, Some(ins)),
            Kind::Branch => self.branch(ins),
            Kind::Call => self.call(ins),
            Kind::JumpIndirect => self.jump_indirect(ins),
            Kind::CallIndirect => self.call_indirect(ins),
            Kind::Ret => self.ret(ins),
            Kind::ShortIncDec => self.short_inc_dec(ins),
            Kind::CallOut => self.call_out(ins),
        }
    }

    // --- flags ---

    /// Puts the flags from the host's register into memory; clobbers `scratch`.
    fn save_flags(&mut self, scratch: u8) {
        self.asm.mov(scratch, r::RAX);
        // lahf; seto al; mov gs:[flags], ax
        self.asm.bytes(&[0x9f, 0x0f, 0x90, 0xc0, 0x65, 0x66, 0x89, 0x04, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.mov(r::RAX, scratch);
        self.in_memory = true;
    }

    /// The host's flags are about to be overwritten, `live` of them are needed later. Clobbers R10.
    fn give_up_flags(&mut self, live: u32) {
        if live != 0 && !self.in_memory {
            self.save_flags(r::R10);
        }
        self.in_host = false;
    }

    /// Takes the flags from memory into the host's register, where they are not yet. Clobbers `scratch`.
    fn take_flags(&mut self, scratch: u8) {
        if self.in_host {
            return;
        }
        self.asm.mov(scratch, r::RAX);
        // movzx eax, word gs:[flags]; add al, 7fh; sahf
        self.asm.bytes(&[0x65, 0x0f, 0xb7, 0x04, 0x25]);
        self.asm.imm32(l::FLAGS as u32);
        self.asm.bytes(&[0x04, 0x7f, 0x9e]);
        self.asm.mov(r::RAX, scratch);
        self.in_host = true;
    }

    /// Before an instruction of the guest's that is run as it is: it must see the flags that it reads, and those that
    /// it leaves alone must be beside those that it changes.
    fn prepare_flags(&mut self, ins: &Ins, scratch: u8) {
        let merges = ins.writes != 0 && ins.live_after & !ins.kills != 0;
        if ins.reads != 0 || merges {
            self.take_flags(scratch);
        }
    }

    /// After it.
    fn flags_written(&mut self, ins: &Ins) {
        if ins.writes != 0 {
            self.in_host = true;
            self.in_memory = false;
        }
    }

    // --- registers only ---

    fn own_bytes(&self, ins: &Ins) -> &'a [u8] {
        let at = usize::from(ins.at);
        self.bytes.get(at..at + ins.len()).unwrap_or_default()
    }

    /// Brings register operands that live in memory into their places in the host.
    fn load_registers(&mut self, mask: u16) {
        for reg in [r::R10, r::R11, r::R15] {
            if mask >> reg & 1 != 0 {
                self.asm.gs_load(reg, l::reg(reg));
            }
        }
    }

    /// Puts those that `instr` may have changed back.
    fn store_registers(&mut self, instr: &Instruction) {
        use Mnemonic as M;
        let two = matches!(instr.mnemonic(), M::Xchg | M::Xadd | M::Mulx);
        let read_only = matches!(instr.mnemonic(), M::Cmp | M::Test | M::Bt);
        let mut mask = 0;
        for i in 0..instr.op_count().min(if two { 2 } else { 1 }) {
            if !read_only && instr.op_kind(i) == OpKind::Register {
                mask |= in_memory_bit(instr.op_register(i));
            }
        }
        for reg in [r::R10, r::R11, r::R15] {
            if mask >> reg & 1 != 0 {
                self.asm.gs_store(l::reg(reg), reg);
            }
        }
    }

    /// R15 of the host has been used for something else.
    fn restore_window(&mut self, mask: u16) {
        if self.window.is_some() && mask >> r::R15 & 1 != 0 {
            self.asm.gs_load(r::R15, l::WINDOW_DELTA);
        }
    }

    fn verbatim(&mut self, ins: &Ins) {
        let mask = resident_mask(&ins.instr);
        if matches!(ins.instr.mnemonic(), Mnemonic::Div | Mnemonic::Idiv) {
            // What a fault leaves behind takes the flags from memory.
            self.give_up_flags(STATUS);
        }
        self.prepare_flags(ins, r::R10);
        self.load_registers(mask);
        let bytes = self.own_bytes(ins);
        self.asm.bytes(bytes);
        self.flags_written(ins);
        self.store_registers(&ins.instr);
        self.restore_window(mask);
    }

    fn short_inc_dec(&mut self, ins: &Ins) {
        self.prepare_flags(ins, r::R10);
        if ins.instr.op0_register().size() == 2 {
            self.asm.byte(0x66);
        }
        let which = if ins.instr.mnemonic() == Mnemonic::Inc { 0xc0 } else { 0xc8 };
        self.asm.bytes(&[0xff, which | number(ins.instr.op0_register())]);
        self.flags_written(ins);
    }

    // --- addresses ---

    /// The linear address of the memory operand of `instr` in `to`; clobbers `other`, leaves the flags.
    fn linear_address(&mut self, instr: &Instruction, to: u8, other: u8) {
        let displacement = instr.memory_displacement64();
        let short = !self.long || instr.memory_base().size() == 4 || instr.memory_index().size() == 4
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

    fn offset(&mut self, instr: &Instruction, to: u8, other: u8, displacement: u64, short: bool) {
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

    fn lea(&mut self, ins: &Ins) {
        let instr = &ins.instr;
        let mask = resident_mask(instr);
        let size = instr.op0_register().size();
        let memory_operands = [instr.memory_base(), instr.memory_index()].iter().fold(0, |m, r| m | in_memory_bit(*r));
        let plain = self.long && !instr.is_ip_rel_memory_operand();
        if plain && (memory_operands | mask) == 0 {
            let bytes = self.own_bytes(ins);
            return self.asm.bytes(bytes);
        }
        let short = !self.long || instr.memory_base().size() == 4 || instr.memory_index().size() == 4
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
    fn check(&mut self, at: u8, other: u8, size: usize, write: bool) {
        let (read_tag, write_tag, page) = l::tlb(self.table);
        let tag = if write { write_tag } else { read_tag };
        let retry = self.asm.here();
        let cold = self.asm.label();
        if self.bmi2 {
            self.asm.rorx(other, at, 7);
        } else {
            self.asm.mov(other, at);
            self.asm.shift(5, other, 7);
        }
        self.asm.and32_imm(other, (crate::mmu::SLOTS as u32 - 1) << 5);
        self.asm.gs_indexed(0x2b, at, other, tag);
        self.asm.alu_imm(7, at, 4096 - size as i32);
        self.asm.jcc(cc::A, cold);
        self.asm.gs_indexed(0x03, at, other, page);

        self.asm.stream(Stream::Cold);
        self.asm.bind(cold);
        self.asm.gs_indexed(0x03, at, other, tag);
        self.asm.gs_store_label(l::SITE, retry);
        let which = SCRATCH.iter().position(|s| *s == at).unwrap_or(0);
        self.asm.jmp_out(self.stubs.slow[which][usize::from(write)]);
        self.asm.stream(Stream::Hot);
        self.in_host = false;
    }

    /// Whether the memory operand is on the stack within the window, and how far from RSP.
    fn on_window(&self, ins: &Ins) -> Option<i32> {
        self.window?;
        stack_operand(ins)
    }

    fn memory(&mut self, ins: &Ins, write: bool) -> bool {
        let Some(encoding) = Encoding::parse(self.own_bytes(ins), &ins.instr, &ins.offsets, self.long) else {
            return false;
        };
        let mask = resident_mask(&ins.instr);
        if let Some(displacement) = self.on_window(ins)
            && mask >> r::R15 & 1 == 0
        {
            self.prepare_flags(ins, r::R10);
            self.load_registers(mask);
            if !encoding.emit(self.asm, &ins.instr, HostMemory::Stack(displacement)) {
                return false;
            }
            self.flags_written(ins);
            self.store_registers(&ins.instr);
            return true;
        }
        // Of the scratch registers two are needed that no operand uses; R15 last, since it may be the window's.
        let mut free = [r::R11, r::R10, r::R15].into_iter().filter(|reg| mask >> reg & 1 == 0);
        let (Some(at), other) = (free.next(), free.next()) else { return false };
        // The second one is needed before operands are loaded only.
        let other = other.unwrap_or(if at == r::R11 { r::R10 } else { r::R11 });
        let size = ins.instr.memory_size().size();
        self.linear_address(&ins.instr, at, other);
        let live = ins.live_before();
        if live != 0 && !self.in_memory {
            self.save_flags(other);
        }
        self.in_host = false;
        self.check(at, other, size, write);
        self.prepare_flags(ins, other);
        self.load_registers(mask);
        if !encoding.emit(self.asm, &ins.instr, HostMemory::At(at)) {
            // Nothing has been done yet that counts.
            self.in_host = false;
            self.restore_window(1 << r::R15);
            return false;
        }
        self.flags_written(ins);
        self.store_registers(&ins.instr);
        self.restore_window(mask | 1 << at | 1 << other);
        true
    }

    // --- the stack ---

    fn width(&self) -> i32 {
        if self.long { 8 } else { 4 }
    }

    /// `mov [at], reg` or the other way, of the stack's width.
    fn stack_move(&mut self, opcode: u8, reg: u8, at: HostMemory) {
        let wide = if self.long { 8 } else { 0 };
        match at {
            HostMemory::At(base) => {
                self.asm.bytes(&[0x40 | wide | (reg >> 3) << 2 | base >> 3, opcode]);
                self.asm.address(reg, Some(base), None, 0);
            }
            HostMemory::Stack(disp) => {
                self.asm.bytes(&[0x42 | wide | (reg >> 3) << 2, opcode]);
                self.asm.address(reg, Some(r::RSP), Some((r::R15, 0)), disp);
            }
        }
    }

    /// Where `disp` from RSP is in the host: in the window, or at an address in R11, looked up.
    fn stack_place(&mut self, ins: &Ins, disp: i32, write: bool) -> HostMemory {
        if self.window.is_some() && ins.rsp.is_some() {
            return HostMemory::Stack(disp);
        }
        self.asm.lea(r::R11, Some(r::RSP), None, disp, !self.long);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, write);
        HostMemory::At(r::R11)
    }

    fn move_rsp(&mut self, by: i32) {
        self.asm.lea(r::RSP, Some(r::RSP), None, by, !self.long);
    }

    fn push(&mut self, ins: &Ins) {
        let width = self.width();
        let instr = &ins.instr;
        match instr.op0_kind() {
            OpKind::Register => {
                let place = self.stack_place(ins, -width, true);
                let mut from = number(instr.op0_register());
                if in_memory_bit(instr.op0_register()) != 0 {
                    self.asm.gs_load(r::R10, l::reg(from));
                    from = r::R10;
                }
                self.stack_move(0x89, from, place);
            }
            OpKind::Memory => {
                if let Some(displacement) = self.on_window(ins) {
                    self.stack_move(0x8b, r::R10, HostMemory::Stack(displacement));
                } else {
                    self.linear_address(instr, r::R11, r::R10);
                    self.give_up_flags(ins.live_before());
                    self.check(r::R11, r::R10, width as usize, false);
                    self.stack_move(0x8b, r::R10, HostMemory::At(r::R11));
                }
                if self.window.is_some() && ins.rsp.is_some() {
                    self.stack_move(0x89, r::R10, HostMemory::Stack(-width));
                } else {
                    // The value waits in R15, which is nobody's without a window.
                    self.asm.mov(r::R15, r::R10);
                    let place = self.stack_place(ins, -width, true);
                    self.stack_move(0x89, r::R15, place);
                    self.restore_window(1 << r::R15);
                }
            }
            _ => {
                let place = self.stack_place(ins, -width, true);
                self.asm.mov_imm(r::R10, instr.immediate(0) & if self.long { u64::MAX } else { 0xffff_ffff });
                self.stack_move(0x89, r::R10, place);
            }
        }
        self.move_rsp(-width);
    }

    fn pop(&mut self, ins: &Ins) {
        let to = number(ins.instr.op0_register());
        let place = self.stack_place(ins, 0, false);
        if to == r::RSP {
            return self.stack_move(0x8b, r::RSP, place);
        }
        if in_memory_bit(ins.instr.op0_register()) != 0 {
            self.stack_move(0x8b, r::R10, place);
            self.asm.gs_store(l::reg(to), r::R10);
        } else {
            self.stack_move(0x8b, to, place);
        }
        self.move_rsp(self.width());
    }

    fn leave(&mut self, ins: &Ins) {
        self.asm.lea(r::R11, Some(r::RBP), None, 0, !self.long);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, false);
        self.asm.lea(r::RSP, Some(r::RBP), None, self.width(), !self.long);
        self.stack_move(0x8b, r::RBP, HostMemory::At(r::R11));
    }

    /// Pushes the address of the next instruction; `keep` is a register that must not be used.
    fn push_return(&mut self, ins: &Ins) {
        let place = self.stack_place(ins, -self.width(), true);
        self.asm.mov_imm(r::R10, ins.instr.next_ip());
        self.stack_move(0x89, r::R10, place);
        self.move_rsp(-self.width());
    }

    // --- jumps ---

    fn same_page(&self, rip: u64) -> bool {
        rip >> 12 == self.rip >> 12 && self.is_in_one_page()
    }

    /// A block whose instruction lies in two pages knows nothing of the second.
    fn is_in_one_page(&self) -> bool {
        (self.rip.wrapping_add(self.scan.used as u64 - 1)) >> 12 == self.rip >> 12
    }

    /// Goes to `rip`; `live` flags are needed there.
    fn go(&mut self, rip: u64, live: u32, ins: Option<&Ins>) {
        let live = if self.same_page(rip) { live } else { STATUS };
        self.give_up_flags(live);
        let back = ins.is_some() && rip <= self.rip.wrapping_add(self.scan.used as u64);
        let way = self.way(rip, live);
        let space = self.leave_page(rip, way);
        if back {
            self.poll(way);
        }
        self.asm.byte(0xe9);
        self.link_here(way, space);
    }

    /// The number and the stub of a new way out.
    fn way(&mut self, rip: u64, live: u32) -> (u32, Label) {
        let after = self.starts.len().min(self.scan.list.len()) as u16;
        let exit = self.first_exit + self.ways.len() as u32;
        let stub = self.asm.label();
        // Its jump is filled in by `link_here`, its code written by `write_stubs`.
        self.ways.push(Way { exit, rip, jump: stub, stub, space: None, variant: false, after, live });
        (exit, stub)
    }

    /// What leaves the page may go on directly in the same address space only.
    fn leave_page(&mut self, rip: u64, way: (u32, Label)) -> Option<Label> {
        if self.same_page(rip) {
            return None;
        }
        // No space has number 0: it does not match before it is linked.
        self.asm.gs_cmp_imm32(l::SPACE, 0);
        let space = self.asm.here();
        self.asm.jcc(cc::NE, way.1);
        Some(space)
    }

    /// The distance of the jump that has just been begun, to be led elsewhere later.
    fn link_here(&mut self, way: (u32, Label), space: Option<Label>) {
        self.asm.jump_distance(way.1);
        let jump = self.asm.here();
        if let Some(entry) = self.ways.iter_mut().find(|w| w.exit == way.0) {
            entry.jump = jump;
            entry.space = space;
        }
    }

    /// Looks whether somebody wants attention.
    fn poll(&mut self, way: (u32, Label)) {
        let wanted = self.asm.label();
        self.asm.gs_load(r::R10, l::ATTENTION);
        // cmp dword [r10], 0
        self.asm.bytes(&[0x41, 0x83, 0x3a, 0x00]);
        self.asm.jcc(cc::NE, wanted);
        self.asm.stream(Stream::Cold);
        self.asm.bind(wanted);
        self.asm.gs_store_imm32(l::SITE, way.0);
        self.asm.jmp_out(self.stubs.poll);
        self.asm.stream(Stream::Hot);
    }

    fn branch(&mut self, ins: &Ins) {
        let target = ins.instr.near_branch_target();
        self.take_flags(r::R10);
        let same = self.same_page(target);
        let back = target <= self.rip.wrapping_add(self.scan.used as u64);
        let condition = ins.instr.condition_code() as u8;
        let condition = condition_bits(condition);
        // What is needed at the target is not known apart from what is needed behind: both then.
        let live = if same { ins.live_after } else { STATUS };
        if same && !back && (live == 0 || self.in_memory) {
            let way = self.way(target, live);
            self.asm.bytes(&[0x0f, 0x80 | condition]);
            return self.link_here(way, None);
        }
        let on = self.asm.label();
        self.asm.jcc(condition ^ 1, on);
        // The way to the target must not make those behind the branch believe that the flags are elsewhere.
        let before = (self.in_host, self.in_memory);
        self.give_up_flags(live);
        let way = self.way(target, live);
        let space = self.leave_page(target, way);
        if back {
            self.poll(way);
        }
        self.asm.byte(0xe9);
        self.link_here(way, space);
        (self.in_host, self.in_memory) = before;
        self.asm.bind(on);
    }

    fn call(&mut self, ins: &Ins) {
        self.push_return(ins);
        self.go(ins.instr.near_branch_target(), STATUS, Some(ins));
    }

    /// Loads the target of an indirect jump into R11.
    fn target(&mut self, ins: &Ins) {
        let instr = &ins.instr;
        if instr.op0_kind() == OpKind::Register {
            let from = number(instr.op0_register());
            if in_memory_bit(instr.op0_register()) != 0 {
                return self.asm.gs_load(r::R11, l::reg(from));
            }
            return if self.long { self.asm.mov(r::R11, from) } else { self.asm.mov32(r::R11, from) };
        }
        if let Some(displacement) = self.on_window(ins) {
            return self.stack_move(0x8b, r::R11, HostMemory::Stack(displacement));
        }
        self.linear_address(instr, r::R11, r::R10);
        self.give_up_flags(ins.live_before());
        self.check(r::R11, r::R10, self.width() as usize, false);
        self.stack_move(0x8b, r::R11, HostMemory::At(r::R11));
    }

    fn jump_indirect(&mut self, ins: &Ins) {
        self.target(ins);
        self.dispatch();
    }

    fn call_indirect(&mut self, ins: &Ins) {
        self.target(ins);
        if self.window.is_some() && ins.rsp.is_some() {
            self.asm.mov_imm(r::R10, ins.instr.next_ip());
            self.stack_move(0x89, r::R10, HostMemory::Stack(-self.width()));
            self.move_rsp(-self.width());
            return self.dispatch();
        }
        // The target waits where R11's check leaves it alone: nothing of R15 is needed in a block without a window.
        self.asm.mov(r::R15, r::R11);
        self.push_return(ins);
        self.asm.mov(r::R11, r::R15);
        self.dispatch();
    }

    fn ret(&mut self, ins: &Ins) {
        let place = self.stack_place(ins, 0, false);
        self.stack_move(0x8b, r::R11, place);
        let more = if ins.instr.op_count() > 0 { i32::from(ins.instr.immediate16()) } else { 0 };
        self.move_rsp(self.width() + more);
        self.dispatch();
    }

    /// Goes to the address in R11.
    fn dispatch(&mut self) {
        self.give_up_flags(STATUS);
        let (missed, wanted) = (self.asm.label(), self.asm.label());
        self.asm.gs_load(r::R10, l::ATTENTION);
        self.asm.bytes(&[0x41, 0x83, 0x3a, 0x00]);
        self.asm.jcc(cc::NE, wanted);
        stubs::look_up(self.asm, missed);
        self.asm.stream(Stream::Cold);
        self.asm.bind(missed);
        self.asm.gs(0x2b, r::R11, l::SPACE_TAG);
        self.asm.bind(wanted);
        self.asm.gs_store(l::RIP, r::R11);
        let start = self.starts.last().copied();
        if let Some(start) = start {
            self.asm.gs_store_label(l::SITE, start);
        }
        self.asm.jmp_out(self.stubs.indirect);
        self.asm.stream(Stream::Hot);
    }

    // --- the interpreter's handlers ---

    fn call_out(&mut self, ins: &Ins) {
        let touches_flags = ins.reads | ins.writes != 0 || ins.instr.is_invalid();
        let live = if touches_flags { STATUS } else { ins.live_before() };
        self.give_up_flags(live);
        let op = (self.lower)(&ins.instr, ins.instr.is_invalid());
        self.asm.mov_imm(r::R11, op as u64);
        let resume = self.asm.label();
        self.asm.gs_store_label(l::SITE, resume);
        let stub = if touches_flags { self.stubs.call_flags } else { self.stubs.call };
        self.asm.jmp_out(stub);
        self.asm.bind(resume);
        self.in_host = false;
        self.in_memory = true;
    }
}

/// The displacement from RSP of a memory operand on the stack, whose RSP is known.
pub(super) fn stack_operand(ins: &Ins) -> Option<i32> {
    let instr = &ins.instr;
    ins.rsp?;
    let pointer = if instr.code_size() == iced_x86::CodeSize::Code64 { Register::RSP } else { Register::ESP };
    let plain = instr.memory_base() == pointer
        && instr.memory_index() == Register::None
        && !matches!(instr.memory_segment(), Register::FS | Register::GS);
    let displacement = i32::try_from(instr.memory_displacement64() as i64).ok()?;
    plain.then_some(displacement)
}

/// The low four bits of Jcc's opcode for iced's condition, which starts with 1 for O.
fn condition_bits(condition: u8) -> u8 {
    condition.wrapping_sub(1) & 15
}

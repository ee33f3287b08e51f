//! What the translator has to know of each instruction of a block before it writes code.

use iced_x86::{
    Code, ConstantOffsets, Decoder, EncodingKind, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits,
};
use x86::CpuModel;

use super::emit::is_plain_string;
use super::units;
use crate::features;
use crate::mmu::table;

/// The status flags, as iced numbers them.
pub(super) const STATUS: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// The most instructions of a block.
pub(super) const MOST: usize = 48;
/// The most conditional branches of a block.
const MOST_BRANCHES: usize = 3;
/// How far ahead flags are followed into a successor.
const LOOK_AHEAD: usize = 12;

/// How an instruction is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Does nothing that can be seen.
    Nothing,
    /// Its own bytes.
    Verbatim,
    /// Its own bytes with the memory operand replaced, after a look into the TLB.
    Memory {
        write: bool,
    },
    Lea,
    Push,
    Pop,
    Leave,
    Jump,
    Branch,
    Call,
    JumpIndirect,
    CallIndirect,
    Ret,
    /// INC and DEC of 32-bit code in one byte, which are prefixes in 64-bit code.
    ShortIncDec,
    /// A string instruction without a repetition.
    String,
    /// BT and its kin, of memory by a register.
    FarBit,
    /// One of the system's, done in place: see `emit::system`.
    System,
    /// CLAC or STAC, behind which data is accessed through another table.
    Switch,
    /// SYSCALL from ring 3 and SYSRET to 64-bit code.
    FastCall,
    FastReturn,
    /// Called out to the interpreter's handler; the block goes on if RIP does.
    CallOut,
}

/// An instruction of a block.
pub(super) struct Ins {
    pub(super) instr: Instruction,
    pub(super) offsets: ConstantOffsets,
    /// Where its bytes start within the block's.
    pub(super) at: u16,
    pub(super) kind: Kind,
    /// The floating-point units whose registers it uses in place.
    pub(super) units: u8,
    /// The flags that it needs to see.
    pub(super) reads: u32,
    /// The flags that it may change.
    pub(super) writes: u32,
    /// The flags that it surely changes.
    pub(super) kills: u32,
    /// The flags that are needed after it, wherever it leads.
    pub(super) live_after: u32,
    /// Of a branch: those that are needed where it leads if it is taken.
    pub(super) live_target: u32,
    /// How far RSP has moved since the block's start, if that is known.
    pub(super) rsp: Option<i32>,
}

impl Ins {
    /// The flags that are needed before it.
    pub(super) fn live_before(&self) -> u32 {
        self.live_after & !self.kills | self.reads
    }

    pub(super) fn len(&self) -> usize {
        self.instr.len()
    }
}

/// The code that is looked at.
pub(super) struct Source<'a> {
    /// The bytes from the block's start to the end of its page, or all of an instruction across two pages.
    pub(super) bytes: &'a [u8],
    /// The bytes from the start of the page to the block's start.
    pub(super) before: &'a [u8],
    pub(super) rip: u64,
    pub(super) long: bool,
    /// For 32-bit code: whether FS and GS are as simple as in 64-bit mode.
    pub(super) plain: [bool; 2],
    /// The table of the TLB that data is accessed through.
    pub(super) table: u8,
    /// The floating-point units are switched on.
    pub(super) units: bool,
    /// What lies around the block may change at any time.
    pub(super) alone: bool,
    pub(super) model: &'a CpuModel,
}

/// A block's instructions.
pub(super) struct Scan {
    pub(super) list: Vec<Ins>,
    /// How many bytes they take.
    pub(super) used: usize,
    /// The bytes ended within the first instruction.
    pub(super) truncated: bool,
    /// The last instruction does not go on to the next one.
    pub(super) ends: bool,
    /// The bytes, relative to the block's start, that the flags' fate was read from.
    pub(super) looked_at: (i32, i32),
}

impl Scan {
    /// Ends the block behind the first instruction that writes to memory, or may.
    pub(super) fn end_after_write(&mut self) {
        let writes = |ins: &Ins| {
            let plain =
                matches!(ins.kind, Kind::Nothing | Kind::Verbatim | Kind::Lea | Kind::ShortIncDec | Kind::Branch);
            // STI is done in place only where something follows.
            let system = ins.kind == Kind::System && ins.instr.mnemonic() != Mnemonic::Cmpxchg16b;
            !(plain
                || system
                || matches!(ins.kind, Kind::Memory { write: false } | Kind::Pop | Kind::Leave | Kind::Jump | Kind::Ret))
        };
        if let Some(last) = self.list.iter().position(writes) {
            let end = self.list.get(last + 1).map(|ins| ins.at);
            self.keep_to(|ins| Some(ins.at) != end);
        }
    }

    /// Ends the block before the first instruction that is not `good`.
    pub(super) fn keep_to(&mut self, good: impl Fn(&Ins) -> bool) {
        if let Some(end) = self.list.iter().position(|ins| !good(ins)) {
            self.list.truncate(end);
            self.ends = false;
            self.used = self.list.last().map_or(0, |ins| usize::from(ins.at) + ins.len());
            if let Some(last) = self.list.last_mut() {
                last.live_after = STATUS;
            }
            for i in (0..self.list.len().saturating_sub(1)).rev() {
                self.list[i].live_after |= self.list[i + 1].live_before();
            }
        }
    }
}

impl Source<'_> {
    fn decoder(&self, rip: u64) -> Option<Decoder<'_>> {
        let distance = rip.wrapping_sub(self.rip) as i64;
        let bytes = if distance >= 0 {
            self.bytes.get(usize::try_from(distance).ok()?..)?
        } else {
            let back = usize::try_from(-distance).ok()?;
            self.before.get(self.before.len().checked_sub(back)?..)?
        };
        let bits = if self.long { 64 } else { 32 };
        Some(Decoder::with_ip(bits, bytes, rip, features::decoding(self.model)))
    }

    /// Decodes the block.
    pub(super) fn scan(&self) -> Scan {
        let mut scan =
            Scan { list: Vec::with_capacity(MOST / 2), used: 0, truncated: false, ends: false, looked_at: (0, 0) };
        let Some(mut decoder) = self.decoder(self.rip) else { return scan };
        let mut branches = 0;
        let mut rsp = Some(0);
        while scan.list.len() < MOST && decoder.can_decode() {
            let at = decoder.position();
            let instr = decoder.decode();
            if instr.is_invalid() {
                let cut = decoder.last_error() == iced_x86::DecoderError::NoMoreBytes && self.bytes.len() - at < 15;
                if cut {
                    scan.truncated = scan.list.is_empty();
                    break;
                }
            }
            let segment = match instr.memory_segment() {
                Register::FS => self.plain[0],
                Register::GS => self.plain[1],
                // Not to be written, and maybe not to be read.
                Register::CS => self.long,
                _ => true,
            };
            let kind = if !segment || instr.is_invalid() || !features::offered(&instr, self.model) {
                Kind::CallOut
            } else {
                match system(&instr, self.long, self.table) {
                    Some(kind) => kind,
                    None => kind(&instr, self.long),
                }
            };
            let placed = if kind == Kind::CallOut
                && self.units
                && segment
                && !instr.is_invalid()
                && features::offered(&instr, self.model)
            {
                units::kind(&instr, self.long)
            } else {
                None
            };
            let (kind, units) = placed.unwrap_or((kind, 0));
            // What 32-bit code ignores of a VEX prefix would count here.
            let odd_vex = !self.long && kind != Kind::CallOut && wide_vex(&instr, &self.bytes[at..decoder.position()]);
            let (kind, units) = if odd_vex { (Kind::CallOut, 0) } else { (kind, units) };
            let ends = ends(&instr, kind);
            let (mut reads, writes, kills) = flags(&instr);
            if ends && matches!(kind, Kind::CallOut | Kind::FastCall | Kind::FastReturn) {
                // Whoever comes next may look at all of them.
                reads = STATUS;
            }
            scan.list.push(Ins {
                offsets: decoder.get_constant_offsets(&instr),
                at: at as u16,
                kind,
                units,
                reads,
                writes,
                kills,
                live_after: STATUS,
                live_target: STATUS,
                rsp,
                instr,
            });
            rsp = next_rsp(rsp, &instr, kind);
            scan.used = decoder.position();
            branches += usize::from(kind == Kind::Branch);
            if ends || branches == MOST_BRANCHES {
                // Behind what is called out the run may go on.
                scan.ends = ends && kind != Kind::CallOut;
                break;
            }
        }
        self.follow_flags(&mut scan);
        scan
    }

    /// Works out which flags are needed where.
    fn follow_flags(&self, scan: &mut Scan) {
        let Scan { list, looked_at, .. } = scan;
        // Where a jump stays among these instructions, what is needed there is worked out together with all else.
        let inside = |list: &[Ins], rip: u64| {
            let at = u16::try_from(rip.wrapping_sub(self.rip)).ok().filter(|_| !self.alone)?;
            list.binary_search_by_key(&at, |ins| ins.at).ok()
        };
        let target = |ins: &Ins| ins.instr.near_branch_target();
        let mut loops = false;
        for i in 0..list.len() {
            if matches!(list[i].kind, Kind::Branch | Kind::Jump) {
                let within = inside(list, target(&list[i]));
                loops |= within.is_some();
                list[i].live_target = if within.is_some() { 0 } else { self.live_in(target(&list[i]), looked_at) };
            }
        }
        let end = match list.last() {
            Some(last) if !scan.ends => self.live_in(last.instr.next_ip(), looked_at),
            _ => STATUS,
        };
        loop {
            let mut live = end;
            for i in (0..list.len()).rev() {
                live = match list[i].kind {
                    Kind::Branch => live | list[i].live_target,
                    Kind::Jump => list[i].live_target,
                    _ => live,
                };
                list[i].live_after = live;
                live = list[i].live_before();
            }
            let mut more = false;
            for i in (0..list.len()).filter(|_| loops) {
                if matches!(list[i].kind, Kind::Branch | Kind::Jump)
                    && let Some(to) = inside(list, target(&list[i]))
                {
                    let live = list[to].live_before();
                    more |= live != list[i].live_target;
                    list[i].live_target = live;
                }
            }
            if !more {
                return;
            }
        }
    }

    /// The flags that the code at `rip` needs, as far as it can be seen in this page. What was looked at is noted.
    pub(super) fn live_in(&self, rip: u64, looked_at: &mut (i32, i32)) -> u32 {
        if self.alone {
            return STATUS;
        }
        let Some(mut decoder) = self.decoder(rip) else { return STATUS };
        let distance = rip.wrapping_sub(self.rip) as i64 as i32;
        let (mut live, mut open) = (0, STATUS);
        let mut instr = Instruction::default();
        for _ in 0..LOOK_AHEAD {
            if !decoder.can_decode() {
                return live | open;
            }
            decoder.decode_out(&mut instr);
            if instr.is_invalid() {
                return live | open;
            }
            let (reads, _, kills) = flags(&instr);
            live |= reads & open;
            open &= !kills;
            looked_at.0 = looked_at.0.min(distance);
            looked_at.1 = looked_at.1.max(distance + decoder.position() as i32);
            if open & !live == 0 {
                return live;
            }
            if instr.flow_control() != FlowControl::Next {
                break;
            }
        }
        live | open
    }
}

/// The flags that `instr` reads, may change and surely changes.
fn flags(instr: &Instruction) -> (u32, u32, u32) {
    use Mnemonic as M;
    let (reads, writes) = (instr.rflags_read() & STATUS, instr.rflags_modified() & STATUS);
    let kills = match instr.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            let last = instr.op_count() - 1;
            let mask = if instr.op0_register().size() == 8 || instr.memory_size().size() == 8 { 63 } else { 31 };
            match instr.op_kind(last) {
                OpKind::Immediate8 if instr.immediate8() & mask != 0 => writes,
                _ => 0,
            }
        }
        // Where the stack is empty they may change nothing.
        M::Fcomi | M::Fcomip | M::Fucomi | M::Fucomip => 0,
        // With RCX = 0 they change nothing.
        _ if instr.has_rep_prefix() || instr.has_repne_prefix() => 0,
        // Whoever looks at a CPU that waits sees them.
        M::Hlt => return (STATUS, 0, 0),
        // The frame that they push holds the flags.
        M::Int | M::Int3 | M::Int1 | M::Into | M::Syscall | M::Sysenter => return (STATUS, 0, 0),
        _ => writes,
    };
    (reads, writes, kills)
}

fn is_memory(instr: &Instruction, operand: u32) -> bool {
    instr.op_kind(operand) == OpKind::Memory
}

/// Whether the instruction's explicit memory operand, if there is one, is one plain access that can be done in place.
fn plain_memory(instr: &Instruction) -> Kind {
    let Some(operand) = (0..instr.op_count()).find(|i| is_memory(instr, *i)) else { return Kind::Verbatim };
    let size = instr.memory_size().size();
    if !matches!(size, 1 | 2 | 4 | 8 | 16) {
        return Kind::CallOut;
    }
    use Mnemonic as M;
    let reads_only = matches!(instr.mnemonic(), M::Cmp | M::Test | M::Bt | M::Mul | M::Imul | M::Div | M::Idiv);
    Kind::Memory { write: operand == 0 && !reads_only }
}

/// How `instr` is translated.
fn kind(instr: &Instruction, long: bool) -> Kind {
    use Mnemonic as M;
    // Addresses of 16 bits in 32-bit code are rare.
    if instr.memory_base().size() == 2 || instr.memory_index().size() == 2 || instr.memory_displ_size() == 2 {
        return Kind::CallOut;
    }
    let wide_stack = if long { 8 } else { 4 };
    match instr.mnemonic() {
        _ if is_plain_string(instr, long) => Kind::String,
        M::Inc | M::Dec
            if !long && matches!(instr.code(), Code::Inc_r32 | Code::Inc_r16 | Code::Dec_r32 | Code::Dec_r16) =>
        {
            Kind::ShortIncDec
        }
        // An alias that 64-bit code does not have.
        _ if !long && is_opcode_82(instr.code()) => Kind::CallOut,
        M::Add | M::Adc | M::Sub | M::Sbb | M::And | M::Or | M::Xor | M::Cmp | M::Test => plain_memory(instr),
        M::Inc | M::Dec | M::Neg | M::Not | M::Movzx | M::Movsx | M::Movsxd | M::Xchg | M::Movnti => {
            plain_memory(instr)
        }
        M::Mov => {
            let special = (0..instr.op_count()).any(|i| {
                instr.op_kind(i) == OpKind::Register && {
                    let register = instr.op_register(i);
                    !register.is_gpr()
                }
            });
            if special { Kind::CallOut } else { plain_memory(instr) }
        }
        M::Lea => Kind::Lea,
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo | M::Bswap => Kind::Verbatim,
        M::Nop
        | M::Endbr32
        | M::Endbr64
        | M::Prefetchnta
        | M::Prefetcht0
        | M::Prefetcht1
        | M::Prefetcht2
        | M::Prefetchw
        | M::Prefetch => Kind::Nothing,
        M::Sfence | M::Lfence | M::Mfence | M::Pause => Kind::Verbatim,
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            plain_memory(instr)
        }
        M::Mul | M::Imul | M::Div | M::Idiv => plain_memory(instr),
        M::Bt | M::Bts | M::Btr | M::Btc => {
            // With a register, the bit may be far from the operand's address.
            let far = is_memory(instr, 0) && instr.op_kind(1) == OpKind::Register;
            if far { Kind::FarBit } else { plain_memory(instr) }
        }
        M::Bsf | M::Bsr | M::Popcnt | M::Lzcnt | M::Tzcnt | M::Movbe | M::Crc32 => plain_memory(instr),
        M::Clc | M::Stc | M::Cmc | M::Lahf | M::Sahf => Kind::Verbatim,
        M::Xadd | M::Cmpxchg => plain_memory(instr),
        M::Cmpxchg8b => Kind::Memory { write: true },
        M::Cmpxchg16b => Kind::CallOut,
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi | M::Pdep | M::Pext => plain_memory(instr),
        M::Rorx | M::Sarx | M::Shlx | M::Shrx | M::Mulx | M::Adcx | M::Adox => plain_memory(instr),
        M::Push | M::Pop => {
            let register = instr.op0_register();
            let plain = match instr.op0_kind() {
                OpKind::Register => register.is_gpr() && register.size() == wide_stack,
                OpKind::Memory => instr.memory_size().size() == wide_stack && instr.mnemonic() == M::Push,
                OpKind::Immediate8to64 | OpKind::Immediate32to64 => true,
                OpKind::Immediate8to32 | OpKind::Immediate32 => !long,
                _ => false,
            };
            match instr.mnemonic() {
                _ if !plain => Kind::CallOut,
                M::Push => Kind::Push,
                _ => Kind::Pop,
            }
        }
        M::Leave if matches!(instr.code(), Code::Leaveq) || !long && instr.code() == Code::Leaved => Kind::Leave,
        M::Jmp | M::Call => match instr.flow_control() {
            _ if instr.is_jmp_far()
                || instr.is_call_far()
                || instr.is_jmp_far_indirect()
                || instr.is_call_far_indirect() =>
            {
                Kind::CallOut
            }
            FlowControl::UnconditionalBranch if instr.op0_kind() == near(long) => Kind::Jump,
            FlowControl::Call if instr.op0_kind() == near(long) => Kind::Call,
            FlowControl::IndirectBranch if target_size(instr) == wide_stack => Kind::JumpIndirect,
            FlowControl::IndirectCall if target_size(instr) == wide_stack => Kind::CallIndirect,
            _ => Kind::CallOut,
        },
        M::Ret if matches!(instr.code(), Code::Retnq | Code::Retnq_imm16) => Kind::Ret,
        M::Ret if !long && matches!(instr.code(), Code::Retnd | Code::Retnd_imm16) => Kind::Ret,
        _ if instr.is_jcc_short_or_near() && instr.op0_kind() == near(long) => Kind::Branch,
        _ if instr.condition_code() != iced_x86::ConditionCode::None && instr.flow_control() == FlowControl::Next => {
            plain_memory(instr)
        }
        _ => Kind::CallOut,
    }
}

/// Whether the VEX prefix that `bytes` start with, after legacy prefixes, has a bit set that 32-bit code ignores: B, the
/// uppermost one of VVVV, or, for general registers, W (SDM vol. 2A, 2.3.5).
fn wide_vex(instr: &Instruction, bytes: &[u8]) -> bool {
    use Mnemonic as M;
    if instr.encoding() != EncodingKind::VEX {
        return false;
    }
    let general = (0..instr.op_count()).any(|i| instr.op_register(i).is_gpr())
        || matches!(
            instr.mnemonic(),
            M::Vcvtsi2sd | M::Vcvtsi2ss | M::Vmovd | M::Vpextrd | M::Vpinsrd | M::Vpcmpestri | M::Vpcmpestrm
        );
    let start = bytes.iter().position(|byte| !matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x64..=0x67)).unwrap_or(0);
    match bytes.get(start..) {
        Some([0xc4, second, third, ..]) => second & 0x20 == 0 || third & 0x40 == 0 || general && third & 0x80 != 0,
        Some([0xc5, second, ..]) => second & 0x40 == 0,
        _ => false,
    }
}

/// How `instr` is translated if it is one of the system's that is done in place. All code that is translated runs at
/// privilege level 0 or 3, and table USER is for the latter.
fn system(instr: &Instruction, long: bool, table: u8) -> Option<Kind> {
    use Mnemonic as M;
    let of_segment =
        matches!(instr.code(), Code::Mov_r32m16_Sreg | Code::Mov_r64m16_Sreg) && instr.op0_kind() == OpKind::Register;
    if instr.mnemonic() == M::Cld || of_segment {
        return Some(Kind::System);
    }
    if !long && !matches!(instr.mnemonic(), M::Cli | M::Sti | M::Clac | M::Stac) {
        return None;
    }
    let register = |i: u32| instr.op_kind(i) == OpKind::Register;
    Some(match instr.mnemonic() {
        M::Pushfq => Kind::Push,
        M::Popfq => Kind::Pop,
        M::Cmpxchg16b => Kind::System,
        M::Syscall if table == table::USER => Kind::FastCall,
        _ if table == table::USER => return None,
        M::Sysretq => Kind::FastReturn,
        M::Cli | M::Sti | M::Swapgs => Kind::System,
        // SMAP is on, and AC clear.
        M::Clac if table == table::SUPERVISOR => Kind::Nothing,
        M::Stac if table == table::SUPERVISOR_AC => Kind::System,
        M::Clac | M::Stac => Kind::Switch,
        M::Mov
            if instr.op_count() == 2
                && register(0)
                && register(1)
                && matches!(instr.op1_register(), Register::CR0 | Register::CR2 | Register::CR3 | Register::CR4) =>
        {
            Kind::System
        }
        _ => return None,
    })
}

fn is_opcode_82(code: Code) -> bool {
    use Code as C;
    matches!(
        code,
        C::Add_rm8_imm8_82
            | C::Or_rm8_imm8_82
            | C::Adc_rm8_imm8_82
            | C::Sbb_rm8_imm8_82
            | C::And_rm8_imm8_82
            | C::Sub_rm8_imm8_82
            | C::Xor_rm8_imm8_82
            | C::Cmp_rm8_imm8_82
    )
}

fn near(long: bool) -> OpKind {
    if long { OpKind::NearBranch64 } else { OpKind::NearBranch32 }
}

fn target_size(instr: &Instruction) -> usize {
    if is_memory(instr, 0) { instr.memory_size().size() } else { instr.op0_register().size() }
}

/// Whether what comes behind such an instruction is not run after it.
pub(super) fn ends_block(kind: Kind) -> bool {
    use Kind as K;
    matches!(kind, K::Jump | K::Call | K::JumpIndirect | K::CallIndirect | K::Ret | K::Switch)
        || matches!(kind, K::FastCall | K::FastReturn)
}

/// Whether a block ends behind `instr`.
fn ends(instr: &Instruction, kind: Kind) -> bool {
    match kind {
        _ if ends_block(kind) => true,
        Kind::CallOut => {
            instr.is_invalid()
                || instr.flow_control() != FlowControl::Next
                || matches!(
                    instr.mnemonic(),
                    Mnemonic::Hlt | Mnemonic::Popf | Mnemonic::Popfd | Mnemonic::Popfq | Mnemonic::Sti | Mnemonic::Mov
                ) && changes_mode(instr)
        }
        _ => false,
    }
}

/// Whether what follows `instr` has to be looked up anew.
fn changes_mode(instr: &Instruction) -> bool {
    let to = instr.op0_register();
    instr.mnemonic() != Mnemonic::Mov || to.is_cr() || to.is_dr() || to == Register::SS
}

/// What `instr` makes of the distance that RSP has moved.
fn next_rsp(rsp: Option<i32>, instr: &Instruction, kind: Kind) -> Option<i32> {
    let rsp = rsp?;
    let to_rsp =
        |i: u32| instr.op_kind(i) == OpKind::Register && matches!(instr.op_register(i).full_register(), Register::RSP);
    let moved = match kind {
        Kind::Push | Kind::Pop => {
            if kind == Kind::Pop && to_rsp(0) {
                return None;
            }
            rsp.checked_add(instr.stack_pointer_increment())?
        }
        Kind::Leave => return None,
        // What the interpreter does with RSP is not followed.
        Kind::CallOut => {
            return if instr.stack_pointer_increment() == 0 && !(0..instr.op_count()).any(to_rsp) {
                Some(rsp)
            } else {
                None
            };
        }
        Kind::Verbatim if to_rsp(0) && matches!(instr.mnemonic(), Mnemonic::Add | Mnemonic::Sub) => {
            if !matches!(instr.op1_kind(), OpKind::Immediate8to64 | OpKind::Immediate32to64) {
                return None;
            }
            let by = i32::try_from(instr.immediate(1) as i64).ok()?;
            if instr.mnemonic() == Mnemonic::Add { rsp.checked_add(by)? } else { rsp.checked_sub(by)? }
        }
        Kind::Lea if to_rsp(0) => {
            let plain = instr.memory_base() == Register::RSP && instr.memory_index() == Register::None;
            if !plain || instr.op0_register() != Register::RSP {
                return None;
            }
            rsp.checked_add(i32::try_from(instr.memory_displacement64() as i64).ok()?)?
        }
        Kind::System if instr.op_count() > 0 && to_rsp(0) => return None,
        Kind::Verbatim | Kind::Memory { .. } | Kind::Lea | Kind::ShortIncDec => {
            let read_only = matches!(instr.mnemonic(), Mnemonic::Cmp | Mnemonic::Test | Mnemonic::Bt);
            let exchanged = matches!(instr.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx)
                && (0..instr.op_count()).any(to_rsp);
            if !read_only && instr.op_count() > 0 && to_rsp(0) || exchanged {
                return None;
            }
            rsp
        }
        _ => rsp,
    };
    // Far away is as good as unknown.
    (-(1 << 16)..1 << 16).contains(&moved).then_some(moved)
}

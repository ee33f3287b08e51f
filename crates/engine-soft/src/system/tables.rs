//! Descriptor-table registers and questions about descriptors: LGDT, SGDT, LIDT, SIDT, LLDT, SLDT, LTR, STR, LAR, LSL,
//! VERR, VERW, ARPL (SDM vol. 2).

use iced_x86::{Code, Instruction, Mnemonic};
use x86::bits::vector;
use x86::{DescriptorTable, Segment};

use super::descriptor::{Descriptor, is_null, kind, null_segment};
use super::{check_cpl0, check_umip, has_memory};
use crate::cpu::{Cpu, Exec};
use crate::decode::gpr;
use crate::mem::Word;
use crate::mmu::is_canonical;
use crate::op::{Op, has};

/// The four forms of a pseudo-descriptor's base.
const BASE24: u64 = 3;
const BASE32: u64 = 4;
const BASE64: u64 = 8;

fn load_table(cpu: &mut Cpu, op: &Op) -> Exec<DescriptorTable> {
    check_cpl0(cpu)?;
    let long = op.imm == BASE64;
    let at = cpu.address(op, if long { 10 } else { 6 }, false)?;
    let limit = cpu.read_lin::<u16>(at)?;
    let base_at = cpu.wrap(at.wrapping_add(2));
    let base = if long { cpu.read_lin::<u64>(base_at)? } else { cpu.read_lin::<u32>(base_at)?.into() };
    let base = if op.imm == BASE24 { base & 0xff_ffff } else { base };
    cpu.check_canonical(base)?;
    Ok(DescriptorTable { base, limit })
}

fn lgdt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.gdt = load_table(cpu, op)?;
    Ok(())
}

fn lidt(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.idt = load_table(cpu, op)?;
    Ok(())
}

fn store_table(cpu: &mut Cpu, op: &Op, table: DescriptorTable) -> Exec {
    check_umip(cpu)?;
    let mut bytes = [0; 10];
    bytes[..2].copy_from_slice(&table.limit.to_le_bytes());
    bytes[2..].copy_from_slice(&table.base.to_le_bytes());
    let size = if op.imm == BASE64 { 10 } else { 6 };
    let at = cpu.address(op, size as u64, true)?;
    cpu.write_bytes(at, &bytes[..size])
}

fn sgdt(cpu: &mut Cpu, op: &Op) -> Exec {
    store_table(cpu, op, cpu.gdt)
}

fn sidt(cpu: &mut Cpu, op: &Op) -> Exec {
    store_table(cpu, op, cpu.idt)
}

/// The 16-bit operand that is a register (`op.imm` zero) or memory.
fn operand(cpu: &mut Cpu, op: &Op) -> Exec<u16> {
    if op.imm == 0 { Ok(u16::get(cpu, op.src)) } else { cpu.load::<u16>(op) }
}

/// Protected mode only: #UD in real and virtual-8086 mode.
fn check_protected(cpu: &mut Cpu) -> Exec {
    if cpu.paragraph_segments() { Err(cpu.ud()) } else { Ok(()) }
}

impl Cpu {
    /// The base of a system segment: in long mode its descriptor has sixteen bytes.
    fn system_base(&mut self, selector: u16, d: Descriptor) -> Exec<u64> {
        if !self.long_mode() {
            return Ok(d.base());
        }
        let high = self.read_descriptor_high(selector, vector::GP)?;
        let base = d.base() | high << 32;
        if !is_canonical(base) {
            return Err(self.selector_fault(vector::GP, selector));
        }
        Ok(base)
    }

    /// Loads LDTR; errors other than a missing segment are raised as `bad`.
    pub(super) fn ldt_segment(&mut self, selector: u16, bad: u8, missing: u8) -> Exec<Segment> {
        if is_null(selector) {
            return Ok(null_segment(selector));
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(bad, selector));
        }
        let d = self.read_descriptor(selector, bad)?;
        if !d.is_system() || d.kind() != kind::LDT {
            return Err(self.selector_fault(bad, selector));
        }
        if !d.present() {
            return Err(self.selector_fault(missing, selector));
        }
        let base = self.system_base(selector, d)?;
        Ok(Segment { base, ..d.segment(selector) })
    }
}

fn lldt(cpu: &mut Cpu, op: &Op) -> Exec {
    check_protected(cpu)?;
    check_cpl0(cpu)?;
    let selector = operand(cpu, op)?;
    cpu.ldt = cpu.ldt_segment(selector, vector::GP, vector::NP)?;
    Ok(())
}

fn ltr(cpu: &mut Cpu, op: &Op) -> Exec {
    check_protected(cpu)?;
    check_cpl0(cpu)?;
    let selector = operand(cpu, op)?;
    if is_null(selector) {
        return Err(cpu.gp(0));
    }
    if selector & 4 != 0 {
        return Err(cpu.selector_fault(vector::GP, selector));
    }
    let d = cpu.read_descriptor(selector, vector::GP)?;
    let available = d.kind() == kind::TSS || d.kind() == kind::TSS16 && !cpu.long_mode();
    if !d.is_system() || !available {
        return Err(cpu.selector_fault(vector::GP, selector));
    }
    if !d.present() {
        return Err(cpu.selector_fault(vector::NP, selector));
    }
    let base = cpu.system_base(selector, d)?;
    cpu.set_busy(selector, true)?;
    let mut segment = Segment { base, ..d.segment(selector) };
    segment.attr |= 2;
    cpu.tr = segment;
    Ok(())
}

fn store_selector(cpu: &mut Cpu, op: &Op, selector: u16) -> Exec {
    check_protected(cpu)?;
    check_umip(cpu)?;
    match op.imm {
        // Memory: 16 bits whatever the operand size.
        0 => cpu.store(op, selector),
        2 => {
            u16::set(cpu, op.dst, selector);
            Ok(())
        }
        _ => {
            u64::set(cpu, op.dst, selector.into());
            Ok(())
        }
    }
}

fn sldt(cpu: &mut Cpu, op: &Op) -> Exec {
    store_selector(cpu, op, cpu.ldt.selector)
}

fn str(cpu: &mut Cpu, op: &Op) -> Exec {
    store_selector(cpu, op, cpu.tr.selector)
}

/// The descriptor that `selector` names if it is there and, but for conforming code, within reach.
fn visible(cpu: &mut Cpu, selector: u16) -> Exec<Option<Descriptor>> {
    if is_null(selector) {
        return Ok(None);
    }
    let Some(at) = cpu.descriptor_address(selector, 8) else { return Ok(None) };
    let d = Descriptor(cpu.read_sys::<u64>(at)?);
    let reach = d.is_conforming() || d.dpl() >= cpu.cpl && d.dpl() >= (selector & 3) as u8;
    Ok(reach.then_some(d))
}

/// LAR and LSL: which system descriptors they know.
fn known(cpu: &Cpu, d: Descriptor, limit: bool) -> bool {
    if !d.is_system() {
        return true;
    }
    let long = cpu.long_mode();
    match d.kind() {
        kind::LDT | kind::TSS | kind::TSS_BUSY => true,
        kind::TSS16 | kind::TSS16_BUSY => !long,
        kind::CALL_GATE => !limit,
        kind::CALL_GATE16 | kind::TASK_GATE => !limit && !long,
        _ => false,
    }
}

fn inspect<T: Word>(cpu: &mut Cpu, op: &Op, limit: bool) -> Exec {
    check_protected(cpu)?;
    let selector = operand(cpu, op)?;
    let found = visible(cpu, selector)?.filter(|d| known(cpu, *d, limit));
    if let Some(d) = found {
        let value = if limit { u64::from(d.limit()) } else { d.0 >> 32 & 0x00f0_ff00 };
        T::set(cpu, op.dst, T::from_u64(value));
    }
    cpu.flags.set_zf(found.is_some());
    Ok(())
}

fn lar<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    inspect::<T>(cpu, op, false)
}

fn lsl<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    inspect::<T>(cpu, op, true)
}

fn verify(cpu: &mut Cpu, op: &Op, write: bool) -> Exec {
    check_protected(cpu)?;
    let selector = operand(cpu, op)?;
    let ok = visible(cpu, selector)?.is_some_and(|d| {
        d.has(Segment::S)
            && if write { d.is_writable_data() } else { !d.is_code() || d.has(Segment::WRITABLE_OR_READABLE) }
    });
    cpu.flags.set_zf(ok);
    Ok(())
}

fn verr(cpu: &mut Cpu, op: &Op) -> Exec {
    verify(cpu, op, false)
}

fn verw(cpu: &mut Cpu, op: &Op) -> Exec {
    verify(cpu, op, true)
}

/// What ARPL makes of a selector.
fn adjust(value: u16, rpl: u16) -> Option<u16> {
    (value & 3 < rpl & 3).then_some(value & !3 | rpl & 3)
}

fn arpl_register(cpu: &mut Cpu, op: &Op) -> Exec {
    check_protected(cpu)?;
    let adjusted = adjust(u16::get(cpu, op.dst), u16::get(cpu, op.src));
    if let Some(value) = adjusted {
        u16::set(cpu, op.dst, value);
    }
    cpu.flags.set_zf(adjusted.is_some());
    Ok(())
}

fn arpl_memory(cpu: &mut Cpu, op: &Op) -> Exec {
    check_protected(cpu)?;
    let rpl = u16::get(cpu, op.src);
    cpu.modify::<u16, ()>(op, |flags, value| {
        let adjusted = adjust(value, rpl);
        flags.set_zf(adjusted.is_some());
        (adjusted.unwrap_or(value), ())
    })
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    use Mnemonic as M;
    let memory = has_memory(instr);
    match instr.mnemonic() {
        M::Lgdt | M::Lidt | M::Sgdt | M::Sidt => {
            op.imm = match instr.code() {
                Code::Lgdt_m1632_16 | Code::Lidt_m1632_16 => BASE24,
                Code::Lgdt_m1664 | Code::Lidt_m1664 | Code::Sgdt_m1664 | Code::Sidt_m1664 => BASE64,
                _ => BASE32,
            };
            op.run = match instr.mnemonic() {
                M::Lgdt => lgdt,
                M::Lidt => lidt,
                M::Sgdt => sgdt,
                _ => sidt,
            };
        }
        M::Sldt | M::Str => {
            op.imm = if memory { 0 } else { instr.op0_register().size() as u64 };
            op.dst = gpr(instr.op0_register());
            op.run = if instr.mnemonic() == M::Sldt { sldt } else { str };
        }
        M::Lldt | M::Ltr | M::Verr | M::Verw => {
            op.imm = memory.into();
            op.src = gpr(instr.op0_register());
            op.run = match instr.mnemonic() {
                M::Lldt => lldt,
                M::Ltr => ltr,
                M::Verr => verr,
                _ => verw,
            };
            if matches!(instr.mnemonic(), M::Lldt | M::Ltr) {
                op.has |= has::ENDS;
            }
        }
        M::Lar | M::Lsl => {
            op.imm = memory.into();
            op.dst = gpr(instr.op0_register());
            op.src = gpr(instr.op1_register());
            op.run = match (instr.mnemonic() == M::Lar, instr.op0_register().size()) {
                (true, 2) => lar::<u16>,
                (true, 4) => lar::<u32>,
                (true, _) => lar::<u64>,
                (false, 2) => lsl::<u16>,
                (false, 4) => lsl::<u32>,
                (false, _) => lsl::<u64>,
            };
        }
        M::Arpl => {
            op.dst = gpr(instr.op0_register());
            op.src = gpr(instr.op1_register());
            op.run = if memory { arpl_memory } else { arpl_register };
        }
        _ => return false,
    }
    true
}

//! Near jumps, calls and returns, loops, and BOUND.

use iced_x86::{Code, Instruction, Mnemonic, OpKind};
use x86::bits::vector;

use crate::cpu::{Cpu, Exec, reg, sreg};
use crate::decode::LowerCtx;
use crate::mem::Word;
use crate::mmu::is_canonical;
use crate::op::{Handler, Op, has};

use super::operand::{Mem, Reg, Source, condition, immediate, reg_number, size_bits, source, width};

/// #GP(0) if execution cannot go on at `target`.
#[inline(always)]
fn check_target(cpu: &mut Cpu, target: u64) -> Exec {
    let reachable = if cpu.is64() { is_canonical(target) } else { target <= u64::from(cpu.seg[sreg::CS].limit) };
    if reachable { Ok(()) } else { Err(cpu.gp(0)) }
}

/// A direct branch: the target is `op.imm`, which needs no check if `CHECKED` is false.
#[inline(always)]
fn go<const CHECKED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    if CHECKED {
        check_target(cpu, op.imm)?;
    }
    cpu.rip = op.imm;
    Ok(())
}

fn jump<const CHECKED: bool>(cpu: &mut Cpu, op: &Op) -> Exec {
    go::<CHECKED>(cpu, op)
}

fn jump_if<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flags.condition(CC) {
        cpu.rip = op.imm;
    }
    Ok(())
}

fn jump_if_checked<const CC: u8>(cpu: &mut Cpu, op: &Op) -> Exec {
    if cpu.flags.condition(CC) { go::<true>(cpu, op) } else { Ok(()) }
}

fn jump_to<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target: T = S::read(cpu, op)?;
    check_target(cpu, target.to_u64())?;
    cpu.rip = target.to_u64();
    Ok(())
}

/// Pushes the return address and goes to `target`. The push comes first, as on processors: it is seen in memory even
/// if the target is refused.
#[inline(always)]
fn call_at<T: Word>(cpu: &mut Cpu, op: &Op, target: u64) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    cpu.push(T::from_u64(op.next))?;
    check_target(cpu, target).inspect_err(|_| cpu.regs[reg::RSP] = rsp)?;
    cpu.rip = target;
    Ok(())
}

fn call<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    call_at::<T>(cpu, op, op.imm)
}

/// CALL in 64-bit mode to a canonical address.
fn call_unchecked(cpu: &mut Cpu, op: &Op) -> Exec {
    cpu.push(op.next)?;
    cpu.rip = op.imm;
    Ok(())
}

fn call_to<T: Word, S: Source>(cpu: &mut Cpu, op: &Op) -> Exec {
    let target: T = S::read(cpu, op)?;
    call_at::<T>(cpu, op, target.to_u64())
}

fn ret<T: Word>(cpu: &mut Cpu, _: &Op) -> Exec {
    let rsp = cpu.regs[reg::RSP];
    let target = cpu.pop::<T>()?.to_u64();
    check_target(cpu, target).inspect_err(|_| cpu.regs[reg::RSP] = rsp)?;
    cpu.rip = target;
    Ok(())
}

/// RET that releases `imm` bytes of parameters.
fn ret_release<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    ret::<T>(cpu, op)?;
    let sp = cpu.sp().wrapping_add(op.imm);
    cpu.set_sp(sp);
    Ok(())
}

/// JCXZ and its kin; the counter has the width `T`.
fn jump_if_no_count<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    if T::get(cpu, reg::RCX as u8).to_u64() == 0 { go::<true>(cpu, op) } else { Ok(()) }
}

/// Counts down and jumps if the count is not zero and `goes_on` agrees.
#[inline(always)]
fn count_down<T: Word>(cpu: &mut Cpu, op: &Op, goes_on: impl Fn(bool) -> bool) -> Exec {
    let count = T::from_u64(T::get(cpu, reg::RCX as u8).to_u64().wrapping_sub(1));
    if count.to_u64() != 0 && goes_on(cpu.flags.zf()) {
        go::<true>(cpu, op)?;
    }
    T::set(cpu, reg::RCX as u8, count);
    Ok(())
}

fn loop_always<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    count_down::<T>(cpu, op, |_| true)
}

fn loop_equal<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    count_down::<T>(cpu, op, |zf| zf)
}

fn loop_not_equal<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    count_down::<T>(cpu, op, |zf| !zf)
}

/// BOUND: #BR unless the register lies within the two signed bounds in memory.
fn bound<T: Word>(cpu: &mut Cpu, op: &Op) -> Exec {
    let low: T = cpu.load(op)?;
    let mut at = *op;
    at.disp = at.disp.wrapping_add(T::SIZE);
    let high: T = cpu.load(&at)?;
    let value = T::get(cpu, op.dst).sext() as i64;
    if value < low.sext() as i64 || value > high.sext() as i64 {
        return Err(cpu.raise(vector::BR));
    }
    Ok(())
}

/// Takes the direct target; whether it has to be checked when the branch is taken.
fn direct(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    op.imm = instr.near_branch_target();
    ctx.bits != 64 || !is_canonical(op.imm)
}

fn is_direct(instr: &Instruction) -> bool {
    instr.op_count() > 0
        && matches!(instr.op_kind(0), OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64)
}

/// Jcc.
pub(super) fn lower_jcc(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    if !is_direct(instr) || !instr.is_jcc_short_or_near() {
        return false;
    }
    let Some(cc) = condition(instr) else { return false };
    op.run = if direct(instr, ctx, op) { by_condition!(cc, jump_if_checked) } else { by_condition!(cc, jump_if) };
    op.has |= has::ENDS;
    true
}

pub(super) fn lower(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    let Some(run) = pick(instr, ctx, op) else { return false };
    op.run = run;
    if instr.mnemonic() != Mnemonic::Bound {
        op.has |= has::ENDS;
    }
    true
}

fn pick(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> Option<Handler> {
    use Mnemonic as M;
    Some(match instr.mnemonic() {
        M::Jmp | M::Call => pick_jump(instr, ctx, op)?,
        M::Ret => {
            let bits = match instr.code() {
                Code::Retnw | Code::Retnw_imm16 => 16,
                Code::Retnd | Code::Retnd_imm16 => 32,
                _ => 64,
            };
            if instr.op_count() == 1 {
                op.imm = immediate(instr, 0)?;
                by_wide_width!(bits, ret_release)
            } else {
                by_wide_width!(bits, ret)
            }
        }
        M::Jcxz | M::Jecxz | M::Jrcxz => {
            direct(instr, ctx, op);
            by_wide_width!(counter_bits(instr), jump_if_no_count)
        }
        M::Loop => {
            direct(instr, ctx, op);
            by_wide_width!(counter_bits(instr), loop_always)
        }
        M::Loope => {
            direct(instr, ctx, op);
            by_wide_width!(counter_bits(instr), loop_equal)
        }
        M::Loopne => {
            direct(instr, ctx, op);
            by_wide_width!(counter_bits(instr), loop_not_equal)
        }
        M::Bound => {
            op.dst = reg_number(instr, 0)?;
            by_wide_width!(size_bits(instr.op0_register()), bound)
        }
        _ => return None,
    })
}

fn pick_jump(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> Option<Handler> {
    let is_call = instr.mnemonic() == Mnemonic::Call;
    if instr.is_jmp_far() || instr.is_jmp_far_indirect() || instr.is_call_far() || instr.is_call_far_indirect() {
        return None;
    }
    if is_direct(instr) {
        let checked = direct(instr, ctx, op);
        return Some(match (is_call, checked) {
            (false, false) => jump::<false>,
            (false, true) => jump::<true>,
            (true, false) => call_unchecked,
            (true, true) => by_wide_width!(instr.stack_pointer_increment().unsigned_abs() * 8, call),
        });
    }
    let bits = width(instr, 0);
    let memory = source(instr, 0, op)?;
    Some(match (is_call, memory) {
        (false, false) => by_wide_width!(bits, jump_to, Reg),
        (false, true) => by_wide_width!(bits, jump_to, Mem),
        (true, false) => by_wide_width!(bits, call_to, Reg),
        (true, true) => by_wide_width!(bits, call_to, Mem),
    })
}

/// The width of the counter of LOOP and JCXZ: the address size.
fn counter_bits(instr: &Instruction) -> u32 {
    use Code as C;
    match instr.code() {
        C::Jcxz_rel8_16 | C::Jcxz_rel8_32 => 16,
        C::Loop_rel8_16_CX | C::Loop_rel8_32_CX => 16,
        C::Loope_rel8_16_CX | C::Loope_rel8_32_CX => 16,
        C::Loopne_rel8_16_CX | C::Loopne_rel8_32_CX => 16,
        C::Jrcxz_rel8_16 | C::Jrcxz_rel8_64 => 64,
        C::Loop_rel8_16_RCX | C::Loop_rel8_64_RCX => 64,
        C::Loope_rel8_16_RCX | C::Loope_rel8_64_RCX => 64,
        C::Loopne_rel8_16_RCX | C::Loopne_rel8_64_RCX => 64,
        _ => 32,
    }
}

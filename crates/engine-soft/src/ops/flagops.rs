//! Instructions that do nothing but move or change flags.

use iced_x86::{Instruction, Mnemonic};
use x86::bits::rflags;

use crate::cpu::{Cpu, Exec, reg};
use crate::mem::Word;
use crate::op::{HIGH_BYTE, Op};

/// The flags that LAHF and SAHF move.
const LOW: u64 = rflags::STATUS & 0xff;

fn clc(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.flags.set_cf_keep_of(false);
    Ok(())
}

fn stc(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.flags.set_cf_keep_of(true);
    Ok(())
}

fn cmc(cpu: &mut Cpu, _: &Op) -> Exec {
    let cf = cpu.flags.cf();
    cpu.flags.set_cf_keep_of(!cf);
    Ok(())
}

// DF concerns nothing but the string instructions, which look at it themselves: the mode need not be derived anew.
fn cld(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.system_flags &= !rflags::DF;
    Ok(())
}

fn std(cpu: &mut Cpu, _: &Op) -> Exec {
    cpu.system_flags |= rflags::DF;
    Ok(())
}

fn lahf(cpu: &mut Cpu, _: &Op) -> Exec {
    let value = (cpu.rflags() & (LOW | rflags::ONE)) as u8;
    u8::set(cpu, HIGH_BYTE + reg::RAX as u8, value);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Op) -> Exec {
    let ah = u64::from(u8::get(cpu, HIGH_BYTE + reg::RAX as u8));
    let bits = cpu.flags.bits() & !LOW | ah & LOW;
    cpu.flags.set_bits(bits);
    Ok(())
}

pub(super) fn lower(instr: &Instruction, op: &mut Op) -> bool {
    op.run = match instr.mnemonic() {
        Mnemonic::Clc => clc,
        Mnemonic::Stc => stc,
        Mnemonic::Cmc => cmc,
        Mnemonic::Cld => cld,
        Mnemonic::Std => std,
        Mnemonic::Lahf => lahf,
        Mnemonic::Sahf => sahf,
        _ => return false,
    };
    true
}

//! The integer instructions of user-level code: what each does, as handlers that are specialised by operand width and
//! form.
//!
//! The source is the *Intel 64 and IA-32 Architectures Software Developer's Manual*, volume 2.

use iced_x86::{Instruction, Mnemonic};

use crate::decode::LowerCtx;
use crate::op::Op;

/// The handler `$f` specialised for operands of `$bits`; further generic arguments follow the width.
macro_rules! by_width {
    ($bits:expr, $f:ident $(, $g:ty)*) => {
        match $bits {
            8 => $f::<u8 $(, $g)*> as $crate::op::Handler,
            16 => $f::<u16 $(, $g)*>,
            32 => $f::<u32 $(, $g)*>,
            _ => $f::<u64 $(, $g)*>,
        }
    };
}

/// As `by_width`, for what has no byte form.
macro_rules! by_wide_width {
    ($bits:expr, $f:ident $(, $g:ty)*) => {
        match $bits {
            16 => $f::<u16 $(, $g)*> as $crate::op::Handler,
            32 => $f::<u32 $(, $g)*>,
            _ => $f::<u64 $(, $g)*>,
        }
    };
}

/// The handler `$f` specialised for a condition code; further generic arguments follow it.
macro_rules! by_condition {
    ($cc:expr, $f:ident $(, $g:ty)*) => {
        match $cc & 15 {
            0 => $f::<0 $(, $g)*> as $crate::op::Handler,
            1 => $f::<1 $(, $g)*>,
            2 => $f::<2 $(, $g)*>,
            3 => $f::<3 $(, $g)*>,
            4 => $f::<4 $(, $g)*>,
            5 => $f::<5 $(, $g)*>,
            6 => $f::<6 $(, $g)*>,
            7 => $f::<7 $(, $g)*>,
            8 => $f::<8 $(, $g)*>,
            9 => $f::<9 $(, $g)*>,
            10 => $f::<10 $(, $g)*>,
            11 => $f::<11 $(, $g)*>,
            12 => $f::<12 $(, $g)*>,
            13 => $f::<13 $(, $g)*>,
            14 => $f::<14 $(, $g)*>,
            _ => $f::<15 $(, $g)*>,
        }
    };
}

mod alu;
mod atomic;
mod bcd;
mod bits;
mod bmi;
mod branch;
mod flagops;
mod mov;
mod muldiv;
mod operand;
mod shift;
mod stack;
mod string;
mod string_bulk;

/// Gives `op` the handler and operands of `instr`; false if it is not an integer instruction of user-level code.
pub(crate) fn lower(instr: &Instruction, ctx: &LowerCtx<'_>, op: &mut Op) -> bool {
    use Mnemonic as M;
    match instr.mnemonic() {
        M::Add | M::Adc | M::Sub | M::Sbb | M::And | M::Or | M::Xor | M::Cmp | M::Test => alu::lower(instr, op),
        M::Inc | M::Dec | M::Neg | M::Not => alu::lower(instr, op),
        M::Mov | M::Movzx | M::Movsx | M::Movsxd | M::Lea | M::Xchg | M::Xlatb | M::Movnti | M::Movdiri => {
            mov::lower(instr, op)
        }
        M::Cbw | M::Cwde | M::Cdqe | M::Cwd | M::Cdq | M::Cqo => mov::lower(instr, op),
        M::Nop | M::Reservednop | M::Pause | M::Endbr32 | M::Endbr64 | M::Cldemote => mov::lower_hint(instr, op),
        M::Prefetchnta | M::Prefetcht0 | M::Prefetcht1 | M::Prefetcht2 => mov::lower_hint(instr, op),
        M::Prefetch | M::Prefetchw | M::Prefetchwt1 | M::Prefetchit0 | M::Prefetchit1 => mov::lower_hint(instr, op),
        // RDSSP does nothing without shadow stacks.
        M::Rdsspd | M::Rdsspq | M::Sfence | M::Lfence | M::Mfence | M::Serialize => mov::lower_hint(instr, op),
        M::Push | M::Pop | M::Pusha | M::Pushad | M::Popa | M::Popad | M::Enter | M::Leave => stack::lower(instr, op),
        M::Pushf | M::Pushfd | M::Pushfq | M::Popf | M::Popfd | M::Popfq => stack::lower(instr, op),
        M::Jmp | M::Call | M::Ret | M::Jcxz | M::Jecxz | M::Jrcxz | M::Loop | M::Loope | M::Loopne | M::Bound => {
            branch::lower(instr, ctx, op)
        }
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd => {
            shift::lower(instr, op)
        }
        M::Mul | M::Imul | M::Div | M::Idiv => muldiv::lower(instr, op),
        M::Bt | M::Bts | M::Btr | M::Btc | M::Bsf | M::Bsr | M::Bswap => bits::lower(instr, op),
        M::Popcnt | M::Lzcnt | M::Tzcnt | M::Movbe | M::Crc32 => bits::lower(instr, op),
        M::Movsb | M::Movsw | M::Movsd | M::Movsq | M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
            string::lower(instr, op)
        }
        M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq | M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq => {
            string::lower(instr, op)
        }
        M::Scasb | M::Scasw | M::Scasd | M::Scasq => string::lower(instr, op),
        M::Daa | M::Das | M::Aaa | M::Aas | M::Aam | M::Aad | M::Salc => bcd::lower(instr, op),
        M::Clc | M::Stc | M::Cmc | M::Cld | M::Std | M::Lahf | M::Sahf => flagops::lower(instr, op),
        M::Xadd | M::Cmpxchg | M::Cmpxchg8b | M::Cmpxchg16b => atomic::lower(instr, op),
        M::Andn | M::Bextr | M::Blsi | M::Blsmsk | M::Blsr | M::Bzhi | M::Pdep | M::Pext => bmi::lower(instr, op),
        M::Rorx | M::Sarx | M::Shlx | M::Shrx | M::Mulx | M::Adcx | M::Adox => bmi::lower(instr, op),
        _ if operand::condition(instr).is_some() => {
            branch::lower_jcc(instr, ctx, op) || bits::lower_condition(instr, op)
        }
        _ => false,
    }
}

#[cfg(test)]
mod legacy_tests;

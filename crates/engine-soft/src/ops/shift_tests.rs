//! Shifts against the processor that runs the test.

use std::arch::asm;

use x86::bits::rflags;

use super::*;

/// Runs the host's instruction on a value, CL and RFLAGS.
macro_rules! host {
    ($name:ident, $insn:literal, $ty:ty, $class:ident) => {
        fn $name(value: $ty, fill: $ty, count: u8, flags: u64) -> ($ty, u64) {
            let (mut value, mut flags) = (value, flags | rflags::ONE);
            // SAFETY: changes nothing but its operands, the status flags and the free stack.
            unsafe {
                asm!(
                    "push {f}", "popfq", $insn, "pushfq", "pop {f}",
                    f = inout(reg) flags, v = inout($class) value, in("rdx") u64::from(fill), in("cl") count,
                );
            }
            (value, flags & rflags::STATUS)
        }
    };
}

/// Compares `ours` with the host for edge values and all counts. OF and AF are compared only where they are defined.
macro_rules! compare {
    ($test:ident, $insn:literal, $ty:ty, $class:ident, $kind:ident, $limit:expr, $undefined:expr) => {
        #[test]
        fn $test() {
            host!(host, $insn, $ty, $class);
            let values: [$ty; 8] =
                [0, 1, <$ty>::MAX, <$ty>::MAX >> 1, (<$ty>::MAX >> 1) + 1, 0x5a, (<$ty>::MAX / 5) << 1, <$ty>::MAX / 7];
            for value in values {
                for fill in values {
                    for count in 0..=$limit {
                        for before in [0, rflags::STATUS] {
                            let masked = u32::from(count) & count_mask::<$ty>();
                            let mut flags = Flags::default();
                            flags.set_bits(before);
                            let result =
                                if masked == 0 { value } else { $kind::run_for_test(&mut flags, value, fill, masked) };
                            let (expected, mut after) = host(value, fill, count, before);
                            let mask: u64 = if masked == 0 { !0 } else { !$undefined(masked) };
                            assert_eq!(result, expected, "{value:x} {fill:x} {count} {before:x}");
                            after &= mask;
                            assert_eq!(flags.bits() & mask, after, "flags of {value:x} {fill:x} {count} {before:x}");
                        }
                    }
                }
            }
        }
    };
}

trait RunForTest {
    fn run_for_test<T: Word>(flags: &mut Flags, value: T, fill: T, count: u32) -> T;
}

macro_rules! single {
    ($($kind:ident)*) => { $(impl RunForTest for $kind {
        fn run_for_test<T: Word>(flags: &mut Flags, value: T, _: T, count: u32) -> T {
            <$kind as Shift>::run(flags, value, count)
        }
    })* };
}

macro_rules! double {
    ($($kind:ident)*) => { $(impl RunForTest for $kind {
        fn run_for_test<T: Word>(flags: &mut Flags, value: T, fill: T, count: u32) -> T {
            <$kind as DoubleShift>::run(flags, value, fill, count)
        }
    })* };
}

single!(Shl Shr Sar Rol Ror Rcl Rcr);
double!(Shld Shrd);

fn shift_undefined(count: u32) -> u64 {
    if count == 1 { rflags::AF } else { rflags::AF | rflags::OF }
}

/// For operands narrower than the count CF is undefined too.
fn narrow_undefined(count: u32) -> u64 {
    if count >= 8 { shift_undefined(count) | rflags::CF } else { shift_undefined(count) }
}

fn rotate_undefined(count: u32) -> u64 {
    if count == 1 { 0 } else { rflags::OF }
}

compare!(shl8, "shl {v}, cl", u8, reg_byte, Shl, 255u8, narrow_undefined);
compare!(shl16, "shl {v:x}, cl", u16, reg, Shl, 255u8, narrow_undefined);
compare!(shl32, "shl {v:e}, cl", u32, reg, Shl, 255u8, shift_undefined);
compare!(shl64, "shl {v}, cl", u64, reg, Shl, 255u8, shift_undefined);
compare!(shr8, "shr {v}, cl", u8, reg_byte, Shr, 255u8, narrow_undefined);
compare!(shr32, "shr {v:e}, cl", u32, reg, Shr, 255u8, shift_undefined);
compare!(shr64, "shr {v}, cl", u64, reg, Shr, 255u8, shift_undefined);
compare!(sar8, "sar {v}, cl", u8, reg_byte, Sar, 255u8, narrow_undefined);
compare!(sar16, "sar {v:x}, cl", u16, reg, Sar, 255u8, narrow_undefined);
compare!(sar64, "sar {v}, cl", u64, reg, Sar, 255u8, shift_undefined);
compare!(rol8, "rol {v}, cl", u8, reg_byte, Rol, 255u8, rotate_undefined);
compare!(rol32, "rol {v:e}, cl", u32, reg, Rol, 255u8, rotate_undefined);
compare!(ror8, "ror {v}, cl", u8, reg_byte, Ror, 255u8, rotate_undefined);
compare!(ror16, "ror {v:x}, cl", u16, reg, Ror, 255u8, rotate_undefined);
compare!(ror64, "ror {v}, cl", u64, reg, Ror, 255u8, rotate_undefined);
compare!(rcl8, "rcl {v}, cl", u8, reg_byte, Rcl, 255u8, rotate_undefined);
compare!(rcl16, "rcl {v:x}, cl", u16, reg, Rcl, 255u8, rotate_undefined);
compare!(rcl64, "rcl {v}, cl", u64, reg, Rcl, 255u8, rotate_undefined);
compare!(rcr8, "rcr {v}, cl", u8, reg_byte, Rcr, 255u8, rotate_undefined);
compare!(rcr32, "rcr {v:e}, cl", u32, reg, Rcr, 255u8, rotate_undefined);
compare!(rcr64, "rcr {v}, cl", u64, reg, Rcr, 255u8, rotate_undefined);
compare!(shld16, "shld {v:x}, dx, cl", u16, reg, Shld, 16u8, shift_undefined);
compare!(shld32, "shld {v:e}, edx, cl", u32, reg, Shld, 255u8, shift_undefined);
compare!(shld64, "shld {v}, rdx, cl", u64, reg, Shld, 255u8, shift_undefined);
compare!(shrd16, "shrd {v:x}, dx, cl", u16, reg, Shrd, 16u8, shift_undefined);
compare!(shrd32, "shrd {v:e}, edx, cl", u32, reg, Shrd, 255u8, shift_undefined);
compare!(shrd64, "shrd {v}, rdx, cl", u64, reg, Shrd, 255u8, shift_undefined);

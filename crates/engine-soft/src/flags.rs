//! The six status flags, kept as the result that they come from.
//!
//! Most flags are overwritten unread, so an operation stores two words and a reader derives what it asks for.

use x86::bits::rflags;

/// CF, PF, AF, ZF, SF and OF in a form that is cheap to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub(crate) struct Flags {
    /// The result, sign-extended: ZF is "it is zero", SF its top bit, PF the parity of its low byte.
    result: u64,
    /// Bit 63: CF, the carry out of the sign bit. Bit 62: CF xor OF, the carry into it. Bit 3: AF. Bit 1 inverts SF,
    /// bit 0 inverts PF: they let any combination be stored.
    aux: u64,
}

const CF: u64 = 1 << 63;
const CF_XOR_OF: u64 = 1 << 62;
const AF: u64 = 1 << 3;
const INVERT_SF: u64 = 1 << 1;
const INVERT_PF: u64 = 1;

impl Flags {
    /// After a logical operation: CF, OF and AF clear. `result` is sign-extended to 64 bits.
    #[inline(always)]
    pub(crate) fn set_logic(&mut self, result: u64) {
        *self = Self { result, aux: 0 };
    }

    /// After an addition or subtraction of `bits` width: `carries` has the carry (or borrow) out of each bit.
    #[inline(always)]
    pub(crate) fn set_arith(&mut self, result: u64, carries: u64, bits: u32) {
        *self = Self { result, aux: (carries << (64 - bits)) & (CF | CF_XOR_OF) | (carries & AF) };
    }

    /// As [`Flags::set_arith`], but CF stays as it was: INC and DEC.
    #[inline(always)]
    pub(crate) fn set_arith_keep_cf(&mut self, result: u64, carries: u64, bits: u32) {
        let cf = self.cf();
        self.set_arith(result, carries, bits);
        self.set_cf_keep_of(cf);
    }

    /// The carry flag.
    #[inline(always)]
    pub(crate) fn cf(self) -> bool {
        self.aux & CF != 0
    }

    /// The overflow flag.
    #[inline(always)]
    pub(crate) fn of(self) -> bool {
        (self.aux ^ (self.aux << 1)) & CF != 0
    }

    /// The auxiliary carry flag.
    #[inline(always)]
    pub(crate) fn af(self) -> bool {
        self.aux & AF != 0
    }

    /// The zero flag.
    #[inline(always)]
    pub(crate) fn zf(self) -> bool {
        self.result == 0
    }

    /// The sign flag.
    #[inline(always)]
    pub(crate) fn sf(self) -> bool {
        (self.result >> 63) ^ (self.aux >> 1 & 1) != 0
    }

    /// The parity flag.
    #[inline(always)]
    pub(crate) fn pf(self) -> bool {
        ((self.result as u8) ^ (self.aux & INVERT_PF) as u8).count_ones() & 1 == 0
    }

    /// Replaces CF; the others, OF too, stay.
    #[inline(always)]
    pub(crate) fn set_cf_keep_of(&mut self, cf: bool) {
        let of = self.of();
        self.set_cf_of(cf, of);
    }

    /// Replaces CF and OF; the others stay.
    #[inline(always)]
    pub(crate) fn set_cf_of(&mut self, cf: bool, of: bool) {
        self.aux = self.aux & !(CF | CF_XOR_OF) | u64::from(cf) << 63 | u64::from(cf ^ of) << 62;
    }

    /// Replaces ZF; the others stay.
    pub(crate) fn set_zf(&mut self, zf: bool) {
        let bits = self.bits() & !rflags::ZF;
        self.set_bits(bits | if zf { rflags::ZF } else { 0 });
    }

    /// The six flags at their places in RFLAGS.
    #[inline]
    pub(crate) fn bits(self) -> u64 {
        let bit = |set: bool, mask: u64| if set { mask } else { 0 };
        bit(self.cf(), rflags::CF)
            | bit(self.pf(), rflags::PF)
            | bit(self.af(), rflags::AF)
            | bit(self.zf(), rflags::ZF)
            | bit(self.sf(), rflags::SF)
            | bit(self.of(), rflags::OF)
    }

    /// Sets the six flags from their places in RFLAGS.
    #[inline]
    pub(crate) fn set_bits(&mut self, bits: u64) {
        let has = |mask: u64| bits & mask != 0;
        // Neither zero nor negative and of even parity, unless ZF asks for zero.
        let result = if has(rflags::ZF) { 0 } else { 1 << 8 };
        let mut aux = 0;
        if has(rflags::CF) {
            aux |= CF;
        }
        if has(rflags::CF) != has(rflags::OF) {
            aux |= CF_XOR_OF;
        }
        if has(rflags::AF) {
            aux |= AF;
        }
        if has(rflags::SF) {
            aux |= INVERT_SF;
        }
        if !has(rflags::PF) {
            aux |= INVERT_PF;
        }
        *self = Self { result, aux };
    }

    /// Whether condition `cc` (the low four bits of Jcc's opcode) holds.
    #[inline(always)]
    pub(crate) fn condition(self, cc: u8) -> bool {
        let plain = match cc >> 1 & 7 {
            0 => self.of(),
            1 => self.cf(),
            2 => self.zf(),
            3 => self.cf() || self.zf(),
            4 => self.sf(),
            5 => self.pf(),
            6 => self.sf() != self.of(),
            _ => self.zf() || self.sf() != self.of(),
        };
        plain != (cc & 1 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_is_kept() {
        for i in 0..64u64 {
            let bits = (i & 1)
                | (i >> 1 & 1) << 2
                | (i >> 2 & 1) << 4
                | (i >> 3 & 1) << 6
                | (i >> 4 & 1) << 7
                | (i >> 5 & 1) << 11;
            let mut flags = Flags::default();
            flags.set_bits(bits);
            assert_eq!(flags.bits(), bits);
        }
    }

    #[test]
    fn carries_give_cf_of_and_af() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let (r, carry) = a.overflowing_add(b);
                let carries = u64::from((a & b) | ((a | b) & !r));
                let mut flags = Flags::default();
                flags.set_arith(i64::from(r as i8) as u64, carries, 8);
                assert_eq!(flags.cf(), carry);
                assert_eq!(flags.of(), (a as i8).overflowing_add(b as i8).1);
                assert_eq!(flags.af(), (a & 15) + (b & 15) > 15);
                assert_eq!(flags.zf(), r == 0);
                assert_eq!(flags.sf(), r >= 128);
            }
        }
    }
}

//! Random numbers with a taste for the edges.

/// A small fast generator (SplitMix64).
pub(crate) struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0xd134_2543_de82_ef95));
        random.u64();
        random
    }

    /// Any number.
    pub(crate) fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Any number of 32 bits.
    pub(crate) fn u32(&mut self) -> u32 {
        (self.u64() >> 32) as u32
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.u64()) * u128::from(n)) >> 64) as u64
    }

    /// True in `percent` of 100 cases.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// An integer as programs and their bugs have them.
    pub(crate) fn integer(&mut self) -> u64 {
        const EDGES: [u64; 24] = [
            0,
            1,
            2,
            u64::MAX,
            u64::MAX - 1,
            0x7f,
            0x80,
            0xff,
            0x100,
            0x7fff,
            0x8000,
            0xffff,
            0x1_0000,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x1_0000_0000,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            0xffff_ffff_8000_0000,
            0xffff_ffff_ffff_8000,
            0xffff_ffff_ffff_ff80,
            0x5555_5555_5555_5555,
            0xaaaa_aaaa_aaaa_aaaa,
        ];
        match self.below(10) {
            0..3 => self.pick(&EDGES),
            3..5 => {
                let bits = self.below(64);
                self.u64() >> bits
            }
            5 => ((self.u64() as i64) >> self.below(64)) as u64,
            6 => 1 << self.below(64),
            _ => self.u64(),
        }
    }

    /// The bits of a single-precision number.
    pub(crate) fn f32(&mut self) -> u32 {
        const EDGES: [u32; 20] = [
            0,
            0x8000_0000,
            0x3f80_0000,
            0xbf80_0000,
            0x7f80_0000,
            0xff80_0000,
            0x7fc0_0000,
            0xffc0_0000,
            0x7f80_0001,
            0xffbf_ffff,
            0x7fff_ffff,
            1,
            0x8000_0001,
            0x007f_ffff,
            0x0080_0000,
            0x7f7f_ffff,
            0x4f00_0000,
            0xcf00_0000,
            0x5f00_0000,
            0x3f00_0000,
        ];
        match self.below(8) {
            0..3 => self.pick(&EDGES),
            // Near one, so that sums cancel and round.
            3..6 => (self.u32() & 0x807f_ffff) | (120 + self.below(16) as u32) << 23,
            6 => self.u32() & 0x80ff_ffff,
            _ => self.u32(),
        }
    }

    /// The bits of a double-precision number.
    pub(crate) fn f64(&mut self) -> u64 {
        const EDGES: [u64; 22] = [
            0,
            1 << 63,
            0x3ff0_0000_0000_0000,
            0xbff0_0000_0000_0000,
            0x7ff0_0000_0000_0000,
            0xfff0_0000_0000_0000,
            0x7ff8_0000_0000_0000,
            0xfff8_0000_0000_0000,
            0x7ff0_0000_0000_0001,
            0xfff7_ffff_ffff_ffff,
            1,
            0x8000_0000_0000_0001,
            0x000f_ffff_ffff_ffff,
            0x0010_0000_0000_0000,
            0x7fef_ffff_ffff_ffff,
            0x41e0_0000_0000_0000,
            0xc1e0_0000_0000_0000,
            0x43e0_0000_0000_0000,
            0xc3e0_0000_0000_0000,
            0x3fe0_0000_0000_0000,
            0x47ef_ffff_f000_0000,
            0x3690_0000_0000_0000,
        ];
        match self.below(8) {
            0..3 => self.pick(&EDGES),
            3..6 => (self.u64() & 0x800f_ffff_ffff_ffff) | (1015 + self.below(16)) << 52,
            6 => f64::from(f32::from_bits(self.f32())).to_bits(),
            _ => self.u64(),
        }
    }

    /// The bytes of a double-extended number, unsupported encodings among them.
    pub(crate) fn f80(&mut self) -> [u8; 10] {
        const SIGNIFICANDS: [u64; 9] =
            [0, 1, 1 << 63, u64::MAX, 3 << 62, 1 << 62, (1 << 63) | 1, (1 << 62) - 1, (1 << 63) | 1 << 39];
        const EXPONENTS: [u16; 14] =
            [0, 1, 0x3fff, 0x4000, 0x3ffe, 0x7fff, 0x7ffe, 0x403e, 0x403d, 0x401e, 0x3f80, 0x3bff, 0x43fe, 0x407e];
        let significand = match self.below(4) {
            0 => self.pick(&SIGNIFICANDS),
            1..3 => self.u64() | 1 << 63,
            _ => self.integer(),
        };
        let exponent = match self.below(4) {
            0..2 => self.pick(&EXPONENTS),
            2 => 0x3ff8 + self.below(16) as u16,
            _ => self.u32() as u16 & 0x7fff,
        };
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&significand.to_le_bytes());
        bytes[8..].copy_from_slice(&(exponent | (self.u32() as u16 & 0x8000)).to_le_bytes());
        bytes
    }

    /// Sixteen bytes whose lanes are of one kind.
    pub(crate) fn lanes(&mut self, kind: Lanes) -> [u8; 16] {
        let mut bytes = [0; 16];
        match kind {
            Lanes::F32 => bytes.chunks_exact_mut(4).for_each(|c| c.copy_from_slice(&self.f32().to_le_bytes())),
            Lanes::F64 => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&self.f64().to_le_bytes())),
            Lanes::F80 => bytes[..10].copy_from_slice(&self.f80()),
            Lanes::Integer => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&self.integer().to_le_bytes())),
            Lanes::Small => {
                let word = self.u64();
                for (i, byte) in bytes.iter_mut().enumerate() {
                    *byte = [0, 0x7f, 0x80, 0xff, 1, b'a', b'b', b'c'][(word >> (i * 3) & 7) as usize];
                }
            }
            Lanes::Random => bytes.chunks_exact_mut(8).for_each(|c| c.copy_from_slice(&self.u64().to_le_bytes())),
        }
        bytes
    }
}

/// What the lanes of a vector register or a piece of memory hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lanes {
    /// Single precision.
    F32,
    /// Double precision.
    F64,
    /// Double-extended precision.
    F80,
    /// Integers of 64 bits.
    Integer,
    /// Bytes of few kinds, as strings have them.
    Small,
    /// Anything.
    Random,
}

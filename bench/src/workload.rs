//! What a workload is.

use crate::cpu::Feature;

/// One unit of work. Every unit of a workload does the same and returns the same checksum, on every machine.
pub(crate) type Unit = Box<dyn FnMut() -> u64>;

/// A workload: a unit of work under a name.
pub(crate) struct Workload {
    /// Its name: what `bench run` and `cargo xtask bench --only` take.
    pub(crate) name: &'static str,
    /// What it does, in a few words.
    pub(crate) what: &'static str,
    /// What the CPU must have beyond SSE2.
    pub(crate) needs: &'static [Feature],
    /// Prepares it; what is done here is not measured.
    pub(crate) make: fn() -> Unit,
}

impl Workload {
    /// A workload for every x86-64 CPU.
    pub(crate) const fn new(name: &'static str, what: &'static str, make: fn() -> Unit) -> Self {
        Self { name, what, needs: &[], make }
    }

    /// The same, for CPUs with these features.
    pub(crate) const fn needs(self, needs: &'static [Feature]) -> Self {
        Self { needs, ..self }
    }
}

/// A group of workloads, with the files that they are in.
pub(crate) struct Group {
    /// The name of the group.
    pub(crate) name: &'static str,
    /// Its workloads, file by file.
    pub(crate) parts: &'static [&'static [Workload]],
}

/// All groups.
pub(crate) const GROUPS: [Group; 5] = [
    Group { name: "integer", parts: crate::integer::PARTS },
    Group { name: "memory", parts: &[crate::memory::ALL] },
    Group { name: "float", parts: crate::float::PARTS },
    Group { name: "system", parts: crate::system::PARTS },
    Group { name: "codegen", parts: crate::codegen::PARTS },
];

/// Every workload with the name of its group.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static Workload)> {
    GROUPS.iter().flat_map(|group| group.parts.iter().flat_map(|part| part.iter()).map(|w| (group.name, w)))
}

/// Pseudo-random numbers, the same in every run: xorshift64*.
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    /// A sequence of its own for each seed.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// The next number below `limit`.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 32) * limit >> 32
    }

    /// A number from 0 up to 1.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// So many random bytes.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// Text of lower-case words and lines that repeat as words in a language do.
pub(crate) fn text(len: usize) -> Vec<u8> {
    let mut numbers = Numbers::new(7);
    let words: Vec<Vec<u8>> = (0..700)
        .map(|_| {
            let letters = 2 + numbers.below(8);
            (0..letters)
                .map(|_| b"etaoinshrdlucmfwypvbgkqjxz"[(numbers.unit() * numbers.unit() * 26.0) as usize])
                .collect()
        })
        .collect();
    let mut text = Vec::with_capacity(len + 16);
    while text.len() < len {
        let rank = (numbers.unit() * numbers.unit() * words.len() as f64) as usize;
        text.extend_from_slice(&words[rank]);
        text.push(if numbers.below(11) == 0 { b'\n' } else { b' ' });
    }
    text.truncate(len);
    text
}

/// Mixes a value into a checksum.
pub(crate) fn mix(sum: u64, value: u64) -> u64 {
    (sum.rotate_left(23) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Mixes bytes into a checksum.
pub(crate) fn mix_bytes(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(sum, |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        mix(sum, u64::from_le_bytes(word))
    })
}

/// A result of functions that may differ in their last bits from one CPU to the other: rounded to `1 / scale`.
pub(crate) fn rounded(value: f64, scale: f64) -> u64 {
    (value * scale).round() as i64 as u64
}

//! A workout for a CPU: a static program whose output is the same on every correct x86-64-v3 machine.
//!
//! Built by `cargo xtask guest` with plain `rustc`; run on the host and inside the guest, where every byte must agree.
//! Without an argument it runs every part; with arguments, the parts named.

mod float;
mod integer;
mod processes;
mod selfmod;
mod signals;
mod sys;
mod threads;
mod vector;

/// The parts in their order, each under the name by which it is chosen.
const PARTS: [(&str, fn()); 8] = [
    ("integer", integer::run),
    ("float", float::run),
    ("x87", float::run_x87),
    ("vector", vector::run),
    ("signals", signals::run),
    ("processes", processes::run),
    ("threads", threads::run),
    ("selfmod", selfmod::run),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // What the parts start of this program itself.
    if let Some(("child", rest)) = args.split_first().map(|(first, rest)| (first.as_str(), rest)) {
        return processes::child(rest);
    }
    if let Some(unknown) = args.iter().find(|a| PARTS.iter().all(|(name, _)| name != a)) {
        let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        eprintln!("workout: no part named {unknown}; there are {}", names.join(", "));
        std::process::exit(2);
    }
    for (name, run) in PARTS {
        if args.is_empty() || args.iter().any(|a| a == name) {
            println!("[{name}]");
            run();
        }
    }
}

/// A hash to print in place of much data: FNV-1a, 64 bits.
pub struct Digest(u64);

impl Digest {
    pub fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub fn add(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = (self.0 ^ u64::from(b)).wrapping_mul(0x100_0000_01b3);
        }
    }

    pub fn value(&self) -> u64 {
        self.0
    }
}

/// Pseudo-random numbers, the same in every run: xorshift64*.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

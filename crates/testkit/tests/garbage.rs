//! A bounded run of guests that execute garbage. The seed is printed; `HUSK_SEED` sets it, `HUSK_GARBAGE` the number of guests.

use testkit::garbage::{End, run};
use testkit::rig::Random;

/// Pieces of rare and privileged instructions: random bytes alone seldom make them.
const PIECES: &[&[u8]] = &[
    &[0x0f, 0x01],
    &[0x0f, 0x00],
    &[0x0f, 0x22],
    &[0x0f, 0x20],
    &[0x0f, 0x23],
    &[0x0f, 0x30],
    &[0x0f, 0x32],
    &[0x0f, 0xae],
    &[0x0f, 0xc7],
    &[0x8e],
    &[0xcf],
    &[0xcb],
    &[0x9a],
    &[0xea],
    &[0xff],
    &[0xcd],
    &[0x0f, 0x05],
    &[0x0f, 0x07],
    &[0x0f, 0x34],
    &[0x0f, 0x35],
    &[0xf3, 0xa4],
    &[0xf3, 0xab],
    &[0xf0],
    &[0x66],
    &[0x67],
    &[0xc4],
    &[0xc5],
    &[0x9d],
    &[0x0f, 0xa2],
    &[0xe4],
    &[0xee],
    &[0x48],
    &[0xd9],
    &[0xdb],
    &[0x6c],
];

fn code(random: &mut Random) -> Vec<u8> {
    let mut code = Vec::new();
    let len = 64 + random.below(1024) as usize;
    while code.len() < len {
        if random.below(3) == 0 {
            code.extend_from_slice(PIECES[random.below(PIECES.len() as u64) as usize]);
        } else {
            code.push(random.draw() as u8);
        }
    }
    code
}

#[test]
fn garbage_neither_panics_nor_hangs() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let clock =
        || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    let seed = number("HUSK_SEED").unwrap_or_else(clock);
    let guests = number("HUSK_GARBAGE").unwrap_or(20_000);
    println!("HUSK_SEED={seed} HUSK_GARBAGE={guests}");
    let mut ends = std::collections::BTreeMap::<String, u64>::new();
    for i in 0..guests {
        let mut random = Random::new(seed.wrapping_add(i.wrapping_mul(0x1_0000_0001)));
        let code = code(&mut random);
        let seed = random.draw();
        match std::panic::catch_unwind(|| run(seed, &code, 2_000)) {
            Ok(end) => *ends.entry(format!("{:?}", end.expect("the engine sets up"))).or_default() += 1,
            Err(_) => panic!("guest {i}: panic with seed {seed:#x} and code {code:02x?}"),
        }
    }
    println!("{ends:?}");
    assert!(ends.contains_key(&format!("{:?}", End::TripleFault)), "garbage that never dies is not garbage: {ends:?}");
}

//! Programs of random instructions, run by the interpreter and by the translator from the same state.
//!
//! Each program is a few stretches of random instructions with memory operands, in loops, subroutines and behind
//! indirect jumps, with stores into its own code, in ring 3 or ring 0, as 64-bit or as 32-bit code. Its pointers lead to
//! pages that are mapped twice, to read-only ones, holes, and the edges between them. In the end both must have left the
//! same registers, memory, page-table entries and exception.
//!
//! One thing is left to the translator: flags that are dead, since all that follows in the code overwrites them before it
//! reads them, need not be there when an exception ends the program in between, nor when a store has changed that code.
//! Programs that differ in nothing else, or in flags that the manual leaves undefined, are counted apart.
//!
//! `HUSK_SEED` sets the seed, `HUSK_CASES` the number of programs, `HUSK_SOAK` the minutes to run instead, with a new seed,
//! `HUSK_TELL` how many differences are printed in full. With `HUSK_EXACT=1`, flags that are overwritten unread behind the
//! instruction that raised the exception are compared too.

#[allow(dead_code, reason = "shared with the comparison with the host's CPU")]
mod oracle;
mod twins;

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use engine_soft::{SoftOptions, Translator};
use oracle::generate::Generator;
use oracle::random::Random;
use twins::machine::{End, Machine};
use twins::program::Program;
use twins::trace::{self, Open};

/// The seed if none is told: the same programs each time, so that a build fails for what has changed in it.
const SEED: u64 = 0x7700_0000;
/// More blocks than any program needs that ends.
const BUDGET: usize = 20_000;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// What has become of the programs.
#[derive(Debug, Default)]
struct Counts {
    programs: u64,
    /// Those that did not end.
    endless: u64,
    /// Those that differ in flags that are undefined, or overwritten unread behind the exception.
    flags_only: u64,
    /// Those that differ in what an undefined flag has brought about.
    open: u64,
    /// By the vector that ended them.
    vectors: [u64; 32],
    different: u64,
    /// What was different, and in how many programs.
    kinds: BTreeMap<String, u64>,
}

/// Runs programs on two machines and compares them.
fn compare(options: SoftOptions, usual: u64) -> Counts {
    let until = variable("HUSK_SOAK").map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let usual_seed = if until.is_some() { u64::from(now.subsec_nanos()) << 24 } else { SEED };
    let seed = variable("HUSK_SEED").unwrap_or(usual_seed);
    let most = variable("HUSK_CASES").unwrap_or(usual);
    let exact = variable("HUSK_EXACT").is_some_and(|n| n != 0);
    let tell = variable("HUSK_TELL").unwrap_or(5);
    println!("HUSK_SEED={seed:#x}");
    let generator = Generator::new(None);
    let mut reference = Machine::new(SoftOptions::interpreter());
    let mut subject = Machine::new(options);
    let mut counts = Counts::default();
    let start = Instant::now();
    let goes_on = |done: u64| until.map_or(done < most, |until| Instant::now() < until);
    while goes_on(counts.programs) {
        let own_seed = seed.wrapping_add(counts.programs);
        let program = Program::random(&mut Random::new(own_seed), &generator);
        counts.programs += 1;
        let Some(expected) = reference.run(&program, BUDGET) else {
            counts.endless += 1;
            continue;
        };
        if let Some(count) = expected.vector().and_then(|vector| counts.vectors.get_mut(usize::from(vector))) {
            *count += 1;
        }
        let given = subject.run(&program, BUDGET * 10);
        let all = differences(&expected, given.as_ref(), &Open::default(), subject.failure());
        if all.is_empty() {
            continue;
        }
        let mut open = trace::open(&mut reference, &program, exact);
        if !exact {
            open.flags |= trace::dead_flags(&reference, &program, expected.raised_at());
        }
        let real = differences(&expected, given.as_ref(), &open, subject.failure());
        if real.is_empty() {
            counts.flags_only += 1;
            continue;
        }
        if open.anything {
            counts.open += 1;
            continue;
        }
        counts.different += 1;
        for name in real.iter().map(|text| kind_of(text)) {
            *counts.kinds.entry(name.to_owned()).or_default() += 1;
        }
        if counts.different <= tell {
            println!("HUSK_SEED={own_seed:#x} HUSK_CASES=1\n{}{real:#?}", program.describe());
            println!("it stands at {}", subject.describe());
            println!("{}", trace::tail(&mut reference, &program, 40));
        }
    }
    println!("{:.0} programs/s, {counts:?}", counts.programs as f64 / start.elapsed().as_secs_f64());
    counts
}

/// What a difference is about: its first words.
fn kind_of(text: &str) -> &str {
    let first = text.lines().next().unwrap_or_default();
    match first.rsplit_once(": ") {
        Some((start, what)) if start.starts_with("lock-step") => what.split(' ').next().unwrap_or_default(),
        _ => first.split([':', ',']).next().unwrap_or_default(),
    }
}

/// Where the two disagree, translated behind interpreted.
fn differences(expected: &End, given: Option<&End>, open: &Open, failure: Option<&str>) -> Vec<String> {
    match (given, failure) {
        (_, Some(failure)) => vec![failure.to_owned()],
        (None, _) => vec!["the interpreter has come to an end, the other has not".to_owned()],
        (Some(given), _) => expected.differences(given, open.flags),
    }
}

/// Most programs end, in many ways, and can be compared.
fn check(counts: &Counts) {
    assert_eq!(counts.different, 0, "programs with differences; see above");
    let many = counts.programs >= 10_000;
    assert!(!many || counts.endless < counts.programs / 20, "too many programs do not end");
    assert!(!many || counts.open < counts.programs / 20, "too many programs cannot be compared");
    for vector in [6, 13, 14] {
        assert!(!many || counts.vectors[vector] > counts.programs / 1000, "too few programs end with {vector}");
    }
}

#[test]
fn the_translator_agrees_with_the_interpreter() {
    check(&compare(SoftOptions::default(), 100_000));
}

#[test]
fn a_small_code_cache_changes_nothing() {
    check(&compare(SoftOptions { code_cache: *SoftOptions::CODE_CACHE.start(), ..SoftOptions::default() }, 10_000));
}

#[test]
fn lock_step_finds_nothing() {
    check(&compare(SoftOptions { translator: Translator::LockStep, ..SoftOptions::default() }, 10_000));
}

/// The comparison finds what it is to find.
#[test]
fn a_planted_difference_is_found() {
    let generator = Generator::new(None);
    let (mut one, mut other) = (Machine::new(SoftOptions::interpreter()), Machine::new(SoftOptions::interpreter()));
    let (mut compared, mut found, mut same) = (0, 0, 0);
    for seed in 0..200 {
        let mut program = Program::random(&mut Random::new(seed), &generator);
        let Some(expected) = one.run(&program, BUDGET) else { continue };
        let again = other.run(&program, BUDGET).expect("the same end");
        assert_eq!(expected.differences(&again, 0), [""; 0], "seed {seed}");
        same += 1;
        program.disturb();
        let Some(given) = other.run(&program, BUDGET) else { continue };
        compared += 1;
        found += u32::from(!expected.differences(&given, 0).is_empty());
    }
    assert!(same > 150 && compared > 150 && found > compared * 9 / 10, "{found} of {compared}, {same}");
}

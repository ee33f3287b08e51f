//! Instructions against the CPU of the host.
//!
//! `HUSK_SEED` sets the seed of the first batch, `HUSK_CASES` the number of cases, `HUSK_SOAK` the minutes to run
//! instead, `HUSK_TELL` of how many instruction codes a difference is printed in full,
//! `HUSK_ONLY` the classes of instructions (see `oracle/catalogue.rs`), separated by commas.

mod oracle;

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant, SystemTime};

use engine_soft::SoftOptions;
use iced_x86::Code;
use oracle::case::{Case, Outcome};
use oracle::catalogue::CLASSES;
use oracle::compare;
use oracle::generate::{Generator, Made};
use oracle::host::{BATCH, Host};
use oracle::random::Random;
use oracle::subject::Subject;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    Some(parsed.unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// The classes that are to be tested, separated by commas, if not all.
fn only() -> Option<String> {
    std::env::var("HUSK_ONLY").ok()
}

/// How many cases to run, and from which seed.
struct Plan {
    seed: u64,
    cases: u64,
    until: Option<Instant>,
}

impl Plan {
    fn from_environment(cases: u64) -> Self {
        let seed = variable("HUSK_SEED").unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) << 20
        });
        let until = variable("HUSK_SOAK").map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
        println!("HUSK_SEED={seed:#x}");
        Self { seed, cases: variable("HUSK_CASES").unwrap_or(cases), until }
    }

    /// The seeds of the batches.
    fn batches(&self) -> impl Iterator<Item = u64> {
        let (until, cases, seed) = (self.until, self.cases, self.seed);
        (0..)
            .take_while(move |batch| match until {
                Some(until) => Instant::now() < until,
                None => batch * (BATCH as u64) < cases,
            })
            .map(move |batch| seed + batch)
    }
}

/// Template, cases and what is known of them for one seed.
fn batch(generator: &Generator, seed: u64) -> (Vec<u8>, Vec<Case>, Vec<Made>) {
    let mut random = Random::new(seed);
    let template = Generator::template(&mut random);
    let mut cases = vec![Case::empty(); BATCH];
    let made = cases.iter_mut().map(|case| generator.make(&mut random, case)).collect();
    (template, cases, made)
}

/// Counts of cases per class, and the instruction codes met alone.
#[derive(Default)]
struct Counts {
    classes: BTreeMap<&'static str, u64>,
    /// The instruction codes met.
    codes: HashSet<Code>,
}

impl Counts {
    fn add(&mut self, made: &Made, host: &Outcome) {
        self.codes.insert(made.code);
        *self.classes.entry(made.class).or_default() += 1;
        let event = match host.vector {
            0 => "#DE",
            3 => "trap",
            6 => "#UD",
            12 => "#SS",
            13 => "#GP",
            14 => "page fault",
            16 => "#MF",
            17 => "#AC",
            19 => "#XM",
            Outcome::HANG => "hang",
            _ => "other",
        };
        *self.classes.entry(event).or_default() += 1;
    }

    fn report(&self) {
        for (class, count) in &self.classes {
            println!("{class:>12} {count:>10}");
        }
        for class in CLASSES.iter().filter(|_| only().is_none()) {
            assert!(self.classes.contains_key(class), "no case of class {class}");
        }
    }
}

/// The host agrees with itself: what is compared is a function of the case.
#[test]
fn the_host_is_its_own_oracle() {
    let generator = Generator::new(only().as_deref());
    let mut host = Host::open().unwrap();
    let mut counts = Counts::default();
    let (mut spent, mut total) = (Duration::ZERO, 0u64);
    let mut bad = Failures::default();
    let plan = Plan::from_environment(50_000);
    println!("{} instruction codes", generator.codes().len());
    for seed in plan.batches() {
        let (template, cases, made) = batch(&generator, seed);
        let start = Instant::now();
        let first = run_host(&mut host, seed, &template, &cases);
        spent += start.elapsed();
        total += cases.len() as u64;
        let second = run_host(&mut host, seed, &template, &cases);
        for (index, ((made, first), second)) in made.iter().zip(&first).zip(&second).enumerate() {
            counts.add(made, first);
            let differences = compare::differences(made, &cases[index], first, second);
            if !differences.is_empty() {
                bad.add(made, &cases[index], || {
                    format!(
                        "HUSK_SEED={seed:#x} case {index}\n{}{differences:#?}",
                        compare::describe(&cases[index], first)
                    )
                });
            }
        }
    }
    counts.report();
    println!("{total} cases, {:.0} cases/s", total as f64 / spent.as_secs_f64());
    bad.finish();
}

/// The interpreter agrees with the host in everything that the SDM defines.
#[test]
fn the_interpreter_agrees_with_the_host() {
    compare_with_host(SoftOptions::interpreter());
}

/// Translated code does, too.
#[test]
fn the_translator_agrees_with_the_host() {
    compare_with_host(SoftOptions::default());
}

fn compare_with_host(options: SoftOptions) {
    let generator = Generator::new(only().as_deref());
    let mut host = Host::open().unwrap();
    let mut subject = Subject::new(options);
    let mut counts = Counts::default();
    let mut failures = Failures::default();
    let plan = Plan::from_environment(2_000_000);
    let start = Instant::now();
    let mut total = 0u64;
    for seed in plan.batches() {
        let (template, cases, made) = batch(&generator, seed);
        let outcomes = run_host(&mut host, seed, &template, &cases);
        subject.load(&template);
        for (index, ((case, made), expected)) in cases.iter().zip(&made).zip(&outcomes).enumerate() {
            counts.add(made, expected);
            if expected.vector == Outcome::HANG {
                continue;
            }
            let mut outcome = subject.run(case);
            let dead = subject.dead_flags();
            outcome.rflags = outcome.rflags & !dead | expected.rflags & dead;
            let differences = compare::differences(made, case, expected, &outcome);
            if !differences.is_empty() {
                failures.add(made, case, || {
                    let mine = subject.final_memory().to_vec();
                    run_host(&mut host, seed, &template, &cases[index..=index]);
                    let memory = compare::memory_differences(&host.final_memory(), &mine);
                    let state = compare::describe(case, expected);
                    format!("HUSK_SEED={seed:#x} case {index}\n{state}{memory}{differences:#?}")
                });
            }
        }
        total += cases.len() as u64;
    }
    counts.report();
    println!("{total} cases, {:.0} cases/s", total as f64 / start.elapsed().as_secs_f64());
    let full = total > 400 * generator.codes().len() as u64;
    let missing: Vec<_> = generator.codes().iter().filter(|code| full && !counts.codes.contains(code)).collect();
    assert!(missing.is_empty(), "no case of {missing:?}");
    failures.finish();
}

/// The outcomes of a batch on the host.
fn run_host(host: &mut Host, seed: u64, template: &[u8], cases: &[Case]) -> Vec<Outcome> {
    match host.run(template, cases).unwrap() {
        Ok(outcomes) => outcomes.to_vec(),
        Err(killed) => {
            let code = compare::disassemble(&cases[killed.index]);
            panic!("HUSK_SEED={seed:#x} case {} killed the child:\n{code}", killed.index)
        }
    }
}

/// Differences, told once for each instruction code.
#[derive(Default)]
struct Failures {
    counts: BTreeMap<String, u64>,
    told: u64,
}

impl Failures {
    fn add(&mut self, made: &Made, case: &Case, text: impl FnOnce() -> String) {
        let name = match made.code {
            Code::INVALID => format!("{} {:02x?}", made.class, compare::opcode(case)),
            code => format!("{} {code:?}", made.class),
        };
        let count = self.counts.entry(name).or_default();
        *count += 1;
        if *count == 1 && self.told < variable("HUSK_TELL").unwrap_or(40) {
            self.told += 1;
            println!("{}", text());
        }
    }

    fn finish(&self) {
        for (name, count) in &self.counts {
            println!("{count:>8} differences: {name}");
        }
        assert!(self.counts.is_empty(), "{} instruction codes disagree", self.counts.len());
    }
}

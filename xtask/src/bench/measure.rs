//! The order of measurements, and how much work each one is.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Options;
use super::footprint::Footprint;
use super::machine::{Machine, Outcome, Park, Side};
use super::program::{Program, Workload};
use super::stats::Summary;
use crate::shell;

/// How long a measurement should take, and in a quick run.
const GOAL: Duration = Duration::from_millis(150);
const QUICK_GOAL: Duration = Duration::from_millis(40);

/// How often a machine may fail before it is given up.
const PATIENCE: u32 = 12;

/// The figures of one side for one workload.
#[derive(Default, Clone, Debug)]
pub(super) struct Figures {
    /// How many units each measurement is.
    pub(super) units: u64,
    /// The time of the very first unit, in nanoseconds.
    pub(super) first: f64,
    /// The time of a unit in each round, in nanoseconds.
    pub(super) rounds: Vec<f64>,
    /// Why there is nothing.
    pub(super) without: Option<String>,
}

/// The figures of one workload.
pub(super) struct Measured {
    pub(super) workload: Workload,
    pub(super) checksum: Option<String>,
    pub(super) figures: [Figures; 3],
}

impl Measured {
    fn new(workload: Workload) -> Self {
        Self { workload, checksum: None, figures: Default::default() }
    }

    /// The time of a unit on a side, in nanoseconds.
    pub(super) fn time(&self, side: Side) -> Option<Summary> {
        Summary::of(&self.figures[side as usize].rounds)
    }

    /// How many times as long one side takes as the other, round by round.
    pub(super) fn ratio(&self, one: Side, other: Side) -> Option<Summary> {
        let (one, other) = (&self.figures[one as usize].rounds, &self.figures[other as usize].rounds);
        let ratios: Vec<f64> = one.iter().zip(other).filter(|(_, b)| **b > 0.0).map(|(a, b)| a / b).collect();
        Summary::of(&ratios)
    }
}

/// Everything that was measured.
#[derive(Default)]
pub(super) struct Run {
    pub(super) workloads: Vec<Measured>,
    pub(super) footprints: Vec<Footprint>,
    /// What went wrong, in a line each.
    pub(super) errors: Vec<String>,
}

/// The group of the boot.
pub(super) const BOOT: &str = "boot";

/// What else belongs to it: see [`super::footprint`].
pub(super) const TO_SHELL: &str = "to-shell";

/// Measures everything that is wanted.
pub(super) fn run(park: Park, program: &Program, options: &Options) -> Result<Run> {
    let goal = if options.quick { QUICK_GOAL } else { GOAL };
    let mut stable = Stable { park, machines: Default::default(), failures: [0; 3] };
    let mut run = Run::default();
    if options.wants(BOOT, "kernel-to-init") {
        run.workloads.push(stable.boot(options.rounds())?);
    }
    let wanted = program.workloads.iter().filter(|w| options.wants(&w.group, &w.name));
    let mut measured: Vec<Measured> = wanted.cloned().map(Measured::new).collect();
    for round in 1..=options.rounds() {
        shell::say(&format!("round {round} of {}, {} workloads", options.rounds(), measured.len()));
        for one in &mut measured {
            for side in stable.park.sides().collect::<Vec<_>>() {
                stable.turn(side, one, goal, &mut run.errors)?;
            }
            if round == 1 {
                eprintln!("{}", line(one));
            }
        }
    }
    run.workloads.extend(measured);
    if run.workloads.is_empty() && !options.wants(BOOT, TO_SHELL) {
        bail!("there is no such workload; `bench list` and bench/README.md name them");
    }
    Ok(run)
}

/// One line on what is known so far.
fn line(one: &Measured) -> String {
    let figures = Side::ALL.map(|side| match (one.time(side), &one.figures[side as usize].without) {
        (Some(time), _) => format!("{} {:.3} ms", side.name(), time.median / 1e6),
        (None, Some(why)) => format!("{}: {why}", side.name()),
        (None, None) => String::new(),
    });
    format!("  {:<32}{}", format!("{}/{}", one.workload.group, one.workload.name), figures.join("  "))
}

/// The machines that run.
struct Stable {
    park: Park,
    machines: [Option<Machine>; 3],
    failures: [u32; 3],
}

impl Stable {
    /// Boots the guests, as often as there are rounds; the last ones stay.
    fn boot(&mut self, rounds: u32) -> Result<Measured> {
        let mut boot = Measured::new(Workload {
            group: BOOT.into(),
            name: "kernel-to-init".into(),
            what: "Debian's cloud kernel as packaged, from the start of the process to the guest's first program"
                .into(),
        });
        shell::say(&format!("boots, {rounds} rounds"));
        for _ in 0..rounds {
            for side in self.park.sides().filter(|side| *side != Side::Native) {
                self.machines[side as usize] = None;
                let (machine, time) = self.park.start(side)?;
                self.machines[side as usize] = Some(machine);
                let figures = &mut boot.figures[side as usize];
                figures.units = 1;
                figures.rounds.push(time.as_nanos() as f64);
                figures.first = figures.rounds[0];
            }
        }
        eprintln!("{}", line(&boot));
        Ok(boot)
    }

    /// One side's turn at a workload.
    fn turn(&mut self, side: Side, one: &mut Measured, goal: Duration, errors: &mut Vec<String>) -> Result<()> {
        let figures = &mut one.figures[side as usize];
        if figures.without.is_some() {
            return Ok(());
        }
        let name = one.workload.name.clone();
        let checksum = &mut one.checksum;
        let mut work = |stable: &mut Self, units: u64| -> Result<Result<Duration, String>> {
            Ok(match stable.work(side, &name, units)? {
                Outcome::Done { checksum: sum, time } => match checksum {
                    Some(known) if *known != sum => Err(format!("the checksum is {sum}, not {known}")),
                    _ => {
                        *checksum = Some(sum);
                        Ok(time)
                    }
                },
                Outcome::Skipped(why) => Err(format!("SKIPPED: {why}")),
                Outcome::Failed(why) => Err(why),
            })
        };
        let mut measure = || -> Result<Result<(), String>> {
            if figures.units == 0 {
                match work(self, 1)? {
                    Err(why) => return Ok(Err(why)),
                    Ok(time) => figures.first = time.as_nanos() as f64,
                }
                figures.units = more(1, Duration::from_nanos(figures.first as u64), goal);
            }
            let mut time = match work(self, figures.units)? {
                Err(why) => return Ok(Err(why)),
                Ok(time) => time,
            };
            // The first unit is often the slowest by far: more of them fill the time.
            for _ in 0..3 {
                if !figures.rounds.is_empty() || time * 2 >= goal {
                    break;
                }
                figures.units = more(figures.units, time, goal);
                time = match work(self, figures.units)? {
                    Err(why) => return Ok(Err(why)),
                    Ok(time) => time,
                };
            }
            figures.rounds.push(time.as_nanos() as f64 / figures.units as f64);
            Ok(Ok(()))
        };
        if let Err(why) = measure()? {
            figures.rounds.clear();
            let line = format!("{}/{} on {}: {why}", one.workload.group, name, side.name());
            shell::say(&line);
            figures.without = Some(why);
            errors.push(line);
        }
        Ok(())
    }

    /// Runs units on a side. A machine that fails is started anew the next time.
    fn work(&mut self, side: Side, name: &str, units: u64) -> Result<Outcome> {
        let n = side as usize;
        if self.machines[n].is_none() {
            let (machine, _) = self.park.start(side).with_context(|| format!("cannot start {}", side.name()))?;
            self.machines[n] = Some(machine);
        }
        let machine = self.machines[n].as_mut().context("it was started")?;
        match machine.run(name, units) {
            Ok(outcome) => Ok(outcome),
            Err(error) => {
                self.machines[n] = None;
                self.failures[n] += 1;
                if self.failures[n] > PATIENCE {
                    return Err(error).with_context(|| format!("{} has failed {PATIENCE} times", side.name()));
                }
                Ok(Outcome::Failed(format!("{error:#}")))
            }
        }
    }
}

/// How many units fill the time, when so many took so long.
fn more(units: u64, took: Duration, goal: Duration) -> u64 {
    let each = took.as_secs_f64().max(1e-6) / units as f64;
    ((goal.as_secs_f64() / each).round() as u64).clamp(units, 100_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_fill_the_time() {
        let ms = Duration::from_millis;
        assert_eq!(more(1, ms(10), ms(200)), 20);
        assert_eq!(more(1, ms(900), ms(200)), 1);
        assert_eq!(more(20, ms(50), ms(200)), 80);
        assert_eq!(more(1, Duration::ZERO, ms(200)), 100_000);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let workload = Workload { group: "g".into(), name: "n".into(), what: "w".into() };
        let mut one = Measured::new(workload);
        one.figures[Side::Husk as usize].rounds = vec![2.0, 3.0, 8.0];
        one.figures[Side::Tcg as usize].rounds = vec![10.0, 30.0, 24.0];
        let ratio = one.ratio(Side::Tcg, Side::Husk).unwrap();
        assert_eq!((ratio.low, ratio.median, ratio.high), (3.0, 5.0, 10.0));
        assert_eq!(one.ratio(Side::Husk, Side::Native), None);
        assert_eq!(one.time(Side::Husk).unwrap().median, 3.0);
    }
}

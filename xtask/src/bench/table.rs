//! The figures as a table, and what they come to for each group.

use super::footprint;
use super::machine::Side;
use super::measure::{Measured, Run};
use super::stats::{Summary, geometric_mean};

/// What a group of workloads comes to.
pub(super) struct Total {
    pub(super) name: String,
    /// How many workloads count in it.
    pub(super) count: usize,
    /// Geometric means: how many times faster than TCG, how many times slower than native.
    pub(super) faster: Option<f64>,
    pub(super) slower: Option<f64>,
    /// The workloads that do worst, with their ratios.
    pub(super) least_faster: Option<(String, f64)>,
    pub(super) most_slower: Option<(String, f64)>,
}

/// The name of the total of everything.
pub(super) const WHOLE: &str = "whole";

/// How many times as long TCG takes as Husk.
pub(super) fn faster(one: &Measured) -> Option<Summary> {
    one.ratio(Side::Tcg, Side::Husk)
}

/// How many times as long Husk takes as the host.
pub(super) fn slower(one: &Measured) -> Option<Summary> {
    one.ratio(Side::Husk, Side::Native)
}

/// The totals of the groups, in their order, and of the whole.
pub(super) fn totals(run: &Run) -> Vec<Total> {
    let mut totals: Vec<Total> = Vec::new();
    for one in &run.workloads {
        if totals.iter().all(|total| total.name != one.workload.group) {
            totals.push(total(
                &one.workload.group,
                run.workloads.iter().filter(|w| w.workload.group == one.workload.group),
            ));
        }
    }
    totals.push(total(WHOLE, run.workloads.iter()));
    totals
}

fn total<'a>(name: &str, workloads: impl Iterator<Item = &'a Measured>) -> Total {
    let workloads: Vec<&Measured> = workloads.collect();
    let ratios = |of: fn(&Measured) -> Option<Summary>| -> Vec<(String, f64)> {
        let each = workloads.iter().filter_map(|one| Some((one.workload.name.clone(), of(one)?.median)));
        each.collect()
    };
    let (to_tcg, to_native) = (ratios(faster), ratios(slower));
    let mean = |ratios: &[(String, f64)]| geometric_mean(ratios.iter().map(|(_, ratio)| *ratio));
    Total {
        name: name.into(),
        count: workloads.iter().filter(|one| one.time(Side::Husk).is_some()).count(),
        faster: mean(&to_tcg),
        slower: mean(&to_native),
        least_faster: to_tcg.iter().min_by(|a, b| a.1.total_cmp(&b.1)).cloned(),
        most_slower: to_native.iter().max_by(|a, b| a.1.total_cmp(&b.1)).cloned(),
    }
}

/// Prints everything.
pub(super) fn print(run: &Run) {
    println!("Host CPU time of a unit of work, in milliseconds: medians, and in parentheses the spread of the rounds.");
    println!(
        "faster: how many times as long TCG takes as Husk. slower: how many times as long Husk takes as the host.\n"
    );
    let head = ["native", "husk", "tcg"].map(|name| format!("{name:>19}")).concat();
    println!("{:<32}{head}{:>24}{:>24}", "", "faster (low..high)", "slower (low..high)");
    let mut group = "";
    for one in &run.workloads {
        if group != one.workload.group {
            group = &one.workload.group;
            println!("{group}");
        }
        let times = Side::ALL.map(|side| format!("{:>19}", one.time(side).map_or_else(|| "-".into(), time))).concat();
        let ratios =
            [faster(one), slower(one)].map(|r| format!("{:>24}", r.map_or_else(|| "-".into(), ratio))).concat();
        println!("  {:<30}{times}{ratios}", one.workload.name);
    }
    println!("\n{:<12}{:>6}{:>10}{:>38}{:>10}{:>38}", "geometric", "number", "faster", "least", "slower", "most");
    let mean = |mean: Option<f64>| mean.map_or_else(|| "-".into(), |mean| format!("{}x", short(mean)));
    let worst = |worst: Option<(String, f64)>| {
        worst.map_or_else(String::new, |(name, ratio)| format!("{name} {}x", short(ratio)))
    };
    for total in totals(run) {
        let (faster, slower) = (mean(total.faster), mean(total.slower));
        let (least, most) = (worst(total.least_faster), worst(total.most_slower));
        println!("{:<12}{:>6}{faster:>10}{least:>38}{slower:>10}{most:>38}", total.name, total.count);
    }
    footprint::print(&run.footprints);
    if !run.errors.is_empty() {
        println!("\nNOT MEASURED:");
        run.errors.iter().for_each(|error| println!("  {error}"));
    }
}

fn time(time: Summary) -> String {
    format!("{:.3} ({:>3.0} %)", time.median / 1e6, time.spread() * 100.0)
}

fn ratio(ratio: Summary) -> String {
    format!("{}x ({}..{})", short(ratio.median), short(ratio.low), short(ratio.high))
}

/// Three digits.
pub(super) fn short(x: f64) -> String {
    let digits = if x < 9.995 { 2 } else { usize::from(x < 99.95) };
    format!("{x:.digits$}")
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::measure::Figures;
    use super::super::program::Workload;
    use super::*;

    /// A run of two workloads: one that is 4 times and one that is 16 times faster than TCG.
    pub(in crate::bench) fn example() -> Run {
        let one = |group: &str, name: &str, times: [f64; 3]| Measured {
            workload: Workload { group: group.into(), name: name.into(), what: "a & b".into() },
            checksum: Some("00ff".into()),
            figures: times.map(|t| Figures { units: 2, first: t * 2.0, rounds: vec![t, t, t], without: None }),
        };
        Run {
            workloads: vec![one("integer", "sort", [1e6, 2e6, 8e6]), one("float", "waves", [1e6, 2e6, 32e6])],
            ..Run::default()
        }
    }

    #[test]
    fn three_digits_are_enough() {
        assert_eq!([0.034, 1.0, 9.999, 12.34, 624.97].map(short), ["0.03", "1.00", "10.0", "12.3", "625"]);
    }

    #[test]
    fn groups_and_the_whole_have_their_means() {
        let totals = totals(&example());
        let names: Vec<&str> = totals.iter().map(|t| &*t.name).collect();
        assert_eq!(names, ["integer", "float", "whole"]);
        assert!((totals[0].faster.unwrap() - 4.0).abs() < 1e-9);
        let whole = &totals[2];
        assert!((whole.faster.unwrap() - 8.0).abs() < 1e-9 && (whole.slower.unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(whole.least_faster.as_ref().unwrap().0, "sort");
        assert_eq!(whole.count, 2);
    }
}

//! What has been counted, for people: a table, and a line for each CPU.

use std::time::Duration;

use vm::{Amount, CpuStats};

use crate::size;

/// One line per figure: the CPU, the group, the name and the amount.
pub(crate) fn table(cpus: &[CpuStats]) -> String {
    let mut text = String::new();
    for (cpu, stats) in cpus.iter().enumerate() {
        for stat in stats {
            text.push_str(&format!("cpu{cpu} {:<12}{:<26}{:>20}\n", stat.group, stat.name, exactly(stat.amount)));
        }
    }
    text
}

/// One line per CPU: the headlines, but for those of which there is nothing.
pub(crate) fn lines(cpus: &[CpuStats]) -> Vec<String> {
    let line = |(cpu, stats): (usize, &CpuStats)| {
        let headlines = stats.iter().filter(|stat| stat.headline && !stat.amount.is_zero());
        let words: Vec<_> = headlines.map(|stat| format!("{} {}", roughly(stat.amount), stat.name)).collect();
        format!("cpu{cpu}: {}", if words.is_empty() { "nothing has run".to_owned() } else { words.join(", ") })
    };
    cpus.iter().enumerate().map(line).collect()
}

/// All digits, in groups of three.
fn exactly(amount: Amount) -> String {
    match amount {
        Amount::Count(n) => grouped(n),
        Amount::Bytes(n) => format!("{} bytes", grouped(n)),
        Amount::Time(time) => format!("{:.3} ms", time.as_secs_f64() * 1e3),
    }
}

fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three digits and a unit.
fn roughly(amount: Amount) -> String {
    match amount {
        Amount::Count(n) => {
            let units = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
            let n = n as f64;
            match units.into_iter().find(|(unit, _)| n >= *unit) {
                Some((unit, name)) => format!("{}{name}", three_digits(n / unit)),
                None => n.to_string(),
            }
        }
        Amount::Bytes(n) => size::show(n),
        Amount::Time(time) if time < Duration::from_secs(1) => {
            format!("{} ms", three_digits(time.as_secs_f64() * 1e3))
        }
        Amount::Time(time) => format!("{} s", three_digits(time.as_secs_f64())),
    }
}

fn three_digits(n: f64) -> String {
    let decimals = if n < 10.0 {
        2
    } else if n < 100.0 {
        1
    } else {
        0
    };
    format!("{n:.decimals$}")
}

#[cfg(test)]
mod tests {
    use vm::Stat;

    use super::*;

    fn stats() -> CpuStats {
        let stat = |group, name, amount, headline| Stat { group, name, amount, headline };
        vec![
            stat("guest", "instructions", Amount::Count(1_370_221_338), true),
            stat("guest", "exceptions", Amount::Count(0), true),
            stat("translator", "blocks translated", Amount::Count(12_345), true),
            stat("translator", "host code", Amount::Bytes(1_048_576), true),
            stat("memory", "TLB flushes", Amount::Count(999), false),
            stat("time", "devices", Amount::Time(Duration::from_micros(1_500)), true),
            stat("time", "host CPU", Amount::Time(Duration::from_millis(12_345)), true),
        ]
    }

    #[test]
    fn a_line_says_what_matters() {
        let line =
            "cpu0: 1.37 G instructions, 12.3 k blocks translated, 1 MiB host code, 1.50 ms devices, 12.3 s host CPU";
        assert_eq!(lines(&[stats(), Vec::new()]), [line, "cpu1: nothing has run"]);
    }

    #[test]
    fn the_table_has_all_digits_in_columns() {
        let table = table(&[stats()]);
        assert_eq!(table.lines().count(), stats().len());
        assert!(table.lines().all(|line| line.starts_with("cpu0 ")));
        assert!(table.contains("guest       instructions                     1,370,221,338\n"), "{table}");
        assert!(table.contains("1,048,576 bytes\n") && table.contains("12345.000 ms\n"), "{table}");
        let end = |line: &str| line.len();
        assert!(table.lines().all(|line| end(line) == end(table.lines().next().unwrap())));
    }
}

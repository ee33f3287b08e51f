//! `cargo xtask bench --check`: every workload must compute the same in a guest as on the host.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::machine::{Park, Side};
use crate::shell;

/// Runs the workloads with one of the texts (with commas between) in `group/name` natively and in Husk, and compares.
pub(super) fn run(park: &Park, only: Option<&str>) -> Result<()> {
    let [native, husk] = [Side::Native, Side::Husk].map(|side| answers(park, side, only.unwrap_or("all")));
    let (native, husk) = (native?, husk?);
    let differences = differences(&native, &husk);
    println!("{} workloads, {} differ", native.len(), differences.len());
    if differences.is_empty() {
        return Ok(());
    }
    bail!("not the same in Husk as natively:\n  {}", differences.join("\n  "))
}

/// What each workload says on a side.
fn answers(park: &Park, side: Side, texts: &str) -> Result<BTreeMap<String, String>> {
    shell::say(&format!("checking on {}", side.name()));
    let mut command = park.check(side, texts);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", shell::shown(&command)))?;
    let mut answers = BTreeMap::new();
    let out = child.stdout.take().context("no pipe")?;
    for line in BufReader::new(out).split(b'\n').map_while(Result::ok) {
        let line = String::from_utf8_lossy(&line).trim().to_owned();
        match answer(&line) {
            Some((name, sum)) => drop(answers.insert(name.to_owned(), sum.to_owned())),
            // What a kernel says when it is in trouble.
            None if side != Side::Native && !line.is_empty() && !line.contains("@@") => eprintln!("{line}"),
            None => {}
        }
    }
    let status = child.wait().context("cannot wait")?;
    if !status.success() {
        bail!("`{}` failed: {status}; {} workloads had ended", shell::shown(&command), answers.len());
    }
    Ok(answers)
}

/// The name and the checksum in a line of `bench check`.
fn answer(line: &str) -> Option<(&str, &str)> {
    line.split_once("@@ checked ")?.1.split_once(' ')
}

fn differences(native: &BTreeMap<String, String>, husk: &BTreeMap<String, String>) -> Vec<String> {
    let differ = native.iter().filter(|(name, sum)| husk.get(*name) != Some(*sum));
    differ
        .map(|(name, sum)| format!("{name}: {}, natively {sum}", husk.get(name).map_or("nothing", String::as_str)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_missing_is_told() {
        assert_eq!(answer("@@ checked float/rays 00ff"), Some(("float/rays", "00ff")));
        assert_eq!(answer("@@ checked all"), None);
        let side = |sums: &[(&str, &str)]| sums.iter().map(|(n, s)| ((*n).to_owned(), (*s).to_owned())).collect();
        let native = side(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let husk = side(&[("a", "1"), ("b", "4")]);
        assert_eq!(differences(&native, &husk), ["b: 4, natively 2", "c: nothing, natively 3"]);
        assert!(differences(&native, &native).is_empty());
    }
}

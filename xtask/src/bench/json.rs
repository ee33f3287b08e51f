//! The figures as JSON.

use std::path::PathBuf;

use anyhow::Result;
use serde_json::{Value, json};

use super::Options;
use super::machine::{Park, Side};
use super::measure::{Measured, Run};
use super::stats::Summary;
use super::table;
use crate::shell;

/// What was measured, and where.
pub(super) struct About {
    pub(super) husk: PathBuf,
    pub(super) qemu: Option<String>,
    qemu_version: Option<String>,
    cpu: String,
    kernel: String,
    guest: String,
    husk_args: String,
    rounds: u32,
}

impl About {
    pub(super) fn of(park: &Park, options: &Options) -> Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
        let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
        let packages = crate::guest::folder("cloud").join("packages");
        let version = match &park.qemu {
            Some(qemu) => Some(shell::output(shell::command(qemu).arg("--version"))?),
            None => None,
        };
        Ok(Self {
            husk: park.husk.clone(),
            qemu: park.qemu.clone(),
            qemu_version: version.and_then(|text| text.lines().next().map(str::to_owned)),
            cpu: format!("{count} x {}", model.trim_start_matches([' ', '\t', ':'])),
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            guest: std::fs::read_to_string(packages).unwrap_or_default().trim().replace('\n', ", "),
            husk_args: options.husk_args.clone(),
            rounds: options.rounds(),
        })
    }
}

/// The whole run. Times are nanoseconds of host CPU time for a unit of work.
pub(super) fn write(about: &About, run: &Run) -> String {
    let totals: Vec<Value> = table::totals(run)
        .into_iter()
        .map(|total| {
            json!({
                "name": total.name,
                "workloads": total.count,
                "faster_than_tcg": rounded(total.faster),
                "slower_than_native": rounded(total.slower),
                "least_faster_than_tcg": total.least_faster.map(|(name, ratio)| json!([name, rounded(Some(ratio))])),
                "most_slower_than_native": total.most_slower.map(|(name, ratio)| json!([name, rounded(Some(ratio))])),
            })
        })
        .collect();
    let value = json!({
        "host": { "cpu": about.cpu, "kernel": about.kernel },
        "guest": about.guest,
        "qemu": about.qemu_version,
        "husk_args": about.husk_args,
        "rounds": about.rounds,
        "groups": totals,
        "footprints": run.footprints.iter().map(super::footprint::Footprint::json).collect::<Vec<_>>(),
        "workloads": run.workloads.iter().map(workload).collect::<Vec<_>>(),
        "not_measured": run.errors,
    });
    format!("{value:#}\n")
}

fn workload(one: &Measured) -> Value {
    let sides = Side::ALL.map(|side| {
        let figures = &one.figures[side as usize];
        let value = one.time(side).map(|time| {
            json!({
                "units": figures.units,
                "first_unit_ns": figures.first.round(),
                "rounds_ns": figures.rounds.iter().map(|t| t.round()).collect::<Vec<_>>(),
                "median_ns": time.median.round(),
                "spread": rounded(Some(time.spread())),
            })
        });
        value.unwrap_or_else(|| json!(figures.without))
    });
    let [native, husk, tcg] = sides;
    json!({
        "group": one.workload.group,
        "name": one.workload.name,
        "what": one.workload.what,
        "checksum": one.checksum,
        "native": native,
        "husk": husk,
        "tcg": tcg,
        "faster_than_tcg": ratio(table::faster(one)),
        "slower_than_native": ratio(table::slower(one)),
    })
}

fn ratio(ratio: Option<Summary>) -> Value {
    ratio.map_or(
        Value::Null,
        |r| json!({ "median": rounded(Some(r.median)), "low": rounded(Some(r.low)), "high": rounded(Some(r.high)) }),
    )
}

fn rounded(x: Option<f64>) -> Value {
    x.map_or(Value::Null, |x| json!((x * 1000.0).round() / 1000.0))
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::example;
    use super::*;

    #[test]
    fn what_is_written_can_be_read() {
        let about = About {
            husk: "husk".into(),
            qemu: None,
            qemu_version: Some("QEMU \"7.2\"".into()),
            cpu: "2 x CPU".into(),
            kernel: "6.1".into(),
            guest: "linux".into(),
            husk_args: String::new(),
            rounds: 3,
        };
        let value: Value = serde_json::from_str(&write(&about, &example())).unwrap();
        assert_eq!(value["qemu"], "QEMU \"7.2\"");
        assert_eq!(value["workloads"][1]["faster_than_tcg"]["median"], 16.0);
        assert_eq!(value["workloads"][0]["husk"]["units"], 2);
        assert_eq!(value["groups"][2]["faster_than_tcg"], 8.0);
    }
}

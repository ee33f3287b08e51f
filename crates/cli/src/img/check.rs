//! `husk img check`.

use std::process::ExitCode;

use disk::block_on;
use disk::qcow2::Report;
use serde_json::json;

use super::args::Check;
use super::{failed, open};
use crate::failure::Failure;
use crate::print;

/// The exit code for damage that is still there.
const DAMAGED: u8 = 1;

/// Looks for damage, and repairs it where that is asked for.
pub(crate) fn check(args: &Check) -> Result<ExitCode, Failure> {
    let shown = args.file.display();
    let image = open::check(&args.file, args.format, &args.opening, args.repair.is_some())?;
    let Some(qcow2) = image.as_qcow2() else {
        let cause = format!("{} images have nothing to check", image.info().format);
        return Err(Failure::input(shown, cause, "compare it with a copy"));
    };
    let found = block_on(async {
        let repair = match args.repair.as_deref() {
            None => false,
            // Leaks are repaired on their own only where there is nothing else.
            Some("leaks") => qcow2.check(false).await?.corruptions == 0,
            Some(_) => true,
        };
        let report = qcow2.check(repair).await?;
        if args.repair.is_some() {
            image.close().await?;
        }
        Ok(report)
    });
    let report = found.map_err(|error: disk::Error| failed(&error))?;
    let code = if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::from(DAMAGED) };
    if args.json {
        let value = json!({
            "filename": args.file.to_string_lossy(),
            "format": "qcow2",
            "check-errors": 0,
            "corruptions": report.corruptions,
            "leaks": report.leaks,
            "corruptions-fixed": report.corruptions_fixed,
            "leaks-fixed": report.leaks_fixed,
            "total-clusters": report.total_clusters,
            "allocated-clusters": report.allocated_clusters,
            "fragmented-clusters": report.fragmented_clusters,
            "compressed-clusters": report.compressed_clusters,
            "image-end-offset": report.image_end,
            "findings": report.findings,
        });
        return print(format!("{value:#}\n").as_bytes()).map(|_| code);
    }
    if args.quiet {
        return Ok(code);
    }
    print(tell(&shown.to_string(), &report).as_bytes()).map(|_| code)
}

fn tell(shown: &str, report: &Report) -> String {
    let mut text: String = report.findings.iter().map(|finding| format!("{finding}\n")).collect();
    let many = |count: u64, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    let Report { corruptions, leaks, corruptions_fixed, leaks_fixed, .. } = report;
    if corruptions + leaks == 0 {
        text += &format!("{shown}: nothing wrong");
    } else {
        text += &format!("{shown}: {}, {}", many(*corruptions, "corruption"), many(*leaks, "leaked cluster"));
        if corruptions_fixed + leaks_fixed > 0 {
            text += &format!("; repaired: {corruptions_fixed} and {leaks_fixed}");
        } else {
            text += "; 'husk img check --repair all' repairs what can be repaired";
        }
    }
    let Report { total_clusters, allocated_clusters, compressed_clusters, fragmented_clusters, .. } = report;
    text += &format!(
        "\n{allocated_clusters} of {total_clusters} clusters are allocated, {fragmented_clusters} fragmented, {compressed_clusters} compressed\n"
    );
    text
}

//! The figures as a chart, in SVG 1.1: for each workload how long it takes in Husk and in TCG, as a multiple of the
//! host's own time, on a logarithmic scale.

use std::fmt::Write;

use super::machine::Side;
use super::measure::{Measured, Run};
use super::stats::geometric_mean;
use super::table;

/// Pixels.
const WIDTH: f64 = 900.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 170.0;
const ROW: f64 = 15.0;
const HEAD: f64 = 74.0;
const GROUP: f64 = 34.0;

/// Light and dark, as the page around it is.
const STYLE: &str = "\
<style>
  svg { background: #fff; font: 11px system-ui, sans-serif; fill: #222; }
  .title { font-size: 16px; font-weight: 600; }
  .group { font-size: 13px; font-weight: 600; }
  .quiet { fill: #666; }
  .grid { stroke: #ddd; stroke-width: 1; }
  .one { stroke: #888; stroke-width: 1; }
  .husk { fill: #2f6fb3; }
  .tcg { fill: #d9a05b; }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181c; fill: #ddd; }
    .quiet { fill: #999; }
    .grid { stroke: #33363c; }
    .husk { fill: #5b9bdc; }
    .tcg { fill: #b47c3a; }
  }
</style>
";

/// One pair of bars.
struct Row {
    name: String,
    what: String,
    /// The times in Husk and in TCG as multiples of the native time.
    multiples: [Option<f64>; 2],
    faster: Option<f64>,
}

/// Rows under a title.
struct Section {
    title: String,
    rows: Vec<Row>,
}

/// Draws the means of the groups and each workload that has been measured natively.
pub(super) fn draw(run: &Run) -> String {
    let sections = sections(run);
    let multiples = sections.iter().flat_map(|s| s.rows.iter().flat_map(|row| row.multiples)).flatten();
    let scale = Scale { low: 0.5, high: multiples.fold(10.0, f64::max) * 1.1 };
    let height = HEAD + sections.iter().map(|s| GROUP + s.rows.len() as f64 * ROW).sum::<f64>() + 20.0;
    let mut out = String::new();
    head(&mut out, &scale, height);
    let mut y = HEAD;
    for section in &sections {
        y += GROUP;
        let _ = writeln!(out, "<text class=\"group\" x=\"12\" y=\"{:.1}\">{}</text>", y - 6.0, escaped(&section.title));
        for one in &section.rows {
            let _ = writeln!(out, "{}", bars(one, y, &scale));
            y += ROW;
        }
    }
    out.push_str("</svg>\n");
    out
}

/// The groups as rows of a first section, then each group with its workloads.
fn sections(run: &Run) -> Vec<Section> {
    let multiples = |one: &Measured| [Side::Husk, Side::Tcg].map(|side| Some(one.ratio(side, Side::Native)?.median));
    let mut means = Section { title: "geometric means".into(), rows: Vec::new() };
    let mut sections = Vec::new();
    for total in table::totals(run) {
        let inside = |one: &&Measured| total.name == table::WHOLE || one.workload.group == total.name;
        let all: Vec<[Option<f64>; 2]> = run.workloads.iter().filter(inside).map(multiples).collect();
        let mean = |n: usize| geometric_mean(all.iter().filter_map(|pair| pair[n]));
        let rows: Vec<Row> = run
            .workloads
            .iter()
            .filter(|one| one.workload.group == total.name && one.time(Side::Native).is_some())
            .map(|one| Row {
                name: one.workload.name.clone(),
                what: one.workload.what.clone(),
                multiples: multiples(one),
                faster: table::faster(one).map(|ratio| ratio.median),
            })
            .collect();
        means.rows.push(Row {
            name: total.name.clone(),
            what: format!("{} workloads", total.count),
            multiples: [mean(0), mean(1)],
            faster: total.faster,
        });
        if !rows.is_empty() {
            sections.push(Section { title: total.name, rows });
        }
    }
    sections.insert(0, means);
    sections
}

/// Title, legend, scale.
fn head(out: &mut String, scale: &Scale, height: f64) {
    let size = format!("viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\"");
    let _ = writeln!(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" {size}>\n{STYLE}");
    let title = "Host CPU time as a multiple of the native time";
    let hint = "Shorter is better; logarithmic. Right: how many times faster Husk is than QEMU TCG.";
    let _ = writeln!(out, "<text class=\"title\" x=\"12\" y=\"24\">{title}</text>");
    let _ = writeln!(out, "<text class=\"quiet\" x=\"12\" y=\"42\">{hint}</text>");
    for (n, (class, name)) in [("husk", "Husk"), ("tcg", "QEMU TCG")].into_iter().enumerate() {
        let x = 12.0 + 70.0 * n as f64;
        let _ = writeln!(out, "<rect class=\"{class}\" x=\"{x}\" y=\"54\" width=\"10\" height=\"10\"/>");
        let _ = writeln!(out, "<text x=\"{}\" y=\"63\">{name}</text>", x + 15.0);
    }
    for mark in [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0] {
        if mark <= scale.high {
            let (x, class) = (scale.x(mark), if mark == 1.0 { "one" } else { "grid" });
            let (top, bottom, over) = (HEAD, height - 12.0, HEAD - 3.0);
            let _ = writeln!(out, "<line class=\"{class}\" x1=\"{x:.1}\" y1=\"{top}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>");
            let _ =
                writeln!(out, "<text class=\"quiet\" x=\"{x:.1}\" y=\"{over}\" text-anchor=\"middle\">{mark}x</text>");
        }
    }
}

fn bars(one: &Row, y: f64, scale: &Scale) -> String {
    let mut out = String::new();
    let base = y + ROW - 5.0;
    let (name, what, end) = (escaped(&one.name), escaped(&one.what), LEFT - 8.0);
    let _ = write!(out, "<g><title>{what}</title>");
    let _ = write!(out, "<text x=\"{end}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>");
    for (n, (class, multiple)) in ["husk", "tcg"].into_iter().zip(one.multiples).enumerate() {
        let Some(multiple) = multiple else { continue };
        let (from, top) = (scale.x(scale.low), y + 1.5 + 6.0 * n as f64);
        let width = (scale.x(multiple) - from).max(1.0);
        let _ =
            write!(out, "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"5.5\"/>");
    }
    if let Some(faster) = one.faster {
        let (x, ratio) = (WIDTH - RIGHT + 12.0, table::short(faster));
        let _ = write!(out, "<text class=\"quiet\" x=\"{x}\" y=\"{base:.1}\">{ratio}x</text>");
    }
    out.push_str("</g>");
    out
}

/// The logarithmic scale.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn x(&self, value: f64) -> f64 {
        let share = (value.max(self.low) / self.low).ln() / (self.high / self.low).ln();
        LEFT + share * (WIDTH - LEFT - RIGHT)
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::example;
    use super::*;

    #[test]
    fn the_chart_has_a_row_for_each_workload_and_is_well_formed() {
        let svg = draw(&example());
        assert!(svg.contains(">sort</text>") && svg.contains(">waves</text>"));
        assert!(svg.contains("<title>a &amp; b</title>"));
        assert!(svg.contains(">4.00x<") && svg.contains(">16.0x<") && svg.contains(">8.00x<"));
        for tag in ["svg", "g", "text", "title", "style"] {
            let opened = svg.matches(&format!("<{tag}>")).count() + svg.matches(&format!("<{tag} ")).count();
            assert_eq!(opened, svg.matches(&format!("</{tag}>")).count(), "{tag}");
        }
    }

    #[test]
    fn the_scale_is_logarithmic() {
        let scale = Scale { low: 1.0, high: 100.0 };
        let steps = [scale.x(10.0) - scale.x(1.0), scale.x(100.0) - scale.x(10.0)];
        assert!((steps[0] - steps[1]).abs() < 1e-9);
        assert!(scale.x(0.1) >= LEFT);
    }
}

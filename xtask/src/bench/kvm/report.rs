//! The figures as a table and as a page.

use anyhow::{Context, Result};
use serde_json::Value;

use crate::bench::stats::Summary;

/// The rows: the figure's name, how people read it, and its unit.
const ROWS: [(&str, &str, &str); 7] = [
    ("first_entry_ms", "process start to first entry into the guest", "ms"),
    ("kernel_entry_ms", "process start to the kernel's first instruction", "ms"),
    ("init_ms", "process start to init", "ms"),
    ("shell_ms", "process start to the first command", "ms"),
    ("beyond_ram_kib", "resident memory beyond guest RAM", "KiB"),
    ("port_writes_per_s", "port writes per second", ""),
    ("mmio_reads_per_s", "MMIO reads per second", ""),
];

/// The table, in Markdown.
pub(super) fn table(figures: &str) -> Result<String> {
    let figures: Value = serde_json::from_str(figures).context("the figures are no JSON")?;
    let ways = figures["ways"].as_array().context("the figures name no ways")?;
    let mut text = String::from("| |");
    ways.iter().for_each(|way| text += &format!(" {} |", way["name"].as_str().unwrap_or_default()));
    text += &format!("\n| --- |{}\n", " ---: |".repeat(ways.len()));
    for (name, words, unit) in ROWS {
        text += &format!("| {words} |");
        for way in ways {
            let values = way["figures"][name].as_array().map(Vec::as_slice).unwrap_or_default();
            let values: Vec<f64> = values.iter().filter_map(Value::as_f64).collect();
            let shown = Summary::of(&values).map_or_else(|| "-".into(), |all| format!("{:.0} {unit}", all.median));
            text += &format!(" {} |", shown.trim());
        }
        text.push('\n');
    }
    Ok(text)
}

/// The page for readers.
pub(super) fn page(figures: &str) -> Result<String> {
    let value: Value = serde_json::from_str(figures).context("the figures are no JSON")?;
    let told = |name: &str| value[name].as_str().unwrap_or("?").to_owned();
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    Ok(format!(
        "# Husk on KVM, beside QEMU\n\n\
         Written by `cargo xtask bench-kvm`; all figures of all rounds are in `kvm.json`.\n\n{}\n\
         Medians of {} rounds, the ways in turn; guests of {} MiB and one CPU; {}; Linux {} on the host. `vmlinuz` is the \
         kernel as Debian packages it, which Husk unpacks itself before the guest runs, and QEMU's guest unpacks \
         itself; `vmlinux` is the unpacked kernel, entered by PVH.\n\n\
         - **The host is emulated.** These runs are made in the lab of `cargo xtask lab`, a machine whose CPU and \
         virtualization QEMU's TCG emulates. Everything there is 10 to 100 times slower than on a real CPU, and not \
         evenly so: exits and page faults cost far more than on hardware, as each runs thousands of emulated \
         instructions in the host's kernel. Compare columns, not with figures from elsewhere.\n\
         - *First entry* is the first `kvm_entry` in the kernel's trace after the process was started; for QEMU's q35 it \
         is the firmware's, for the others the kernel's, or the small firmware's in front of it (microvm). The \
         kernel's first instruction is that of a tiny PVH guest that writes to the serial port, so it contains \
         firmware.\n\
         - *Init* is the first line of the script that the first process runs.\n\
         - Memory is measured when the guest runs its first command: the resident size without the resident part of the \
         mapping that is guest RAM. Pages of the program and its libraries count.\n\
         - Exits are timed over {} of a kind: writes to port 80h, reads of the HPET's counter (a device in user space \
         for both; a microvm has none).\n",
        table(figures)?,
        number("rounds"),
        number("memory_mib"),
        told("qemu"),
        told("host_kernel"),
        number("exits"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_medians_and_gaps() {
        let figures = r#"{"qemu": "QEMU 10", "rounds": 3, "ways": [
            {"name": "husk", "figures": {"init_ms": [3.0, 1.0, 2.0], "port_writes_per_s": [1000.4]}},
            {"name": "qemu", "figures": {"init_ms": [5.5]}}]}"#;
        let table = table(figures).unwrap();
        assert!(table.starts_with("| | husk | qemu |\n| --- | ---: | ---: |\n"), "{table}");
        assert!(table.contains("| process start to init | 2 ms | 6 ms |\n"), "{table}");
        assert!(table.contains("| port writes per second | 1000 | - |\n"), "{table}");
        assert!(page(figures).unwrap().contains("QEMU 10"));
    }
}

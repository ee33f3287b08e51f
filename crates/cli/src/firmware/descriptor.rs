//! What distributions say of the firmware that they install (QEMU, `docs/interop/firmware.json`).

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where descriptors are, the most important first: the administrator's, and the distribution's.
const FOLDERS: &[&str] = &["/etc/qemu/firmware", "/usr/share/qemu/firmware"];
/// Far more than a descriptor has, in bytes.
const LARGEST: u64 = 1 << 20;

/// One descriptor, as far as we care.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Descriptor {
    interface_types: Vec<String>,
    mapping: Mapping,
    targets: Vec<Target>,
    features: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Mapping {
    device: String,
    executable: Option<File>,
    nvram_template: Option<File>,
}

#[derive(Debug, Deserialize)]
struct File {
    filename: PathBuf,
    format: String,
}

#[derive(Debug, Deserialize)]
struct Target {
    architecture: String,
}

/// A firmware in flash, with the template of its variables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) code: PathBuf,
    pub(super) template: PathBuf,
    /// It does not start without system-management mode.
    pub(super) needs_smm: bool,
}

/// What a descriptor offers to a PC with UEFI; `None` for other machines and firmware.
fn offered(text: &str) -> Option<Described> {
    let descriptor: Descriptor = serde_json::from_str(text).ok()?;
    let uefi = descriptor.interface_types.iter().any(|kind| kind == "uefi");
    let pc = descriptor.targets.iter().any(|target| target.architecture == "x86_64");
    let raw = |file: Option<File>| file.filter(|file| file.format == "raw").map(|file| file.filename);
    let (code, template) = (raw(descriptor.mapping.executable)?, raw(descriptor.mapping.nvram_template)?);
    let needs_smm = descriptor.features.iter().any(|feature| feature == "requires-smm");
    (uefi && pc && descriptor.mapping.device == "flash").then_some(Described { code, template, needs_smm })
}

/// All that is installed and described, in the order of preference: by the names of the descriptors, of which one in a more
/// important folder replaces that of its name in the others.
pub(super) fn all() -> Vec<Described> {
    let mut texts = BTreeMap::new();
    for path in FOLDERS.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
        let (name, path) = (path.file_name(), path.path());
        if path.extension().is_some_and(|ending| ending == "json") {
            texts.entry(name).or_insert_with(|| read(&path));
        }
    }
    texts.into_values().filter_map(|text| offered(&text?)).collect()
}

fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    base::open_at_once(path).ok()?.take(LARGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_read() {
        let text = |features: &str, device: &str| {
            format!(
                r#"{{"description": "UEFI", "interface-types": ["uefi"], "tags": [], "features": [{features}],
                "mapping": {{"device": "{device}", "executable": {{"filename": "/c", "format": "raw"}},
                "nvram-template": {{"filename": "/v", "format": "raw"}}}},
                "targets": [{{"architecture": "x86_64", "machines": ["pc-q35-*"]}}]}}"#
            )
        };
        let found = |needs_smm| Described { code: "/c".into(), template: "/v".into(), needs_smm };
        assert_eq!(offered(&text("\"acpi-s3\"", "flash")), Some(found(false)));
        assert_eq!(offered(&text("\"requires-smm\"", "flash")), Some(found(true)));
        assert_eq!(offered(&text("", "memory")), None);
        assert_eq!(offered("{"), None);
    }
}

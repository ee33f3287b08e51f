//! The order in which firmware looks for systems on disks.
//!
//! The names are OpenFirmware's (IEEE 1275) device paths, in the form in which SeaBIOS and OVMF read them.

use machine::pci::Bdf;

/// Where there may be a system: paths by their places in the order.
#[derive(Debug, Default)]
pub(super) struct BootOrder(Vec<(u32, String)>);

impl BootOrder {
    /// Notes a disk: the function at `at`, whose kind OpenFirmware calls `kind`, and the path behind it.
    pub(super) fn note(&mut self, place: Option<u32>, kind: &str, at: Bdf, behind: &str) {
        let Some(place) = place else { return };
        let function = if at.function == 0 { String::new() } else { format!(",{:x}", at.function) };
        self.0.push((place, format!("/pci@i0cf8/{kind}@{:x}{function}/{behind}", at.device)));
    }

    /// The paths, the first first.
    pub(super) fn paths(mut self) -> Vec<String> {
        self.0.sort_by_key(|(place, _)| *place);
        self.0.into_iter().map(|(_, path)| path).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_come_in_their_order() {
        let mut order = BootOrder::default();
        order.note(Some(1), "ide", Bdf::root(1, 1), "drive@0/disk@1");
        order.note(None, "ide", Bdf::root(1, 1), "drive@1/disk@0");
        order.note(Some(0), "scsi", Bdf::root(0x1a, 0), "disk@0,0");
        assert_eq!(order.paths(), ["/pci@i0cf8/scsi@1a/disk@0,0", "/pci@i0cf8/ide@1,1/drive@0/disk@1"]);
    }
}

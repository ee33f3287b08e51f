//! The flash chip with the firmware's variables, and what else such firmware takes for granted.

use std::ops::Range;
use std::sync::Arc;

use devices::chipset::AcpiPm;
use devices::flash::CfiFlash;
use machine::Shared;
use machine::board::Chipset;
use memory::Gpa;

use super::{Wiring, ports};
use crate::boot::VARIABLES;
use crate::{Error, Variables};

/// Where UEFI firmware for the 440FX powers off by the ACPI block, whatever PMBA says: there it would have put it itself.
const PM_BASE: u16 = 0xb000;

/// Builds the chip, if there is one.
pub(super) fn build(
    wiring: &mut Wiring,
    pm: &Shared<AcpiPm>,
    flash: Option<(Range<u64>, Variables)>,
) -> Result<(), Error> {
    let Some((at, variables)) = flash else { return Ok(()) };
    let store = wiring.memory.store(VARIABLES).ok_or(memory::Error::Layout(Gpa(at.start)))?;
    let (content, out) = variables.open()?;
    let (memory, partition) = (wiring.memory.clone(), Arc::clone(&wiring.partition));
    let changed = move || {
        if let Err(error) = partition.layout_changed(&memory) {
            tracing::error!(%error, "flash");
        }
    };
    if wiring.board.chipset == Chipset::I440fx {
        let ports = ports(PM_BASE, wiring.board.pm.len);
        wiring.ports.map(u64::from(ports.start)..u64::from(ports.end), Arc::clone(pm) as _, 0)?;
    }
    let chip = CfiFlash::build(store, at.clone(), &content, out, changed)?;
    wiring.at_memory(&chip, at)
}

//! A target: logical units under one address (SAM-5, 4.6), and the commands that are about them all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cdb::{Cdb, op};
use super::{ScsiDisk, ScsiDiskState, Sense, Step, inquiry};

/// The guest-visible state of a target: that of its units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetState {
    units: Vec<ScsiDiskState>,
}

/// Logical units by their numbers, up to 16383.
#[derive(Debug, Default)]
pub struct Target {
    units: BTreeMap<u16, ScsiDisk>,
}

impl Target {
    /// Adds a unit, in place of one of the same number.
    pub fn add(&mut self, lun: u16, unit: ScsiDisk) {
        self.units.insert(lun, unit);
    }

    /// Whether there is a unit of this number.
    #[must_use]
    pub fn has(&self, lun: u16) -> bool {
        self.units.contains_key(&lun)
    }

    /// Resets a unit, or all of them.
    pub fn reset(&mut self, lun: Option<u16>) {
        for (number, unit) in &mut self.units {
            if lun.is_none_or(|lun| lun == *number) {
                unit.reset();
            }
        }
    }

    /// Does a command to unit `lun`; as [`ScsiDisk::execute`].
    pub fn execute(&mut self, lun: u16, cdb: &[u8], parameters: &mut dyn FnMut(usize) -> Vec<u8>) -> Step {
        let command = Cdb::new(cdb);
        if command.op() == op::REPORT_LUNS {
            return self.report(command);
        }
        if let Some(unit) = self.units.get_mut(&lun) {
            return unit.execute(cdb, parameters);
        }
        match command.op() {
            op::INQUIRY if command.u8(1) & 1 == 0 => {
                let mut data = inquiry::standard(false);
                data.truncate(command.u16(3).into());
                Step::Done(data)
            }
            op::REQUEST_SENSE => {
                let mut data = Sense::NO_UNIT.fixed().to_vec();
                data.truncate(command.u8(4).into());
                Step::Done(data)
            }
            _ => Step::Refused(Sense::NO_UNIT),
        }
    }

    /// The numbers of the units (SPC-4, 6.33).
    fn report(&self, cdb: Cdb) -> Step {
        // All units, or all but the well-known ones, of which there are none; or only those.
        let units: Vec<_> = match cdb.u8(2) {
            0 | 2 => self.units.keys().copied().collect(),
            1 => Vec::new(),
            _ => return Step::Refused(Sense::FIELD),
        };
        let mut data = (units.len() as u32 * 8).to_be_bytes().to_vec();
        data.extend([0; 4]);
        for lun in units {
            data.extend(number(lun));
            data.extend([0; 6]);
        }
        data.truncate(cdb.u32(6) as usize);
        Step::Done(data)
    }

    /// The state to save.
    #[must_use]
    pub fn state(&self) -> TargetState {
        TargetState { units: self.units.values().map(|unit| unit.state().clone()).collect() }
    }

    /// Whether a state is of as many units.
    #[must_use]
    pub fn fits(&self, state: &TargetState) -> bool {
        state.units.len() == self.units.len()
    }

    /// Takes on a state that fits.
    pub fn restore(&mut self, state: TargetState) {
        self.units.values_mut().zip(state.units).for_each(|(unit, state)| unit.restore(state));
    }
}

/// The first level of a logical unit's address: small numbers as a peripheral device, others as flat space (SAM-5, 4.7).
fn number(lun: u16) -> [u8; 2] {
    if lun < 256 { lun.to_be_bytes() } else { (lun | 0x4000).to_be_bytes() }
}

//! The registers of a host bridge that say what is seen below the first megabyte's end: PAM0 to PAM6 and SMRAM (Intel 440FX
//! datasheet, 290549, 3.2.18 and 3.2.19; Intel 3 Series Express Chipset Family datasheet, 316966, 5.1.18 and 5.1.24).

use std::sync::Arc;

use machine::firmware::{ShadowRam, Shadowing};
use machine::pci::ConfigSpace;

/// The number of PAM registers.
const PAMS: usize = 7;
/// What a guest writes of a segment: read and write enable.
const SEGMENT_BITS: u8 = 3;

/// SMRAM: D_OPEN, D_CLS, D_LCK and G_SMRAME.
const OPEN: u8 = 1 << 6;
const CLOSED: u8 = 1 << 5;
const LOCKED: u8 = 1 << 4;
const ENABLED: u8 = 1 << 3;
/// SMRAM: the only place it can be at, fixed.
const PLACE: u8 = 2;

/// The registers, and what they switch. A machine without firmware has no shadow RAM: all is RAM there, whatever they say.
pub(super) struct Pam {
    /// Where PAM0 and SMRAM are in configuration space.
    pam0: usize,
    smram: usize,
    shadow: Option<Arc<ShadowRam>>,
    /// What has been switched last.
    now: ([Shadowing; Shadowing::SEGMENTS], bool),
}

impl Pam {
    /// The registers at `pam0` and `smram` of `config`.
    pub(super) fn new(config: &mut ConfigSpace, pam0: usize, smram: usize, shadow: Option<Arc<ShadowRam>>) -> Self {
        config.set_writable(pam0, &[SEGMENT_BITS << 4]);
        config.set_writable(pam0 + 1, &[SEGMENT_BITS << 4 | SEGMENT_BITS; PAMS - 1]);
        config.set_u8(smram, PLACE);
        config.set_writable(smram, &[OPEN | CLOSED | LOCKED | ENABLED]);
        let nothing = [Shadowing::default(); Shadowing::SEGMENTS];
        if let Some(shadow) = &shadow {
            shadow.set(&nothing, false);
        }
        Self { pam0, smram, shadow, now: (nothing, false) }
    }

    /// Before a write of `offset`: whether it is one that a locked SMRAM register refuses.
    pub(super) fn refuses(&self, config: &ConfigSpace, offset: u16, len: usize) -> bool {
        let touched = (usize::from(offset)..usize::from(offset) + len).contains(&self.smram);
        touched && config.u8(self.smram) & LOCKED != 0
    }

    /// The registers may have changed.
    pub(super) fn follow(&mut self, config: &ConfigSpace) {
        let nibble = |index: usize| {
            let register = config.u8(self.pam0 + index.div_ceil(2));
            if index.is_multiple_of(2) { register >> 4 } else { register & 0xf }
        };
        // PAM0 has F0000h in its upper half; the others two segments each, the lower one first.
        let mut segments = [Shadowing::default(); Shadowing::SEGMENTS];
        for (segment, index) in segments.iter_mut().zip(1..) {
            *segment = Shadowing::from_bits(nibble(index));
        }
        if let Some(last) = segments.last_mut() {
            *last = Shadowing::from_bits(nibble(0));
        }
        let smram = config.u8(self.smram);
        let open = smram & (OPEN | LOCKED | ENABLED) == OPEN | ENABLED;
        let wanted = (segments, open);
        if wanted != self.now {
            self.now = wanted;
            if let Some(shadow) = &self.shadow {
                shadow.set(&segments, open);
            }
        }
    }

    /// A write to the range of the segments that no memory has taken.
    pub(super) fn write(&self, offset: u64, data: &[u8]) {
        let at = ShadowRam::range().start.saturating_add(offset);
        for (byte, at) in data.iter().zip(at..) {
            let segment = ShadowRam::segment_of(at).and_then(|segment| self.now.0.get(segment));
            if let (Some(Shadowing { read: false, write: true }), Some(shadow)) = (segment, &self.shadow) {
                shadow.write(at, &[*byte]);
            }
        }
    }
}

/// The number of the window that takes writes to the segments, at [`ShadowRam::range`].
pub(super) const SHADOW_WINDOW: u8 = 8;

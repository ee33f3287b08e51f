//! What no CPU can be in, whatever the engine.

use crate::bits::{cr0, cr4, efer, rflags};
use crate::{Activity, CpuState};

/// Whether `addr` is canonical with 48-bit linear addresses (SDM vol. 1, 3.3.7.1).
const fn is_canonical(addr: u64) -> bool {
    (addr as i64) << 16 >> 16 == addr as i64
}

impl CpuState {
    /// Whether a CPU can be in this state.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.cr0 & cr0::PG != 0 && self.cr0 & cr0::PE == 0 {
            return Err("paging without protection");
        }
        let lma = self.msrs.efer & efer::LMA != 0;
        if lma != (self.msrs.efer & efer::LME != 0 && self.cr0 & cr0::PG != 0) {
            return Err("EFER.LMA is not EFER.LME and CR0.PG");
        }
        if lma && self.cr4 & cr4::PAE == 0 {
            return Err("long mode without PAE");
        }
        if self.xcr0 & 1 == 0 || self.xcr0 & !7 != 0 || self.xcr0 & 6 == 4 {
            return Err("XCR0");
        }
        if lma && self.rflags & rflags::VM != 0 {
            return Err("virtual-8086 mode within long mode");
        }
        if lma && !self.seg.iter().all(|seg| is_canonical(seg.base)) {
            return Err("a segment base that is not canonical");
        }
        if self.xsave.mxcsr() & !0xffff != 0 {
            return Err("reserved bits in MXCSR");
        }
        if self.activity == Activity::Shutdown {
            return Err("a CPU that has shut down, which only a reset of the machine ends");
        }
        Ok(())
    }
}

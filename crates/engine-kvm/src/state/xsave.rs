//! x87, SSE and AVX registers, XCR0.
//!
//! KVM's area is in the standard format (SDM vol. 1, 13.4.3), as ours, and may be larger.

use engine::{Error, Result};
use kvm_bindings::{Xsave, kvm_xcr, kvm_xcrs, kvm_xsave};
use kvm_ioctls::VcpuFd;
use x86::bits::{mxcsr, xcr0};
use x86::{CpuState, XsaveArea};

use super::{not_taken, refused};

/// XSTATE_BV, in the header.
const XSTATE_BV: usize = 512;
/// The components that an [`XsaveArea`] holds: x87, SSE, AVX.
const HELD: u64 = xcr0::X87 | xcr0::SSE | xcr0::AVX;
/// The x87 control word in the initial configuration (SDM vol. 1, 13.6).
const INITIAL_FCW: u16 = 0x37f;

pub(super) fn read(vcpu: &VcpuFd, size: usize, state: &mut CpuState) -> Result<()> {
    let mut area = empty(size)?;
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says, at least 4096 bytes.
    unsafe { vcpu.get_xsave2(&mut area) }.map_err(refused("KVM_GET_XSAVE"))?;
    let words = &area.as_fam_struct_ref().xsave.region;
    let mut bytes = [0; 832];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    let components = u64::from(words[XSTATE_BV / 4]) | u64::from(words[XSTATE_BV / 4 + 1]) << 32;
    if components & !HELD != 0 {
        return Err(Error::State(format!(
            "extended state beyond x87, SSE and AVX (components {:#x}) would be lost",
            components & !HELD
        )));
    }
    state.xsave = whole(bytes, components);
    let xcrs = vcpu.get_xcrs().map_err(refused("KVM_GET_XCRS"))?;
    let known = xcrs.xcrs.iter().take(xcrs.nr_xcrs as usize);
    state.xcr0 = known.filter(|xcr| xcr.xcr == 0).map(|xcr| xcr.value).next().unwrap_or(xcr0::X87);
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, size: usize, state: &CpuState) -> Result<()> {
    let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
    xcrs.xcrs[0] = kvm_xcr { xcr: 0, reserved: 0, value: state.xcr0 };
    match vcpu.set_xcrs(&xcrs) {
        // A host without XSAVE has none of these registers.
        Err(_) if state.xcr0 == xcr0::X87 => {}
        result => result.map_err(not_taken("XCR0"))?,
    }
    let a = &state.xsave.0;
    let mut area = empty(size)?;
    // SAFETY: nothing but the words of the area is changed, none of which says how long it is.
    let words = unsafe { &mut area.as_mut_fam_struct().xsave.region };
    for (word, bytes) in words.iter_mut().zip(a.chunks_exact(4)) {
        *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    let mut components = u64::from(a[XSTATE_BV]) & HELD;
    // A host without AVX takes a state that does not use it.
    if a[576..].iter().all(|byte| *byte == 0) {
        components &= !xcr0::AVX;
    }
    // MXCSR is taken with SSE or AVX only.
    words[XSTATE_BV / 4] = (components | xcr0::SSE) as u32;
    words[XSTATE_BV / 4 + 1..(XSTATE_BV + 64) / 4].fill(0);
    if a[XSTATE_BV] & 2 == 0 {
        words[160 / 4..416 / 4].fill(0);
    }
    // SAFETY: the area is as large as KVM_CAP_XSAVE2 says, at least 4096 bytes.
    unsafe { vcpu.set_xsave2(&area) }.map_err(not_taken("the x87, SSE and AVX registers"))
}

/// An area of zeros for `size` bytes.
fn empty(size: usize) -> Result<Xsave> {
    let more = size.saturating_sub(size_of::<kvm_xsave>()).div_ceil(4);
    Xsave::new(more).map_err(|error| Error::Internal(format!("no XSAVE area of {size} bytes: {error:?}")))
}

/// The area with all components in it, those that are not among `components` in their initial configuration, and nothing
/// where there are no registers: two equal states are equal bytes.
fn whole(bytes: [u8; 832], components: u64) -> XsaveArea {
    let mut area = XsaveArea::default();
    let a = &mut area.0;
    if components & xcr0::X87 != 0 {
        a[..24].copy_from_slice(&bytes[..24]);
        a[5] = 0;
        for at in (32..160).step_by(16) {
            a[at..at + 10].copy_from_slice(&bytes[at..at + 10]);
        }
    } else {
        a[..24].fill(0);
        a[..2].copy_from_slice(&INITIAL_FCW.to_le_bytes());
    }
    // KVM gives it without regard to the components, as it is never lost by XSAVE (SDM vol. 1, 13.5.2).
    let control = u32::from_le_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]) & mxcsr::WRITABLE;
    a[24..28].copy_from_slice(&control.to_le_bytes());
    if components & xcr0::SSE != 0 {
        a[160..416].copy_from_slice(&bytes[160..416]);
    }
    if components & xcr0::AVX != 0 {
        a[576..].copy_from_slice(&bytes[576..]);
    }
    area
}

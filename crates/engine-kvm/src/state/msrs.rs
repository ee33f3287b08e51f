//! Model-specific registers.

use engine::{Error, Result};
use kvm_bindings::{Msrs as KvmMsrs, kvm_msr_entry};
use kvm_ioctls::VcpuFd;
use x86::msr::{self, mcg, misc_enable};
use x86::{CpuState, Msrs};

use super::{ioctl, refused};

/// As the software engine has it: four banks, IA32_MCG_CTL.
const MCG_CAP: u64 = 4 | mcg::CAP_CTL_P;
/// What IA32_MISC_ENABLE says of every CPU here: neither branch traces nor precise sampling. Not kept in a state.
const MISC_FIXED: u64 = misc_enable::BTS_UNAVAILABLE | misc_enable::PEBS_UNAVAILABLE;

pub(super) fn set_up_machine_check(vcpu: &VcpuFd) -> Result<()> {
    ioctl::set_up_mce(vcpu, MCG_CAP).map_err(refused("KVM_X86_SETUP_MCE"))
}

/// Each MSR that is read and written as a plain value, with its place. The rest is elsewhere: IA32_EFER, IA32_APIC_BASE
/// and the bases of FS and GS among the segments, the time-stamp counter and its deadline by themselves.
fn places(m: &mut Msrs) -> Vec<(u32, &mut u64)> {
    let mut all = vec![
        (msr::IA32_TSC_ADJUST, &mut m.tsc_adjust),
        (msr::IA32_TSC_AUX, &mut m.tsc_aux),
        (msr::IA32_STAR, &mut m.star),
        (msr::IA32_LSTAR, &mut m.lstar),
        (msr::IA32_CSTAR, &mut m.cstar),
        (msr::IA32_FMASK, &mut m.sfmask),
        (msr::IA32_KERNEL_GS_BASE, &mut m.kernel_gs_base),
        (msr::IA32_SYSENTER_CS, &mut m.sysenter_cs),
        (msr::IA32_SYSENTER_ESP, &mut m.sysenter_esp),
        (msr::IA32_SYSENTER_EIP, &mut m.sysenter_eip),
        (msr::IA32_PAT, &mut m.pat),
        (msr::IA32_MISC_ENABLE, &mut m.misc_enable),
        (msr::IA32_SPEC_CTRL, &mut m.spec_ctrl),
        (msr::IA32_DEBUGCTL, &mut m.debugctl),
        (msr::IA32_MTRR_DEF_TYPE, &mut m.mtrr_def_type),
        (msr::IA32_MCG_STATUS, &mut m.mcg_status),
        (msr::IA32_MCG_CTL, &mut m.mcg_ctl),
        (msr::MSR_KVM_WALL_CLOCK_NEW, &mut m.kvm_wall_clock),
        (msr::MSR_KVM_SYSTEM_TIME_NEW, &mut m.kvm_system_time),
    ];
    let fixed = [msr::IA32_MTRR_FIX64K_00000, msr::IA32_MTRR_FIX16K_80000, msr::IA32_MTRR_FIX16K_A0000]
        .into_iter()
        .chain(msr::IA32_MTRR_FIX4K_C0000..=msr::IA32_MTRR_FIX4K_F8000);
    all.extend(fixed.zip(&mut m.mtrr_fixed));
    all.extend((msr::IA32_MTRR_PHYSBASE0..=msr::IA32_MTRR_PHYSMASK7).zip(m.mtrr_var.iter_mut().flatten()));
    all.extend((msr::IA32_MC0_CTL..).zip(m.mc_banks.iter_mut().flatten()));
    all
}

fn entries(list: &[kvm_msr_entry]) -> Result<KvmMsrs> {
    KvmMsrs::from_entries(list).map_err(|error| Error::Internal(format!("no list of MSRs: {error:?}")))
}

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, reserved: 0 }
}

/// Reads one MSR that every KVM has.
pub(super) fn get(vcpu: &VcpuFd, index: u32) -> Result<u64> {
    let mut list = entries(&[entry(index, 0)])?;
    match vcpu.get_msrs(&mut list).map_err(refused("KVM_GET_MSRS"))? {
        1 => Ok(list.as_slice()[0].data),
        _ => Err(Error::State(format!("the host's KVM does not have MSR {index:#x}"))),
    }
}

/// Writes one MSR.
pub(super) fn set(vcpu: &VcpuFd, index: u32, data: u64) -> Result<()> {
    match vcpu.set_msrs(&entries(&[entry(index, data)])?).map_err(refused("KVM_SET_MSRS"))? {
        1 => Ok(()),
        _ => Err(not_held(index, data)),
    }
}

fn not_held(index: u32, data: u64) -> Error {
    Error::State(format!("the host's KVM does not take {data:#x} for MSR {index:#x}"))
}

pub(super) fn read(vcpu: &VcpuFd, msrs: &mut Msrs) -> Result<()> {
    let mut left = places(msrs);
    while !left.is_empty() {
        let list: Vec<_> = left.iter().map(|(index, _)| entry(*index, 0)).collect();
        let mut list = entries(&list)?;
        let got = vcpu.get_msrs(&mut list).map_err(refused("KVM_GET_MSRS"))?;
        for ((_, place), entry) in left.drain(..got.min(left.len())).zip(list.as_slice()) {
            *place = entry.data;
        }
        // KVM stops at one that it does not have: it stays as after power-on.
        if !left.is_empty() {
            left.remove(0);
        }
    }
    msrs.misc_enable &= !MISC_FIXED;
    Ok(())
}

pub(super) fn write(vcpu: &VcpuFd, state: &CpuState) -> Result<()> {
    let mut msrs = state.msrs;
    msrs.misc_enable |= MISC_FIXED;
    // What is not there reads as after power-on. It is not written then, nor is anything else that is so already: KVM
    // tells the host's log of writes that it ignores, even of zeroes.
    let mut current = CpuState::power_on(0, 0).msrs;
    read(vcpu, &mut current)?;
    // It has been read without the fixed bits.
    current.misc_enable = !msrs.misc_enable;
    let pairs = places(&mut msrs).into_iter().zip(places(&mut current));
    let differ = pairs.filter(|((_, new), (_, old))| *new != *old);
    let list: Vec<_> = differ.map(|((index, new), _)| entry(index, *new)).collect();
    let done = vcpu.set_msrs(&entries(&list)?).map_err(refused("KVM_SET_MSRS"))?;
    match list.get(done) {
        None => Ok(()),
        Some(entry) => Err(not_held(entry.index, entry.data)),
    }
}

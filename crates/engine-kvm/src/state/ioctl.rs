//! Calls to a vCPU that `kvm-ioctls` has not for this architecture (Linux, `include/uapi/linux/kvm.h`).

use std::os::fd::AsRawFd;

use kvm_bindings::{KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, kvm_device_attr};
use kvm_ioctls::VcpuFd;

/// The number of a call that hands `size` bytes to the kernel (`_IOW`, type AEH).
const fn write_number(nr: u64, size: usize) -> u64 {
    1 << 30 | (size as u64) << 16 | 0xae << 8 | nr
}

const KVM_SET_DEVICE_ATTR: u64 = write_number(0xe1, size_of::<kvm_device_attr>());
const KVM_GET_DEVICE_ATTR: u64 = write_number(0xe2, size_of::<kvm_device_attr>());
const KVM_X86_SETUP_MCE: u64 = write_number(0x9c, size_of::<u64>());

fn call<T>(vcpu: &VcpuFd, number: u64, argument: &T) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: the numbers above are of calls that read a T at the argument; what KVM_GET_DEVICE_ATTR writes is what
    // `addr` of its argument leads to, of which `tsc_offset` takes care.
    match unsafe { libc::ioctl(vcpu.as_raw_fd(), number, std::ptr::from_ref(argument)) } {
        0 => Ok(()),
        _ => Err(kvm_ioctls::Error::last()),
    }
}

fn tsc_attribute(addr: *const u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group: KVM_VCPU_TSC_CTRL, attr: KVM_VCPU_TSC_OFFSET.into(), addr: addr as u64 }
}

/// What the guest's time-stamp counter is ahead of the host's scaled one; `None` before Linux 5.16.
pub(super) fn tsc_offset(vcpu: &VcpuFd) -> Option<u64> {
    let mut offset = 0u64;
    call(vcpu, KVM_GET_DEVICE_ATTR, &tsc_attribute(&raw mut offset)).ok()?;
    // SAFETY: a live local, which the kernel has written.
    Some(unsafe { (&raw const offset).read_volatile() })
}

/// Sets what [`tsc_offset`] gives.
pub(super) fn set_tsc_offset(vcpu: &VcpuFd, offset: u64) -> Result<(), kvm_ioctls::Error> {
    call(vcpu, KVM_SET_DEVICE_ATTR, &tsc_attribute(&raw const offset))
}

/// Sets IA32_MCG_CAP.
pub(super) fn set_up_mce(vcpu: &VcpuFd, mcg_cap: u64) -> Result<(), kvm_ioctls::Error> {
    call(vcpu, KVM_X86_SETUP_MCE, &mcg_cap)
}

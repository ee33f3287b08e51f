//! The calls of the KVM API that `kvm-ioctls` has no function for (Linux, Documentation/virt/kvm/api.rst).

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use kvm_bindings::{kvm_clear_dirty_log, kvm_interrupt, kvm_ioeventfd, kvm_irqfd};

/// The type byte of all of KVM's ioctls.
const KVMIO: u64 = 0xae;

/// The number of a call: direction bits, size of the argument, type, number (asm-generic/ioctl.h's layout).
const fn number(direction: u64, size: usize, nr: u64) -> u64 {
    direction << 30 | (size as u64) << 16 | KVMIO << 8 | nr
}

const WRITE: u64 = 1;
const READ_WRITE: u64 = 3;

const KVM_RUN: u64 = number(0, 0, 0x80);
const KVM_IRQFD: u64 = number(WRITE, size_of::<kvm_irqfd>(), 0x76);
const KVM_IOEVENTFD: u64 = number(WRITE, size_of::<kvm_ioeventfd>(), 0x79);
const KVM_INTERRUPT: u64 = number(WRITE, size_of::<kvm_interrupt>(), 0x86);
const KVM_SET_SIGNAL_MASK: u64 = number(WRITE, size_of::<u32>(), 0x8b);
const KVM_CLEAR_DIRTY_LOG: u64 = number(READ_WRITE, size_of::<kvm_clear_dirty_log>(), 0xc0);
const KVM_RESET_DIRTY_RINGS: u64 = number(0, 0, 0xc7);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A call whose argument KVM reads, and writes no more of than its own size.
fn with_argument<T>(fd: RawFd, number: u64, argument: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the number holds the size of `T`, so the kernel stays within `argument`; a pointer within it that the
    // kernel follows leads to memory of the caller, who keeps it for the call.
    check(unsafe { libc::ioctl(fd, number as libc::Ioctl, std::ptr::from_mut(argument)) })
}

/// Runs a vCPU; the outcome is in its run page.
pub(crate) fn run(vcpu: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: the call takes no argument. It changes the run page, which is only read through volatile accesses, and
    // guest memory, to which nobody holds references.
    check(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_RUN as libc::Ioctl, 0) }).map(drop)
}

/// Queues the vector that the PIC has given.
pub(crate) fn interrupt(vcpu: &impl AsRawFd, vector: u8) -> io::Result<()> {
    with_argument(vcpu.as_raw_fd(), KVM_INTERRUPT, &mut kvm_interrupt { irq: u32::from(vector) }).map(drop)
}

/// The kernel's `struct kvm_signal_mask` with its set.
#[repr(C)]
struct SignalMask {
    len: u32,
    set: [u8; 8],
}

/// Has entries block the signals in `mask` (number `n` is bit `n - 1`) instead of the thread's; `None` ends that.
pub(crate) fn set_signal_mask(vcpu: &impl AsRawFd, mask: Option<u64>) -> io::Result<()> {
    let mask = mask.map(|mask| SignalMask { len: 8, set: mask.to_le_bytes() });
    let argument = mask.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the kernel reads a mask that is as long as it says, or nothing.
    check(unsafe { libc::ioctl(vcpu.as_raw_fd(), KVM_SET_SIGNAL_MASK as libc::Ioctl, argument) }).map(drop)
}

/// Connects an eventfd to an interrupt, or takes the connection away.
pub(crate) fn irqfd(vm: &impl AsRawFd, mut irqfd: kvm_irqfd) -> io::Result<()> {
    with_argument(vm.as_raw_fd(), KVM_IRQFD, &mut irqfd).map(drop)
}

/// Connects writes to an address with an eventfd, or takes the connection away.
pub(crate) fn ioeventfd(vm: &impl AsRawFd, mut ioeventfd: kvm_ioeventfd) -> io::Result<()> {
    with_argument(vm.as_raw_fd(), KVM_IOEVENTFD, &mut ioeventfd).map(drop)
}

/// Write-protects the pages of `slot` whose bits are set in `bitmap` again.
pub(crate) fn clear_dirty_log(vm: &impl AsRawFd, slot: u32, pages: u32, bitmap: &mut [u64]) -> io::Result<()> {
    // The kernel reads one bit per page.
    if u64::from(pages) > bitmap.len() as u64 * 64 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut log = kvm_clear_dirty_log { slot, num_pages: pages, ..Default::default() };
    log.__bindgen_anon_1.dirty_bitmap = bitmap.as_mut_ptr().cast();
    with_argument(vm.as_raw_fd(), KVM_CLEAR_DIRTY_LOG, &mut log).map(drop)
}

/// Has the kernel take back what was harvested from the dirty rings. Gives the number of entries.
pub(crate) fn reset_dirty_rings(vm: &impl AsRawFd) -> io::Result<u32> {
    // SAFETY: the call takes no argument and touches only the rings, which are read and written atomically.
    check(unsafe { libc::ioctl(vm.as_raw_fd(), KVM_RESET_DIRTY_RINGS as libc::Ioctl, 0) }).map(|n| n as u32)
}

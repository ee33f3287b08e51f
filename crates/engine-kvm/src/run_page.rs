//! The page that a vCPU and the kernel share (`struct kvm_run`).

use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;

use kvm_bindings::kvm_run;

/// A mapping of a vCPU's run page, of its own: it stays for as long as somebody kicks through it.
pub(crate) struct RunPage {
    page: NonNull<kvm_run>,
    len: usize,
}

// SAFETY: the page is plain memory that the kernel writes too; `immediate_exit`, the one field that several threads
// use, is accessed atomically, all others by the thread that runs the vCPU.
unsafe impl Send for RunPage {}
// SAFETY: as above.
unsafe impl Sync for RunPage {}

impl RunPage {
    /// Maps the `len` bytes of the run page of `vcpu`.
    pub(crate) fn map(vcpu: &impl AsRawFd, len: usize) -> io::Result<Self> {
        if len < size_of::<kvm_run>() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let page = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, libc::MAP_SHARED, vcpu.as_raw_fd(), 0) };
        if page == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(page.cast()).map(|page| Self { page, len }).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    /// The word that makes the next entry return at once.
    pub(crate) fn immediate_exit(&self) -> &AtomicU8 {
        // SAFETY: within the mapping, and all of ours access it atomically; the kernel reads single bytes whole.
        unsafe { AtomicU8::from_ptr(&raw mut (*self.page.as_ptr()).immediate_exit) }
    }

    /// A copy of the fixed part of the page, by the thread that runs the vCPU.
    pub(crate) fn exit(&self) -> Exit<'_> {
        Exit(self)
    }

    /// Whether the vCPU would take an interrupt of the PIC now; true after the last exit.
    pub(crate) fn is_ready_for_interrupt(&self) -> bool {
        // SAFETY: within the mapping; the kernel writes it only while the vCPU runs.
        unsafe { (&raw const (*self.page.as_ptr()).ready_for_interrupt_injection).read_volatile() != 0 }
    }

    /// Asks for an exit as soon as the vCPU would take an interrupt of the PIC.
    pub(crate) fn request_interrupt_window(&self, wanted: bool) {
        // SAFETY: within the mapping, which only the thread that runs the vCPU writes here.
        unsafe { (&raw mut (*self.page.as_ptr()).request_interrupt_window).write_volatile(u8::from(wanted)) }
    }

    /// Forgets that an interrupt would be taken: one has been handed over.
    pub(crate) fn not_ready_for_interrupt(&self) {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.page.as_ptr()).ready_for_interrupt_injection).write_volatile(0) }
    }

    /// The address of the `len` bytes at `offset`, if they are within the page.
    fn bytes(&self, offset: usize, len: usize) -> Option<NonNull<u8>> {
        let end = offset.checked_add(len)?;
        // SAFETY: within the mapping.
        (end <= self.len).then(|| unsafe { self.page.cast::<u8>().add(offset) })
    }

    /// Copies from the page at `offset`; nothing if that is not within it.
    pub(crate) fn read(&self, offset: usize, data: &mut [u8]) {
        if let Some(from) = self.bytes(offset, data.len()) {
            // SAFETY: `bytes` has checked the range; the kernel does not write while the vCPU does not run.
            unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), data.as_mut_ptr(), data.len()) };
        }
    }

    /// Copies to the page at `offset`; nothing if that is not within it.
    pub(crate) fn write(&self, offset: usize, data: &[u8]) {
        if let Some(to) = self.bytes(offset, data.len()) {
            // SAFETY: as in `read`; nobody holds references into the page but to `immediate_exit`, which is not data.
            unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), to.as_ptr(), data.len()) };
        }
    }
}

impl Drop for RunPage {
    fn drop(&mut self) {
        // SAFETY: the mapping of `map`, which nobody uses after this.
        unsafe { libc::munmap(self.page.as_ptr().cast(), self.len) };
    }
}

/// What the page tells of the last exit. To be read by the thread that runs the vCPU, while it does not.
#[derive(Clone, Copy)]
pub(crate) struct Exit<'a>(&'a RunPage);

/// Reads a part of the union that belongs to an exit.
macro_rules! part {
    ($(#[$doc:meta] $name:ident: $type:ty;)*) => {
        $(
            #[$doc]
            pub(crate) fn $name(self) -> $type {
                // SAFETY: within the mapping; the kernel does not write while the vCPU does not run, and the parts are
                // plain integers, of which every value is valid.
                unsafe { (&raw const (*self.0.page.as_ptr()).__bindgen_anon_1.$name).read_volatile() }
            }
        )*
    };
}

impl Exit<'_> {
    /// The kind of exit, `KVM_EXIT_*`.
    pub(crate) fn reason(self) -> u32 {
        // SAFETY: within the mapping; the kernel does not write while the vCPU does not run.
        unsafe { (&raw const (*self.0.page.as_ptr()).exit_reason).read_volatile() }
    }

    part! {
        /// A port access.
        io: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_4;
        /// A stop of the debugger.
        debug: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_5;
        /// An access to device memory.
        mmio: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_6;
        /// An error of KVM.
        internal: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_13;
        /// The CPU would not enter the guest.
        fail_entry: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_2;
        /// An event of the whole VM.
        system_event: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_19;
        /// The end of a level-triggered interrupt.
        eoi: kvm_bindings::kvm_run__bindgen_ty_1__bindgen_ty_21;
    }

    /// Answers a read of device memory.
    pub(crate) fn answer_mmio(self, data: [u8; 8]) {
        // SAFETY: within the mapping; the kernel reads it at the next entry.
        unsafe { (&raw mut (*self.0.page.as_ptr()).__bindgen_anon_1.mmio.data).write_volatile(data) }
    }
}

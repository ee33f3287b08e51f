//! The log of the pages that the guest has written.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Mutex;

use engine::{Error, Result};
use kvm_bindings::{
    KVM_CAP_DIRTY_LOG_RING, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE, kvm_enable_cap,
};
use kvm_ioctls::VmFd;
use memory::{GuestMemory, PAGE_SIZE};

use crate::capabilities::Capabilities;
use crate::ioctl;
use crate::partition::lock;
use crate::ring::{self, Pages, Rings};
use crate::slots::{Slot, Slots};

/// How the kernel logs for one VM.
pub(crate) enum Log {
    /// In rings.
    Rings(Mutex<Rings>),
    /// In a bitmap per slot; with `manual`, reading it leaves it as it is, and a call of its own clears it.
    Bitmaps {
        /// See above.
        manual: bool,
    },
}

fn refused(source: io::Error) -> Error {
    Error::Host { what: "KVM refuses the dirty log".into(), source }
}

impl Log {
    /// Chooses for `vm`, which has no vCPU yet.
    pub(crate) fn new(vm: &VmFd, capabilities: &Capabilities) -> Self {
        let enable =
            |cap, value| vm.enable_cap(&kvm_enable_cap { cap, args: [value, 0, 0, 0], ..Default::default() }).is_ok();
        if capabilities.dirty_ring_bytes >= ring::BYTES && enable(KVM_CAP_DIRTY_LOG_RING, u64::from(ring::BYTES)) {
            return Self::Rings(Mutex::default());
        }
        let value = u64::from(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
        Self::Bitmaps { manual: capabilities.manual_protect && enable(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, value) }
    }

    /// Takes a new vCPU in.
    pub(crate) fn add(&self, vcpu: &impl AsRawFd) -> Result<()> {
        match self {
            Self::Rings(rings) => lock(rings).add(vcpu).map_err(refused),
            Self::Bitmaps { .. } => Ok(()),
        }
    }

    /// Makes room in rings that are full.
    pub(crate) fn make_room(&self, vm: &VmFd, slots: &Slots) -> Result<()> {
        match self {
            Self::Rings(rings) => lock(rings).drain(vm, |number| slots.pages(number)).map_err(refused),
            Self::Bitmaps { .. } => Ok(()),
        }
    }

    /// Starts with all pages clean.
    pub(crate) fn start(&self, vm: &VmFd, slots: &mut Slots, memory: &GuestMemory) {
        // Whatever has been noted of former logs.
        drop(self.collect(vm, slots, memory));
        if let Err(error) = slots.set_logging(vm, true) {
            tracing::error!("the guest's writes are not logged: {error}");
        }
    }

    /// Stops.
    pub(crate) fn stop(&self, vm: &VmFd, slots: &mut Slots) {
        if let Err(error) = slots.set_logging(vm, false) {
            tracing::warn!("the guest's writes are still logged: {error}");
        }
    }

    /// The pages written since the last call, in order of address: by the guest, and by devices, whose writes only the
    /// memory itself knows. Forgets them.
    pub(crate) fn collect(&self, vm: &VmFd, slots: &Slots, memory: &GuestMemory) -> Vec<u64> {
        let mut ringed = Pages::new();
        let mut lost = false;
        if let Self::Rings(rings) = self {
            let mut rings = lock(rings);
            lost = rings.drain(vm, |number| slots.pages(number)).inspect_err(complain).is_err();
            ringed = rings.take();
        }
        let mut sorted: Vec<_> = slots.list().iter().collect();
        sorted.sort_by_key(|slot| slot.region.start);
        let mut pages = Vec::new();
        for slot in sorted {
            let mut bits = match self {
                Self::Rings(_) => ringed.remove(&slot.number).unwrap_or_default(),
                Self::Bitmaps { manual } if slot.can_log() && slots.is_logging() => {
                    take(vm, slot, *manual).inspect_err(complain).unwrap_or_else(|_| {
                        lost = true;
                        Vec::new()
                    })
                }
                Self::Bitmaps { .. } => Vec::new(),
            };
            if lost {
                // Not knowing, all of it may have been written.
                bits = vec![u64::MAX; usize::try_from(slot.pages().div_ceil(64)).unwrap_or(0)];
            }
            if let Some(first) = memory.host_page(slot.region.start) {
                for page in 0..slot.pages() {
                    if memory.flags().take_dirty(first.index + page as usize) {
                        ring::set(&mut bits, page);
                    }
                }
            }
            for (n, word) in bits.into_iter().enumerate() {
                let mut rest = word;
                while rest != 0 {
                    let page = n as u64 * 64 + u64::from(rest.trailing_zeros());
                    rest &= rest - 1;
                    if page < slot.pages() {
                        pages.push(slot.region.start.0 + page * PAGE_SIZE);
                    }
                }
            }
        }
        pages
    }
}

fn complain(error: &impl std::fmt::Display) {
    tracing::error!("the log of the guest's writes cannot be read: {error}");
}

/// Takes the bitmap of one slot.
fn take(vm: &VmFd, slot: &Slot, manual: bool) -> Result<Vec<u64>> {
    let len = usize::try_from(slot.region.len).unwrap_or(usize::MAX);
    let mut bitmap = vm.get_dirty_log(slot.number, len).map_err(|error| refused(error.into()))?;
    if manual && bitmap.iter().any(|word| *word != 0) {
        // The pages are write-protected again before the caller reads them.
        let count = u32::try_from(slot.pages()).unwrap_or(u32::MAX);
        ioctl::clear_dirty_log(vm, slot.number, count, &mut bitmap).map_err(refused)?;
    }
    Ok(bitmap)
}

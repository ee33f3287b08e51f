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

    /// Has the memory itself keep what the kernel has noted: slots that go take their notes along.
    pub(crate) fn keep(&self, vm: &VmFd, slots: &Slots, memory: &GuestMemory) {
        if !slots.is_logging() {
            return;
        }
        for (slot, bits) in self.take_all(vm, slots) {
            let pages = (0..slot.pages()).filter(|page| has(&bits, *page));
            pages.for_each(|page| _ = memory.flags().written(slot.first + page as usize, 0, PAGE_SIZE as usize));
        }
    }

    /// The pages written since the last call, in order of address: by the guest, and by devices, whose writes only the
    /// memory itself knows. Forgets them.
    pub(crate) fn collect(&self, vm: &VmFd, slots: &Slots, memory: &GuestMemory) -> Vec<u64> {
        let mut pages = Vec::new();
        for (slot, mut bits) in self.take_all(vm, slots) {
            for page in 0..slot.pages() {
                if memory.flags().take_dirty(slot.first + page as usize) {
                    ring::set(&mut bits, page);
                }
            }
            let dirty = (0..slot.pages()).filter(|page| has(&bits, *page));
            pages.extend(dirty.map(|page| slot.region.start.0 + page * PAGE_SIZE));
        }
        pages
    }

    /// What the kernel has noted of each slot, in order of address. It has forgotten it then.
    fn take_all(&self, vm: &VmFd, slots: &Slots) -> Vec<(Slot, Vec<u64>)> {
        let mut ringed = Pages::new();
        let mut lost = false;
        if let Self::Rings(rings) = self {
            let mut rings = lock(rings);
            lost = rings.drain(vm, |number| slots.pages(number)).inspect_err(complain).is_err();
            ringed = rings.take();
        }
        let mut sorted = slots.list().to_vec();
        sorted.sort_by_key(|slot| slot.region.start);
        let mut all = Vec::new();
        for slot in sorted {
            let mut bits = match self {
                Self::Rings(_) => ringed.remove(&slot.number).unwrap_or_default(),
                Self::Bitmaps { manual } if slot.can_log() && slots.is_logging() => {
                    take(vm, &slot, *manual).inspect_err(complain).unwrap_or_else(|_| {
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
            all.push((slot, bits));
        }
        all
    }
}

/// Whether the bit of a page is set.
fn has(words: &[u64], page: u64) -> bool {
    let word = usize::try_from(page / 64).ok().and_then(|word| words.get(word));
    word.is_some_and(|word| word >> (page % 64) & 1 != 0)
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

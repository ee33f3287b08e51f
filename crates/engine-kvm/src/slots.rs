//! The memory slots of a VM: which guest-physical addresses are which of this process.

use std::os::fd::AsRawFd;

use engine::{Error, Result};
use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::VmFd;
use memory::{GuestMemory, Kind, PAGE_SIZE, Region};

/// One slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Slot {
    /// Its number in the kernel.
    pub(crate) number: u32,
    pub(crate) region: Region,
    /// The address in this process.
    host: u64,
    /// The index of its first page in the memory's flags.
    pub(crate) first: usize,
}

impl Slot {
    /// The number of its pages.
    pub(crate) fn pages(&self) -> u64 {
        self.region.len / PAGE_SIZE
    }

    /// Whether the guest's writes to it can be logged: ROM it does not write.
    pub(crate) fn can_log(&self) -> bool {
        self.region.kind == Kind::Ram
    }

    /// Tells the kernel; `len` zero takes the slot away.
    fn set(&self, vm: &VmFd, len: u64, logging: bool) -> Result<()> {
        let flags = match self.region.kind {
            Kind::Rom => KVM_MEM_READONLY,
            Kind::Ram if logging => KVM_MEM_LOG_DIRTY_PAGES,
            Kind::Ram => 0,
        };
        let region = kvm_userspace_memory_region {
            slot: self.number,
            flags,
            guest_phys_addr: self.region.start.0,
            memory_size: len,
            userspace_addr: self.host,
        };
        // SAFETY: the range is one of guest memory, which the partition keeps for as long as the VM's descriptor is
        // open, and to which nobody holds references.
        unsafe { vm.set_user_memory_region(region) }.map_err(|error| {
            let end = self.region.start.0 + self.region.len;
            let what = format!("KVM refuses guest memory at {:#x} to {end:#x}", self.region.start.0);
            Error::Host { what, source: error.into() }
        })
    }
}

/// All slots of a VM.
pub(crate) struct Slots {
    list: Vec<Slot>,
    most: u32,
    logging: bool,
}

impl Slots {
    pub(crate) fn new(most: u32) -> Self {
        Self { list: Vec::new(), most, logging: false }
    }

    pub(crate) fn list(&self) -> &[Slot] {
        &self.list
    }

    /// The number of the pages of slot `number`, zero if there is none.
    pub(crate) fn pages(&self, number: u32) -> u64 {
        self.list.iter().find(|slot| slot.number == number).map_or(0, Slot::pages)
    }

    /// Whether the guest's writes are logged.
    pub(crate) fn is_logging(&self) -> bool {
        self.logging
    }

    /// Makes the slots those of `memory`: what has gone is taken away, what is new added, the rest left alone.
    pub(crate) fn follow(&mut self, vm: &VmFd, memory: &GuestMemory) -> Result<()> {
        let wanted: Vec<Slot> = memory
            .regions()
            .filter_map(|region| {
                let page = memory.host_page(region.start)?;
                Some(Slot { number: 0, region, host: page.ptr as u64, first: page.index })
            })
            .collect();
        let same = |a: &Slot, b: &Slot| (a.region, a.host) == (b.region, b.host);
        let (kept, gone): (Vec<Slot>, Vec<Slot>) =
            self.list.iter().copied().partition(|slot| wanted.iter().any(|other| same(slot, other)));
        for slot in gone {
            slot.set(vm, 0, false)?;
            self.list.retain(|other| other.number != slot.number);
        }
        for slot in wanted.into_iter().filter(|slot| !kept.iter().any(|other| same(slot, other))) {
            let number = (0..self.most).find(|n| self.list.iter().all(|other| other.number != *n));
            let Some(number) = number else {
                return Err(Error::Config(format!("more than {} regions of memory: KVM has no more slots", self.most)));
            };
            let slot = Slot { number, ..slot };
            slot.set(vm, slot.region.len, self.logging)?;
            self.list.push(slot);
        }
        Ok(())
    }

    /// Turns the log of the guest's writes on or off.
    pub(crate) fn set_logging(&mut self, vm: &VmFd, logging: bool) -> Result<()> {
        self.logging = logging;
        self.list.iter().filter(|slot| slot.can_log()).try_for_each(|slot| slot.set(vm, slot.region.len, logging))
    }
}

/// The lowest addresses that VMX's emulation of real mode may use (a TSS of three pages, and the page of an identity map
/// before it), where neither the guest's memory nor the board's usual parts below 4 GiB are.
pub(crate) fn vmx_pages(memory: &GuestMemory) -> u64 {
    /// One page for the map and three for the TSS.
    const LEN: u64 = 4 * PAGE_SIZE;
    /// Below the firmware at the end of the first 4 GiB, above the APICs.
    const USUAL: u64 = 0xfffb_c000;
    let is_free = |at: u64| memory.regions().all(|r| at + LEN <= r.start.0 || r.start.0 + r.len <= at);
    (0..64).map(|n| USUAL - n * LEN).find(|at| is_free(*at)).unwrap_or(USUAL)
}

/// Sets these addresses. VMX needs them, SVM ignores them.
pub(crate) fn set_vmx_pages(vm: &VmFd, memory: &GuestMemory) -> Result<()> {
    let at = vmx_pages(memory);
    let refused = |what: &str, error: kvm_ioctls::Error| Error::Host {
        what: format!("KVM (descriptor {}) refuses the address of {what}", vm.as_raw_fd()),
        source: error.into(),
    };
    vm.set_identity_map_address(at).map_err(|e| refused("the identity map", e))?;
    vm.set_tss_address((at + PAGE_SIZE) as usize).map_err(|e| refused("the TSS", e))
}

#[cfg(test)]
mod tests {
    use memory::Gpa;

    use super::*;

    #[test]
    fn the_pages_of_vmx_avoid_memory() {
        let region = |start, len| Region { start: Gpa(start), len, kind: Kind::Rom };
        let ram = GuestMemory::new(&[region(0, 0x1000)]).unwrap();
        assert_eq!(vmx_pages(&ram), 0xfffb_c000);
        let firmware = GuestMemory::new(&[region(0xfffb_f000, 0x4_1000)]).unwrap();
        let at = vmx_pages(&firmware);
        assert!(at + 0x4000 <= 0xfffb_f000, "{at:#x}");
    }
}

//! How a page becomes a code page while other vCPUs may hold rights to write it silently.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::cpu::Cpu;
use crate::partition::Shared;
use crate::pending::Pending;

impl Shared {
    /// Has all vCPUs but the caller, if it is one, give up their rights to write silently, and waits until they have.
    pub(crate) fn withdraw_write_rights(&self, caller: Option<u32>) {
        let others = || self.slots.iter().zip(0u32..).filter(|(_, id)| Some(*id) != caller).map(|(slot, _)| slot);
        for slot in others() {
            slot.post(Pending::SHOOTDOWN);
        }
        for slot in others() {
            // One that is not running guest code serves the request before it does.
            while slot.in_guest.load(Ordering::SeqCst) && slot.pending.load(Ordering::SeqCst) & Pending::SHOOTDOWN != 0
            {
                std::thread::yield_now();
            }
        }
    }
}

impl Cpu {
    /// Makes `page` a code page and gives its generation: what is read after this returns and changes later, changes
    /// with a bump of that generation.
    pub(crate) fn guard_code(&mut self, page: usize) -> u32 {
        loop {
            self.make_code(page);
            let flags = self.shared.memory.flags();
            let generation = flags.generation(page);
            // A writer may have made it an ordinary page again before the generation was taken.
            if flags.is_code(page) {
                return generation;
            }
        }
    }

    fn make_code(&mut self, page: usize) {
        let shared = std::sync::Arc::clone(&self.shared);
        let flags = shared.memory.flags();
        if flags.is_code(page) {
            return;
        }
        let _one_at_a_time = loop {
            match shared.code_lock.try_lock() {
                Ok(guard) => break guard,
                Err(std::sync::TryLockError::Poisoned(e)) => break PoisonError::into_inner(e),
                // Whoever holds it may be waiting for this vCPU.
                Err(std::sync::TryLockError::WouldBlock) => {
                    self.serve_shootdown();
                    std::thread::yield_now();
                }
            }
        };
        loop {
            if flags.arm_code(page) {
                self.mmu.drop_write_tags();
                shared.withdraw_write_rights(Some(self.id));
            }
            if flags.set_code(page) {
                return;
            }
        }
    }

    /// Serves another vCPU's request.
    pub(crate) fn serve_shootdown(&mut self) {
        if self.slot.pending.load(Ordering::SeqCst) & Pending::SHOOTDOWN != 0 {
            self.mmu.drop_write_tags();
            self.slot.clear(Pending::SHOOTDOWN);
        }
    }
}

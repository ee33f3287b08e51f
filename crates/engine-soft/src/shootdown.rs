//! How a page becomes a code page while other vCPUs may hold rights to write it silently, and how vCPUs learn that code
//! has been written.
//!
//! Every write to a marked line is put into the mail of all vCPUs, the writer's too, before the writer goes on (see
//! `memory::PageFlags` and [`crate::partition`]). The writer takes it out at once, the others where they look at
//! `pending`.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use crate::code_mail::CodeWrites;
use crate::cpu::{Cpu, leave};
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
            while slot.in_guest.load(Ordering::SeqCst)
                && slot.pending().load(Ordering::SeqCst) & Pending::SHOOTDOWN != 0
            {
                std::thread::yield_now();
            }
        }
    }
}

impl Cpu {
    /// Makes `page` a code page, marks `lines` of it and gives its generation: what is read from the lines after this
    /// returns and changes later, changes with a bump of that generation and with a call of [`Cpu::code_written`].
    pub(crate) fn guard_code(&mut self, page: usize, lines: u64) -> u32 {
        loop {
            // A writer may make it an ordinary page again at any time.
            if let Some(generation) = self.shared.memory.flags().mark_code(page, lines) {
                return generation;
            }
            self.make_code(page);
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
                self.drop_write_tags();
                shared.withdraw_write_rights(Some(self.id));
            }
            if flags.set_code(page) {
                return;
            }
        }
    }

    /// Gives up all rights to write silently, also those that the running block has looked up already.
    pub(crate) fn drop_write_tags(&mut self) {
        self.mmu.drop_write_tags();
        self.forget_shortcuts();
        self.leave |= leave::BLOCK;
    }

    /// Serves another vCPU's request.
    pub(crate) fn serve_shootdown(&mut self) {
        if self.slot.pending().load(Ordering::SeqCst) & Pending::SHOOTDOWN != 0 {
            self.drop_write_tags();
            self.slot.clear(Pending::SHOOTDOWN);
        }
    }

    /// Whether code has been written that this vCPU has not been told of.
    #[inline]
    pub(crate) fn code_mail_waits(&self) -> bool {
        self.slot.pending().load(Ordering::SeqCst) & Pending::CODE != 0
    }

    /// Reads the mail about written code.
    #[cold]
    pub(crate) fn serve_code_writes(&mut self) {
        match self.slot.take_code_writes() {
            CodeWrites::Lines(list) => list.into_iter().for_each(|(page, lines)| self.code_written(page, lines)),
            CodeWrites::Anywhere => self.code_written_anywhere(),
        }
    }

    /// Code that came from `lines` of page `page` may be out of date: called between the write and the writer's next
    /// instruction, and on other vCPUs before they run on. The block that is running is left after this instruction;
    /// decoded blocks know by the page's generation.
    fn code_written(&mut self, page: usize, lines: u64) {
        self.leave |= leave::BLOCK;
        self.forget_translated(page, lines);
    }

    /// As [`Cpu::code_written`] for each line of each page.
    fn code_written_anywhere(&mut self) {
        self.leave |= leave::BLOCK;
        self.outdate_translations();
    }
}

//! A vCPU's memory in one piece: its state, the tables that translated code looks into, and the word that others raise.

use std::cell::UnsafeCell;
use std::mem::{MaybeUninit, offset_of};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use crate::cpu::Cpu;
use crate::jit::{CELLS, Cell, JUMP_SLOTS};
use crate::mmu::Tables;

/// What the GS segment points to while translated code runs: everything in it has a fixed distance.
#[repr(C)]
pub(crate) struct Lane {
    pub(crate) cpu: Cpu,
    /// The software TLB's. Reached through `cpu.mmu` only.
    pub(crate) tlb: Tables,
    /// Where indirect jumps lead: a RIP with the tag of its space added, and the address of the code.
    pub(crate) jumps: [[u64; 2]; JUMP_SLOTS],
    /// The page that each access of user code has last been to.
    pub(crate) cells: [Cell; CELLS],
    /// The offsets of those that are filled.
    pub(crate) filled: [u32; CELLS],
}

impl Deref for Lane {
    type Target = Cpu;

    fn deref(&self) -> &Cpu {
        &self.cpu
    }
}

impl DerefMut for Lane {
    fn deref_mut(&mut self) -> &mut Cpu {
        &mut self.cpu
    }
}

/// Where a lane lives, beside what other threads tell its vCPU: translated code finds that by GS, too. It stays for as long
/// as one of them may, with or without a vCPU in it.
#[repr(C, align(64))]
pub(crate) struct Home {
    /// [`crate::pending::Pending`] bits.
    pub(crate) pending: AtomicU32,
    /// Not zero when something has been posted that the run loop has not looked at yet: translated code polls it.
    pub(crate) attention: AtomicU64,
    lane: Place,
}

/// Room for a lane, on a cache line that others do not write to.
#[repr(C, align(64))]
struct Place(UnsafeCell<MaybeUninit<Lane>>);

/// From the lane to the words beside it.
pub(crate) const PENDING: i32 = offset_of!(Home, pending) as i32 - offset_of!(Home, lane) as i32;
pub(crate) const ATTENTION: i32 = offset_of!(Home, attention) as i32 - offset_of!(Home, lane) as i32;

// SAFETY: the two words are atomic; the lane is reached only through the one `Resident` that there may be.
unsafe impl Send for Home {}
// SAFETY: as above.
unsafe impl Sync for Home {}

impl Home {
    /// An empty one.
    pub(crate) fn new() -> Arc<Self> {
        // SAFETY: zeros are a value of each word, and the rest need not be initialized.
        unsafe { Arc::new_zeroed().assume_init() }
    }
}

/// The lane in a home, and its only owner.
pub(crate) struct Resident(Arc<Home>);

impl Resident {
    /// Moves into `home`: `make` gives the CPU for the lane's zeroed memory.
    ///
    /// # Safety
    /// Nobody else has ever moved into it, and `make` does not read what it is shown.
    pub(crate) unsafe fn new(home: Arc<Home>, make: impl FnOnce(*mut Lane) -> Cpu) -> Self {
        let lane = home.lane.0.get().cast::<Lane>();
        let cpu = make(lane);
        // SAFETY: nobody else is here; what lies behind the CPU has been zeros from the start, which are values of it.
        unsafe { (&raw mut (*lane).cpu).write(cpu) };
        Self(home)
    }
}

impl Deref for Resident {
    type Target = Lane;

    fn deref(&self) -> &Lane {
        // SAFETY: made by `new`, and there until this is dropped; this is the only way to it.
        unsafe { (*self.0.lane.0.get()).assume_init_ref() }
    }
}

impl DerefMut for Resident {
    fn deref_mut(&mut self) -> &mut Lane {
        // SAFETY: as above.
        unsafe { (*self.0.lane.0.get()).assume_init_mut() }
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        // SAFETY: as above, and nobody comes after this.
        unsafe { (*self.0.lane.0.get()).assume_init_drop() };
    }
}

//! What other threads want of a vCPU: one word that the run loop looks at between blocks, and a bell for a halted CPU.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use engine::{Alarm, Clock, VmTime};
use x86::lapic::{Arrival, IpiRequest, Lapic};

use crate::code_mail::CodeWrites;
use crate::lane::Home;

/// The bits of [`Slot::pending`].
pub(crate) struct Pending;

impl Pending {
    /// The local APIC may have an interrupt to deliver.
    pub(crate) const LAPIC: u32 = 1;
    /// The PIC's INTR pin is high.
    pub(crate) const EXTINT: u32 = 1 << 1;
    pub(crate) const NMI: u32 = 1 << 2;
    pub(crate) const INIT: u32 = 1 << 3;
    pub(crate) const SIPI: u32 = 1 << 4;
    /// Somebody wants the run to end.
    pub(crate) const KICK: u32 = 1 << 5;
    /// Another vCPU has found code in a page that this one may be writing: see [`crate::shootdown`].
    pub(crate) const SHOOTDOWN: u32 = 1 << 6;
    /// The guest-physical layout has changed.
    pub(crate) const LAYOUT: u32 = 1 << 7;
    /// Code has been written: see [`Slot::post_code_write`].
    pub(crate) const CODE: u32 = 1 << 8;
    /// What waits for RFLAGS.IF.
    pub(crate) const MASKABLE: u32 = Self::LAPIC | Self::EXTINT;
    /// What does not.
    pub(crate) const ALWAYS: u32 =
        Self::NMI | Self::INIT | Self::SIPI | Self::KICK | Self::SHOOTDOWN | Self::LAYOUT | Self::CODE;
}

/// The part of a vCPU that other threads may touch.
pub(crate) struct Slot {
    /// Where the vCPU lives, and what it is to look at.
    home: Arc<Home>,
    /// The vector of the latest start-up IPI.
    pub(crate) sipi_vector: AtomicU32,
    /// Whether the vCPU is between block boundaries and may hold write translations in use.
    pub(crate) in_guest: AtomicBool,
    /// What [`Pending::CODE`] is about.
    code_writes: Mutex<CodeWrites>,
    lapic: Mutex<Lapic>,
    /// The level of the PIC's INTR pin.
    extint: AtomicBool,
    /// Rings at the deadline of the local APIC's timer.
    alarm: OnceLock<Alarm>,
    /// Locked only around the sleep of a halted vCPU.
    sleeping: Mutex<()>,
    bell: Condvar,
    asleep: AtomicBool,
}

impl Slot {
    /// The slot of the vCPU with this APIC ID, its timer on `clock`.
    pub(crate) fn new(id: u32, clock: &Clock) -> Arc<Self> {
        let slot = Arc::new(Self {
            home: Home::new(),
            sipi_vector: AtomicU32::new(0),
            in_guest: AtomicBool::new(false),
            code_writes: Mutex::new(CodeWrites::NONE),
            lapic: Mutex::new(Lapic::power_on(id)),
            extint: AtomicBool::new(false),
            alarm: OnceLock::new(),
            sleeping: Mutex::new(()),
            bell: Condvar::new(),
            asleep: AtomicBool::new(false),
        });
        let (weak, time) = (Arc::downgrade(&slot), clock.clone());
        let alarm = clock.alarm(move || {
            if let Some(slot) = weak.upgrade() {
                slot.timer_rang(time.now());
            }
        });
        // The slot is new: nobody else has set it.
        let _ = slot.alarm.set(alarm);
        slot
    }

    /// Where the vCPU lives.
    pub(crate) fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// The [`Pending`] bits.
    pub(crate) fn pending(&self) -> &AtomicU32 {
        &self.home.pending
    }

    /// Not zero when something has been posted that the run loop has not looked at yet.
    pub(crate) fn attention(&self) -> &AtomicU64 {
        &self.home.attention
    }

    fn timer_rang(&self, now: VmTime) {
        let mut lapic = self.lapic();
        let fired = lapic.timer_fired(now.0);
        // Under the APIC's lock, so that deadlines are set in the order in which they came about.
        self.set_alarm(lapic.timer_deadline(now.0));
        drop(lapic);
        if fired {
            self.post(Pending::LAPIC);
        }
    }

    fn set_alarm(&self, deadline: Option<u64>) {
        if let Some(alarm) = self.alarm.get() {
            alarm.set(deadline.map(VmTime));
        }
    }

    /// To be called when the local APIC's registers have changed: sets its alarm and looks for something to deliver.
    pub(crate) fn lapic_changed(&self, now: VmTime, timer: bool) {
        let mut lapic = self.lapic();
        if timer {
            lapic.timer_fired(now.0);
            self.set_alarm(lapic.timer_deadline(now.0));
        }
        let mut bits = if lapic.next_interrupt().is_some() { Pending::LAPIC } else { 0 };
        if self.extint.load(Ordering::SeqCst) && lapic.accepts_extint() {
            bits |= Pending::EXTINT;
        }
        drop(lapic);
        if bits != 0 {
            self.post(bits);
        }
    }

    /// Delivers a message that this APIC accepts.
    pub(crate) fn deliver(&self, request: &IpiRequest) {
        let arrival = self.lapic().deliver(request);
        self.arrived(arrival);
    }

    fn arrived(&self, arrival: Arrival) {
        match arrival {
            Arrival::Interrupt => self.post(Pending::LAPIC),
            Arrival::Nmi => self.post(Pending::NMI),
            Arrival::Init => self.post_init(),
            Arrival::StartUp(vector) => {
                self.sipi_vector.store(vector.into(), Ordering::SeqCst);
                self.post(Pending::SIPI);
            }
            Arrival::ExtInt => self.post(Pending::EXTINT),
            // There is no system-management mode.
            Arrival::Smi | Arrival::Nothing => {}
        }
    }

    /// INIT forgets what came before it; a start-up IPI that follows at once must not be lost, so not when it is
    /// served.
    pub(crate) fn post_init(&self) {
        self.clear(Pending::SIPI | Pending::NMI);
        self.post(Pending::INIT);
    }

    /// Drives the PIC's INTR pin.
    pub(crate) fn set_extint(&self, high: bool) {
        self.extint.store(high, Ordering::SeqCst);
        if high {
            self.post(Pending::EXTINT);
        } else {
            self.clear(Pending::EXTINT);
        }
    }

    /// The level of the PIC's INTR pin.
    pub(crate) fn extint(&self) -> bool {
        self.extint.load(Ordering::SeqCst)
    }

    /// The local APIC, under its lock. Nothing is called while it is held.
    pub(crate) fn lapic(&self) -> MutexGuard<'_, Lapic> {
        self.lapic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that marked `lines` of page `page` have been written. A vCPU that sleeps is left to, and finds out before
    /// it runs.
    pub(crate) fn post_code_write(&self, page: usize, lines: u64) {
        self.code_writes.lock().unwrap_or_else(PoisonError::into_inner).add(page, lines);
        self.home.pending.fetch_or(Pending::CODE, Ordering::SeqCst);
        self.home.attention.store(1, Ordering::SeqCst);
    }

    /// Takes out what [`Slot::post_code_write`] has put in since the last time.
    pub(crate) fn take_code_writes(&self) -> CodeWrites {
        // What comes after this sets the bit again.
        self.clear(Pending::CODE);
        let mut writes = self.code_writes.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *writes, CodeWrites::NONE)
    }

    /// Sets `bits` and wakes the vCPU if it sleeps.
    pub(crate) fn post(&self, bits: u32) {
        self.home.pending.fetch_or(bits, Ordering::SeqCst);
        self.home.attention.store(1, Ordering::SeqCst);
        if self.asleep.load(Ordering::SeqCst) {
            // Taking the lock makes sure that the sleeper is either before its last look at `pending` or in the wait.
            drop(self.sleeping.lock().unwrap_or_else(PoisonError::into_inner));
            self.bell.notify_all();
        }
    }

    /// Clears `bits`.
    pub(crate) fn clear(&self, bits: u32) {
        self.home.pending.fetch_and(!bits, Ordering::SeqCst);
    }

    /// Sleeps until one of `interest` is pending, or `limit` is over.
    pub(crate) fn wait(&self, interest: u32, limit: Duration) {
        self.asleep.store(true, Ordering::SeqCst);
        let guard = self.sleeping.lock().unwrap_or_else(PoisonError::into_inner);
        if self.home.pending.load(Ordering::SeqCst) & interest == 0 {
            drop(self.bell.wait_timeout(guard, limit));
        } else {
            drop(guard);
        }
        self.asleep.store(false, Ordering::SeqCst);
    }
}

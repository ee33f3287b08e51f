//! What a vCPU counts: its exits by kind.

use std::time::Duration;

use engine::{Amount, Stat};

/// What one vCPU has counted. Only its own thread writes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counters {
    /// Entries into the guest.
    pub(crate) entries: u64,
    /// Port accesses; a string instruction counts each element.
    pub(crate) pio: u64,
    pub(crate) mmio: u64,
    /// Ends of level-triggered interrupts.
    pub(crate) eoi: u64,
    /// The guest would take an interrupt of the PIC.
    pub(crate) interrupt_window: u64,
    /// Interrupts of the PIC that were handed over.
    pub(crate) pic_interrupts: u64,
    /// Entries that a kick, or an interrupt of the PIC, has cut short.
    pub(crate) interrupted: u64,
    /// The dirty ring was full.
    pub(crate) dirty_ring: u64,
    /// Stops of the debugger.
    pub(crate) debug: u64,
    /// All others.
    pub(crate) other: u64,
    /// The time spent in the machine's devices, in nanoseconds.
    pub(crate) device_ns: u64,
}

impl Counters {
    /// All of it, for people.
    pub(crate) fn list(&self) -> Vec<Stat> {
        let stat = |group, name, count| Stat { group, name, amount: Amount::Count(count), headline: false };
        let headline = |group, name, count| Stat { group, name, amount: Amount::Count(count), headline: true };
        vec![
            headline("guest", "entries", self.entries),
            headline("exits", "port I/O", self.pio),
            headline("exits", "memory-mapped I/O", self.mmio),
            stat("exits", "end of interrupt", self.eoi),
            stat("exits", "interrupt window", self.interrupt_window),
            stat("exits", "PIC interrupts", self.pic_interrupts),
            headline("exits", "interrupted", self.interrupted),
            stat("exits", "dirty ring full", self.dirty_ring),
            stat("exits", "debugger", self.debug),
            stat("exits", "other", self.other),
            Stat {
                group: "time",
                name: "devices",
                amount: Amount::Time(Duration::from_nanos(self.device_ns)),
                headline: true,
            },
        ]
    }
}

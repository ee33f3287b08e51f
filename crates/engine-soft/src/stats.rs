//! What the engine counts, and where its time goes.

use std::time::{Duration, Instant};

use engine::{Amount, Stat};

/// What one vCPU has counted. Only its own thread writes; translated code does it by the offsets.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Stats {
    /// All instructions of the guest that have been retired.
    pub(crate) instructions: u64,
    /// Those of them that the interpreter has run.
    pub(crate) interpreted: u64,
    /// Blocks that the interpreter has run.
    pub(crate) blocks_run: u64,
    pub(crate) blocks_decoded: u64,
    pub(crate) revalidations: u64,
    /// Accesses that the first-level TLB did not serve.
    pub(crate) tlb_misses: u64,
    /// Those of them, and fetches, that the page tables had to be looked at for.
    pub(crate) tlb_walks: u64,
    pub(crate) tlb_flushes: u64,
    pub(crate) exceptions: u64,
    pub(crate) interrupts: u64,
    pub(crate) mmio: u64,
    pub(crate) pio: u64,
    pub(crate) halts: u64,
    /// The time spent in the machine's devices, waiting for them included, in [`ticks`].
    pub(crate) device_ticks: u64,
    pub(crate) jit: JitStats,
}

/// What the translator counts.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct JitStats {
    pub(crate) blocks_translated: u64,
    /// Times that translated code was entered from outside of it.
    pub(crate) entries: u64,
    /// Blocks of translated code that were run.
    pub(crate) blocks_run: u64,
    /// The guest's code that was translated.
    pub(crate) guest_bytes: u64,
    /// What it was translated to.
    pub(crate) host_bytes: u64,
    /// How much of the code cache is in use now.
    pub(crate) cache_used: u64,
    pub(crate) cache_flushes: u64,
    /// Why translated code was left: something is pending.
    pub(crate) exits_interrupt: u64,
    /// A direct branch whose target was not linked.
    pub(crate) exits_link: u64,
    /// An indirect branch whose target was not in the jump table.
    pub(crate) exits_indirect: u64,
    /// An instruction that the interpreter has to run.
    pub(crate) exits_callout: u64,
    /// An exception.
    pub(crate) exits_fault: u64,
    /// Memory accesses that the inline TLB did not serve.
    pub(crate) slow_accesses: u64,
    /// Blocks that were dropped because their code has changed.
    pub(crate) invalidations: u64,
    /// Blocks that compared their own code before they ran.
    pub(crate) self_checks: u64,
    /// The time spent translating, in nanoseconds.
    pub(crate) translate_ns: u64,
    /// The time spent in the interpreter while the translator is on, in [`ticks`].
    pub(crate) interpret_ticks: u64,
    /// Calls from translated code into the engine.
    pub(crate) callouts: u64,
}

/// The host's time-stamp counter: what an interval costs to measure is a few nanoseconds. See [`Stopwatch`].
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 has RDTSC, and Linux lets programs use it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Turns [`ticks`] into time: it knows how many there have been since it was started, and how long ago that was.
#[derive(Debug)]
pub(crate) struct Stopwatch {
    started: Instant,
    at: u64,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), at: ticks() }
    }

    /// How long `count` ticks are.
    pub(crate) fn time(&self, count: u64) -> Duration {
        let (passed, elapsed) = (ticks().wrapping_sub(self.at), self.started.elapsed());
        if passed == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos((u128::from(count) * elapsed.as_nanos() / u128::from(passed)).min(u64::MAX.into()) as u64)
    }
}

impl Stats {
    /// All of it, for people; what is the translator's only if there is one.
    pub(crate) fn list(&self, stopwatch: &Stopwatch, translator: bool) -> Vec<Stat> {
        use Amount::{Bytes, Count, Time};
        let (j, time) = (&self.jit, |ticks| Time(stopwatch.time(ticks)));
        let stat = |group, name, amount| Stat { group, name, amount, headline: false };
        let headline = |group, name, amount| Stat { group, name, amount, headline: true };
        let mut list = vec![
            headline("guest", "instructions", Count(self.instructions)),
            headline("guest", "interpreted", Count(self.interpreted)),
            headline("guest", "exceptions", Count(self.exceptions)),
            headline("guest", "interrupts", Count(self.interrupts)),
            stat("guest", "halts", Count(self.halts)),
            headline("translator", "blocks translated", Count(j.blocks_translated)),
            stat("translator", "blocks run", Count(j.blocks_run)),
            headline("translator", "guest code", Bytes(j.guest_bytes)),
            stat("translator", "host code", Bytes(j.host_bytes)),
            stat("translator", "cache in use", Bytes(j.cache_used)),
            stat("translator", "cache flushes", Count(j.cache_flushes)),
            stat("translator", "invalidations", Count(j.invalidations)),
            stat("translator", "self-checks", Count(j.self_checks)),
            stat("exits", "entries", Count(j.entries)),
            stat("exits", "pending", Count(j.exits_interrupt)),
            stat("exits", "unlinked branch", Count(j.exits_link)),
            stat("exits", "indirect branch", Count(j.exits_indirect)),
            stat("exits", "to the interpreter", Count(j.exits_callout)),
            stat("exits", "fault", Count(j.exits_fault)),
            stat("exits", "call-outs", Count(j.callouts)),
            stat("interpreter", "blocks decoded", Count(self.blocks_decoded)),
            stat("interpreter", "blocks run", Count(self.blocks_run)),
            stat("interpreter", "blocks revalidated", Count(self.revalidations)),
            headline("memory", "TLB misses", Count(self.tlb_misses)),
            stat("memory", "page walks", Count(self.tlb_walks)),
            stat("memory", "TLB flushes", Count(self.tlb_flushes)),
            stat("memory", "slow accesses", Count(j.slow_accesses)),
            stat("devices", "memory-mapped I/O", Count(self.mmio)),
            stat("devices", "port I/O", Count(self.pio)),
            headline("time", "translator", Time(Duration::from_nanos(j.translate_ns))),
            headline("time", "interpreter", time(j.interpret_ticks)),
            headline("time", "devices", time(self.device_ticks)),
        ];
        if !translator {
            let translators = [("time", "translator"), ("time", "interpreter"), ("memory", "slow accesses")];
            list.retain(|s| !matches!(s.group, "translator" | "exits") && !translators.contains(&(s.group, s.name)));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_time() {
        let stopwatch = Stopwatch::start();
        let (from, start) = (ticks(), Instant::now());
        std::thread::sleep(Duration::from_millis(20));
        let (count, slept) = (ticks() - from, start.elapsed());
        let measured = stopwatch.time(count).as_secs_f64();
        assert!((measured / slept.as_secs_f64() - 1.0).abs() < 0.2, "{measured} s, {slept:?}");
    }
}
